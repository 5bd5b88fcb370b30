"""A video of a project that somebody works on: each change is on disk when the call returns."""

import os
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from bundle.inference.results import FrameResult
from bundle.io.reading.video import VideoSource, open_video
from bundle.io.writing.mask_png import encode_mask
from bundle.project.files import (
    STATE,
    local_time,
    read_mask,
    read_mask_file,
    read_state,
    write_json,
)
from bundle.project.listing import ListedVideo, fingerprint
from bundle.project.locks import VideoLock
from bundle.project.review import Limits, measure_frame
from bundle.project.state import SavedMask, Source, VideoState
from bundle.types import LabelMap
from bundle.utils.atomic_write import room_for

IDLE_S = 60.0
"""Longest time in seconds that counts as work between two actions."""


class OpenVideo:
    """A video that somebody works on; close it when done, or use it in a with-block.

    Each method that changes something has written it when it returns. When writing fails, the state
    is the one before, on disk and here, and the call may be made again.

    Attributes:
        source: The video.
        state: What is known of it.
        left_by: Who had it open before and ended without closing it.
    """

    def __init__(
        self, video: ListedVideo, folder: Path, lock: VideoLock, who: str, limits: Limits
    ) -> None:
        self.name, self.left_by = video.name, lock.left_by
        self._folder, self._lock, self._who, self._limits = folder, lock, who, limits
        self._clock: Callable[[], float] = time.monotonic
        self._last = self._clock()
        self.state = read_state(folder)
        self.source = self._open_source(video)
        self._sweep()

    def __enter__(self) -> "OpenVideo":
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def close(self) -> None:
        """Let others open it."""
        self._lock.release()

    def labels(self, index: int) -> LabelMap:
        """The mask of a frame.

        Raises:
            KeyError: It has none.
            ValueError: Its file is damaged.
        """
        return read_mask(self._folder, self.state, index)

    def given_masks(self) -> dict[int, LabelMap]:
        """Frame index to the mask that somebody gave.

        Raises:
            ValueError: A file is damaged.
        """
        return {i: self._read(i, mask.file) for i, mask in self.state.given.items()}

    def propagated_masks(self) -> dict[int, LabelMap]:
        """Frame index to the mask that was given when masks were last propagated.

        Raises:
            ValueError: A file is damaged.
        """
        return {i: self._read(i, file) for i, file in self.state.propagated_from.items()}

    def found_results(self) -> Iterator[FrameResult]:
        """What was propagated, frame by frame; likewise under masks that were given since.

        Raises:
            ValueError: A file is damaged.
        """
        limit = self._limits.confidence
        for i, mask in sorted(self.state.found.items()):
            trust = dict(mask.facts.confidence)
            low = any(value < limit for value in trust.values())
            yield FrameResult(i, self._read(i, mask.file), trust, low)

    def give(self, masks: Mapping[int, LabelMap | None]) -> None:
        """Save masks that somebody painted, corrected or confirmed; None takes one back."""
        waiting = {i for item in self.state.queue(self._limits) for i in item.frames}
        given, state = dict(self.state.given), self.state
        for index, labels in masks.items():
            given.pop(index, None)
            if labels is not None:
                state, file = self._write_mask(state, index, labels, flush=True)
                facts = measure_frame(labels)
                given[index] = SavedMask(
                    file, replace(facts, confidence=dict.fromkeys(facts.areas, 1.0))
                )
        self._save(state.changed(given=given), reviews=len(waiting & set(masks)))

    def find(
        self,
        results: Iterable[FrameResult],
        propagated_from: Collection[int] | None = None,
        weights: Mapping[str, str] | None = None,
        direction: str = "both",
    ) -> None:
        """Save masks that were propagated.

        Args:
            results: Results of some frames; those of others stay.
            propagated_from: At the beginning of a propagation, the frames whose given masks it
                starts from.
            weights: What propagates: file name and SHA-256.
            direction: In which it goes.
        """
        found, state = dict(self.state.found), self.state
        for result in results:
            state, file = self._write_mask(state, result.frame, result.labels, flush=False)
            facts = measure_frame(result.labels, result.confidence)
            found[result.frame] = SavedMask(file, facts)
        values: dict[str, Any] = {"found": found}
        if propagated_from is not None:
            values["propagated_from"] = {i: state.given[i].file for i in propagated_from}
            values["direction"] = direction
        if weights is not None:
            values["weights"] = dict(weights)
        self._save(state.changed(**values), by_hand=False)

    def forget(self, frames: Collection[int]) -> None:
        """Drop masks that were propagated, since what they came from has changed."""
        found = {i: mask for i, mask in self.state.found.items() if i not in frames}
        self._save(self.state.changed(found=found), by_hand=False)

    def accept(self, frames: Collection[int]) -> None:
        """Take the masks of frames as right, as they are.

        Raises:
            KeyError: A frame has no mask.
        """
        files = {i: self.state.masks[i].file for i in frames}
        accepted = {**self.state.accepted, **files}
        self._save(replace(self.state, accepted=accepted), reviews=len(files))

    def sign(self, done: bool = True) -> None:
        """Say that the video is done, or that it is not.

        Raises:
            ValueError: Frames have no mask yet.
        """
        missing = self.source.frame_count - len(self.state.masks)
        if done and missing:
            raise ValueError(
                f"{missing} of {self.source.frame_count} frames of {self.name} have no mask yet: "
                "propagate first"
            )
        self._save(replace(self.state, signed_by=self._who if done else None))

    def look_at(self, index: int) -> None:
        """Save which frame was looked at last."""
        self._save(replace(self.state, place=index))

    def _read(self, index: int, file: str) -> LabelMap:
        size = self.source.height, self.source.width
        return read_mask_file(self._folder / "masks" / file, index, size)

    def _open_source(self, video: ListedVideo) -> VideoSource:
        if not video.path.exists():
            raise FileNotFoundError(
                f"the video {video.path} is not there any more: put it back, its masks are kept in "
                f"{self._folder}"
            )
        now = fingerprint(video.path)
        known = self.state.source
        if known is not None and known.fingerprint != now:
            raise ValueError(
                f"the video {video.path} has changed since its masks were made: put the old one back, "
                f"or give the new one another name; the masks are kept in {self._folder}"
            )
        source = open_video(video.path)
        found = Source(now, source.frame_count, source.height, source.width, source.fps)
        if known is None:
            self.state = replace(self.state, source=found)
        return source

    def _write_mask(
        self, state: VideoState, index: int, labels: LabelMap, flush: bool
    ) -> tuple[VideoState, str]:
        size = self.source.height, self.source.width
        if not 0 <= index < self.source.frame_count or labels.shape != size:
            raise ValueError(
                f"a mask of {labels.shape} for frame {index} of {self.name}, which has "
                f"{self.source.frame_count} frames of {size} (rows, columns)"
            )
        state = replace(state, number=state.number + 1)
        file = f"{index:06d}-{state.number}.png"
        self._lock.check(self.name)
        folder = self._folder / "masks"
        with room_for(folder / file):
            folder.mkdir(exist_ok=True)
            with (folder / file).open("wb") as out:
                out.write(encode_mask(labels))
                if flush:
                    out.flush()
                    os.fsync(out.fileno())
        return state, file

    def _save(self, state: VideoState, reviews: int = 0, by_hand: bool = True) -> None:
        # What the machine does takes nobody's time: the next action counts it, up to a pause.
        now = self._clock() if by_hand else self._last
        spent = min(max(now - self._last, 0.0), IDLE_S)
        state = replace(
            state, who=self._who, when=local_time(), seconds=state.seconds + spent,
            review_s=state.review_s + (spent if reviews else 0.0),
            review_count=state.review_count + reviews,
        )  # fmt: skip
        self._lock.check(self.name)
        write_json(self._folder / STATE, state.to_json())
        old = self.state.files() - state.files()
        self.state, self._last = state, now
        for file in old:
            with suppress(OSError):
                (self._folder / "masks" / file).unlink()

    def _sweep(self) -> None:
        """Remove masks that nothing refers to, which killed processes leave."""
        kept = self.state.files()
        for file in (self._folder / "masks").glob("*.png"):
            if file.name not in kept:
                with suppress(OSError):
                    file.unlink()
