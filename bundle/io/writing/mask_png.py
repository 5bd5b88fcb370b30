"""Encode and decode a mask as a palette PNG: pixel values are object ids, colours those of DAVIS."""

import io

import numpy as np
from PIL import Image

from bundle.types import LabelMap
from bundle.visualization.overlay import PALETTE

REST = 2**16
"""Bytes of a PNG beside its pixels that no mask needs."""


def encode_mask(labels: LabelMap) -> bytes:
    """Encode a mask, (H, W) uint8, as a PNG.

    Example:
        >>> decode_mask(encode_mask(np.full((2, 3), 7, np.uint8)), (2, 3)).tolist()
        [[7, 7, 7], [7, 7, 7]]
    """
    picture = Image.fromarray(labels)
    picture.putpalette(PALETTE.tobytes())
    data = io.BytesIO()
    picture.save(data, "PNG", compress_level=1)
    return data.getvalue()


def decode_mask(data: bytes, size: tuple[int, int]) -> LabelMap:
    """Decode a mask from a PNG that ``encode_mask`` wrote.

    Args:
        data: Content of the file.
        size: (H, W) that it must have.

    Raises:
        ValueError: It is not such a PNG, or has another size.
    """
    if len(data) > 2 * size[0] * size[1] + REST:
        raise ValueError("it is too large for a mask")
    try:
        with Image.open(io.BytesIO(data), formats=["PNG"]) as picture:
            if (picture.height, picture.width) != size or picture.mode != "P":
                raise ValueError(
                    f"it is {picture.width}x{picture.height} {picture.mode}, expected "
                    f"{size[1]}x{size[0]} P"
                )
            return np.array(picture, dtype=np.uint8)
    except (OSError, SyntaxError) as error:
        raise ValueError("it is unreadable") from error
