"""The front door: a network with its settings, and jobs that segment one video."""

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from bundle.backends.openvino import load_network
from bundle.inference.frame_stream import FrameList, Frames, check_size, require_object
from bundle.inference.propagation import Propagation
from bundle.inference.results import FrameResult
from bundle.inference.settings import InferenceSettings, parse_settings
from bundle.inference.streaming import stream_results
from bundle.networks.tcmn import VideoNetwork
from bundle.types import Frame, LabelMap
from bundle.utils.bundle_files import bundle_root
from bundle.utils.devices import find_device

MAX_ID = 255
"""Label maps hold object ids in one byte, 0 is the background."""


class VideoSegmenter:
    """Segments videos from masks of a few of their frames. Holds no state of a video.

    Args:
        network: In evaluation mode, on ``device``.
        settings: How masks are propagated.
        device: Where the network is.

    Example:
        >>> import numpy as np
        >>> from bundle import VideoSegmenter
        >>> segmenter = VideoSegmenter.from_pretrained(device="cpu", inference_size=64)
        >>> video = [np.full((48, 64, 3), 90, np.uint8)] * 3
        >>> mask = np.zeros((48, 64), np.uint8)
        >>> mask[10:30, 20:40] = 1
        >>> [(each.frame, each.labels.shape) for each in segmenter.segment(video, {0: mask})]
        [(0, (48, 64)), (1, (48, 64)), (2, (48, 64))]
    """

    def __init__(
        self,
        network: VideoNetwork,
        settings: InferenceSettings | None = None,
        device: torch.device | str = "cpu",
    ) -> None:
        self.network, self.device = network, torch.device(device)
        self.settings = InferenceSettings() if settings is None else settings

    @classmethod
    def from_pretrained(
        cls,
        weights: str | Path | None = None,
        *,
        device: str | torch.device = "auto",
        backend: str = "auto",
        int8_dir: str | Path | None = None,
        **settings: Any,
    ) -> "VideoSegmenter":
        """Load weights, with all that belongs to them; by default those that ship.

        Args:
            weights: A plain state dict; the ``.json`` beside it says which network it is of.
            device: ``auto`` (CUDA or MPS if there is one, else the CPU), ``cpu``, ``cuda``,
                ``cuda:N`` or ``mps``.
            backend: ``int8``: 8-bit integers, three times as fast on CPUs; ``torch``: floating point;
                ``auto``: int8 if it is there for these weights.
            int8_dir: Folder of the network in 8-bit integers.
            settings: Of ``bundle.inference.settings.InferenceSettings``, by name.

        Raises:
            FileNotFoundError: There are no such weights.
            ValueError: A value is out of range, the weights are damaged or of another network than
                the file beside them says, or this machine has no such device.
            MissingPackageError: ``int8`` was asked for, and OpenVINO is not installed.
        """
        parsed = parse_settings(**settings)
        models = bundle_root() / "models"
        found = find_device(device)
        network: Any = load_network(
            models / "model.pt" if weights is None else weights,
            found,
            backend,
            models / "int8" if int8_dir is None else int8_dir,
        )
        return cls(network, parsed, found)

    def segment(
        self, video: Frames | Iterable[Frame], masks: Mapping[int, LabelMap]
    ) -> Iterator[FrameResult]:
        """Segment a video from the masks of some frames; yields results in order of time.

        The work is done as results are taken, and memory does not grow with the video's length.

        Args:
            video: From ``open_video``; or a list of RGB frames (H, W, 3) uint8; or an iterator over
                such frames, like a camera, each of whose results is there before the next is taken.
            masks: Frame index to label map (H, W) uint8 of object ids, such as ``read_masks`` gives.
                A mask is taken as complete: an object that it does not show is not in that frame.

        Yields:
            ``frame``, ``labels`` (H, W) uint8, ``confidence`` in [0, 1] by object id, and ``review``:
            a confidence is low, somebody should look.

        Raises:
            ValueError: No mask shows an object, one is of no frame of the video, or has another size
                than its frame; or a frame cannot be read.
        """
        return stream_results(self.settings, self.network, video, masks, self.device)

    def start(self, video: Frames | Iterable[Frame]) -> "SegmentationJob":
        """Begin a video that you will add masks to and correct as you go."""
        frames = video if isinstance(video, Frames) else FrameList(list(video))
        return SegmentationJob(self, frames)


class SegmentationJob:
    """One video under way: the masks that were given, and what was found from them.

    Not to be shared between threads.

    Args:
        segmenter: With the network and the settings.
        video: The frames.

    Attributes:
        masks: Frame index to the label map that was given or corrected; not to be changed.

    Example:
        >>> import numpy as np
        >>> from bundle import VideoSegmenter
        >>> segmenter = VideoSegmenter.from_pretrained(device="cpu", inference_size=64)
        >>> job = segmenter.start([np.full((48, 64, 3), 90, np.uint8)] * 4)
        >>> mask = np.zeros((48, 64), bool)
        >>> mask[10:30, 20:40] = True
        >>> job.add_mask(0, mask, object_id=2)
        >>> [result.frame for result in job.propagate()]
        [1, 2, 3]
        >>> job.add_mask(3, mask, object_id=2)  # a correction
        >>> [result.frame for result in job.propagate()]
        [1, 2]
        >>> [result.frame for result in job.results()]
        [0, 1, 2, 3]
    """

    def __init__(self, segmenter: VideoSegmenter, video: Frames) -> None:
        self.segmenter, self.video = segmenter, video
        self.masks: dict[int, LabelMap] = {}
        self._work: Propagation | None = None

    def add_mask(self, frame: int, mask: npt.NDArray[Any], object_id: int | None = None) -> None:
        """Give the mask of a frame, or correct it; ``propagate`` then carries it on.

        Args:
            frame: Its index.
            mask: (H, W). With ``object_id`` that object is where it is not 0, and the frame's other
                objects stay as they were given or found. Without, a label map of all objects in the
                frame: one that it does not show is not there (of bool the only object is 1).
            object_id: From 1 to 255.

        Raises:
            ValueError: There is no such frame or id, or the mask is of another size or kind.
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
        if object_id is None:
            if mask.size and not 0 <= int(mask.min()) <= int(mask.max()) <= MAX_ID:
                raise ValueError(
                    f"the mask of frame {frame} has labels from {mask.min()} to {mask.max()}: "
                    f"expected object ids from 0 (background) to {MAX_ID}"
                )
            self.masks[frame] = mask.astype(np.uint8)
            return
        if not 1 <= object_id <= MAX_ID:
            raise ValueError(f"object_id must be from 1 to {MAX_ID}, got {object_id}")
        labels = self._labels(frame)
        labels[labels == object_id] = 0
        labels[mask != 0] = object_id
        self.masks[frame] = labels

    def remove_mask(self, frame: int) -> None:
        """Take back the mask of a frame; ``propagate`` then finds one.

        Raises:
            ValueError: The frame has none.
        """
        if frame not in self.masks:
            given = ", ".join(map(str, sorted(self.masks))) or "none"
            raise ValueError(f"frame {frame} has no mask to take back: given are those of {given}")
        del self.masks[frame]

    def propagate(self) -> Iterator[FrameResult]:
        """Find the masks of all frames that have none yet, or that a correction touches.

        The work is done as results are taken. It can be broken off at any frame: the next call, or
        ``results``, does the rest.

        Yields:
            Each frame's result as soon as it is found: not in order of time, and without the frames
            whose mask was given.

        Raises:
            ValueError: No mask shows an object; or a frame cannot be read.
        """
        require_object(self.masks.values())
        if self._work is None:
            each = self.segmenter
            self._work = Propagation(
                each.settings, each.network, self.video, self.masks, each.device
            )
        else:
            self._work.adopt(self.masks)
        for index in self._work.run():
            yield self._work.result(index)

    def results(self) -> Iterator[FrameResult]:
        """The results of all frames, in order of time; what is not propagated yet is, first.

        Raises:
            ValueError: As ``propagate``.
        """
        for _ in self.propagate():
            pass
        assert self._work is not None
        for index in range(self.video.frame_count):
            yield self._work.result(index)

    def suggest(self) -> int | None:
        """The frame whose mask would help most, of those that were found; None if none was."""
        return None if self._work is None else self._work.suggest()

    def _labels(self, frame: int) -> LabelMap:
        """What is known of a frame, as an array of its own."""
        if frame in self.masks:
            return self.masks[frame].copy()
        if self._work is not None and self._work.done(frame):
            return self._work.result(frame).labels.copy()
        return np.zeros((self.video.height, self.video.width), np.uint8)

    def _check_frame(self, frame: int) -> None:
        if not 0 <= frame < self.video.frame_count:
            raise ValueError(
                f"there is no frame {frame}: the video has frames 0 to {self.video.frame_count - 1}"
            )
