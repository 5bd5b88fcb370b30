"""The frames whose masks were given, and of which objects each mask speaks.

A mask of all objects is complete: an object that it does not show is not in its frame. A mask that
speaks of some objects says nothing of the others. They are found in that frame like in any other, from
the frames that speak of them. H x W is a frame.
"""

from collections.abc import Collection, Mapping
from typing import NamedTuple

import numpy as np

from bundle.inference.frame_stream import list_ids
from bundle.inference.results import FrameResult
from bundle.types import LabelMap


class FoundObjects(NamedTuple):
    """Objects that were found in a frame whose mask does not speak of them.

    Attributes:
        labels: (H, W), nothing else in it.
        objects: Their ids; one that is not in ``labels`` was found to be gone.
        confidence: Of each that was looked for.
    """

    labels: LabelMap
    objects: frozenset[int]
    confidence: Mapping[int, float]

    def without(self, objects: Collection[int]) -> "FoundObjects":
        """Those that are left."""
        gone = np.isin(self.labels, list(objects))
        rest = {i: value for i, value in self.confidence.items() if i not in objects}
        labels = np.where(gone, np.uint8(0), self.labels)
        return FoundObjects(labels, self.objects - set(objects), rest)


class Search(NamedTuple):
    """Objects to be found in some frames.

    Attributes:
        objects: Which.
        frames: Where.
        masks: Frame to a mask that is complete as far as this search goes: all frames that speak of the
            objects, with all objects of which all of these frames speak.
    """

    objects: frozenset[int]
    frames: frozenset[int]
    masks: Mapping[int, LabelMap]


class PromptedFrames:
    """Masks by frame, the objects they speak of, and what was found of the others there.

    Args:
        masks: Frame index to label map (H, W).
        objects: Frame index to the ids that its mask speaks of, whatever else it shows; of frames that
            are left out, the mask is complete.

    Attributes:
        ids: Of all objects that the masks show, rising.

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
        self.ids = list_ids(self.masks.values())
        self._found: dict[int, FoundObjects] = {}

    def speaks_of(self, frame: int) -> frozenset[int]:
        """The objects of which a frame's mask speaks; none where there is no mask."""
        if frame not in self.masks:
            return frozenset()
        return self.objects.get(frame, frozenset(self.ids))

    def missing(self, frame: int) -> frozenset[int]:
        """The objects that must still be found in a frame with a mask."""
        if frame not in self.objects:
            return frozenset()
        found = self._found.get(frame)
        known = self.objects[frame] if found is None else self.objects[frame] | found.objects
        return frozenset(self.ids) - known

    def labels(self, frame: int) -> LabelMap:
        """A frame's mask, with what was found of the other objects where it shows nothing."""
        labels, found = self.masks[frame], self._found.get(frame)
        return labels if found is None else np.where(labels > 0, labels, found.labels)

    def confidence(self, frame: int) -> dict[int, float]:
        """1 for what a frame's mask shows, and that of what was found beside it."""
        found = self._found.get(frame)
        trust = {} if found is None else dict(found.confidence)
        return dict(sorted({**trust, **dict.fromkeys(list_ids([self.masks[frame]]), 1.0)}.items()))

    def add_found(self, frame: int, new: FoundObjects) -> None:
        """Keep what was found in a frame; what its mask speaks of, or was found before, stays."""
        before = self._found.get(frame)
        known = self.speaks_of(frame) if before is None else self.speaks_of(frame) | before.objects
        new = new.without(known)
        if before is not None:
            # Of two that were found in one place the lower id, so that their order does not count.
            lower = np.minimum(before.labels - np.uint8(1), new.labels - np.uint8(1))
            labels = lower + np.uint8(1)  # 0, that is none, came last as 255
            new = FoundObjects(
                labels, before.objects | new.objects, {**before.confidence, **new.confidence}
            )
        self._found[frame] = new

    def take_over(self, before: "PromptedFrames", done: Mapping[int, FrameResult]) -> None:
        """Take what was found already of objects of which masks do not speak, as far as it holds.

        Args:
            before: What these frames replace.
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
        """Frames of which something else is said than before, and of which objects."""
        ids, changed = {*self.ids, *before.ids}, {}
        for frame in sorted({*self.masks, *before.masks}):
            then, now = (
                ids if frame in each.masks and frame not in each.objects else each.speaks_of(frame)
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
        """The frames that another mask of these objects changes: up to the next that speak of all.

        Args:
            frame: The one whose mask changes.
            objects: Of which its mask says something else.
            count: Frames of the video; by default no further than to the last mask.
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
        """The next objects to be found in frames whose masks do not speak of them; None at the end."""
        lacking = [i for i in self.objects if self.missing(i)]
        if not lacking:
            return None
        told = {i: frozenset(f for f in self.masks if i in self.speaks_of(f)) for i in self.ids}
        sources = told[min(self.missing(lacking[0]))]
        objects = frozenset(i for i in self.ids if told[i] == sources)
        beside = [i for i in self.ids if told[i] >= sources]
        masks = {f: self.masks[f] for f in sources}
        return Search(
            objects,
            frozenset(f for f in lacking if self.missing(f) & objects),
            {f: np.where(np.isin(each, beside), each, np.uint8(0)) for f, each in masks.items()},
        )
