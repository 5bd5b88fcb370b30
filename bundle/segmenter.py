"""``VideoSegmenter``, the main class: loads a network with its settings and segments videos."""

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch

from bundle.backends.openvino import load_network
from bundle.inference.frame_stream import FrameList, Frames
from bundle.inference.job import SegmentationJob
from bundle.inference.results import FrameResult
from bundle.inference.settings import InferenceSettings, parse_settings
from bundle.inference.streaming import stream_results
from bundle.networks.tcmn import VideoNetwork
from bundle.types import Frame, LabelMap
from bundle.utils.bundle_files import bundle_root
from bundle.utils.devices import find_device


class VideoSegmenter:
    """Segments videos from the masks of one or a few frames. It holds no state of a video.

    Args:
        network: A network in evaluation mode, on ``device``.
        settings: How masks are propagated; the defaults if None.
        device: Device of the network.

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
        """Load a network with its weights and settings; by default the shipped ones.

        Args:
            weights: File of a plain state dict; the ``.json`` file beside it describes its network.
            device: ``auto`` (CUDA or MPS if there is one, else the CPU), ``cpu``, ``cuda``,
                ``cuda:N`` or ``mps``.
            backend: ``int8``: 8-bit integers, three times as fast on CPUs; ``openvino``: floating point
                by OpenVINO; ``torch``: floating point by PyTorch; ``auto``: on a CPU the first of these
                that is available for these weights, else ``torch``.
            int8_dir: Folder of the network in 8-bit integers.
            settings: Settings of ``bundle.inference.settings.InferenceSettings``, by name.

        Raises:
            FileNotFoundError: The weights do not exist.
            ValueError: A value is out of range, the weights are damaged or do not fit the file beside
                them, or this machine has no such device.
            MissingPackageError: ``int8`` or ``openvino`` is asked for, and OpenVINO is not installed.

        Example:
            >>> segmenter = VideoSegmenter.from_pretrained(device="cpu", inference_size=256)
            >>> segmenter.settings.inference_size
            256
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
        """Segment a video from the masks of some frames; yields results in time order.

        Frames are segmented one by one as you take results. Memory does not grow with the length of the
        video, unless ``max_memory_frames`` is None.

        Args:
            video: From ``open_video``; or a list of RGB frames (H, W, 3) uint8; or an iterator over
                such frames, like a camera. Of an iterator, each frame's result is returned before the
                next frame is taken.
            masks: Frame index -> label map (H, W) uint8 of object ids, such as from ``read_masks``. A
                mask counts as complete: an object that it does not show is not in that frame.

        Yields:
            ``bundle.inference.results.FrameResult``: ``frame``, ``labels`` (H, W) uint8,
            ``confidence`` by object id, 0 to 1, and ``review``, whether a confidence is low.

        Raises:
            ValueError: No mask shows an object, a mask is of a frame that does not exist or has another
                size than its frame, or a frame cannot be read.

        Example:
            >>> import numpy as np
            >>> segmenter = VideoSegmenter.from_pretrained(device="cpu", inference_size=64)
            >>> mask = np.zeros((48, 64), np.uint8)
            >>> mask[10:30, 20:40] = 2
            >>> camera = (np.full((48, 64, 3), 90, np.uint8) for _ in range(3))
            >>> for result in segmenter.segment(camera, {0: mask}):
            ...     print(result.frame, result.labels.dtype, sorted(result.confidence))
            0 uint8 [2]
            1 uint8 [2]
            2 uint8 [2]
        """
        return stream_results(self.settings, self.network, video, masks, self.device)

    def start(self, video: Frames | Iterable[Frame]) -> SegmentationJob:
        """Start an interactive job: add masks and prompts, propagate, correct.

        Args:
            video: From ``open_video``; or a list or an iterator of RGB frames (H, W, 3) uint8. An
                iterator is read to its end.

        Returns:
            A job without masks. It uses this network and these settings.

        Example:
            >>> import numpy as np
            >>> segmenter = VideoSegmenter.from_pretrained(device="cpu")
            >>> segmenter.start([np.full((48, 64, 3), 90, np.uint8)] * 2).masks
            {}
        """
        frames = video if isinstance(video, Frames) else FrameList(list(video))
        return SegmentationJob(self, frames)
