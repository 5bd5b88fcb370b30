"""Keep track of the given masks, the objects that each covers, and what changes with a correction.

A complete mask covers all objects: one that it does not show is not in the frame. A mask may also
cover only some objects. The others are found in that frame as in any other, from the frames whose
masks cover them. H x W is a frame.
"""

from collections.abc import Collection, Mapping
from typing import NamedTuple

import numpy as np

from bundle.inference.frame_stream import list_ids
from bundle.inference.results import FrameResult
from bundle.types import LabelMap


class FoundObjects(NamedTuple):
    """Objects that were found in a frame whose mask does not cover them.

    Attributes:
        labels: Label map (H, W) of these objects only.
        objects: Their ids; an object that ``labels`` does not show was not found in the frame.
        confidence: Object id -> confidence.
    """

    labels: LabelMap
    objects: frozenset[int]
    confidence: Mapping[int, float]

    def without(self, objects: Collection[int]) -> "FoundObjects":
        """The same without these objects."""
        gone = np.isin(self.labels, list(objects))
        rest = {i: value for i, value in self.confidence.items() if i not in objects}
        labels = np.where(gone, np.uint8(0), self.labels)
        return FoundObjects(labels, self.objects - set(objects), rest)


class Search(NamedTuple):
    """Objects to be found in some frames.

    Attributes:
        objects: Ids of the objects.
        frames: Frames in which they are missing.
        masks: Frame index -> mask to propagate from: each frame whose mask covers these objects, with
            the objects that all of these masks cover.
    """

    objects: frozenset[int]
    frames: frozenset[int]
    masks: Mapping[int, LabelMap]


class PromptedFrames:
    """The given masks, the objects that they cover, and the other objects that were found there.

    Args:
        masks: Frame index -> label map (H, W).
        objects: Frame index -> ids that its mask covers, for incomplete masks; other pixels of it are
            ignored.

    Attributes:
        ids: Ids of all objects that the masks show, rising.

    Example:
        >>> first, later = np.array([[1, 2]], np.uint8), np.array([[1, 0]], np.uint8)
        >>> frames = PromptedFrames({0: first, 9: later}, {9: [1]})
        >>> frames.missing(0), frames.missing(9)
        (frozenset(), frozenset({2}))
        >>> frames.add_found(9, FoundObjects(np.array([[0, 2]], np.uint8), frozenset({2}), {2: 0.8}))
        >>> frames.labels(9)
        array([[1, 2]], dtype=uint8)
    """

    def __init__(
        self, masks: Mapping[int, LabelMap], objects: Mapping[int, Collection[int]] | None = None
    ) -> None:
        self.objects = {i: frozenset(each) for i, each in (objects or {}).items() if i in masks}
        self.masks = {
            i: np.where(np.isin(masks[i], list(self.objects[i])), masks[i], np.uint8(0))
            if i in self.objects
            else masks[i]
            for i in sorted(masks)
        }
        self._shown = {i: frozenset(list_ids([labels])) for i, labels in self.masks.items()}
        self.ids = sorted(frozenset[int]().union(*self._shown.values()))
        self._found: dict[int, FoundObjects] = {}

    def covers(self, frame: int) -> frozenset[int]:
        """The objects that a frame's mask covers; empty if there is no mask."""
        if frame not in self.masks:
            return frozenset()
        return self.objects.get(frame, frozenset(self.ids))

    def absent(self, frame: int) -> frozenset[int]:
        """The objects that a frame's mask covers and does not show: it says that they are gone."""
        return self.covers(frame) - self._shown.get(frame, frozenset())

    def missing(self, frame: int) -> frozenset[int]:
        """The objects that must still be found in a frame with a mask."""
        if frame not in self.objects:
            return frozenset()
        found = self._found.get(frame)
        known = self.objects[frame] if found is None else self.objects[frame] | found.objects
        return frozenset(self.ids) - known

    def labels(self, frame: int) -> LabelMap:
        """A frame's mask, with the other objects that were found where it shows background."""
        labels, found = self.masks[frame], self._found.get(frame)
        return labels if found is None else np.where(labels > 0, labels, found.labels)

    def confidence(self, frame: int) -> dict[int, float]:
        """Object id -> confidence: 1 for objects of the given mask, lower for others found there."""
        found = self._found.get(frame)
        trust = {} if found is None else dict(found.confidence)
        return dict(sorted({**trust, **dict.fromkeys(self._shown[frame], 1.0)}.items()))

    def add_found(self, frame: int, new: FoundObjects) -> None:
        """Store objects found in a frame; those given or found there before are not changed."""
        before = self._found.get(frame)
        known = self.covers(frame) if before is None else self.covers(frame) | before.objects
        new = new.without(known)
        if before is not None:
            # Where two were found in one place, the lower id wins, whatever their order.
            lower = np.minimum(before.labels - np.uint8(1), new.labels - np.uint8(1))
            labels = lower + np.uint8(1)  # background, 0, wrapped to 255 and so never won
            new = FoundObjects(
                labels, before.objects | new.objects, {**before.confidence, **new.confidence}
            )
        self._found[frame] = new

    def take_over(self, before: "PromptedFrames", done: Mapping[int, FrameResult]) -> None:
        """Take over found objects from before a change, except those that the change affects.

        Args:
            before: The state before the change.
            done: Results of frames that had no mask before.
        """
        for frame in self.objects:
            if frame in before._found:
                self.add_found(frame, before._found[frame])
            elif frame in done:
                result = done[frame]
                found = FoundObjects(result.labels, frozenset(before.ids), result.confidence)
                self.add_found(frame, found)
        for frame, objects in self.changes(before).items():
            reach = self.reach(frame, objects)
            for other in self._found.keys() & set(reach) - {frame}:
                self._found[other] = self._found[other].without(objects)
        for frame, found in self._found.items():
            self._found[frame] = found.without(found.objects - set(self.ids))

    def changes(self, before: "PromptedFrames") -> dict[int, frozenset[int]]:
        """Frame index -> objects that differ, of the frames whose masks differ from before."""
        ids, changed = {*self.ids, *before.ids}, {}
        for frame in sorted({*self.masks, *before.masks}):
            then, now = (
                ids if frame in each.masks and frame not in each.objects else each.covers(frame)
                for each in (before, self)
            )
            differ = set(then ^ now)
            if frame in before.masks and frame in self.masks:
                pair = before.masks[frame], self.masks[frame]
                if pair[0] is not pair[1]:
                    where = pair[0] != pair[1]
                    differ |= {int(i) for each in pair for i in np.unique(each[where])} - {0}
            if differ:
                changed[frame] = frozenset(differ)
        return changed

    def reach(self, frame: int, objects: Collection[int], count: int | None = None) -> range:
        """The frames that a change affects: up to the next masks that cover all changed objects.

        Args:
            frame: Index of the frame whose mask changes.
            objects: Objects that change in its mask.
            count: Number of frames of the video; by default the range ends at the last mask.
        """
        whole = [
            i
            for i in self.masks
            if i != frame and (i not in self.objects or self.objects[i].issuperset(objects))
        ]
        end = max([frame, *self.masks]) + 1 if count is None else count
        first = max((i for i in whole if i < frame), default=-1) + 1
        return range(first, min((i for i in whole if i > frame), default=end))

    def next_search(self) -> Search | None:
        """The next objects to find in frames whose masks do not cover them; None if all are found."""
        lacking = [i for i in self.objects if self.missing(i)]
        if not lacking:
            return None
        told = {i: frozenset(f for f in self.masks if i in self.covers(f)) for i in self.ids}
        sources = told[min(self.missing(lacking[0]))]
        objects = frozenset(i for i in self.ids if told[i] == sources)
        beside = [i for i in self.ids if told[i] >= sources]
        masks = {f: self.masks[f] for f in sources}
        return Search(
            objects,
            frozenset(f for f in lacking if self.missing(f) & objects),
            {f: np.where(np.isin(each, beside), each, np.uint8(0)) for f, each in masks.items()},
        )
