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
    """Interactive segmentation of one video: add masks and prompts, propagate, correct.

    A mask, box, point or scribble concerns one object. The other objects keep their masks in that
    frame, or ``propagate`` finds them. Boxes, points and scribbles of one object in one frame add up:
    each corrects the last answer.

    A job must not be shared between threads.

    Args:
        segmenter: A ``VideoSegmenter``, which has the network and the settings.
        video: The frames.

    Attributes:
        masks: Frame index -> label map (H, W) uint8, of the frames with a mask or prompt; read only.

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
        """Objects that were given in each frame: frame index -> object ids. Read only.

        A frame of ``masks`` that is missing here has a complete mask: all objects were given.

        Example:
            >>> import numpy as np
            >>> from bundle import VideoSegmenter
            >>> segmenter = VideoSegmenter.from_pretrained(device="cpu", inference_size=64)
            >>> job = segmenter.start([np.full((48, 64, 3), 90, np.uint8)] * 2)
            >>> labels = job.add_mask(0, np.ones((48, 64), bool), object_id=3)
            >>> job.objects
            {0: frozenset({3})}
        """
        return self._objects

    def add_mask(
        self,
        frame: int,
        mask: npt.NDArray[Any],
        object_id: int | None = None,
        unknown: int | None = None,
    ) -> LabelMap:
        """Give or correct the mask of a frame. Call ``propagate`` to update the other frames.

        It replaces earlier prompts of the same objects in the frame.

        Args:
            frame: Index of the frame, from 0.
            mask: (H, W), bool or whole numbers. With ``object_id``, non-zero pixels are that object.
                Without, it is a label map of all objects: an object that it does not show is not in
                the frame. In a bool mask the object is 1.
            object_id: Id of the object, 1 to 255.
            unknown: Pixel value, such as 255, that means unknown: the network fills these pixels. By
                default the whole mask is known.

        Returns:
            The frame's label map (H, W) uint8.

        Raises:
            ValueError: The frame or id does not exist, the mask has another size or type, or it has
                unknown pixels and the network takes no partial masks.

        Example:
            >>> import numpy as np
            >>> from bundle import VideoSegmenter
            >>> segmenter = VideoSegmenter.from_pretrained(device="cpu", inference_size=64)
            >>> job = segmenter.start([np.full((48, 64, 3), 90, np.uint8)] * 2)
            >>> mask = np.zeros((48, 64), bool)
            >>> mask[10:30, 20:40] = True
            >>> int((job.add_mask(0, mask, object_id=3) == 3).sum())
            400
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

        A box alone replaces the object's mask in the frame. Together with points or scribbles it
        limits their mask.

        Args:
            frame: Index of the frame, from 0.
            box: Left, top, right, bottom in pixels of the video; right and bottom are exclusive.
            object_id: Id of the object, 1 to 255.

        Returns:
            The frame's new label map (H, W) uint8.

        Raises:
            ValueError: The frame or id does not exist, the box has no area in the frame or excludes a
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
            frame: Index of the frame, from 0.
            points: (x, y) in pixels of the video.
            labels: For each point 1 (on the object) or 0 (beside it).
            object_id: Id of the object, 1 to 255.

        Returns:
            The frame's new label map (H, W) uint8. It agrees with all points.

        Raises:
            ValueError: The frame or id does not exist; a point is outside the frame or the object's
                box, or contradicts another one; no prompt says where the object is; or the network
                takes no partial masks.

        Example:
            >>> import numpy as np
            >>> from bundle import VideoSegmenter
            >>> segmenter = VideoSegmenter.from_pretrained(device="cpu", inference_size=64)
            >>> job = segmenter.start([np.full((48, 64, 3), 90, np.uint8)] * 2)
            >>> labels = job.add_points(0, [(20, 10), (50, 40)], [1, 0])
            >>> labels[10, 20], labels[40, 50]
            (np.uint8(1), np.uint8(0))
        """
        return self.add_prompts(frame, {object_id: ObjectPrompt().with_points(points, labels)})

    def add_scribble(
        self,
        frame: int,
        points: Sequence[Point],
        positive: bool | int = True,
        object_id: int = 1,
    ) -> LabelMap:
        """Prompt an object with a line drawn on it or beside it.

        Args:
            frame: Index of the frame, from 0.
            points: (x, y) of the line's corners, in pixels of the video.
            positive: Whether the line is on the object.
            object_id: Id of the object, 1 to 255.

        Returns:
            The frame's new label map (H, W) uint8.

        Raises:
            ValueError: See ``add_points``.

        Example:
            >>> import numpy as np
            >>> from bundle import VideoSegmenter
            >>> segmenter = VideoSegmenter.from_pretrained(device="cpu", inference_size=64)
            >>> job = segmenter.start([np.full((48, 64, 3), 90, np.uint8)] * 2)
            >>> int(job.add_scribble(0, [(20, 10), (30, 20)], object_id=2)[10, 20])
            2
        """
        prompt = ObjectPrompt().with_scribble(points, positive)
        return self.add_prompts(frame, {object_id: prompt})

    def add_prompts(
        self, frame: int, prompts: Mapping[int, ObjectPrompt], *, anew: bool = False
    ) -> LabelMap:
        """Give several prompts of one or more objects of a frame at once.

        Args:
            frame: Index of the frame, from 0.
            prompts: Object id, 1 to 255 -> its prompts.
            anew: Whether to replace earlier prompts of these objects in the frame. By default prompts
                add up.

        Returns:
            The frame's new label map (H, W) uint8.

        Raises:
            ValueError: See ``add_points``.

        Example:
            >>> import numpy as np
            >>> from bundle import VideoSegmenter
            >>> from bundle.inference.prompts import ObjectPrompt
            >>> segmenter = VideoSegmenter.from_pretrained(device="cpu", inference_size=64)
            >>> job = segmenter.start([np.full((48, 64, 3), 90, np.uint8)] * 2)
            >>> left, right = (ObjectPrompt().with_points([point], [1]) for point in [(9, 9), (50, 30)])
            >>> labels = job.add_prompts(0, {1: left, 2: right})
            >>> labels[9, 9], labels[30, 50]
            (np.uint8(1), np.uint8(2))
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
        """Remove the mask and prompts of a frame; ``propagate`` then finds its mask.

        Args:
            frame: Index of the frame, from 0.
            object_id: Remove only this object; by default all.

        Raises:
            ValueError: The frame has no mask or prompt, or none of that object.

        Example:
            >>> import numpy as np
            >>> from bundle import VideoSegmenter
            >>> segmenter = VideoSegmenter.from_pretrained(device="cpu", inference_size=64)
            >>> job = segmenter.start([np.full((48, 64, 3), 90, np.uint8)] * 2)
            >>> labels = job.add_mask(1, np.ones((48, 64), bool), object_id=3)
            >>> job.remove_mask(1)
            >>> job.masks
            {}
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
        """Find the masks of all frames that have none yet, or that a correction changes.

        Frames are segmented one by one as you take results. You can stop at any frame: the next call of
        this or of ``results`` does the rest.

        Yields:
            Each frame's result as soon as it is found: not in time order, and without the frames in
            which all objects were given.

        Raises:
            ValueError: No mask shows an object, or a frame cannot be read.

        Example:
            >>> import numpy as np
            >>> from bundle import VideoSegmenter
            >>> segmenter = VideoSegmenter.from_pretrained(device="cpu", inference_size=64)
            >>> job = segmenter.start([np.full((48, 64, 3), 90, np.uint8)] * 4)
            >>> mask = np.zeros((48, 64), np.uint8)
            >>> mask[10:30, 20:40] = 1
            >>> labels = job.add_mask(2, mask)
            >>> [result.frame for result in job.propagate()]
            [1, 0, 3]
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
        """Propagate to all frames that need it, then yield the results of all frames in time order.

        Yields:
            ``bundle.inference.results.FrameResult``, one for each frame of the video.

        Raises:
            ValueError: See ``propagate``.

        Example:
            >>> import numpy as np
            >>> from bundle import VideoSegmenter
            >>> segmenter = VideoSegmenter.from_pretrained(device="cpu", inference_size=64)
            >>> job = segmenter.start([np.full((48, 64, 3), 90, np.uint8)] * 3)
            >>> mask = np.zeros((48, 64), np.uint8)
            >>> mask[10:30, 20:40] = 1
            >>> labels = job.add_mask(1, mask)
            >>> [(result.frame, result.labels.shape) for result in job.results()]
            [(0, (48, 64)), (1, (48, 64)), (2, (48, 64))]
        """
        for _ in self.propagate():
            pass
        assert self._work is not None
        for index in range(self.video.frame_count):
            yield self._work.result(index)

    def suggest(self) -> int | None:
        """Suggest the frame to correct next: the one with the lowest confidence around it.

        Returns:
            Index of the frame, from 0. None before the first propagation, or if every frame has a mask.

        Example:
            >>> import numpy as np
            >>> from bundle import VideoSegmenter
            >>> segmenter = VideoSegmenter.from_pretrained(device="cpu", inference_size=64)
            >>> job = segmenter.start([np.full((48, 64, 3), 90, np.uint8)] * 3)
            >>> job.suggest() is None
            True
            >>> mask = np.zeros((48, 64), np.uint8)
            >>> mask[10:30, 20:40] = 1
            >>> labels = job.add_mask(0, mask)
            >>> found = list(job.propagate())
            >>> job.suggest() in (1, 2)
            True
        """
        return None if self._work is None else self._work.suggest()

    def _fill(self, frame: int, labels: LabelMap, open_pixels: npt.NDArray[np.bool_]) -> LabelMap:
        """Let the network fill the unknown pixels of a label map of all objects."""
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
        """Store a frame's new labels, and that these objects were given in it."""
        if frame not in self.masks:
            self._objects[frame] = frozenset(object_ids)
        elif frame in self._objects:
            self._objects[frame] |= set(object_ids)
        self.masks[frame] = labels
        return labels.copy()

    def _warn_if_elsewhere(
        self, frame: int, before: LabelMap, after: LabelMap, object_ids: Iterable[int]
    ) -> None:
        """Warn if an object is given in a place of the frame that its found mask does not touch."""
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
        """A copy of the labels of a frame: given, found, or all 0."""
        if frame in self.masks:
            return self.masks[frame].copy()
        if self._work is not None and self._work.done(frame):
            return self._work.result(frame).labels.copy()
        return np.zeros((self.video.height, self.video.width), np.uint8)

    def _frame(self, frame: int) -> Frame:
        """A frame's pixels; the last frame is cached, since clicks often follow in one frame."""
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
