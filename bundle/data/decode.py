"""Opening single frames and single masks: still pictures, and 2D images in NIfTI or MetaImage.

Frames are (H, W, 3) uint8 RGB, masks (H, W) uint8 label maps. Whole videos: ``bundle.data.video``.
"""

import logging
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import nibabel as nib
import numpy as np
import SimpleITK as sitk
import tifffile
from PIL import Image, UnidentifiedImageError
from scipy import io, ndimage

from bundle.types import Frame, LabelMap

logger = logging.getLogger(__name__)

STILL_SUFFIXES = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp")
NIFTI_SUFFIXES = (".nii", ".nii.gz")
META_SUFFIXES = (".mhd", ".mha")
MAX_OBJECTS = 32


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
        ValueError: Anything went wrong inside.
    """
    try:
        yield
    except Exception as error:
        lines = [line for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
        # SimpleITK puts a line about its own source file first.
        reason = next((line for line in lines if "ERROR:" in line), lines[0])
        raise ValueError(f"{what}: {reason} (a truncated or damaged file?)") from error


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
        (H, W, 3) uint8. Grey becomes three equal channels, 16-bit and float values are scaled
        by ``to_uint8``, transparency is dropped.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: The file cannot be read as one image.
    """
    pixels = read_pixels(path)
    return to_rgb(to_uint8(pixels, *value_range(pixels)))


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


def read_mat_masks(path: Path) -> np.ndarray:
    """The masks of a MATLAB file of HMC-QU, (F, H, W), in the file's own values.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: It cannot be read or lacks ``predicted``, (F, H, W).
    """
    mat_masks_shape(path)
    with explained(f"cannot read {path} as a MATLAB file"):
        return np.asarray(io.loadmat(path, variable_names="predicted")["predicted"])


def mat_masks_shape(path: Path) -> tuple[int, ...]:
    """(frames, height, width) of what ``read_mat_masks`` gives, from the file's headers alone.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: It cannot be read or lacks ``predicted``, (F, H, W).
    """
    if not path.exists():
        raise FileNotFoundError(f"no such file: {path}")
    with explained(f"cannot read {path} as a MATLAB file"):
        shapes = {name: shape for name, shape, _ in io.whosmat(path)}
    shape = shapes.get("predicted", ())
    if len(shape) != 3:
        raise ValueError(f"{path} holds {shapes}: expected 'predicted', (frames, height, width)")
    return tuple(shape)


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


def value_range(values: np.ndarray) -> tuple[float, float]:
    """The range that ``to_uint8`` maps to 0..255: that of the data, 0..255 for data that fit it."""
    low, high = float(np.nanmin(values)), float(np.nanmax(values))
    fits = values.dtype == np.uint8 or (low >= 0 and 1 < high <= 255)
    return (0.0, 255.0) if fits else (low, high)


def to_uint8(values: np.ndarray, low: float, high: float) -> np.ndarray:
    """Map [low, high] linearly to 0..255; values of uint8 pass unchanged."""
    if values.dtype == np.uint8:
        return values
    scale = 255 / (high - low) if high > low else 0.0
    scaled = (np.nan_to_num(values.astype(np.float32), nan=low) - low) * scale
    return np.clip(np.rint(scaled), 0, 255).astype(np.uint8)


def to_rgb(pixels: np.ndarray) -> Frame:
    """(H, W) grey or (H, W, 3 or 4) colours as (H, W, 3): grey repeated, transparency dropped."""
    if pixels.ndim == 2:
        return np.repeat(pixels[..., None], 3, axis=2)
    return np.ascontiguousarray(pixels[..., :3])


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
    if not path.exists():
        raise FileNotFoundError(f"no such file: {path}")
    with explained(f"cannot read {path} as an image"):
        if has_suffix(path, NIFTI_SUFFIXES):
            pixels = np.asanyarray(load_nifti(path).dataobj).T
        elif has_suffix(path, META_SUFFIXES):
            pixels = sitk.GetArrayFromImage(sitk.ReadImage(str(path)))
        else:
            return _read_still(path, palette_indices)
    return _single_image(pixels, path)


def _single_image(pixels: np.ndarray, path: Path) -> np.ndarray:
    squeezed = pixels.reshape([size for size in pixels.shape if size != 1] or [1])
    if squeezed.ndim != 2:
        raise ValueError(f"{path} has shape {pixels.shape}: expected a single 2D image")
    return squeezed


def _read_still(path: Path, palette_indices: bool) -> np.ndarray:
    try:
        with Image.open(path) as image:
            if image.mode == "1":
                return np.asarray(image.convert("L"))
            if image.mode == "P":
                return np.asarray(image if palette_indices else image.convert("RGB"))
            if image.mode == "LA":
                return np.asarray(image.convert("L"))
            if image.mode in ("L", "RGB", "RGBA", "F", "I") or image.mode.startswith("I;16"):
                return np.asarray(image)
            return np.asarray(image.convert("RGB"))
    except UnidentifiedImageError:
        # The owner's CVC-ClinicDB TIFs are of a kind that Pillow cannot read.
        if has_suffix(path, (".tif", ".tiff")):
            return np.asarray(tifffile.imread(path))
        raise
