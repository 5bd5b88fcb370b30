"""Read single images (frames or masks): still pictures, and 2D images in NIfTI, MetaImage or NRRD.

Frames are (H, W, 3) uint8 RGB, masks (H, W) uint8 label maps. Whole videos:
``bundle.io.reading.video``.
"""

import logging
import math
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import nibabel as nib
import numpy as np
import tifffile
from PIL import Image, ImageOps, UnidentifiedImageError

from bundle.io.reading.limits import MAX_FRAME_PIXELS, SHRINK, DeclaredSizeError, check_size
from bundle.io.reading.meta_image import check_unpacked, extract, meta_image_reader, voxel_bytes
from bundle.io.reading.scaling import to_rgb, to_uint8, value_range
from bundle.types import Frame

logger = logging.getLogger(__name__)

STILL_SUFFIXES = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp")
NIFTI_SUFFIXES = (".nii", ".nii.gz")
META_SUFFIXES = (".mhd", ".mha")
NRRD_SUFFIXES = (".nrrd", ".nhdr")
TIFF_SUFFIXES = (".tif", ".tiff")
VOLUME_SUFFIXES = NIFTI_SUFFIXES + META_SUFFIXES + NRRD_SUFFIXES
WHITE = 255
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


def read_pixels(path: Path) -> np.ndarray:
    """Read one image in the file's own values.

    Args:
        path: A still picture, or a NIfTI or MetaImage file that holds a single 2D image.

    Returns:
        (H, W), or (H, W, C) of a colour picture.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: The file cannot be read as one image.
    """
    check_file(path)
    refuse_stack(path)
    with explained(f"cannot read {path} as an image"):
        if not has_suffix(path, VOLUME_SUFFIXES):
            return check_pixels(_read_still(path))
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
    if has_suffix(path, NRRD_SUFFIXES):
        from bundle.io.reading.nrrd import read_nrrd_image  # which imports this module

        return read_nrrd_image(path)
    if has_suffix(path, NIFTI_SUFFIXES):
        image = load_nifti(path)
        return image.shape[::-1], lambda: np.asanyarray(image.dataobj).T
    reader = meta_image_reader(path)
    check_unpacked(path, math.prod(reader.GetSize()) * voxel_bytes(reader))
    return reader.GetSize()[::-1], lambda: extract(reader)


class Still(NamedTuple):
    """A still picture as masks need it.

    Attributes:
        pixels: (H, W), or (H, W, C) of a colour picture, transparency last.
        format: Pillow's name of the file's format; empty if another library read it.
        compression: Compression of a TIFF.
        palette_indices: (H, W), of a palette picture whose transparent entries, if any, are 0.
    """

    pixels: np.ndarray
    format: str = ""
    compression: str = ""
    palette_indices: np.ndarray | None = None


def open_still(path: Path) -> Still:
    """Read a still picture with its transparency, palette indices and kind of compression.

    Raises:
        DeclaredSizeError: It declares too many pixels.
        OSError, ValueError: It cannot be read.
    """
    try:
        with Image.open(path) as image:
            check_size(path, image.height, image.width)
            kind, packing = image.format or "", str(image.info.get("compression", ""))
            ImageOps.exif_transpose(image, in_place=True)
            indices: np.ndarray | None = None
            if image.mode == "P":
                indices = np.asarray(image)
                clear = image.info.get("transparency")
                if isinstance(clear, int):
                    clear = bytes([*([WHITE] * clear), 0])
                used = np.unique(indices)
                if clear and any(i and i < len(clear) and clear[i] == 0 for i in used.tolist()):
                    indices = None
                plain = _plain_pixels(image.convert("RGBA" if clear else "RGB"))
            elif image.mode in ("LA", "PA", "La", "RGBa"):
                plain = _plain_pixels(image.convert("RGBA"))
            else:
                plain = _plain_pixels(image)
            return Still(plain, kind, packing, indices)
    except Image.DecompressionBombError as error:
        raise _too_large(path, error) from error
    except UnidentifiedImageError:
        if has_suffix(path, (".tif", ".tiff")):
            return Still(_read_tiff(path))
        raise


def _read_still(path: Path) -> np.ndarray:
    try:
        with Image.open(path) as image:
            check_size(path, image.height, image.width)
            ImageOps.exif_transpose(image, in_place=True)
            if image.mode == "P":
                # Pillow warns of colours that lose a transparency of their own.
                clear = isinstance(image.info.get("transparency"), bytes)
                return np.asarray(image.convert("RGBA" if clear else "RGB"))
            if image.mode == "LA":
                return np.asarray(image.convert("L"))
            return _plain_pixels(image)
    except Image.DecompressionBombError as error:
        raise _too_large(path, error) from error
    except UnidentifiedImageError:
        # The owner's CVC-ClinicDB TIFs are of a kind that Pillow cannot read.
        if has_suffix(path, (".tif", ".tiff")):
            return _read_tiff(path)
        raise


def _plain_pixels(image: Image.Image) -> np.ndarray:
    if image.mode == "1":
        return np.asarray(image.convert("L"))
    if image.mode in ("L", "RGB", "RGBA", "F", "I") or image.mode.startswith("I;16"):
        return np.asarray(image)
    return np.asarray(image.convert("RGB"))


def _too_large(path: Path, error: Exception) -> DeclaredSizeError:
    return DeclaredSizeError(
        f"{path} declares too many pixels: expected at most {MAX_FRAME_PIXELS}; {SHRINK} ({error})"
    )


def refuse_stack(path: Path) -> None:
    """Refuse a TIFF with several pictures where one is expected.

    Raises:
        ValueError: It is one.
    """
    if is_tiff_stack(path):
        raise ValueError(
            f"{path} is a stack of several pictures, expected one: give the stack itself as the "
            "video or the mask, alone in its folder if it is in one"
        )


def is_tiff_stack(path: Path) -> bool:
    """Whether a file is a TIFF with several pictures, other than small copies of the first."""
    if not has_suffix(path, TIFF_SUFFIXES):
        return False
    try:
        with tifffile.TiffFile(path) as file:
            if len(file.pages) > 1:
                return not file.pages[1].aspage().is_reduced
            if not file.is_imagej:
                return False
            # ImageJ writes large stacks as one page.
            series = file.series[0]
            return math.prod(series.shape) > math.prod(series.keyframe.shape)
    except Exception:  # whoever reads it says what is wrong
        return False


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
