"""Objects and given masks of an annotation: paint, propose, accept, remove; with undo and redo.

Labels are (H, W) in the video's own pixels, 0 for background.
"""

import threading
import zlib
from abc import ABC, abstractmethod
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np

from bundle.apps.annotate.drawing import TOOLS, Point
from bundle.apps.annotate.proposals import Proposal
from bundle.inference.frame_stream import Frames, check_size, list_ids
from bundle.inference.prompts import ObjectPrompt
from bundle.io.reading.labels import MAX_OBJECTS
from bundle.types import LabelMap

COLOURS = (
    "#3ecf8e", "#ff6f91", "#4da3ff", "#ffc145", "#c58bff", "#2ed3d3", "#ff8a4c", "#b5d94c",
)  # fmt: skip
UNDO_STEPS = 200


@dataclass(frozen=True)
class MarkedObject:
    """An object's name and its colour on the page, ``#rrggbb``."""

    name: str
    colour: str


class FrameSummary(NamedTuple):
    """Summary of a frame's labels.

    Attributes:
        areas: Object id -> area in pixels, of the objects in the frame.
        confidence: Object id -> confidence, 0 to 1.
        review: Whether the frame should be checked.
        vanished: Ids of objects that the frame lacks, though the mask it comes from shows them.
    """

    areas: Mapping[int, int]
    confidence: Mapping[int, float]
    review: bool
    vanished: frozenset[int] = frozenset()


class Step(NamedTuple):
    """What an edit replaced: compressed masks by frame (None: no mask), objects, the proposal."""

    prompts: Mapping[int, bytes | None]
    objects: Mapping[int, MarkedObject]
    proposal: Proposal | None


class GivenMasks(ABC):
    """Objects and given masks. Methods may be called from any thread.

    Args:
        video: The video.

    Attributes:
        prompts: Frame index -> label map, which is replaced and never changed in place.
        objects: Object id -> name and colour.
        reserved: Ids that new objects must not take, since they are used in other videos.
        proposal: A mask to be accepted or dropped; None if there is none.
        revision: Number that rises with each visible change.
    """

    def __init__(self, video: Frames) -> None:
        self.size = video.height, video.width
        self.frame_count = video.frame_count
        self.prompts: dict[int, LabelMap] = {}
        self.objects: dict[int, MarkedObject] = {}
        self.reserved: Collection[int] = ()
        self.proposal: Proposal | None = None
        self.revision = 0
        self._given: dict[int, FrameSummary] = {}
        self._undo: list[Step] = []
        self._redo: list[Step] = []
        self._lock = threading.RLock()
        self._new_object(1)

    def labels(self, index: int) -> LabelMap:
        """The mask of a frame, empty if it has none.

        Raises:
            IndexError: There is no such frame.
        """
        self._check_frame(index)
        return self.prompts.get(index, np.zeros(self.size, np.uint8))

    def add_object(self, name: str = "", object_id: int | None = None) -> int:
        """Add an object to paint; its id is the lowest that is free, unless given.

        Raises:
            ValueError: There are too many, or the id is taken or out of range.
        """
        with self._lock:
            if len(self.objects) == MAX_OBJECTS:
                raise ValueError(f"there are {MAX_OBJECTS} objects, more are not possible")
            free = [i for i in range(1, 256) if i not in self.objects]
            if object_id is not None and object_id not in free:
                raise ValueError(f"object id {object_id} is taken or not from 1 to 255")
            if object_id is None:
                free = [i for i in free if i not in self.reserved]
                if not free:
                    raise ValueError("all ids from 1 to 255 are taken by other objects")
            self._note([])
            self.revision += 1
            return self._new_object(free[0] if object_id is None else object_id, name)

    def change_object(self, object_id: int, **values: str) -> None:
        """Rename or recolour: ``name=...``, ``colour=...``."""
        with self._lock:
            if "name" in values:
                values["name"] = values["name"].strip() or f"object {object_id}"
            self.objects[object_id] = replace(self.objects[object_id], **values)
            self.revision += 1

    def remove_object(self, object_id: int) -> None:
        """Remove an object and its pixels from all masks; masks that showed it alone are taken back.

        Raises:
            ValueError: It is the only one, or there is a proposal.
        """
        with self._lock:
            if len(self.objects) == 1:
                raise ValueError("this is the only object: add another one first, or rename it")
            self._refuse_proposal()
            shown = {i: m for i, m in self.prompts.items() if (m == object_id).any()}
            self._note(shown)
            del self.objects[object_id]
            for index, labels in shown.items():
                rest = np.where(labels == object_id, np.uint8(0), labels)
                self._set(index, rest if rest.any() else None)
            self.revision += 1

    def draw(
        self, index: int, tool: str, points: Sequence[Point], size: float, object_id: int
    ) -> LabelMap:
        """Use a tool of ``bundle.apps.annotate.drawing`` on a frame, whose mask is then a prompt.

        Painting on a proposal accepts it.

        Returns:
            The frame's new mask.

        Raises:
            ValueError: There is no such tool, object or frame, or the tool misses the frame.
        """
        with self._lock:
            if tool not in TOOLS:
                raise ValueError(f"unknown tool {tool!r}: there are {', '.join(TOOLS)}")
            self._check_object(object_id)
            proposed = self.proposal is not None and self.proposal.frame == index
            before = self.shown(index)
            after = TOOLS[tool](before, points, size, object_id)
            if proposed:
                self.accept()
            # An untouched result stays a result; that a frame shows nothing must be said, though.
            if (after != before).any() or (tool == "clear" and index not in self.prompts):
                self.give({index: after})
            return after

    def give(self, masks: Mapping[int, LabelMap]) -> None:
        """Take masks as given; ids that have no object yet get one.

        Raises:
            ValueError: A mask has another size than the video, or is of no frame.
        """
        with self._lock:
            for index, labels in masks.items():
                self._check_frame(index)
                check_size(index, labels, self.size)
            new = [i for i in list_ids(masks.values()) if i not in self.objects]
            if len(self.objects) + len(new) > MAX_OBJECTS:
                raise ValueError(f"the masks show more than {MAX_OBJECTS} objects")
            self._note(masks)
            for object_id in new:
                self._new_object(object_id)
            for index, labels in masks.items():
                self._set(index, labels)
            self.revision += 1

    def take_back(self, index: int) -> None:
        """Take back the mask of a frame; the next propagation finds one.

        Raises:
            ValueError: None was given for it, or there is a proposal.
        """
        with self._lock:
            self._refuse_proposal()
            if index not in self.prompts:
                raise ValueError(f"frame {index} has no mask of yours to take back")
            self._note([index])
            self._set(index, None)
            self.revision += 1

    def shown(self, index: int) -> LabelMap:
        """The mask that is proposed for a frame, else its ``labels``.

        Raises:
            IndexError: There is no such frame.
        """
        with self._lock:
            if self.proposal is not None and self.proposal.frame == index:
                return unpack(self.proposal.packed, self.size)
            return self.labels(index)

    def propose(self, index: int, object_id: int, hint: ObjectPrompt) -> LabelMap:
        """Point at an object in a frame; its proposal follows.

        Further hints in the same frame refine the proposal. Each can be undone.

        Args:
            index: The frame.
            object_id: The object.
            hint: A box, points or a scribble.

        Returns:
            The frame's label map as it is proposed.

        Raises:
            ValueError: The hint makes no sense, there is no such object, another frame has a proposal,
                or the network takes no hints.
        """
        with self._lock:
            self._check_frame(index)
            self._check_object(object_id)
            self._refuse_proposal(but_of=index)
            had = {} if self.proposal is None else self.proposal.prompts
            joined = had[object_id].with_prompt(hint) if object_id in had else hint
            labels = self._complete(index, {object_id: joined}, self.shown(index))
            self._note([])
            self.proposal = Proposal(index, {**had, object_id: joined}, pack(labels))
            self.revision += 1
            return labels

    def accept(self) -> int:
        """Take the proposal as given; its frame.

        Raises:
            ValueError: There is none.
        """
        with self._lock:
            proposal = self._require_proposal()
            self.give({proposal.frame: self.shown(proposal.frame)})
            self.proposal = None
            return proposal.frame

    def drop(self) -> None:
        """Drop the proposal.

        Raises:
            ValueError: There is none.
        """
        with self._lock:
            self._require_proposal()
            self._note([])
            self.proposal = None
            self.revision += 1

    def undo(self) -> int | None:
        """Undo the last edit; the frame to look at, if it was one's mask.

        Raises:
            ValueError: There is nothing to undo.
        """
        return self._exchange(self._undo, self._redo, "there is nothing to undo")

    def redo(self) -> int | None:
        """Do again what was undone last; the frame to look at, if it was one's mask.

        Raises:
            ValueError: Nothing was undone, or another edit came after it.
        """
        return self._exchange(self._redo, self._undo, "there is nothing to redo")

    def _exchange(self, steps: list[Step], others: list[Step], nothing: str) -> int | None:
        with self._lock:
            if not steps:
                raise ValueError(nothing)
            step = steps.pop()
            others.append(self._step(step.prompts))
            proposals = step.proposal, self.proposal
            self.proposal = step.proposal
            # Names and colours are not undone.
            self.objects = {i: self.objects.get(i, each) for i, each in step.objects.items()}
            for index, packed in step.prompts.items():
                self._set(index, None if packed is None else unpack(packed, self.size))
            self.revision += 1
            frames = [*step.prompts, *(each.frame for each in proposals if each is not None)]
            return min(step.prompts or frames, default=None)

    def restore_prompts(self, prompts: Mapping[int, LabelMap]) -> None:
        """Put back masks of an earlier process; nothing to undo.

        Raises:
            KeyError: A mask shows an object that there is not.
        """
        unknown = set(list_ids(prompts.values())) - set(self.objects)
        if unknown:
            raise KeyError(f"masks show objects {sorted(unknown)} that are not listed")
        for index, labels in prompts.items():
            self._set(index, labels)

    def restore_proposal(
        self, frame: int, prompts: Mapping[int, ObjectPrompt], labels: LabelMap
    ) -> None:
        """Put back a proposal of an earlier process; nothing to undo.

        Raises:
            KeyError: There is no such frame, or it is of an object that there is not.
        """
        if not 0 <= frame < self.frame_count:
            raise KeyError(f"there is no frame {frame}")
        unknown = {*prompts, *list_ids([labels])} - set(self.objects)
        if unknown:
            raise KeyError(f"a proposal shows objects {sorted(unknown)} that are not listed")
        self.proposal = Proposal(frame, prompts, pack(labels))

    def _new_object(self, object_id: int, name: str = "") -> int:
        colour = COLOURS[(object_id - 1) % len(COLOURS)]
        self.objects[object_id] = MarkedObject(name.strip() or f"object {object_id}", colour)
        return object_id

    def _set(self, index: int, labels: LabelMap | None) -> None:
        if labels is None:
            self.prompts.pop(index, None)
            self._given.pop(index, None)
            return
        self.prompts[index] = labels
        areas = measure(labels)
        self._given[index] = FrameSummary(areas, dict.fromkeys(areas, 1.0), False)

    def _note(self, frames: Iterable[int]) -> None:
        """Keep what an edit is about to replace; what was undone before it is gone."""
        self._undo.append(self._step(frames))
        del self._undo[:-UNDO_STEPS]
        self._redo.clear()

    def _step(self, frames: Iterable[int]) -> Step:
        """The masks of these frames, and the objects, as they are."""
        packed = {i: pack(self.prompts[i]) if i in self.prompts else None for i in frames}
        return Step(packed, dict(self.objects), self.proposal)

    @abstractmethod
    def _complete(
        self, index: int, prompts: Mapping[int, ObjectPrompt], labels: LabelMap
    ) -> LabelMap:
        """A frame's label map after prompts."""

    def _require_proposal(self) -> Proposal:
        if self.proposal is None:
            raise ValueError("there is no proposal: point at an object with box, point or scribble")
        return self.proposal

    def _refuse_proposal(self, but_of: int | None = None) -> None:
        if self.proposal is not None and self.proposal.frame != but_of:
            raise ValueError(
                f"frame {self.proposal.frame} has a proposal: accept it (Enter) or drop it (Escape) "
                "first"
            )

    def _check_object(self, object_id: int) -> None:
        if object_id not in self.objects:
            raise ValueError(f"there is no object {object_id} any more: pick another one")

    def _check_frame(self, index: int) -> None:
        if not 0 <= index < self.frame_count:
            raise IndexError(f"the video has frames 0 to {self.frame_count - 1}, not {index}")


def pack(labels: LabelMap) -> bytes:
    """A label map in few bytes."""
    return zlib.compress(labels.tobytes(), 1)


def unpack(packed: bytes, size: tuple[int, int]) -> LabelMap:
    """A label map of (height, width) that ``pack`` made small."""
    return np.frombuffer(zlib.decompress(packed), np.uint8).reshape(size)


def measure(labels: LabelMap) -> dict[int, int]:
    """Object id to pixels of those that a label map shows."""
    counts = np.bincount(labels.ravel())
    return {int(i): int(counts[i]) for i in np.flatnonzero(counts) if i}
