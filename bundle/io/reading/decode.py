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
    """Turn any error of a decoding library inside the block into a ValueError of one line.

    Args:
        what: Beginning of the message, such as ``cannot open echo.dcm``.

    Raises:
        DeclaredSizeError: Raised inside; passed on unchanged.
        ValueError: Any other exception was raised inside.
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
    """Open a NIfTI file. Slices of its ``dataobj`` are read on demand.

    Raises:
        ValueError: The file is of another format.
    """
    # Keep the file open: else each frame of a .nii.gz is unpacked from the file's start.
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
    """Read one image with the values that the file stores, unscaled.

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
    """Check that a path is a file, and not a folder or a pipe, which would block.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: It is not a regular file.
    """
    if not path.exists():
        raise FileNotFoundError(f"no such file: {path}")
    if not path.is_file():
        raise ValueError(f"{path} is not a file: expected one, or a link to one")


def check_pixels(pixels: np.ndarray) -> np.ndarray:
    """Check that an array is a grey or colour picture.

    Args:
        pixels: (H, W), or (H, W, C) with 3 or 4 channels, of real numbers.

    Returns:
        The same array.

    Raises:
        ValueError: The array has another shape or type.
    """
    drawable = pixels.ndim == 2 or (pixels.ndim == 3 and pixels.shape[2] in (3, 4))
    if not drawable or pixels.dtype.kind not in "biuf":
        raise ValueError(
            f"found pixels of shape {pixels.shape} and type {pixels.dtype}: expected real numbers, "
            "(height, width), with 3 or 4 channels last if in colour"
        )
    return pixels


def _open_array(path: Path) -> tuple[tuple[int, ...], Callable[[], np.ndarray]]:
    """Open a NIfTI, MetaImage or NRRD. Returns its shape, x last, and a function that reads it."""
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
    """A still picture, with what is needed to read it as a mask.

    Attributes:
        pixels: (H, W), or (H, W, C) in colour. The last channel of 2 or 4 is the transparency.
        format: Pillow's name of the file format; empty if another library read the file.
        compression: Compression of a TIFF, as Pillow names it; empty otherwise.
        palette_indices: (H, W) palette indices. None if the picture has no palette, or if an entry of
            it other than 0 is transparent.
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
    """Check that a file is not a TIFF with several pictures.

    Raises:
        ValueError: It is one.
    """
    if is_tiff_stack(path):
        raise ValueError(
            f"{path} is a stack of several pictures, expected one: give the stack itself as the "
            "video or the mask, alone in its folder if it is in one"
        )


def is_tiff_stack(path: Path) -> bool:
    """Whether a file is a TIFF with several pictures; smaller copies of the first do not count."""
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
    except Exception:  # a damaged file is reported by its reader
        return False


def _read_tiff(path: Path) -> np.ndarray:
    with tifffile.TiffFile(path) as file:
        page = file.pages[0]
        check_size(path, page.imagelength, page.imagewidth)
        if page.imagedepth * page.samplesperpixel > 4:
            raise ValueError(f"found a TIFF of shape {page.shape}: expected grey or RGB")
        return np.asarray(page.asarray())


def list_images(folder: Path) -> list[Path]:
    """List the pictures of a folder in natural order: 2 before 10.

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
    """Whether a file has the suffix of a still picture and is not hidden."""
    return has_suffix(path, STILL_SUFFIXES) and not path.name.startswith(".")
