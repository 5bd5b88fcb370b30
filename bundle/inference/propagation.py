"""Masks propagated from annotated frames to all others, and what a correction changes.

A prompt is a frame whose mask was given.
"""

import logging
import zlib
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

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
from bundle.inference.results import FrameResult, flag_result
from bundle.inference.session import VideoSession
from bundle.inference.settings import InferenceSettings
from bundle.inference.stretches import Stretch, plan_stretches
from bundle.networks.tcmn import VideoNetwork
from bundle.types import LabelMap

logger = logging.getLogger(__name__)

SMALLEST_PX = 128
"""Inference size below which a device's lack of memory is an error."""


class Propagation:
    """Propagation of given masks through one video, with the results found so far.

    Every stretch reads all prompts (with ``forward`` those up to its own, with ``backward`` those
    from its own on) and the frames that it remembers on its way. So both prompts around a frame
    inform it, and a new prompt leaves the frames beyond its neighbouring prompts as they are.

    Args:
        settings: Settings of the inferer.
        network: On ``device``, in evaluation mode.
        video: The frames.
        annotations: Frame index to label map (H, W); at least one shows an object. A mask is taken
            as complete: an object that it does not show is not there.
        device: Where the network and its memory are.
        objects: Frame index to the ids that its mask covers, for masks that are not complete. The
            other objects are found in that frame, from the frames whose masks cover them.

    Raises:
        ValueError: No mask shows an object, one is of no frame of the video, or has another size
            than the frame.

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
        self._results: dict[int, tuple[bytes, tuple[int, ...], dict[int, float]]] = {}
        self._remembered: dict[int, tuple[torch.Tensor, torch.Tensor]] = {}
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
        """Frame index to the mask that was given."""
        return self._given.masks

    def annotate(
        self, index: int, labels: LabelMap, objects: Collection[int] | None = None
    ) -> None:
        """Give or correct a mask; ``run`` then segments the frames up to the given masks beside it.

        A new object changes the whole video.

        Args:
            index: The frame.
            labels: (H, W).
            objects: The ids that the mask covers. The others stay as they were found in the frame,
                or are found there. By default the mask is complete.

        Raises:
            ValueError: There is no such frame, the mask has another size, or no object is left.
        """
        self._check(index, labels)
        covered = {i: each for i, each in self._given.objects.items() if i != index}
        if objects is not None:
            covered[index] = frozenset(objects)
        self._change({**self.prompts, index: labels}, covered)

    def retract(self, index: int) -> None:
        """Take back the mask of a frame; ``run`` then finds one.

        Raises:
            KeyError: The frame has none.
            ValueError: No other mask shows an object.
        """
        rest = {i: labels for i, labels in self.prompts.items() if i != index}
        if len(rest) == len(self.prompts):
            raise KeyError(f"frame {index} has no mask to take back")
        self._change(rest, self._given.objects)

    def adopt(
        self,
        prompts: Mapping[int, LabelMap],
        objects: Mapping[int, Collection[int]] | None = None,
    ) -> None:
        """Replace all given masks; ``run`` then segments the frames that the differences change.

        Args:
            prompts: Frame index to label map (H, W).
            objects: As when it was made.

        Raises:
            ValueError: None shows an object, one is of no frame, or has another size than it.
        """
        for index in sorted(prompts):
            self._check(index, prompts[index])
        self._change(prompts, objects or {})

    def restore(self, results: Iterable[FrameResult]) -> list[int]:
        """Take frames as done; ``run`` then segments the others only.

        Args:
            results: What a propagation with the same prompts and settings has found.

        Returns:
            Their indices.
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
        """How far ``run`` has come in the stretch that it is in, and what it remembers.

        Ask between two frames of ``run``. Tensors, numbers and texts, for ``torch.save``.

        Returns:
            None if no stretch is under way.
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
        """Let ``run`` go on inside a stretch, whose frames before are restored.

        Args:
            position: Position of a propagation with the same prompts and settings.
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
        # What was pending stays so; it may be cut at the new prompt.
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

        It can be broken off at any frame and called again: a stretch that was begun begins anew.
        """
        while True:
            search = self._given.next_search()
            if search is not None:
                yield from self._find(search)
            elif self._pending:
                stretch = self._pending[0]
                yield from self._run_stretch(stretch)
                if self._pending[:1] == [stretch]:  # else a prompt came meanwhile
                    del self._pending[0]
            else:
                return

    @property
    def remaining(self) -> int:
        """How many frames ``run`` would yield."""
        lacking = sum(bool(self._given.missing(i)) for i in self.prompts)
        return lacking + sum(len(stretch.frames) for stretch in self._pending)

    def result(self, index: int) -> FrameResult:
        """What was found in a frame; a mask that was given comes back to the pixel.

        Raises:
            KeyError: The frame has not been done yet.
        """
        if index in self.prompts:
            if self._given.missing(index):
                raise KeyError(index)
            labels, trust = self._given.labels(index), self._given.confidence(index)
            if index in self._given.objects:
                # Found for the memory; but one that comes later, say, is not looked for earlier.
                sought = self._shown(self._prompts_of(index))
                labels = np.where(np.isin(labels, sought), labels, np.uint8(0))
                trust = {i: value for i, value in trust.items() if i in sought}
            return flag_result(self.settings, index, labels, trust)
        packed, shape, confidence = self._results[index]
        labels = np.frombuffer(zlib.decompress(packed), np.uint8).reshape(shape)
        return flag_result(self.settings, index, labels, confidence)

    def done(self, index: int) -> bool:
        """Whether ``result`` has this frame."""
        if index in self.prompts:
            return not self._given.missing(index)
        return index in self._results

    def forget(self, index: int) -> None:
        """Free the result of a frame that is not needed any more."""
        self._results.pop(index, None)

    def suggest(self) -> int | None:
        """The frame whose mask should help most, of those that are done; None if there is none."""
        confidence = {i: each for i, (_, _, each) in self._results.items() if each}
        return suggest_frame(confidence, list(self.prompts))

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
            Each frame that is done by that.
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
                if self._given is not given:  # a prompt came meanwhile
                    return
            work.forget(index)
        self.inference_size = work.inference_size

    def _limit(self, frames: Collection[int]) -> None:
        """Go no further than these frames need."""
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
                for index in self._carry(stretch, done, position):
                    done += 1
                    yield index
                return
            except torch.OutOfMemoryError:
                position = None
                if not self._shrink():
                    raise
            finally:
                self._under_way = None

    def _carry(
        self, stretch: Stretch, skip: int, position: Mapping[str, Any] | None = None
    ) -> Iterator[int]:
        """Yields the frames of a stretch as they are done, but the first ``skip``, which were.

        They are looked at again for the memory, unless ``position`` tells what it was after them.
        """
        if stretch.prompt is None:
            for index in stretch.frames:
                self._keep(index, np.zeros((self.video.height, self.video.width), np.uint8), {})
                yield index
            return
        prompts, ids = self._prompts_of(stretch.prompt), self._given.ids
        shown = self._shown(prompts)
        session = VideoSession(self.settings, self.network, self.inference_size)
        session.known = torch.tensor([i in shown for i in ids], device=self.device)
        if position is not None:
            session.load_state(position["session"])
        else:
            for key, value in self._remember(prompts):
                session.remember(key, value)
            session.follow(split_objects(self._given.labels(stretch.prompt), ids, self.device))
        lookup = np.array([0, *ids], dtype=np.uint8)
        begin = 0 if position is None else skip
        left = stretch.frames[begin:]
        pictures = read_ahead(read_range(self.video, left))
        for number, (index, frame) in enumerate(zip(left, pictures, strict=True), start=begin):
            found = session.step(to_image(frame, self.device))
            if number < skip:
                continue
            trust = zip(ids, found.confidence[0].tolist(), strict=True)
            labels = lookup[choose_class(found.logits)[0].cpu().numpy()]
            self._keep(index, labels, {i: value for i, value in trust if i in shown})
            self._under_way = stretch, number + 1, session
            yield index

    def _prompts_of(self, start: int) -> list[int]:
        """The prompts that a stretch from ``start`` reads."""
        direction = self.settings.direction
        return [
            i
            for i in sorted(self.prompts)
            if not (direction == "forward" and i > start)
            and not (direction == "backward" and i < start)
        ]

    def _remember(self, prompts: Sequence[int]) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """Key and value of prompts, each worked out once."""
        new = [i for i in prompts if i not in self._remembered]
        for i, frame in zip(new, self.video.frames(new), strict=True):
            masks = split_objects(self._given.labels(i), self._given.ids, self.device)
            session = VideoSession(self.settings, self.network, self.inference_size)
            self._remembered[i] = session.encode_prompt(to_image(frame, self.device), masks)
        return (self._remembered[i] for i in prompts)

    def _keep(self, index: int, labels: LabelMap, confidence: dict[int, float]) -> None:
        self._results[index] = zlib.compress(labels.tobytes(), 1), labels.shape, confidence

    def _shrink(self) -> bool:
        """After the device ran out of memory: go on at three quarters of the size, if that is any."""
        short = min(self.video.height, self.video.width)
        size = min(self.inference_size or short, short) * 3 // 4
        if size < SMALLEST_PX:
            return False
        logger.warning(
            "out of memory on %s: going on with frames of %d pixels (shorter side); "
            "--max_memory_frames bounds what is remembered",
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
