"""Read prompts from a JSON file, check them, and give them to a job.

    {"prompts": [
      {"frame": 0, "object": 1, "box": [40, 30, 120, 110]},
      {"frame": 17, "object": 2, "points": [[60, 70, 1], [80, 40, 0]]},
      {"frame": 17, "object": 3, "scribbles": [{"points": [[5, 9], [30, 12]], "positive": true}]},
      {"frame": 29, "object": 1, "mask": "rough.png", "unknown": 255}
    ]}

An entry prompts one object (default 1) in one frame (default 0), by one or more kinds of prompt.
Coordinates are pixels of the video, x before y. A point's third number is 1 on the object, 0 beside
it. ``mask`` is a file, relative to the JSON file, whose non-zero pixels are the object; with
``unknown``, pixels of that value are left to the network. ``docs/prompts.schema.json`` is the schema.
"""

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from bundle.inference.frame_stream import Frames
from bundle.inference.job import SegmentationJob
from bundle.inference.prompts import MAX_ID, UNKNOWN, ObjectPrompt, Point, check_prompt
from bundle.io.reading.masks import read_annotations, read_partial_annotations
from bundle.io.reading.volumes import VideoSource
from bundle.types import LabelMap

KEYS = ("frame", "object", "box", "points", "scribbles", "mask", "unknown")
EXAMPLE = '{"frame": 0, "object": 1, "box": [40, 30, 120, 110]}'
TOO_LARGE = 64 * 2**20
"""Size in bytes above which a file is rejected."""


@dataclass(frozen=True, eq=False)
class PromptEntry:
    """The prompts of one object in one frame.

    Attributes:
        frame: Index of the frame.
        object_id: Id of the object, 1 to 255.
        prompt: All prompts except the mask.
        mask: A file that ``read_masks`` takes.
        unknown: Pixel value of the mask that means unknown.
        file: Path of the JSON file, for messages.
        number: Number of the entry in the file, from 1.
    """

    frame: int
    object_id: int
    prompt: ObjectPrompt
    mask: Path | None = None
    unknown: int | None = None
    file: str = ""
    number: int = 0

    @property
    def name(self) -> str:
        """Name of the entry in messages; empty if it comes from no file."""
        return f"{self.file}, entry {self.number}" if self.file else ""


def read_prompts(path: str | Path) -> list[PromptEntry]:
    """Read a file of prompts, without looking at a video.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: The file is not JSON, or an entry is invalid; the message names the entry.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"no such file of prompts: {path}: check the path")
    if path.stat().st_size > TOO_LARGE:
        raise ValueError(f"{path} is too large for a file of prompts")
    try:
        content = json.loads(path.read_text(encoding="utf-8-sig"))
    except ValueError as error:
        raise ValueError(f"{path} is not valid JSON ({error}): see docs/prompts.md") from error
    if not isinstance(content, dict) or not isinstance(content.get("prompts"), list):
        raise ValueError(f'{path} has no list of prompts: expected {{"prompts": [{EXAMPLE}]}}')
    if not content["prompts"]:
        raise ValueError(f"{path} has no prompt in it: point at an object")
    if odd := sorted(set(content) - {"prompts"}):
        raise ValueError(f"{path} has an unknown key {odd[0]!r}: expected prompts only")
    return [
        _read_entry(entry, path, number) for number, entry in enumerate(content["prompts"], start=1)
    ]


def give_prompts(job: SegmentationJob, entries: Sequence[PromptEntry]) -> None:
    """Give the prompts of entries to a job.

    Args:
        job: Job of the video; if an entry has a mask, the video must come from ``open_video``.
        entries: The entries; those of one frame are given together.

    Raises:
        FileNotFoundError: A mask does not exist.
        ValueError: See ``SegmentationJob.add_prompts``; the message names the entry, if it is known.
    """
    for entry in entries:  # check all before the network works on the first
        check_entry(entry, job.video)
    for frame in sorted({entry.frame for entry in entries}):
        here = [entry for entry in entries if entry.frame == frame]
        prompts: dict[int, ObjectPrompt] = {}
        for entry in here:
            with _named(entry.name):
                had = prompts.get(entry.object_id, ObjectPrompt())
                prompts[entry.object_id] = _joined(had, entry, job.video)
        with _named(here[0].name if len(here) == 1 else here[0].file):
            _give(job, frame, prompts)


def check_entry(entry: PromptEntry, video: Frames) -> None:
    """Check that an entry fits a video.

    Raises:
        ValueError: It does not; the message names the entry, if it is known.
    """
    with _named(entry.name):
        if not 0 <= entry.frame < video.frame_count:
            raise ValueError(
                f"there is no frame {entry.frame}: the video has frames 0 to "
                f"{video.frame_count - 1}"
            )
        check_prompt(entry.object_id, entry.prompt, (video.height, video.width))


def _joined(had: ObjectPrompt, entry: PromptEntry, video: Frames) -> ObjectPrompt:
    """Join the prompts of an object in a frame with those of one more entry."""
    for kind, one, other in (("box", had.box, entry.prompt.box), ("mask", had.mask, entry.mask)):
        if one is not None and other is not None:
            raise ValueError(
                f"object {entry.object_id} has a second {kind} in frame {entry.frame}: give one"
            )
    joined = had.with_prompt(entry.prompt)
    return joined if entry.mask is None else joined.with_mask(_read_mask(entry, video))


def _give(job: SegmentationJob, frame: int, prompts: Mapping[int, ObjectPrompt]) -> None:
    """Give whole masks first, then all other prompts."""
    pointed = {}
    for object_id, prompt in sorted(prompts.items()):
        if prompt.mask is not None and not (prompt.mask == UNKNOWN).any():
            job.add_mask(frame, prompt.mask, object_id)
            prompt = replace(prompt, mask=None)
        if prompt.mask is not None or prompt.box or prompt.points or prompt.scribbles:
            pointed[object_id] = prompt
    if pointed:
        job.add_prompts(frame, pointed)


def _read_mask(entry: PromptEntry, video: Frames) -> LabelMap:
    """Read the mask of an entry: 1 on the object, 0 beside it, 255 where unknown."""
    assert entry.mask is not None
    assert isinstance(video, VideoSource), "masks are files beside a video's"
    if entry.unknown is None:
        whole = read_annotations(entry.mask, video, entry.frame)
        found = {i: (labels > 0).astype(np.uint8) for i, labels in whole.items()}
    else:
        parts = read_partial_annotations(entry.mask, video, entry.unknown, entry.frame)
        found = {
            i: np.where(part.unknown, UNKNOWN, part.labels > 0).astype(np.uint8)
            for i, part in parts.items()
        }
    if entry.frame not in found:
        raise ValueError(
            f"{entry.mask} shows nothing in frame {entry.frame}: take a mask of that frame"
        )
    return found[entry.frame]


@contextmanager
def _named(source: str) -> Iterator[None]:
    """Begin the message of an error with its source."""
    try:
        yield
    except ValueError as error:
        if not source:
            raise
        raise ValueError(f"{source}: {error}") from error


def _read_entry(entry: Any, path: Path, number: int) -> PromptEntry:
    with _named(f"{path}, entry {number}"):
        if not isinstance(entry, dict):
            raise ValueError(f"expected an object such as {EXAMPLE}, got {_shown(entry)}")
        for key in entry:
            if key not in KEYS:
                raise ValueError(f"unknown key {key!r}: expected {', '.join(KEYS)}")
        if not {"box", "points", "scribbles", "mask"} & set(entry):
            raise ValueError("it points at nothing: give a box, points, scribbles or a mask")
        mask = entry.get("mask")
        if "mask" in entry and not (isinstance(mask, str) and mask):
            raise ValueError(f"mask must be the path of a file, got {_shown(mask)}")
        if "unknown" in entry and mask is None:
            raise ValueError("unknown is a value of a mask's pixels: give a mask, or leave it out")
        prompt = ObjectPrompt()
        if "box" in entry:
            left, top, right, bottom = _numbers(entry["box"], 4, "box", "left, top, right, bottom")
            prompt = prompt.with_box((left, top, right, bottom))
        for point in _list(entry, "points"):
            x, y, on = _numbers(point, 3, "a point", "x, y and 1 (on the object) or 0 (beside it)")
            if on not in (0, 1):
                raise ValueError(
                    f"the third number of a point must be 1 (on the object) or 0 (beside it), got "
                    f"{on:g}"
                )
            prompt = prompt.with_points([(x, y)], [bool(on)])
        for scribble in _list(entry, "scribbles"):
            prompt = prompt.with_scribble(*_read_scribble(scribble))
        return PromptEntry(
            frame=_whole(entry.get("frame", 0), "frame", 0),
            object_id=_whole(entry.get("object", 1), "object", 1, MAX_ID),
            prompt=prompt,
            mask=None if mask is None else path.parent / mask,
            unknown=_whole(entry["unknown"], "unknown", 0) if "unknown" in entry else None,
            file=str(path),
            number=number,
        )


def _read_scribble(scribble: Any) -> tuple[list[Point], bool]:
    if not isinstance(scribble, dict) or not {"points"} <= set(scribble) <= {"points", "positive"}:
        raise ValueError(
            f'a scribble must be {{"points": [[x, y], ...], "positive": true}}, got '
            f"{_shown(scribble)}"
        )
    positive = scribble.get("positive", True)
    if not isinstance(positive, bool):
        raise ValueError(f"positive of a scribble must be true or false, got {_shown(positive)}")
    corners = [
        _numbers(each, 2, "a scribble's point", "x, y") for each in _list(scribble, "points")
    ]
    return [(x, y) for x, y in corners], positive


def _list(entry: Mapping[str, Any], key: str) -> list[Any]:
    """The list of a key, which must not be empty; an empty list if the key is missing."""
    values = entry.get(key, [])
    if not isinstance(values, list) or (key in entry and not values):
        raise ValueError(f"{key} must be a list of at least one, got {_shown(values)}")
    return values


def _numbers(value: Any, count: int, name: str, parts: str) -> list[float]:
    good = isinstance(value, list) and len(value) == count
    if not good or not all(type(x) in (int, float) and math.isfinite(x) for x in value):
        raise ValueError(f"{name} must be {count} numbers, {parts}, got {_shown(value)}")
    return [float(x) for x in value]


def _whole(value: Any, name: str, least: int, most: int | None = None) -> int:
    sound = isinstance(value, int) and not isinstance(value, bool) and value >= least
    if not sound or (most is not None and value > most):
        limits = f"from {least} on" if most is None else f"from {least} to {most}"
        raise ValueError(f"{name} must be a whole number {limits}, got {_shown(value)}")
    return int(value)


def _shown(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
