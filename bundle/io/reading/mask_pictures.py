"""Read masks from still pictures: with a palette, grey, with transparency, or in colour.

``bundle.io.reading.labels`` decides what their values mean.
"""

import csv
import re
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from PIL import Image, ImageColor

from bundle.io.reading.decode import (
    VOLUME_SUFFIXES,
    check_file,
    check_pixels,
    explained,
    has_suffix,
    open_still,
    read_pixels,
    refuse_stack,
)
from bundle.io.reading.labels import (
    MAX_OBJECTS,
    WHITE,
    Colour,
    StoredMask,
    settle_labels,
    whole_numbers,
)
from bundle.types import LabelMap

LOSSY_FORMATS = ("JPEG", "MPO", "WEBP", "JPEG2000")
LOSSY_TIFF = ("jpeg", "tiff_jpeg", "webp")
GREY_NOISE = 24
"""Difference of the channels of a grey picture after lossy compression, at most."""
COLOUR_LISTS = ("labelmap.txt", "palette.csv")
MAX_LIST_BYTES = 2**20


def read_labels(path: Path, *, binary: bool = False) -> LabelMap:
    """Read one mask by itself as a label map; see ``bundle.io.reading.labels.settle_labels``.

    Args:
        path: A still picture, or a 2D NIfTI or MetaImage file.
        binary: Whether the mask is known to hold one object, perhaps with soft edges. Then values above
            127 are the object. If there are none, its only value, or the values of flat areas, are.

    Returns:
        (H, W) uint8; all zero if the mask is empty.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: The file cannot be read, or its values cannot be labels.
    """
    mask = read_mask_picture(path)
    if binary and mask.kind != "colour":
        return _one_object(mask)
    return settle_labels([mask])[0]


def read_mask_picture(path: Path) -> StoredMask:
    """Read one mask with the values that its file stores.

    Args:
        path: A still picture, or a 2D NIfTI or MetaImage file.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: The file cannot be read as one image, or its values cannot be labels.
    """
    source = str(path)
    if has_suffix(path, VOLUME_SUFFIXES):
        pixels = read_pixels(path)
        if pixels.ndim != 2:
            raise ValueError(f"{path} holds colours: expected label numbers, 0 for background")
        return StoredMask(whole_numbers(pixels, source), "exact", source)
    check_file(path)
    refuse_stack(path)
    with explained(f"cannot read {path} as an image"):
        still = open_still(path)
        if still.palette_indices is not None:
            return StoredMask(still.palette_indices, "exact", source)
        pixels = check_pixels(still.pixels)
    lossy = still.format in LOSSY_FORMATS or still.compression in LOSSY_TIFF
    if pixels.ndim == 2:
        return StoredMask(_grey(pixels, source), "lossy" if lossy else "grey", source)
    if pixels.shape[2] in (2, 4):
        pixels = _without_transparent(pixels)
    if pixels.shape[2] == 1:
        return StoredMask(_grey(pixels[..., 0], source), "lossy" if lossy else "grey", source)
    rgb = pixels[..., :3]
    spread = int(np.ptp(rgb.astype(np.int32), axis=2).max())
    if spread == 0 or (lossy and spread <= GREY_NOISE):
        return StoredMask(_grey(rgb[..., 1], source), "lossy" if lossy else "grey", source)
    if lossy or rgb.dtype != np.uint8:
        raise ValueError(
            f"{path} is a colour picture that lost its exact colours to compression: expected label "
            "indices or exact colours, save it as PNG"
        )
    return StoredMask(rgb, "colour", source, list_of_colours(path.parent))


def _grey(pixels: np.ndarray, source: str) -> LabelMap:
    """Convert grey values to uint8 ids. A 16-bit mask of black and white becomes 0 and 255."""
    if pixels.dtype == np.uint16 and set(np.unique(pixels).tolist()) <= {0, 2**16 - 1}:
        return np.where(pixels > 0, WHITE, 0).astype(np.uint8)
    return whole_numbers(pixels, source)


def _without_transparent(pixels: np.ndarray) -> np.ndarray:
    """Remove the alpha channel of a picture. Transparent pixels become background.

    If all visible pixels have one value, the alpha channel itself is the mask, with its soft edges.

    Returns:
        (H, W, 1 or 3).
    """
    values, alpha = pixels[..., :-1], pixels[..., -1]
    if alpha.min() == alpha.max():
        return values
    shown = values[alpha > np.iinfo(alpha.dtype).max // 2]
    if not len(shown) or (shown == shown[0]).all():
        return alpha[..., None]
    opaque = alpha > np.iinfo(alpha.dtype).max // 2
    return values * opaque[..., None].astype(values.dtype)


def _one_object(mask: StoredMask) -> LabelMap:
    bright = mask.values > WHITE // 2
    if bright.any() or mask.kind == "lossy":
        return bright.astype(np.uint8)
    levels = np.unique(mask.values[mask.values > 0])
    if len(levels) == 1 or (0 < len(levels) <= MAX_OBJECTS and _fills_an_area(mask.values)):
        return (mask.values > 0).astype(np.uint8)
    return bright.astype(np.uint8)


def _fills_an_area(values: np.ndarray) -> bool:
    blocks = np.lib.stride_tricks.sliding_window_view(np.pad(values, 1), (3, 3))
    return bool(((blocks.min((2, 3)) == blocks.max((2, 3))) & (values > 0)).any())


# Lists of colours


def list_of_colours(folder: Path) -> Mapping[Colour, int]:
    """Read which colour stands for which id, from a file beside the masks or in the folder above.

    ``labelmap.txt`` is written by CVAT. Its lines are ``name:red,green,blue:parts:actions``; ids count
    from 1 by line, and ``background`` is 0. ``palette.csv`` has the columns ``id`` and ``colour``, such
    as ``1,#ff0000``.

    Returns:
        RGB to id; empty if there is no such file.

    Raises:
        ValueError: A line cannot be read.
    """
    for place in (folder, folder.parent):
        for name in COLOUR_LISTS:
            path = place / name
            if not path.is_file():
                continue
            if path.stat().st_size > MAX_LIST_BYTES:
                raise ValueError(f"{path} has more than {MAX_LIST_BYTES} bytes: is it a palette?")
            with explained(f"cannot read {path} as a list of colours"):
                text = path.read_text(encoding="utf-8-sig")
                return _labelmap(text) if name.endswith(".txt") else _palette(text)
    return {}


def _labelmap(text: str) -> dict[Colour, int]:
    colours: dict[Colour, int] = {}
    number = 0
    for line in text.splitlines():
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        name, numbers = line.split(":")[:2]
        red, green, blue = (int(part) for part in numbers.split(","))
        background = re.fullmatch("_*background_*", name.strip(), re.IGNORECASE) is not None
        number += not background
        colours[red, green, blue] = 0 if background else number
    return colours


def _palette(text: str) -> dict[Colour, int]:
    colours: dict[Colour, int] = {}
    for row in csv.DictReader(text.splitlines()):
        red, green, blue = ImageColor.getrgb(row["colour"].strip())[:3]
        colours[red, green, blue] = int(row["id"])
    return colours


def looks_like_mask(path: Path) -> bool:
    """Whether a picture has few different values, as masks do; False if it cannot be read."""
    try:
        with Image.open(path) as image:
            lossy = image.format in LOSSY_FORMATS
            if image.mode in ("1", "P"):
                return True
        pixels = read_pixels(path)
    except (OSError, ValueError):
        return False
    if pixels.ndim == 3:
        pixels = pixels.reshape(-1, pixels.shape[2])
        if pixels.shape[1] == 4 and pixels[:, 3].min() < pixels[:, 3].max():
            return True
        return not lossy and len(np.unique(pixels[:: max(1, len(pixels) // 10**5)], axis=0)) <= 8
    return not lossy and len(np.unique(pixels)) <= MAX_OBJECTS
