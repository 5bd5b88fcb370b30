"""Interactive segmentation of one video: masks, prompts, propagation, corrections."""

import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from bundle.inference.frame_stream import Frames, check_size, list_ids, require_object
from bundle.inference.prompts import (
    MAX_ID,
    UNKNOWN,
    Box,
    ObjectPrompt,
    Point,
    Segmenter,
    complete_frame,
    require_prompts,
)
from bundle.inference.propagation import Propagation
from bundle.inference.results import FrameResult
from bundle.types import Frame, LabelMap

logger = logging.getLogger(__name__)


class SegmentationJob:
    """Interactive segmentation of one video: given masks and prompts, and what was found from them.

    A mask, box, point or scribble concerns one object. The others stay as they were given or found
    in that frame, or ``propagate`` finds them. Boxes, points and scribbles of one object in one
    frame add up: each corrects the last answer.

    Not to be shared between threads.

    Args:
        segmenter: With the network and the settings.
        video: The frames.

    Attributes:
        masks: Frame index to label map, of the frames in which something was given; not to be changed.

    Example:
        >>> import numpy as np
        >>> from bundle import VideoSegmenter
        >>> segmenter = VideoSegmenter.from_pretrained(device="cpu", inference_size=64)
        >>> job = segmenter.start([np.full((48, 64, 3), 90, np.uint8)] * 4)
        >>> mask = np.zeros((48, 64), bool)
        >>> mask[10:30, 20:40] = True
        >>> job.add_mask(0, mask, object_id=2).shape
        (48, 64)
        >>> [result.frame for result in job.propagate()]
        [1, 2, 3]
        >>> labels = job.add_mask(3, mask, object_id=2)  # a correction
        >>> [result.frame for result in job.propagate()]
        [1, 2]
        >>> [result.frame for result in job.results()]
        [0, 1, 2, 3]
    """

    def __init__(self, segmenter: Segmenter, video: Frames) -> None:
        self.segmenter, self.video = segmenter, video
        self.masks: dict[int, LabelMap] = {}
        # The objects that a frame's mask covers; masks of frames that are left out cover all.
        self._objects: dict[int, frozenset[int]] = {}
        self._prompts: dict[int, dict[int, ObjectPrompt]] = {}
        self._work: Propagation | None = None
        self._image: tuple[int, Frame] | None = None

    @property
    def objects(self) -> Mapping[int, frozenset[int]]:
        """Frame index to the ids that were given in it; frames left out gave all objects."""
        return self._objects

    def add_mask(
        self,
        frame: int,
        mask: npt.NDArray[Any],
        object_id: int | None = None,
        unknown: int | None = None,
    ) -> LabelMap:
        """Give the mask of a frame, or correct it; ``propagate`` then takes it to the other frames.

        It replaces earlier prompts of the same objects in the frame.

        Args:
            frame: Its index.
            mask: (H, W). With ``object_id``: pixels that are not 0 are that object. Without: a
                label map of all objects; one that it does not show is not in the frame. In a mask
                of bool the object is 1.
            object_id: From 1 to 255.
            unknown: The value, such as 255, of pixels of which nothing is known: the network fills
                them. By default the whole mask is known.

        Returns:
            The frame's label map.

        Raises:
            ValueError: There is no such frame or id, the mask is of another size or kind, or it has
                unknown pixels and the network takes no partial masks.
        """
        self._check_frame(frame)
        mask = np.asarray(mask)
        if mask.ndim != 2 or not (mask.dtype == bool or np.issubdtype(mask.dtype, np.integer)):
            raise ValueError(
                f"the mask of frame {frame} is {mask.dtype} of shape {mask.shape}: expected whole "
                "numbers or bool of shape (rows, columns)"
            )
        size = self.video.height, self.video.width
        check_size(frame, (mask != 0).astype(np.uint8), size)
        open_pixels = np.zeros(size, bool) if unknown is None else mask == unknown
        known = np.where(open_pixels, 0, mask)
        if object_id is None:
            if known.size and not 0 <= int(known.min()) <= int(known.max()) <= MAX_ID:
                raise ValueError(
                    f"the mask of frame {frame} has labels from {known.min()} to {known.max()}: "
                    f"expected object ids from 0 (background) to {MAX_ID}"
                )
            labels = known.astype(np.uint8)
            if open_pixels.any():
                labels = self._fill(frame, labels, open_pixels)
            self._objects.pop(frame, None)
            self._prompts.pop(frame, None)
            self.masks[frame] = labels
            return labels.copy()
        self._check_id(object_id)
        if open_pixels.any():
            part = np.where(open_pixels, UNKNOWN, known != 0).astype(np.uint8)
            return self.add_prompts(frame, {object_id: ObjectPrompt(mask=part)}, anew=True)
        before = self._labels(frame)
        labels = np.where(before == object_id, np.uint8(0), before)
        labels[known != 0] = object_id
        self._warn_if_elsewhere(frame, before, labels, [object_id])
        self._prompts.get(frame, {}).pop(object_id, None)
        return self._give(frame, labels, [object_id])

    def add_box(self, frame: int, box: Box, object_id: int = 1) -> LabelMap:
        """Prompt an object with a box. Its mask will lie inside.

        Without points or scribbles a box replaces what was found of the object in the frame. With
        them it limits their mask.

        Args:
            frame: Its index.
            box: Left, top, right, bottom in pixels of the video; right and bottom lie outside.
            object_id: From 1 to 255.

        Returns:
            The frame's new label map (H, W).

        Raises:
            ValueError: There is no such frame or id, the box has no area in the frame or leaves out a
                point on the object, or the network takes no partial masks.

        Example:
            >>> import numpy as np
            >>> from bundle import VideoSegmenter
            >>> from bundle.networks import make_network
            >>> network = make_network("resnet18", key_channels=8, partial_masks=True).eval()
            >>> job = VideoSegmenter(network).start([np.full((48, 64, 3), 90, np.uint8)] * 4)
            >>> labels = job.add_box(0, (10, 10, 40, 40), object_id=2)
            >>> labels = job.add_points(0, [(20, 20), (30, 30)], [1, 0], object_id=2)
            >>> labels[20, 20], labels[30, 30], labels[:, 40:].any()
            (np.uint8(2), np.uint8(0), np.False_)
        """
        return self.add_prompts(frame, {object_id: ObjectPrompt(box=box)})

    def add_points(
        self,
        frame: int,
        points: Sequence[Point],
        labels: Sequence[bool | int],
        object_id: int = 1,
    ) -> LabelMap:
        """Prompt an object with points on it or beside it.

        Args:
            frame: Its index.
            points: (x, y) in pixels of the video.
            labels: For each point 1 (on the object) or 0 (beside it).
            object_id: From 1 to 255.

        Returns:
            The frame's new label map (H, W). It agrees with all points.

        Raises:
            ValueError: There is no such frame or id, a point lies outside of the frame or of the
                object's box, or contradicts another one, nothing says where the object is, or the
                network takes no partial masks.
        """
        return self.add_prompts(frame, {object_id: ObjectPrompt().with_points(points, labels)})

    def add_scribble(
        self,
        frame: int,
        points: Sequence[Point],
        positive: bool | int = True,
        object_id: int = 1,
    ) -> LabelMap:
        """Draw a line on an object, or beside it.

        Args:
            frame: Its index.
            points: (x, y) of the line's corners, in pixels of the video.
            positive: Whether it lies on the object.
            object_id: From 1 to 255.

        Returns:
            The frame's new label map (H, W).

        Raises:
            ValueError: As ``add_points``.
        """
        prompt = ObjectPrompt().with_scribble(points, positive)
        return self.add_prompts(frame, {object_id: prompt})

    def add_prompts(
        self, frame: int, prompts: Mapping[int, ObjectPrompt], *, anew: bool = False
    ) -> LabelMap:
        """Give several prompts of one or more objects of a frame at once.

        Args:
            frame: Its index.
            prompts: Object id to its prompts.
            anew: Replace earlier prompts of these objects in the frame. By default prompts add up.

        Returns:
            The frame's new label map (H, W).

        Raises:
            ValueError: As ``add_points``.
        """
        self._check_frame(frame)
        for object_id in prompts:
            self._check_id(object_id)
        require_prompts(self.segmenter.network)
        had = {} if anew else self._prompts.get(frame, {})
        joined = {
            i: had[i].with_prompt(prompt) if i in had else prompt for i, prompt in prompts.items()
        }
        labels = self._labels(frame)
        new = complete_frame(self.segmenter, self._frame(frame), joined, labels)
        self._warn_if_elsewhere(frame, labels, new, prompts)
        for i in set(prompts) - set(list_ids([new])):
            logger.warning(
                "nothing of object %d was found in frame %d: add a point on it, or paint it",
                i,
                frame,
            )
        self._prompts.setdefault(frame, {}).update(joined)
        return self._give(frame, new, list(prompts))

    def remove_mask(self, frame: int, object_id: int | None = None) -> None:
        """Remove what was given in a frame; ``propagate`` then finds its mask.

        Args:
            frame: Its index.
            object_id: Remove only this object. By default all.

        Raises:
            ValueError: Nothing was given in the frame, or nothing of that object.
        """
        if frame not in self.masks:
            given = ", ".join(map(str, sorted(self.masks))) or "none"
            raise ValueError(f"frame {frame} has no mask to take back: given are those of {given}")
        if object_id is None:
            left = frozenset[int]()
        else:
            spoken = self._objects.get(frame, frozenset(list_ids(self.masks.values())))
            if object_id not in spoken:
                raise ValueError(
                    f"nothing was given of object {object_id} in frame {frame}, so there is nothing to "
                    f"take back: given are objects {', '.join(map(str, sorted(spoken)))}"
                )
            left = spoken - {object_id}
        if object_id is None or not left:
            del self.masks[frame]
            self._objects.pop(frame, None)
            self._prompts.pop(frame, None)
            return
        labels = self.masks[frame]
        self.masks[frame] = np.where(labels == object_id, np.uint8(0), labels)
        self._objects[frame] = left
        self._prompts.get(frame, {}).pop(object_id, None)

    def propagate(self) -> Iterator[FrameResult]:
        """Find the masks of all frames that have none yet, or that a correction touches.

        The work is done as results are taken. It can be broken off at any frame: the next call, or
        ``results``, does the rest.

        Yields:
            Each frame's result as soon as it is found: not in order of time, and without the frames
            in which all objects were given.

        Raises:
            ValueError: No mask shows an object; or a frame cannot be read.
        """
        require_object(self.masks.values())
        if self._work is None:
            each = self.segmenter
            self._work = Propagation(
                each.settings, each.network, self.video, self.masks, each.device, self._objects
            )
        else:
            self._work.adopt(self.masks, self._objects)
        for index in self._work.run():
            result = self._work.result(index)
            if index in self._objects:
                self.masks[index] = result.labels
            yield result

    def results(self) -> Iterator[FrameResult]:
        """Yield the results of all frames in order of time, after propagating what is pending.

        Raises:
            ValueError: As ``propagate``.
        """
        for _ in self.propagate():
            pass
        assert self._work is not None
        for index in range(self.video.frame_count):
            yield self._work.result(index)

    def suggest(self) -> int | None:
        """Name the frame whose mask would help most; None if no frame was found yet."""
        return None if self._work is None else self._work.suggest()

    def _fill(self, frame: int, labels: LabelMap, open_pixels: npt.NDArray[np.bool_]) -> LabelMap:
        """A label map of all objects, whose unknown pixels the network decides."""
        prompts = {
            i: ObjectPrompt(mask=np.where(open_pixels, UNKNOWN, labels == i).astype(np.uint8))
            for i in list_ids([labels])
        }
        if not prompts:
            raise ValueError(
                f"the mask of frame {frame} shows no object beside its unknown pixels: paint some of "
                "each object"
            )
        before = self._labels(frame)
        guess = np.where(open_pixels & np.isin(before, list(prompts)), before, labels)
        return complete_frame(self.segmenter, self._frame(frame), prompts, guess)

    def _give(self, frame: int, labels: LabelMap, object_ids: Sequence[int]) -> LabelMap:
        """Keep a frame's new labels, of which those of these objects were given."""
        if frame not in self.masks:
            self._objects[frame] = frozenset(object_ids)
        elif frame in self._objects:
            self._objects[frame] |= set(object_ids)
        self.masks[frame] = labels
        return labels.copy()

    def _warn_if_elsewhere(
        self, frame: int, before: LabelMap, after: LabelMap, object_ids: Iterable[int]
    ) -> None:
        """Say so if an object is given where nothing of it was found, but elsewhere in the frame."""
        if frame in self.masks:
            return
        for i in object_ids:
            found, given = before == i, after == i
            if found.any() and given.any() and not (found & given).any():
                logger.warning(
                    "object %d is given in frame %d where nothing of it was found, which was elsewhere "
                    "in the frame: if these are two objects, give them two ids",
                    i,
                    frame,
                )

    def _labels(self, frame: int) -> LabelMap:
        """What is known of a frame, as an array of its own."""
        if frame in self.masks:
            return self.masks[frame].copy()
        if self._work is not None and self._work.done(frame):
            return self._work.result(frame).labels.copy()
        return np.zeros((self.video.height, self.video.width), np.uint8)

    def _frame(self, frame: int) -> Frame:
        """A frame's pixels; the last one is kept, since somebody who clicks does so again there."""
        if self._image is None or self._image[0] != frame:
            self._image = frame, next(iter(self.video.frames([frame])))
        return self._image[1]

    def _check_frame(self, frame: int) -> None:
        if not 0 <= frame < self.video.frame_count:
            raise ValueError(
                f"there is no frame {frame}: the video has frames 0 to {self.video.frame_count - 1}"
            )

    @staticmethod
    def _check_id(object_id: int) -> None:
        if not 1 <= object_id <= MAX_ID:
            raise ValueError(f"object_id must be from 1 to {MAX_ID}, got {object_id}")
