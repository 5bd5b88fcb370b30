"""Check a data set: decode every frame and mask, count what is there, and list all problems."""

import logging
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Generic, TypeVar

import numpy as np
from tqdm import tqdm

from bundle.datasets.frames import read_frames, read_masks
from bundle.datasets.records import Report, Video
from bundle.io.reading.decode import natural_key
from bundle.io.reading.frame_refs import FrameOf, FrameRef
from bundle.types import LabelMap

Pixels = TypeVar("Pixels")
Size = tuple[int, int]
"""(height, width)."""

BLOCK_FRAMES = 32
"""Number of frames decoded at a time, so that memory does not grow with a video's length."""
LISTED_SIZES = 8


@dataclass
class Survey:
    """The counts of a data set and its problems.

    Attributes:
        videos: Number of records.
        patients: Number of different patients.
        frames: Number of frames, readable or not.
        annotated: Number of frames with a mask, readable or not.
        empty: Number of readable masks without an object, which are not a problem in themselves.
        sizes: (height, width) -> number of readable frames.
        labels: Class name -> number of masks that show it.
        fps: Frame rates of the videos that have one.
        spacings_mm: (row, column) spacings of the videos that have one.
        shown: Each video with a readable mask that is not empty, and its first frame with one.
        problems: One line for each problem.
        warnings: One line for each thing that the decoders corrected by themselves.
    """

    videos: int = 0
    patients: int = 0
    frames: int = 0
    annotated: int = 0
    empty: int = 0
    sizes: Counter[Size] = field(default_factory=Counter)
    labels: Counter[str] = field(default_factory=Counter)
    fps: list[float] = field(default_factory=list)
    spacings_mm: list[tuple[float, float]] = field(default_factory=list)
    shown: list[tuple[Video, int]] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)


def check_videos(read: Callable[[Report], list[Video]], name: str) -> Survey:
    """Read all frames and masks of a data set, and collect problems instead of stopping at the first.

    Args:
        read: Reader of the data set: called with a ``Report``, returns the records.
        name: Name of the data set, for the progress bar.

    Raises:
        OSError, ValueError: Errors that ``read`` raises itself, such as for a wrong root.
    """
    survey = Survey()
    with _collected_warnings(survey.warnings):
        videos = read(lambda problem: survey.problems.append(str(problem)))
        if not videos:
            survey.problems.append("no video could be made of this data set: nothing was read")
        _count_records(videos, survey)
        with tqdm(total=survey.frames, desc=name, unit="frame", disable=None) as bar:
            for video in videos:
                for done in _check_video(video, survey):
                    bar.update(done)
    # A reader that goes over the data twice reports some problems twice.
    survey.problems = list(dict.fromkeys(survey.problems))
    survey.warnings = list(dict.fromkeys(survey.warnings))
    return survey


def describe(survey: Survey) -> str:
    """The counts in lines of text, without problems and warnings."""
    rows = {
        "videos": str(survey.videos),
        "patients": str(survey.patients),
        "frames": str(survey.frames),
        "annotated frames": f"{survey.annotated} ({survey.empty} of them empty)",
        "sizes": _describe_sizes(survey.sizes),
        "labels": ", ".join(
            f"{name}: {survey.labels[name]}" for name in sorted(survey.labels, key=natural_key)
        ),
    }
    if survey.fps:
        rows["frames a second"] = f"{_range(survey.fps)} ({len(survey.fps)} videos)"
    if survey.spacings_mm:
        down, across = zip(*survey.spacings_mm, strict=True)
        rows["spacing"] = (
            f"{_range(down)} mm between rows, {_range(across)} mm between columns "
            f"({len(survey.spacings_mm)} videos)"
        )
    return "\n".join(f"  {key:<17} {value or 'none'}" for key, value in rows.items())


def _describe_sizes(sizes: Counter[Size]) -> str:
    usual = [f"{width}x{height}: {n}" for (height, width), n in sizes.most_common(LISTED_SIZES)]
    if len(sizes) > LISTED_SIZES:
        usual.append(f"and {len(sizes) - LISTED_SIZES} other sizes")
    return ", ".join(usual)


def _range(values: Iterable[float]) -> str:
    low, high = (f"{end(values):.4g}" for end in (min, max))
    return low if low == high else f"{low} to {high}"


def _count_records(videos: Sequence[Video], survey: Survey) -> None:
    survey.videos = len(videos)
    survey.patients = len({video.patient for video in videos})
    survey.frames = sum(len(video.frames) for video in videos)
    survey.annotated = sum(len(video.masks) for video in videos)
    survey.fps = [video.fps for video in videos if video.fps is not None]
    survey.spacings_mm = [video.spacing_mm for video in videos if video.spacing_mm is not None]
    for video in videos:
        _tell_numbers(video, survey.warnings)
    for identity, count in Counter(video.id for video in videos).items():
        if count > 1:
            survey.problems.append(
                f"{count} videos are called {identity}: expected different names"
            )


def _tell_numbers(video: Video, warnings: list[str]) -> None:
    """Warn which frame a mask was assigned to by the number in its name, if that is not frame 0."""
    first = min(video.masks)
    mask = video.masks[first]
    if first == 0 or not isinstance(mask, Path) or not isinstance(video.frames[0], FrameOf):
        return
    numbers = re.findall("[0-9]+", mask.stem)
    if numbers and int(numbers[-1]) == first:
        warnings.append(
            f"{video.id}: {mask.name} is taken as the mask of frame {first}, the first being 0: "
            "look at the contact sheet, and number masks from 0 if it is one frame late"
        )


def _check_video(video: Video, survey: Survey) -> Iterator[int]:
    """Check one video; yields the number of frames of each block."""
    size: Size | None = None
    empty, shown = 0, False
    frames = _Decoder(video, dict(enumerate(video.frames)), read_frames, survey.problems)
    masks = _Decoder(video, video.masks, read_masks, survey.problems)
    for begin in range(0, len(video.frames), BLOCK_FRAMES):
        indices = range(begin, min(begin + BLOCK_FRAMES, len(video.frames)))
        sizes = {i: (len(frame), len(frame[0])) for i, frame in frames.block(indices).items()}
        survey.sizes.update(sizes.values())
        for i, found in sizes.items():
            size = size or found
            if found != size:
                survey.problems.append(
                    f"{video.id}, frame {i}: {video.frames[i]} is {_times(found)} but the frames "
                    f"before are {_times(size)}: the frames of a video share one size"
                )
        for i, mask in masks.block(indices).items():
            fits = i not in sizes or _check_size(video, i, mask, sizes[i], survey.problems)
            present = np.unique(mask)
            ids = [int(label) for label in present[present > 0]]
            _count_labels(video, i, ids, survey)
            empty += not ids
            if ids and fits and i in sizes and not shown:
                survey.shown.append((video, i))
                shown = True
        yield len(indices)
    survey.empty += empty
    if empty == len(video.masks):
        survey.problems.append(
            f"{video.id}: all its masks are empty ({empty}): expected an object on at least one "
            f"frame, the first is {video.masks[min(video.masks)]}"
        )


def _check_size(video: Video, i: int, mask: LabelMap, size: Size, problems: list[str]) -> bool:
    if mask.shape == size:
        return True
    problems.append(
        f"{video.id}, frame {i}: {video.masks[i]} is {_times(mask.shape)} but its frame is "
        f"{_times(size)}: export the mask at the frame's size"
    )
    return False


def _count_labels(video: Video, i: int, ids: Sequence[int], survey: Survey) -> None:
    survey.labels.update({video.labels[label] for label in ids if label in video.labels})
    for label in ids:
        if label not in video.labels:
            survey.problems.append(
                f"{video.id}, frame {i}: {video.masks[i]} has the unknown label {label}: expected "
                + ", ".join(f"{known} {name}" for known, name in sorted(video.labels.items()))
            )


def _times(size: Sequence[int]) -> str:
    return f"{size[1]}x{size[0]}"


class _Decoder(Generic[Pixels]):
    """Decodes a video in blocks, and reports each frame that cannot be decoded."""

    def __init__(
        self,
        video: Video,
        refs: Mapping[int, FrameRef],
        read: Callable[[Video, Sequence[int]], list[Pixels]],
        problems: list[str],
    ) -> None:
        self._video, self._refs, self._read, self._problems = video, refs, read, problems
        self._warned: set[str] = set()
        self._broken: set[Path] = set()

    def block(self, indices: Iterable[int]) -> dict[int, Pixels]:
        """Frame index -> pixels, of the frames that exist and can be read."""
        wanted = [i for i in indices if i in self._refs]
        try:
            if not self._broken:
                return dict(zip(wanted, self._read(self._video, wanted), strict=True))
        except (OSError, ValueError):
            pass  # reported below, where the frame is known
        return {i: pixels for i in wanted for pixels in self._one(i)}

    def _one(self, i: int) -> list[Pixels]:
        ref = self._refs[i]
        if isinstance(ref, FrameOf) and ref.path in self._broken:
            return []
        try:
            return self._read(self._video, [i])
        except (OSError, ValueError) as problem:
            message = str(problem)
        if message not in self._warned:
            self._warned.add(message)
            self._problems.append(f"{self._video.id}, frame {i}: {message}")
        elif isinstance(ref, FrameOf):
            # The same message for two frames concerns the whole file: each try would read all of it.
            self._broken.add(ref.path)
        return []


@contextmanager
def _collected_warnings(lines: list[str]) -> Iterator[None]:
    """Collect the package's warnings for the report, as they would break up the progress bar."""

    class Collector(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            lines.append(record.getMessage())

    logger, collector = logging.getLogger("bundle"), Collector(logging.WARNING)
    propagated = logger.propagate
    logger.addHandler(collector)
    logger.propagate = False
    try:
        yield
    finally:
        logger.removeHandler(collector)
        logger.propagate = propagated
