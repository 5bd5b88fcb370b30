"""Limits on the sizes that files declare, checked before memory is allocated.

A header of a few bytes can claim any size. Readers call these checks first.
"""

from pathlib import Path

MAX_FRAME_PIXELS = 2**26
"""Of one frame: 8192x8192, twice the pixels of an 8K video."""
SHRINK = "shrink or crop the frames, or copy the file again if it is damaged"
DEFLATE_RATIO = 1032
"""Deflate, which .nii.gz, compressed MetaImages and PNG use, cannot shrink data further than this."""
MAX_INFLATED_BYTES = 2**30
"""Of a file that is only read after it was unpacked into memory as a whole."""


class DeclaredSizeError(ValueError):
    """A file declares a size beyond the limits."""


class MissingCodecError(DeclaredSizeError):
    """The file is valid, but reading it needs a package that is not installed; the message names it."""


def check_size(path: Path, height: int, width: int, frame_count: int = 1) -> None:
    """Check the size of frames that a file declares.

    Args:
        path: File, for the message.
        height: Declared height of a frame, in pixels.
        width: Declared width.
        frame_count: Declared number of frames.

    Raises:
        DeclaredSizeError: A size is 0, or a frame has more than ``MAX_FRAME_PIXELS``.
    """
    if min(height, width, frame_count) < 1:
        raise DeclaredSizeError(
            f"{path} declares {frame_count} frames of {width}x{height} pixels: expected one pixel "
            "and one frame at least, the file is damaged or empty, copy or export it again"
        )
    if height * width > MAX_FRAME_PIXELS:
        raise DeclaredSizeError(
            f"{path} declares frames of {width}x{height}, {height * width} pixels: expected at most "
            f"{MAX_FRAME_PIXELS}; {SHRINK}"
        )


def check_stored(
    path: Path, declared_bytes: int, stored_bytes: int, ratio: int = DEFLATE_RATIO
) -> None:
    """Check that a file is large enough to hold the pixels that it declares.

    Args:
        path: File, for the message.
        declared_bytes: Declared size of all pixels, unpacked.
        stored_bytes: Size of the file.
        ratio: Largest ratio that its compression can reach; 1 if it is not compressed.

    Raises:
        DeclaredSizeError: The file is too small.
    """
    if declared_bytes > ratio * stored_bytes:
        raise DeclaredSizeError(
            f"{path} declares {declared_bytes} bytes of pixels, but its {stored_bytes} bytes hold "
            f"{ratio * stored_bytes} at most: the file is truncated or damaged, copy or "
            "export it again"
        )


def check_inflated(path: Path, inflated_bytes: int) -> None:
    """Check that a file does not take too much memory unpacked.

    Args:
        path: File, for the message.
        inflated_bytes: Size of what was unpacked so far.

    Raises:
        DeclaredSizeError: It is more than ``MAX_INFLATED_BYTES``.
    """
    if inflated_bytes > MAX_INFLATED_BYTES:
        raise DeclaredSizeError(
            f"{path} unpacks to more than {MAX_INFLATED_BYTES} bytes, and has to be unpacked as a "
            "whole: save it in another transfer syntax, such as Explicit VR Little Endian"
        )
