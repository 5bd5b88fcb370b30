"""Propagate masks from annotated frames to all others; after a correction, update what it changes.

A prompt is a frame whose mask was given.
"""

import logging
import zlib
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
import torch

from bundle.inference.confidence import choose_class, suggest_frame
from bundle.inference.frame_stream import (
    Frames,
    check_size,
    list_ids,
    read_ahead,
    read_range,
    require_object,
    split_objects,
    to_image,
)
from bundle.inference.prompted_frames import FoundObjects, PromptedFrames, Search
from bundle.inference.results import (
    FrameResult,
    find_vanished,
    flag_result,
    trust_by_object,
)
from bundle.inference.session import EncodedFrame, EncodedPrompt, VideoSession
from bundle.inference.settings import InferenceSettings
from bundle.inference.stretches import Stretch, find_start, plan_stretches
from bundle.networks.tcmn import VideoNetwork
from bundle.types import LabelMap

logger = logging.getLogger(__name__)

SMALLEST_PX = 128
"""Smallest inference size to fall back to when a device runs out of memory."""


class _Packed(NamedTuple):
    """A frame's result; ``labels`` are compressed."""

    labels: bytes
    shape: tuple[int, ...]
    confidence: dict[int, float]
    vanished: frozenset[int]


class Propagation:
    """Propagates given masks through one video, and keeps the results found so far.

    Each stretch of frames (see ``stretches``) reads all prompts (with ``forward`` only those up to its
    own, with ``backward`` only those from its own on) and the frames that it remembers on its way. So
    the prompts on both sides of a frame are used, and a new prompt does not change the frames beyond
    its neighbouring prompts.

    Args:
        settings: Settings of inference.
        network: On ``device``, in evaluation mode.
        video: The frames.
        annotations: Frame index -> label map (H, W); at least one shows an object. A mask counts as
            complete: an object that it does not show is not in the frame.
        device: Device of the network and its memory.
        objects: Frame index -> ids that its mask covers, for incomplete masks. The other objects are
            found in that frame, from the frames whose masks cover them.

    Raises:
        ValueError: No mask shows an object, or a mask is of a frame that does not exist or has another
            size than its frame.

    Example::

        work = inferer.open(video, {40: mask}, network)
        for index in work.run():
            print(work.result(index).confidence)
        work.annotate(work.suggest(), better_mask)
        changed = list(work.run())
    """

    def __init__(
        self,
        settings: InferenceSettings,
        network: VideoNetwork,
        video: Frames,
        annotations: Mapping[int, LabelMap],
        device: torch.device | str = "cpu",
        objects: Mapping[int, Collection[int]] | None = None,
    ) -> None:
        self.settings, self.network, self.video = settings, network, video
        self.device = torch.device(device)
        self.inference_size = settings.inference_size
        self._pending: list[Stretch] = []
        self._results: dict[int, _Packed] = {}
        self._remembered: dict[int, EncodedPrompt] = {}
        self._under_way: tuple[Stretch, int, VideoSession] | None = None
        self._position: Mapping[str, Any] | None = None
        require_object(annotations.values())
        for index in sorted(annotations):
            self._check(index, annotations[index])
        self._given = PromptedFrames(annotations, objects)
        require_object(self.prompts.values())
        self._pending = self._plan()

    @property
    def prompts(self) -> Mapping[int, LabelMap]:
        """Frame index -> given mask."""
        return self._given.masks

    def annotate(
        self, index: int, labels: LabelMap, objects: Collection[int] | None = None
    ) -> None:
        """Give or correct a mask; ``run`` then segments the frames up to the neighbouring masks.

        A new object changes the whole video.

        Args:
            index: Index of the frame.
            labels: Label map (H, W).
            objects: Ids that the mask covers. Other objects keep their masks in the frame, or are
                found there. By default the mask is complete.

        Raises:
            ValueError: The frame does not exist, the mask has another size, or no object is left.
        """
        self._check(index, labels)
        covered = {i: each for i, each in self._given.objects.items() if i != index}
        if objects is not None:
            covered[index] = frozenset(objects)
        self._change({**self.prompts, index: labels}, covered)

    def adopt(
        self,
        prompts: Mapping[int, LabelMap],
        objects: Mapping[int, Collection[int]] | None = None,
    ) -> None:
        """Replace all given masks; ``run`` then segments the frames that the differences change.

        Args:
            prompts: Frame index -> label map (H, W).
            objects: See ``objects`` of the class.

        Raises:
            ValueError: See the class.
        """
        for index in sorted(prompts):
            self._check(index, prompts[index])
        self._change(prompts, objects or {})

    def restore(self, results: Iterable[FrameResult]) -> list[int]:
        """Restore results of frames; ``run`` then segments only the others.

        Args:
            results: Results of a propagation with the same prompts and settings.

        Returns:
            Indices of their frames.
        """
        restored = []
        for result in results:
            if result.frame in self._given.objects:
                objects = frozenset(self._given.ids)
                found = FoundObjects(result.labels, objects, result.confidence)
                self._given.add_found(result.frame, found)
            else:
                self._keep(result.frame, result.labels, dict(result.confidence))
            restored.append(result.frame)
        self._pending = [
            stretch for stretch in self._pending if not all(map(self.done, stretch.frames))
        ]
        return restored

    def covers(self, index: int) -> frozenset[int]:
        """The objects that the mask of a frame covers."""
        return self._given.covers(index)

    def position(self) -> dict[str, Any] | None:
        """The state of ``run`` within the current stretch, with its memory, for ``torch.save``.

        Call it between two frames of ``run``.

        Returns:
            Tensors, numbers and texts; None if no stretch is in progress.
        """
        if self._under_way is None:
            return None
        stretch, number, session = self._under_way
        return {
            "stretch": _describe(stretch),
            "number": number,
            "session": session.state(),
            "inference_size": self.inference_size,
        }

    def resume_at(self, position: Mapping[str, Any]) -> None:
        """Let ``run`` continue inside a stretch whose earlier frames were restored.

        Args:
            position: ``position`` of a propagation with the same prompts and settings.
        """
        self._position = position

    def _change(
        self, prompts: Mapping[int, LabelMap], objects: Mapping[int, Collection[int]]
    ) -> None:
        require_object(prompts.values())
        before, given = self._given, PromptedFrames(prompts, objects)
        require_object(given.masks.values())
        self._under_way = self._position = None
        changes = given.changes(before)
        if not changes and given.objects == before.objects:
            return
        new = [i for i in given.objects if i not in before.masks and self.done(i)]
        given.take_over(before, {i: self.result(i) for i in new})
        count = self.video.frame_count
        # Pending frames stay pending; the new prompt may divide their stretch.
        stale = {i for stretch in self._pending for i in stretch.frames}
        if given.ids != before.ids:
            stale |= set(range(count))
            self._remembered.clear()
        for index, changed in changes.items():
            stale |= set(given.reach(index, changed, count))
            self._remembered.pop(index, None)
        self._given = given
        self._pending = [stretch for stretch in self._plan() if stale & set(stretch.frames)]
        for i in stale | set(given.masks):
            self._results.pop(i, None)

    def run(self) -> Iterator[int]:
        """Segment the frames that are not done; yields the index of each as it is done.

        You can stop at any frame and call it again: an unfinished stretch then starts again. It also
        does if a prompt changes it between two frames.
        """
        while True:
            search = self._given.next_search()
            if search is not None:
                yield from self._find(search)
            elif self._pending:
                stretch = self._pending[0]
                for index in self._run_stretch(stretch):
                    yield index
                    if not self._pending or self._pending[0] is not stretch:
                        break  # a prompt changed the plan
                else:
                    del self._pending[0]
            else:
                return

    @property
    def remaining(self) -> int:
        """Number of frames that ``run`` will yield."""
        lacking = sum(bool(self._given.missing(i)) for i in self.prompts)
        return lacking + sum(len(stretch.frames) for stretch in self._pending)

    def result(self, index: int) -> FrameResult:
        """The result of a frame; a given mask is returned unchanged.

        Raises:
            KeyError: The frame is not done yet.
        """
        if index in self.prompts:
            if self._given.missing(index):
                raise KeyError(index)
            labels, trust = self._given.labels(index), self._given.confidence(index)
            if index in self._given.objects:
                # Memory needed all objects, but the result has only those of this direction.
                sought = self._shown(self._prompts_of(index))
                labels = np.where(np.isin(labels, sought), labels, np.uint8(0))
                trust = {i: value for i, value in trust.items() if i in sought}
            vanished = self._vanished(index, labels, trust)
            return flag_result(self.settings, index, labels, trust, vanished)
        kept = self._results[index]
        labels = np.frombuffer(zlib.decompress(kept.labels), np.uint8).reshape(kept.shape)
        return flag_result(self.settings, index, labels, kept.confidence, kept.vanished)

    def done(self, index: int) -> bool:
        """Whether the frame has a result."""
        if index in self.prompts:
            return not self._given.missing(index)
        return index in self._results

    def forget(self, index: int) -> None:
        """Free the memory of a frame's result."""
        self._results.pop(index, None)

    def suggest(self) -> int | None:
        """Index of the finished frame whose correction should help most; None if there is none."""
        trust = {
            i: trust_by_object(each.confidence, each.vanished)
            for i, each in self._results.items()
            if each.confidence
        }
        return suggest_frame(trust, list(self.prompts))

    def _check(self, index: int, labels: LabelMap) -> None:
        if not 0 <= index < self.video.frame_count:
            raise ValueError(
                f"a mask was given for frame {index}, but the video has frames 0 to "
                f"{self.video.frame_count - 1}"
            )
        check_size(index, labels, (self.video.height, self.video.width))

    def _shown(self, prompts: Iterable[int]) -> list[int]:
        """The objects that the masks of these frames show."""
        return list_ids(self.prompts[i] for i in prompts)

    def _find(self, search: Search) -> Iterator[int]:
        """Find objects in frames whose masks do not cover them.

        Yields:
            Index of each frame that is complete with them.
        """
        given = self._given
        settings = replace(self.settings, direction="both")
        work = Propagation(settings, self.network, self.video, search.masks, self.device)
        work.inference_size = self.inference_size
        work._limit(search.frames)
        for index in work.run():
            if index in search.frames:
                found = work.result(index)
                trust = {i: v for i, v in found.confidence.items() if i in search.objects}
                labels = np.where(
                    np.isin(found.labels, list(search.objects)), found.labels, np.uint8(0)
                )
                given.add_found(index, FoundObjects(labels, search.objects, trust))
                self._remembered.pop(index, None)
                if self.done(index):
                    yield index
                if self._given is not given:  # a prompt changed the plan
                    return
            work.forget(index)
        self.inference_size = work.inference_size

    def _limit(self, frames: Collection[int]) -> None:
        """Shorten the stretches so that they end at the last of these frames."""
        pending = []
        for stretch in self._pending:
            needed = [number for number, i in enumerate(stretch.frames, start=1) if i in frames]
            if needed:
                pending.append(Stretch(stretch.prompt, stretch.frames[: needed[-1]]))
        self._pending = pending

    def _plan(self) -> list[Stretch]:
        return plan_stretches(sorted(self.prompts), self.video.frame_count, self.settings.direction)

    def _run_stretch(self, stretch: Stretch) -> Iterator[int]:
        position, self._position = self._position, None
        if position is not None and position["stretch"] != _describe(stretch):
            position = None
        done = 0
        if position is not None:
            done, self.inference_size = position["number"], position["inference_size"]
        while True:
            try:
                for index in self._segment_stretch(stretch, done, position):
                    done += 1
                    yield index
                return
            except torch.OutOfMemoryError:
                position = None
                if not self._shrink():
                    raise
            finally:
                self._under_way = None

    def _segment_stretch(
        self, stretch: Stretch, skip: int, position: Mapping[str, Any] | None = None
    ) -> Iterator[int]:
        """Segment a stretch, and yield its frames as they are done, without the first ``skip``.

        Those are segmented again to fill the memory, unless ``position`` has the memory after them.
        """
        if stretch.prompt is None:
            for index in stretch.frames:
                self._keep(index, np.zeros((self.video.height, self.video.width), np.uint8), {})
                yield index
            return
        prompts, ids = self._prompts_of(stretch.prompt), self._given.ids
        shown = self._shown(prompts)
        session = VideoSession(self.settings, self.network, self.inference_size)
        session.prepare((self.video.height, self.video.width), len(ids), self.device)
        session.known = torch.tensor([i in shown for i in ids], device=self.device)
        if position is not None:
            session.load_state(position["session"])
        else:
            for prompt in self._remember(prompts):
                session.remember(prompt)
            session.follow(split_objects(self._given.labels(stretch.prompt), ids, self.device))
        lookup = np.array([0, *ids], dtype=np.uint8)
        begin = 0 if position is None else skip
        left = stretch.frames[begin:]
        pictures = read_ahead(read_range(self.video, left))
        encoded: Iterator[EncodedFrame] = (
            session.encode(to_image(each, self.device)) for each in pictures
        )
        if getattr(self.network, "encodes_ahead", False):
            encoded = read_ahead(encoded, 1)
        for number, (index, frame) in enumerate(zip(left, encoded, strict=True), start=begin):
            found = session.advance(frame)
            if number < skip:
                continue
            trust = zip(ids, found.confidence[0].tolist(), strict=True)
            labels = lookup[choose_class(found.logits)[0].cpu().numpy()]
            self._keep(index, labels, {i: value for i, value in trust if i in shown})
            self._under_way = stretch, number + 1, session
            yield index

    def _prompts_of(self, start: int) -> list[int]:
        """The prompts that a stretch which begins at ``start`` reads."""
        direction = self.settings.direction
        return [
            i
            for i in sorted(self.prompts)
            if not (direction == "forward" and i > start)
            and not (direction == "backward" and i < start)
        ]

    def _remember(self, prompts: Sequence[int]) -> Iterator[EncodedPrompt]:
        """What to remember of each prompt, computed once."""
        new = [i for i in prompts if i not in self._remembered]
        for i, frame in zip(new, self.video.frames(new), strict=True):
            masks = split_objects(self._given.labels(i), self._given.ids, self.device)
            session = VideoSession(self.settings, self.network, self.inference_size)
            self._remembered[i] = session.encode_prompt(to_image(frame, self.device), masks)
        return (self._remembered[i] for i in prompts)

    def _keep(self, index: int, labels: LabelMap, confidence: dict[int, float]) -> None:
        packed, vanished = (
            zlib.compress(labels.tobytes(), 1),
            self._vanished(index, labels, confidence),
        )
        self._results[index] = _Packed(packed, labels.shape, confidence, vanished)

    def _vanished(self, index: int, labels: LabelMap, sought: Collection[int]) -> frozenset[int]:
        """The objects that are not in a frame, though the mask that it comes from shows them."""
        start = find_start(list(self.prompts), index, self.settings.direction)
        absent = frozenset[int]() if start is None else self._given.absent(start)
        return find_vanished(labels, sought, absent)

    def _shrink(self) -> bool:
        """After the device ran out of memory, reduce the inference size by a quarter, if possible."""
        short = min(self.video.height, self.video.width)
        size = min(self.inference_size or short, short) * 3 // 4
        if size < SMALLEST_PX:
            return False
        logger.warning(
            "out of memory on %s: continuing with frames of %d pixels (shorter side); "
            "a lower --max-memory-frames takes less memory",
            self.device,
            size,
        )
        self.inference_size = size
        self._remembered.clear()
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
        return True


def _describe(stretch: Stretch) -> list[int | None]:
    frames = stretch.frames
    return [stretch.prompt, frames.start, frames.stop, frames.step]
