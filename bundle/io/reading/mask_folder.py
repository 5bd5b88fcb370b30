"""Match the mask pictures of a folder with the frames of a video, by names and numbers."""

import logging
import re
from collections.abc import Sequence
from pathlib import Path

from bundle.io.reading.frame_folder import list_masks
from bundle.io.reading.frame_refs import FrameOf, FrameRef

logger = logging.getLogger(__name__)

# Parts of a name that are the number of a frame: a number alone, after a word for frames or masks, or
# with leading zeros.
FRAME_NUMBER = re.compile(
    "(?:frame|mask|image|img|slice|time|seg|label)?([0-9]+)|[a-z]+(0[0-9]+)", re.IGNORECASE
)
MOST_DIGITS = 5
"""Of a number of a frame; longer ones are dates and identifiers."""


def match_masks(
    folder: Path,
    video: Path,
    frames: Sequence[FrameRef],
    *,
    first_frame: int | None = None,
    ask: bool = False,
) -> dict[int, Path]:
    """Match the masks in a folder with the frames of a video.

    A mask has the name of its frame, or its number. Otherwise there must be one mask for each frame, in
    natural order. Frames of a video file are numbered from 0.

    Args:
        folder: Folder of pictures.
        video: Name of the video, for messages.
        frames: Frames of the video: pictures, or members of one file.
        first_frame: Frame of the mask with the lowest number. The others follow by their numbers.
        ask: Whether to raise an error if numbers of a video file's frames may count from 0 or from 1.
            They count from 1 if the last equals the number of frames. A single mask without a number
            belongs to the first frame.

    Returns:
        Frame index to mask.

    Raises:
        FileNotFoundError: The folder holds no pictures.
        ValueError: A mask matches no frame, two match the same, or numbers are ambiguous.
    """
    return match_files(list_masks(folder), folder, video, frames, first_frame=first_frame, ask=ask)


def match_files(
    files: Sequence[Path],
    folder: Path,
    video: Path,
    frames: Sequence[FrameRef],
    *,
    first_frame: int | None = None,
    ask: bool = False,
) -> dict[int, Path]:
    """Match names in natural order with frames, like ``match_masks``. ``folder`` is for messages."""
    indices: list[int | None]
    stems = {frame.stem: i for i, frame in enumerate(frames) if isinstance(frame, Path)}
    if first_frame is not None:
        numbers = [_last_number(file) for file in files]
        known = [number for number in numbers if number is not None]
        lowest = min(known, default=0)
        indices = [None if n is None else n - lowest + first_frame for n in numbers]
        if len(known) == 0 and len(files) == 1:
            indices = [first_frame]
        indices = [i if i is not None and 0 <= i < len(frames) else None for i in indices]
    elif any(_bare(file.stem) in stems or file.stem in stems for file in files):
        indices = [stems.get(file.stem, stems.get(_bare(file.stem))) for file in files]
    elif ask and len(files) == 1 and _last_number(files[0]) is None:
        indices = [0]
    elif len(files) == len(frames):
        indices = list(range(len(frames)))
    else:
        indices = _by_number(folder, files, video, frames, ask)
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


def frame_of_mask(
    mask: Path, video: Path, frames: Sequence[FrameRef], frame: int | None = None
) -> int:
    """Find the frame of a single mask: the given one, or that of its name, or the first.

    Args:
        mask: Mask, a picture.
        video: Video that it belongs to.
        frames: Frames of the video.
        frame: Index that the user gave; None if none was given.

    Raises:
        ValueError: There is no such frame, or a number in the name may mean another frame.
    """
    count = len(frames)
    if frame is not None:
        if not 0 <= frame < count:
            raise ValueError(
                f"--mask-frame {frame}: {video} has {count} frames, expected 0 to {count - 1}"
            )
        return frame
    stems = {each.stem: i for i, each in enumerate(frames) if isinstance(each, Path)}
    stem = mask.name.split(".")[0] if mask.name.lower().endswith(".nii.gz") else mask.stem
    for name in (stem, _bare(stem)):
        if name in stems:
            if stems[name]:
                logger.warning("%s is taken as the mask of frame %d", mask, stems[name])
            return stems[name]
    # What the video is called as well, such as a patient's number, says nothing of frames.
    shared = _parts(video.name)
    rest = [part for part in _parts(stem) if part not in shared]
    matches = [FRAME_NUMBER.fullmatch(part) for part in rest]
    digits = [match[1] or match[2] for match in matches if match]
    numbers = [int(each) for each in digits if len(each) <= MOST_DIGITS]
    if count > 1 and any(numbers):
        number = [each for each in numbers if each][-1]
        raise ValueError(
            f"{mask} has the number {number} in its name: say which frame it belongs to, the first "
            f"is 0, with --mask-frame 0, or --mask-frame {min(number, count - 1)} if that is its "
            "frame"
        )
    if count > 1 and re.search("[1-9]", " ".join(rest)):
        logger.warning(
            "%s is taken as the mask of the first frame: --mask-frame N says otherwise", mask
        )
    return 0


def _by_number(
    folder: Path, files: Sequence[Path], video: Path, frames: Sequence[FrameRef], ask: bool
) -> list[int | None]:
    numbers = [_last_number(file) for file in files]
    if not all(isinstance(frame, FrameOf) for frame in frames):
        known = {_last_number(f): i for i, f in enumerate(frames) if isinstance(f, Path)}
        known.pop(None, None)
        return [known.get(number) for number in numbers]
    given = [number for number in numbers if number is not None]
    first = 0
    if ask and given and min(given) > 0:
        if max(given) == len(frames):
            logger.warning("%s: its numbers are taken to count from 1", folder)
            first = 1
        elif max(given) < len(frames):
            raise ValueError(
                f"{folder} has masks numbered from {min(given)}, and {video} has {len(frames)} "
                f"frames: say which frame the lowest number is, the first is 0: --mask-frame "
                f"{min(given)} if numbers count from 0, --mask-frame {min(given) - 1} if from 1"
            )
    return [n - first if n is not None and 0 <= n - first < len(frames) else None for n in numbers]


def _parts(name: str) -> list[str]:
    return re.findall("[a-z0-9]+", name.lower())


def _bare(stem: str) -> str:
    """Remove the word that marks a mask, such as ``_mask``, from its name."""
    return re.sub(r"(?i)(^(mask|seg|label|gt)[_\-. ]|[_\-. ](mask|seg|label|gt)$)", "", stem)


def _last_number(path: Path) -> int | None:
    """Find the last number in the name of a file."""
    numbers = re.findall("[0-9]+", path.stem)
    return int(numbers[-1]) if numbers else None
