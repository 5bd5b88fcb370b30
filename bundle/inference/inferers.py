"""Inferers for MONAI's engines: whole clips in training, videos in evaluation and inference.

B clips, N objects, T frames of H x W.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Float
from monai.inferers import Inferer
from torch import Tensor, nn

from bundle.inference.frame_stream import FrameList, Frames
from bundle.inference.inputs import PromptedVideo
from bundle.inference.propagation import Propagation
from bundle.inference.results import FrameResult
from bundle.inference.session import VideoSession
from bundle.inference.settings import parse_settings
from bundle.inference.streaming import stream_results, stream_with_frames
from bundle.networks.tcmn import VideoNetwork
from bundle.types import ClassLogits, Clip, Frame, LabelMap
from bundle.utils.devices import autocast


class ClipInferer(Inferer):
    """Passes whole clips through the network at once, for training.

    Args:
        precision: See ``bundle.utils.devices.autocast``.
    """

    def __init__(self, precision: str = "auto") -> None:
        self.precision = precision

    def __call__(
        self, inputs: Float[Tensor, "B ..."], network: nn.Module, *args: Any, **kwargs: Any
    ) -> Any:
        with autocast(self.precision, inputs.device):
            return network(inputs, *args, **kwargs)


class VideoInferer(Inferer):
    """Propagates masks through videos. It holds settings, and no state of a video.

    Args:
        settings: Settings of ``bundle.inference.settings.InferenceSettings`` by name, as values or as
            text. The others have their defaults.

    Raises:
        ValueError: A setting is out of range.
        TypeError: A setting does not exist.
    """

    def __init__(self, **settings: Any) -> None:
        self.settings = parse_settings(**settings)

    def __call__(
        self, inputs: Clip | PromptedVideo, network: VideoNetwork, *args: Any, **kwargs: Any
    ) -> ClassLogits | Iterator[tuple[Frame, FrameResult]]:
        """Segment clips whose first frame is annotated, or a video with masks on any frames.

        Args:
            inputs: A clip tensor, or a video with its masks.
            network: The network, in evaluation mode.

        Returns:
            Class logits for a tensor. For a video, a lazy iterator over frames and their results, in
            time order.
        """
        if isinstance(inputs, PromptedVideo):
            device = next(network.parameters()).device
            return stream_with_frames(self.settings, network, inputs, device)
        return torch.stack(list(self.propagate(inputs, network)), dim=-1)

    def propagate(self, clip: Clip, network: VideoNetwork) -> Iterator[Float[Tensor, "B C H W"]]:
        """Yield the class logits of each frame of clips whose first frame is annotated."""
        session = self.start(network)
        yield session.prompt(clip[:, :3, ..., 0], clip[:, 3:, ..., 0])
        for t in range(1, clip.shape[-1]):
            yield session.step(clip[:, :3, ..., t]).logits

    def start(self, network: VideoNetwork) -> VideoSession:
        """Start a session, to which you give the frames of a video one by one."""
        return VideoSession(self.settings, network, self.settings.inference_size)

    def open(
        self,
        video: Frames | Sequence[Frame],
        annotations: Mapping[int, LabelMap],
        network: VideoNetwork,
        device: torch.device | str = "cpu",
    ) -> Propagation:
        """Start a video whose masks can be corrected after propagation; see ``Propagation``."""
        frames = video if isinstance(video, Frames) else FrameList(video)
        return Propagation(self.settings, network, frames, annotations, device)

    def stream(
        self,
        video: Frames | Iterable[Frame],
        annotations: Mapping[int, LabelMap],
        network: VideoNetwork,
        device: torch.device | str = "cpu",
    ) -> Iterator[FrameResult]:
        """Segment a video; see ``bundle.inference.streaming.stream_results``."""
        return stream_results(self.settings, network, video, annotations, device)
