"""Which picture of a folder of masks belongs to which frame."""

import re
from collections.abc import Sequence
from pathlib import Path

from bundle.io.reading.decode import list_images
from bundle.io.reading.frame_refs import FrameOf, FrameRef


def match_masks(folder: Path, video: Path, frames: Sequence[FrameRef]) -> dict[int, Path]:
    """Find the masks of a video.

    A mask is called like its frame, or by its number (frames of a video file count from 0);
    otherwise there is one for each frame, in natural order.

    Args:
        folder: Pictures.
        video: What they belong to, for messages.
        frames: Its frames: pictures, or members of one file.

    Returns:
        Frame index to mask.

    Raises:
        FileNotFoundError: The folder holds no pictures.
        ValueError: A mask belongs to no frame, or two to one.
    """
    files = list_images(folder)
    indices: list[int | None]
    stems = {frame.stem: i for i, frame in enumerate(frames) if isinstance(frame, Path)}
    if any(file.stem in stems for file in files):
        indices = [stems.get(file.stem) for file in files]
    elif len(files) == len(frames):
        indices = list(range(len(frames)))
    else:
        numbers = {
            frame.index if isinstance(frame, FrameOf) else _number(frame): i
            for i, frame in enumerate(frames)
        }
        numbers.pop(None, None)
        indices = [numbers.get(_number(file)) for file in files]
    masks: dict[int, Path] = {}
    for file, index in zip(files, indices, strict=True):
        if index is None:
            raise ValueError(
                f"{file} belongs to no frame: {folder} holds {len(files)} masks and {video} has "
                f"{len(frames)} frames, expected one for each frame, or masks that are called or "
                "numbered like their frames (a video's first is 0)"
            )
        if index in masks:
            raise ValueError(f"{masks[index]} and {file} are both for frame {index} of {video}")
        masks[index] = file
    return masks


def _number(path: Path) -> int | None:
    """The last number in a file's name."""
    numbers = re.findall("[0-9]+", path.stem)
    return int(numbers[-1]) if numbers else None
