"""Masks carried from annotated frames to all others, and what a correction changes.

A prompt is a frame whose mask was given.
"""

import logging
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence

import numpy as np
import torch

from bundle.inference.confidence import choose_class, suggest_frame
from bundle.inference.frame_stream import (
    Frames,
    ahead,
    check_size,
    list_ids,
    read_range,
    require_object,
    split_objects,
    to_image,
)
from bundle.inference.results import FrameResult, judge
from bundle.inference.session import VideoSession
from bundle.inference.settings import InferenceSettings
from bundle.inference.stretches import Stretch, plan_stretches
from bundle.networks.tcmn import VideoNetwork
from bundle.types import LabelMap

logger = logging.getLogger(__name__)

SMALLEST_PX = 128
"""Working size below which a device's lack of memory is an error."""


class Propagation:
    """One video under way: its prompts, and what has been found so far.

    Every stretch reads all prompts (with ``forward`` those up to its own, with ``backward`` those
    from its own on) and the frames that it remembers on its way. So both prompts around a frame
    inform it, and a new prompt leaves the frames beyond its neighbouring prompts as they are.

    Args:
        settings: Of the inferer.
        network: On ``device``, in evaluation mode.
        video: The frames.
        annotations: Frame index to label map (H, W); at least one shows an object. A mask is taken
            as complete: an object that it does not show is not there.
        device: Where the network and its memory are.

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
    ) -> None:
        self.settings, self.network, self.video = settings, network, video
        self.device = torch.device(device)
        self.inference_size = settings.inference_size
        self.prompts: dict[int, LabelMap] = {}
        self._pending: list[Stretch] = []
        self._results: dict[int, tuple[bytes, tuple[int, ...], dict[int, float]]] = {}
        self._ids: list[int] = []
        self._remembered: dict[int, tuple[torch.Tensor, torch.Tensor]] = {}
        require_object(annotations.values())
        for index in sorted(annotations):
            self._check(index, annotations[index])
            self.prompts[index] = annotations[index]
        self._read_ids()
        self._pending = self._plan()

    def annotate(self, index: int, labels: LabelMap) -> None:
        """Give a mask, or correct one. ``run`` then goes over what lies between its neighbours.

        A new object changes the whole video.

        Raises:
            ValueError: There is no such frame, the mask has another size, or no object is left.
        """
        self._check(index, labels)
        self._change({**self.prompts, index: labels}, index)

    def retract(self, index: int) -> None:
        """Take back the mask of a frame; ``run`` then finds one.

        Raises:
            KeyError: The frame has none.
            ValueError: No other mask shows an object.
        """
        rest = {i: labels for i, labels in self.prompts.items() if i != index}
        if len(rest) == len(self.prompts):
            raise KeyError(f"frame {index} has no mask to take back")
        self._change(rest, index)

    def adopt(self, prompts: Mapping[int, LabelMap]) -> None:
        """Make these its masks; ``run`` then goes over what the differences touch.

        Raises:
            ValueError: None shows an object, one is of no frame, or has another size than it.
        """
        # Those that show something first, so that at no time nothing would be left.
        for index in sorted(prompts, key=lambda i: not prompts[i].any()):
            had = self.prompts.get(index)
            if had is None or not np.array_equal(had, prompts[index]):
                self.annotate(index, prompts[index])
        for index in sorted(set(self.prompts) - set(prompts)):
            self.retract(index)

    def restore(self, results: Iterable[FrameResult]) -> list[int]:
        """Take frames as done; ``run`` then goes over the others only.

        Args:
            results: What a propagation with the same prompts and settings has found.

        Returns:
            Their indices.
        """
        restored = []
        for result in results:
            self._keep(result.frame, result.labels, dict(result.confidence))
            restored.append(result.frame)
        self._pending = [
            stretch for stretch in self._pending if not all(map(self.done, stretch.frames))
        ]
        return restored

    def _change(self, prompts: dict[int, LabelMap], index: int) -> None:
        require_object(prompts.values())
        others = [i for i in prompts if i != index]
        before = max((i for i in others if i < index), default=-1)
        after = min((i for i in others if i > index), default=self.video.frame_count)
        self.prompts = prompts
        self._remembered.pop(index, None)
        had = self._ids
        self._read_ids()
        # What was pending stays so; it may be cut at the new prompt.
        stale = {i for stretch in self._pending for i in stretch.frames}
        stale |= set(
            range(before + 1, after) if self._ids == had else range(self.video.frame_count)
        )
        self._pending = [stretch for stretch in self._plan() if stale & set(stretch.frames)]
        for i in stale:
            self._results.pop(i, None)

    def run(self) -> Iterator[int]:
        """Segment what is not yet; yields the index of each frame as it is done.

        It can be broken off at any frame and called again: a stretch that was begun begins anew.
        """
        while self._pending:
            stretch = self._pending[0]
            yield from self._run_stretch(stretch)
            if self._pending[:1] == [stretch]:  # else a prompt came meanwhile
                del self._pending[0]

    @property
    def remaining(self) -> int:
        """How many frames ``run`` would go over."""
        return sum(len(stretch.frames) for stretch in self._pending)

    def result(self, index: int) -> FrameResult:
        """What was found in a frame; a mask that was given comes back to the pixel.

        Raises:
            KeyError: The frame has not been done yet.
        """
        if index in self.prompts:
            labels = self.prompts[index]
            given = {int(i): 1.0 for i in np.unique(labels) if i > 0}
            return judge(self.settings, index, labels, given)
        packed, shape, confidence = self._results[index]
        labels = np.frombuffer(zlib.decompress(packed), np.uint8).reshape(shape)
        return judge(self.settings, index, labels, confidence)

    def done(self, index: int) -> bool:
        """Whether ``result`` has this frame."""
        return index in self.prompts or index in self._results

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

    def _read_ids(self) -> None:
        ids = list_ids(self.prompts.values())
        if ids != self._ids:
            self._ids = ids
            self._remembered.clear()

    def _plan(self) -> list[Stretch]:
        return plan_stretches(sorted(self.prompts), self.video.frame_count, self.settings.direction)

    def _run_stretch(self, stretch: Stretch) -> Iterator[int]:
        done = 0
        while True:
            try:
                for index in self._carry(stretch, done):
                    done += 1
                    yield index
                return
            except torch.OutOfMemoryError:
                if not self._shrink():
                    raise

    def _carry(self, stretch: Stretch, skip: int) -> Iterator[int]:
        """Yields the frames of a stretch as they are done, but the first ``skip``, which were."""
        if stretch.prompt is None:
            for index in stretch.frames:
                self._keep(index, np.zeros((self.video.height, self.video.width), np.uint8), {})
                yield index
            return
        prompts = self._prompts_of(stretch.prompt)
        shown = list_ids(self.prompts[i] for i in prompts)
        session = VideoSession(self.settings, self.network, self.inference_size)
        session.known = torch.tensor([i in shown for i in self._ids], device=self.device)
        for key, value in self._remember(prompts):
            session.remember(key, value)
        session.follow(split_objects(self.prompts[stretch.prompt], self._ids, self.device))
        lookup = np.array([0, *self._ids], dtype=np.uint8)
        pictures = ahead(read_range(self.video, stretch.frames))
        for number, (index, frame) in enumerate(zip(stretch.frames, pictures, strict=True)):
            found = session.step(to_image(frame, self.device))
            if number < skip:
                continue
            trust = zip(self._ids, found.confidence[0].tolist(), strict=True)
            labels = lookup[choose_class(found.logits)[0].cpu().numpy()]
            self._keep(index, labels, {i: value for i, value in trust if i in shown})
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
            masks = split_objects(self.prompts[i], self._ids, self.device)
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
