"""The method as a loop over frames: encode, read memory, segment, and remember every fifth.

Where masks are on other frames than the first, ``bundle.inference.propagation`` says which
frame is segmented from which mask.

B clips, N objects, T frames of H x W.
"""

import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from monai.inferers import Inferer
from torch import Tensor, nn

from bundle.inference.confidence import choose_class
from bundle.inference.frame_stream import (
    FrameList,
    Frames,
    ahead,
    check_size,
    list_ids,
    require_object,
    split_objects,
    to_image,
)
from bundle.inference.inputs import PromptedVideo
from bundle.inference.propagation import Propagation
from bundle.inference.results import FrameResult, judge
from bundle.inference.session import InferenceSettings, VideoSession
from bundle.networks.tcmn import VideoNetwork
from bundle.types import ClassLogits, Clip, Frame, LabelMap
from bundle.utils.devices import autocast


class ClipInferer(Inferer):
    """Passes whole clips, or frames, through the network at once, for training.

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
    """Carries masks through a video; holds settings, no state of a video.

    Args:
        memory_every: The annotated frame and every so many after it are remembered.
        capacity: Most frames remembered, at least 2; None for no limit (the paper); ``auto`` for
            what half of the device's free memory holds.
        policy: Which frame goes when memory is full; a name in ``bundle.memory.eviction.POLICIES``.
        working_size: Shorter side, in pixels, at which frames pass through the network; None for
            their own size. Masks come back at the frames' size.
        precision: ``float32``, ``bfloat16``, ``float16`` or ``auto``; see
            ``bundle.utils.devices.autocast``.
        direction: ``both`` ways from each mask, ``forward`` or ``backward``.
        review_below: Frames with an object of less confidence are flagged, see
            ``bundle.inference.confidence``; 0 for none.
        spatial_prior: Standard deviation of a Gaussian that favours what was remembered at the same
            place, as a share of the shorter side; ``auto`` for what suits each frame's motion; None
            for none (the paper). See ``bundle.memory.bank``.

    Raises:
        ValueError: A setting is out of range.
    """

    def __init__(
        self,
        memory_every: int = 5,
        capacity: int | str | None = None,
        policy: str = "latest",
        working_size: int | None = None,
        precision: str = "auto",
        direction: str = "both",
        review_below: float = 0.7,
        spatial_prior: float | str | None = None,
    ) -> None:
        self.settings = InferenceSettings(
            memory_every,
            capacity,
            policy,
            working_size,
            precision,
            direction,
            review_below,
            spatial_prior,
        )

    def __call__(
        self, inputs: Clip | PromptedVideo, network: VideoNetwork, *args: Any, **kwargs: Any
    ) -> ClassLogits | Iterator[tuple[Frame, FrameResult]]:
        """Segment clips whose first frame is annotated, or a video with masks on any frames.

        Args:
            inputs: A clip tensor, or a video with its masks.
            network: In evaluation mode.

        Returns:
            Class logits for a tensor; for a video an iterator over frames with their results, in
            order of time, which does the work as it is consumed.
        """
        if isinstance(inputs, PromptedVideo):
            return self._segment(inputs, network)
        return torch.stack(list(self.carry(inputs, network)), dim=-1)

    def carry(self, clip: Clip, network: VideoNetwork) -> Iterator[Float[Tensor, "B C H W"]]:
        """Class logits of each frame of clips whose first frame is annotated."""
        session = self.start(network)
        yield session.prompt(clip[:, :3, ..., 0], clip[:, 3:, ..., 0])
        for t in range(1, clip.shape[-1]):
            yield session.step(clip[:, :3, ..., t]).logits

    def _segment(
        self, video: PromptedVideo, network: VideoNetwork
    ) -> Iterator[tuple[Frame, FrameResult]]:
        # A generator: whoever consumes it learns that the video cannot be opened.
        device = next(network.parameters()).device
        results = self.stream(video.source, video.annotations, network, device)
        yield from zip(ahead(iter(video.source)), results, strict=True)

    def start(self, network: VideoNetwork) -> VideoSession:
        """Begin a video whose frames you will feed yourself."""
        return VideoSession(self.settings, network, self.settings.working_size)

    def open(
        self,
        video: Frames | Sequence[Frame],
        annotations: Mapping[int, LabelMap],
        network: VideoNetwork,
        device: torch.device | str = "cpu",
    ) -> Propagation:
        """Begin a video that you will correct as you go; see ``Propagation``."""
        frames = video if isinstance(video, Frames) else FrameList(video)
        return Propagation(self.settings, network, frames, annotations, device)

    def stream(
        self,
        video: Frames | Iterable[Frame],
        annotations: Mapping[int, LabelMap],
        network: VideoNetwork,
        device: torch.device | str = "cpu",
    ) -> Iterator[FrameResult]:
        """Segment a video.

        Args:
            video: A ``bundle.io.reading.video.VideoSource``, a list of RGB frames (H, W, 3) uint8,
                or an iterator over them, such as a camera. An iterator is read once, so masks are
                carried forwards only, and each frame's result is there before the next frame is taken.
            annotations: Frame index to label map (H, W) uint8. A mask is taken as complete: an
                object that it does not show is not in that frame.
            network: On ``device``, in evaluation mode.
            device: Where the network and its memory are.

        Yields:
            One result per frame, in order of time.

        Raises:
            ValueError: No mask shows an object, one is of no frame of the video, or has another size
                than its frame.
        """
        if isinstance(video, Iterator):
            yield from self._live(video, annotations, network, torch.device(device))
            return
        frames = video if isinstance(video, Frames) else FrameList(list(video))
        work = self.open(frames, annotations, network, device)
        shown = 0
        for _ in itertools.chain(work.run(), [None]):
            while shown < frames.frame_count and work.done(shown):
                yield work.result(shown)
                work.forget(shown)
                shown += 1

    def _live(
        self,
        frames: Iterator[Frame],
        annotations: Mapping[int, LabelMap],
        network: VideoNetwork,
        device: torch.device,
    ) -> Iterator[FrameResult]:
        require_object(annotations.values())
        ids = list_ids(annotations.values())
        lookup = np.array([0, *ids], dtype=np.uint8)
        session, shown = self.start(network), set[int]()
        for index, frame in enumerate(frames):
            image = to_image(frame, device)
            if index in annotations:
                labels = annotations[index]
                check_size(index, labels, frame.shape[:2])
                shown |= set(list_ids([labels]))
                session.known = torch.tensor([i in shown for i in ids], device=device)
                session.prompt(image, split_objects(labels, ids, device))
                yield judge(self.settings, index, labels, dict.fromkeys(list_ids([labels]), 1.0))
            elif not shown:
                yield judge(self.settings, index, np.zeros(frame.shape[:2], np.uint8), {})
            else:
                found = session.step(image)
                trust = zip(ids, found.confidence[0].tolist(), strict=True)
                labels = lookup[choose_class(found.logits)[0].cpu().numpy()]
                yield judge(
                    self.settings, index, labels, {i: value for i, value in trust if i in shown}
                )
