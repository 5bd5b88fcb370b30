"""Opening single frames and single masks: still pictures, and 2D images in NIfTI or MetaImage.

Frames are (H, W, 3) uint8 RGB, masks (H, W) uint8 label maps. Whole videos:
``bundle.io.reading.video``.
"""

import logging
import math
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import nibabel as nib
import numpy as np
import tifffile
from PIL import Image, ImageOps, UnidentifiedImageError
from scipy import ndimage

from bundle.io.reading.limits import MAX_FRAME_PIXELS, SHRINK, DeclaredSizeError, check_size
from bundle.io.reading.meta_image import check_unpacked, extract, meta_image_reader, voxel_bytes
from bundle.io.reading.scaling import to_rgb, to_uint8, value_range
from bundle.types import Frame, LabelMap

logger = logging.getLogger(__name__)

STILL_SUFFIXES = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp")
NIFTI_SUFFIXES = (".nii", ".nii.gz")
META_SUFFIXES = (".mhd", ".mha")
MAX_OBJECTS = 32
HINT = "(a truncated or damaged file?)"


def has_suffix(path: Path, suffixes: tuple[str, ...]) -> bool:
    """Whether the file name ends in one of ``suffixes``, whatever the letter case."""
    return path.name.lower().endswith(suffixes)


def natural_key(name: str) -> tuple[list[str | int], str]:
    """Sort key that puts numbers in names by their value.

    >>> sorted(["frame10.png", "frame2.png", "Frame1.png"], key=natural_key)
    ['Frame1.png', 'frame2.png', 'frame10.png']
    """
    parts = re.split(r"([0-9]+)", name.lower())  # text and numbers take turns
    return [int(part) if odd % 2 else part for odd, part in enumerate(parts)], name


@contextmanager
def explained(what: str) -> Iterator[None]:
    """Turn whatever a decoding library raises into one line that starts with ``what``.

    Raises:
        DeclaredSizeError: Raised inside; it says all by itself.
        ValueError: Anything else went wrong inside.
    """
    try:
        yield
    except DeclaredSizeError:
        raise
    except Exception as error:
        lines = [line for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
        # SimpleITK puts a line about its own source file first.
        reason = next((line for line in lines if "ERROR:" in line), lines[0])
        raise ValueError(f"{what}: {reason.removesuffix(HINT).rstrip()} {HINT}") from error


def load_nifti(path: Path) -> nib.Nifti1Image:
    """Open a NIfTI file; its ``dataobj`` reads slices on demand."""
    # One handle per pass: else each frame of a .nii.gz is unpacked from the file's start.
    image = nib.load(path, keep_file_open=True)
    if not isinstance(image, nib.Nifti1Image):
        raise ValueError(f"expected NIfTI, found {type(image).__name__}")
    return image


def read_image(path: Path) -> Frame:
    """Read one frame as RGB.

    Args:
        path: A still picture, or a NIfTI or MetaImage file that holds a single 2D image.

    Returns:
        (H, W, 3) uint8, as viewers show it. Grey becomes three equal channels, 16-bit and float
        values are scaled by ``to_uint8``, transparency is dropped.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: The file cannot be read as one image.
    """
    pixels = read_pixels(path)
    with explained(f"cannot read {path} as an image"):
        ends = value_range(pixels)
    return to_rgb(to_uint8(pixels, *ends))


def read_labels(path: Path, *, binary: bool = False) -> LabelMap:
    """Read one mask as a label map; see ``snap_labels`` for how values become ids.

    Args:
        path: A palette, grey or grey-valued RGB picture, or a 2D NIfTI or MetaImage file.
        binary: It is known to hold one object in white, maybe with soft edges: cut at 127.

    Returns:
        (H, W) uint8; all zero if the mask is empty.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: The file cannot be read, is coloured, or its values are no labels.
    """
    pixels = read_pixels(path, palette_indices=True)
    if pixels.ndim == 3:
        if (pixels[..., :3] != pixels[..., :1]).any():
            raise ValueError(
                f"{path} is a colour picture: expected label indices (a grey or palette picture, "
                "0 for background), save it so"
            )
        pixels = pixels[..., 0]
    # A lossy format holds no ids either.
    binary = binary or has_suffix(path, (".jpg", ".jpeg"))
    return (pixels > 127).astype(np.uint8) if binary else snap_labels(pixels, str(path))


def snap_labels(values: np.ndarray, source: str) -> LabelMap:
    """Turn mask values into object ids, and soft edges into hard ones.

    A sole value of 255 becomes 1. Values that nowhere fill a 3x3 square, beside others that do, are
    soft edges (unless all values are the small ids 1..k): such a pixel takes the id of the nearest
    object if it is above half of that id, else it becomes background.

    Args:
        values: (H, W), integer or float with integral values.
        source: Name for messages.

    Returns:
        (H, W) uint8.

    Raises:
        ValueError: Values are negative, above 255, fractional, or more than 32 objects remain.
    """
    if not np.isfinite(values).all() or (values != np.rint(values)).any():
        raise ValueError(
            f"{source} holds fractional values: expected whole label numbers, 0 to 255"
        )
    if values.min() < 0 or values.max() > 255:
        raise ValueError(
            f"{source} holds values from {values.min()} to {values.max()}: expected labels 0 to 255"
        )
    labels = values.astype(np.uint8)
    present = np.unique(labels)
    ids = present[present > 0]
    if len(ids) > 1 and ids.max() > len(ids):
        labels = _harden(labels, ids, source)
        ids = np.unique(labels[labels > 0])
    if len(ids) > MAX_OBJECTS:
        raise ValueError(
            f"{source} holds {len(ids)} different labels: expected at most {MAX_OBJECTS} objects"
        )
    if list(ids) == [255]:
        return (labels > 0).astype(np.uint8)
    return labels


def _harden(labels: LabelMap, ids: np.ndarray, source: str) -> LabelMap:
    core = (ndimage.minimum_filter(labels, 3) == ndimage.maximum_filter(labels, 3)) & (labels > 0)
    solid = np.unique(labels[core])
    if len(solid) == len(ids):
        return labels
    if len(solid) == 0:
        solid = ids[-1:]
    logger.warning(
        "%s has soft edges: %d in-between values cut at half of the nearest of the labels %s",
        source,
        len(np.setdiff1d(ids, solid)),
        solid.tolist(),
    )
    nearest = ndimage.distance_transform_edt(
        ~np.isin(labels, solid), return_distances=False, return_indices=True
    )
    owner = labels[tuple(nearest)]
    return np.where(labels > owner // 2, owner, 0).astype(np.uint8)


def read_pixels(path: Path, *, palette_indices: bool = False) -> np.ndarray:
    """Read one image in the file's own values.

    Args:
        path: A still picture, or a NIfTI or MetaImage file that holds a single 2D image.
        palette_indices: Give a palette picture's indices instead of its colours.

    Returns:
        (H, W), or (H, W, C) of a colour picture.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: The file cannot be read as one image.
    """
    check_file(path)
    with explained(f"cannot read {path} as an image"):
        if not has_suffix(path, NIFTI_SUFFIXES + META_SUFFIXES):
            return check_pixels(_read_still(path, palette_indices))
        shape, read = _open_array(path)
    size = shape[-2:] if max(shape[:-2], default=1) == 1 else tuple(n for n in shape if n != 1)
    if len(size) != 2:
        raise ValueError(f"{path} has shape {shape}: expected a single 2D image")
    check_size(path, *size)
    with explained(f"cannot read {path} as an image"):
        pixels = read()
        return check_pixels(pixels.reshape(*size, *pixels.shape[len(shape) :]))


def check_file(path: Path) -> None:
    """Refuse what cannot be opened as a file; a pipe would be waited for.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: It is no file.
    """
    if not path.exists():
        raise FileNotFoundError(f"no such file: {path}")
    if not path.is_file():
        raise ValueError(f"{path} is no file: expected one, or a link to one")


def check_pixels(pixels: np.ndarray) -> np.ndarray:
    """Refuse what is neither grey nor colour.

    Returns:
        What was given: (H, W), or (H, W, C) with 3 or 4 channels, of real numbers.

    Raises:
        ValueError: It is something else.
    """
    drawable = pixels.ndim == 2 or (pixels.ndim == 3 and pixels.shape[2] in (3, 4))
    if not drawable or pixels.dtype.kind not in "biuf":
        raise ValueError(
            f"found pixels of shape {pixels.shape} and type {pixels.dtype}: expected real numbers, "
            "(height, width), with 3 or 4 channels last if in colour"
        )
    return pixels


def _open_array(path: Path) -> tuple[tuple[int, ...], Callable[[], np.ndarray]]:
    """The shape that a NIfTI or MetaImage declares, x last, and what reads all of it."""
    if has_suffix(path, NIFTI_SUFFIXES):
        image = load_nifti(path)
        return image.shape[::-1], lambda: np.asanyarray(image.dataobj).T
    reader = meta_image_reader(path)
    check_unpacked(path, math.prod(reader.GetSize()) * voxel_bytes(reader))
    return reader.GetSize()[::-1], lambda: extract(reader)


def _read_still(path: Path, palette_indices: bool) -> np.ndarray:
    try:
        with Image.open(path) as image:
            check_size(path, image.height, image.width)
            ImageOps.exif_transpose(image, in_place=True)
            if image.mode == "1":
                return np.asarray(image.convert("L"))
            if image.mode == "P":
                if palette_indices:
                    return np.asarray(image)
                # Pillow warns of colours that lose a transparency of their own.
                clear = isinstance(image.info.get("transparency"), bytes)
                return np.asarray(image.convert("RGBA" if clear else "RGB"))
            if image.mode == "LA":
                return np.asarray(image.convert("L"))
            if image.mode in ("L", "RGB", "RGBA", "F", "I") or image.mode.startswith("I;16"):
                return np.asarray(image)
            return np.asarray(image.convert("RGB"))
    except Image.DecompressionBombError as error:
        raise DeclaredSizeError(
            f"{path} declares too many pixels: expected at most {MAX_FRAME_PIXELS}; {SHRINK} ({error})"
        ) from error
    except UnidentifiedImageError:
        # The owner's CVC-ClinicDB TIFs are of a kind that Pillow cannot read.
        if has_suffix(path, (".tif", ".tiff")):
            return _read_tiff(path)
        raise


def _read_tiff(path: Path) -> np.ndarray:
    with tifffile.TiffFile(path) as file:
        page = file.pages[0]
        check_size(path, page.imagelength, page.imagewidth)
        if page.imagedepth * page.samplesperpixel > 4:
            raise ValueError(f"found a TIFF of shape {page.shape}: expected grey or RGB")
        return np.asarray(page.asarray())


def list_images(folder: Path) -> list[Path]:
    """The pictures of a folder in natural order.

    Raises:
        FileNotFoundError: The folder is missing or holds no picture.
    """
    if not folder.is_dir():
        raise FileNotFoundError(f"no folder {folder}")
    images = [path for path in folder.iterdir() if is_picture(path)]
    if not images:
        raise FileNotFoundError(f"no pictures ({', '.join(STILL_SUFFIXES)}) in {folder}")
    return sorted(images, key=lambda path: natural_key(path.name))


def is_picture(path: Path) -> bool:
    """Whether a file is a still picture by its suffix, and not hidden."""
    return has_suffix(path, STILL_SUFFIXES) and not path.name.startswith(".")
