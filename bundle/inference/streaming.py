"""Segment a video and yield results in time order; the loop behind Python, command line and configs."""

import itertools
import logging
from collections.abc import Collection, Generator, Iterable, Iterator, Mapping

import numpy as np
import torch

from bundle.inference.checkpoint import RunCheckpoint
from bundle.inference.confidence import choose_class
from bundle.inference.frame_stream import (
    FrameList,
    Frames,
    RecentFrames,
    check_size,
    list_ids,
    require_object,
    split_objects,
    to_image,
)
from bundle.inference.inputs import PromptedVideo
from bundle.inference.prompts import LoadedNetwork
from bundle.inference.propagation import Propagation
from bundle.inference.results import FrameResult, find_vanished, flag_result
from bundle.inference.session import VideoSession
from bundle.inference.settings import InferenceSettings
from bundle.networks.tcmn import VideoNetwork
from bundle.types import Frame, LabelMap

logger = logging.getLogger(__name__)


def stream_results(
    settings: InferenceSettings,
    network: VideoNetwork,
    video: Frames | Iterable[Frame],
    annotations: Mapping[int, LabelMap],
    device: torch.device | str = "cpu",
    objects: Mapping[int, Collection[int]] | None = None,
    checkpoint: RunCheckpoint | None = None,
) -> Iterator[FrameResult]:
    """Segment a video.

    Args:
        settings: Settings of inference.
        network: On ``device``, in evaluation mode.
        video: A ``bundle.io.reading.volumes.VideoSource``, a list of RGB frames (H, W, 3) uint8, or an
            iterator over them, such as a camera. An iterator is read once, so masks are propagated
            forwards only, and each frame's result is returned before the next frame is taken.
        annotations: Frame index -> label map (H, W) uint8. A mask counts as complete: an object that
            it does not show is not in that frame.
        device: Device of the network and its memory.
        objects: Frame index -> ids that its mask covers, for incomplete masks; not for an iterator.
            See ``Propagation``.
        checkpoint: Where to save results, and to resume from; not for an iterator.

    Yields:
        One result per frame, in time order.

    Raises:
        ValueError: No mask shows an object, or a mask is of a frame that does not exist or has another
            size than its frame.
    """
    if isinstance(video, Iterator):
        yield from _stream_live(settings, network, video, annotations, torch.device(device))
        return
    frames = video if isinstance(video, Frames) else FrameList(list(video))
    work = Propagation(settings, network, frames, annotations, device, objects)
    if checkpoint is not None and (count := checkpoint.restore(work)):
        logger.info("resuming: %d of %d frames are already done", count, frames.frame_count)
    shown = 0
    for done in itertools.chain(work.run(), [None]):
        if checkpoint is not None and done is not None:
            checkpoint.add(work, done)
        while shown < frames.frame_count and work.done(shown):
            yield work.result(shown)
            work.forget(shown)
            shown += 1


def stream_with_frames(
    settings: InferenceSettings,
    network: VideoNetwork,
    video: PromptedVideo,
    device: torch.device | str = "cpu",
    checkpoint: RunCheckpoint | None = None,
) -> Generator[tuple[Frame, FrameResult], None, None]:
    """Open a video and segment it; yields each frame with its result.

    If the video cannot be opened, the error is raised when the first frame is taken.
    """
    given = video.give(LoadedNetwork(network, settings, torch.device(device)))
    frames = RecentFrames(video.source)
    results = stream_results(
        settings, network, frames, given.masks, device, given.objects, checkpoint
    )
    for result, frame in zip(results, frames.in_order(), strict=True):
        yield frame, result


def _stream_live(
    settings: InferenceSettings,
    network: VideoNetwork,
    frames: Iterator[Frame],
    annotations: Mapping[int, LabelMap],
    device: torch.device,
) -> Iterator[FrameResult]:
    require_object(annotations.values())
    ids = list_ids(annotations.values())
    lookup = np.array([0, *ids], dtype=np.uint8)
    session, shown = VideoSession(settings, network, settings.inference_size), set[int]()
    absent: set[int] = set()
    for index, frame in enumerate(frames):
        image = to_image(frame, device)
        if index in annotations:
            labels = annotations[index]
            check_size(index, labels, frame.shape[:2])
            here = list_ids([labels])
            shown |= set(here)
            absent = shown - set(here)
            session.known = torch.tensor([i in shown for i in ids], device=device)
            session.prompt(image, split_objects(labels, ids, device))
            yield flag_result(settings, index, labels, dict.fromkeys(here, 1.0))
        elif not shown:
            yield flag_result(settings, index, np.zeros(frame.shape[:2], np.uint8), {})
        else:
            found = session.step(image)
            each = zip(ids, found.confidence[0].tolist(), strict=True)
            trust = {i: value for i, value in each if i in shown}
            labels = lookup[choose_class(found.logits)[0].cpu().numpy()]
            vanished = find_vanished(labels, trust, absent)
            yield flag_result(settings, index, labels, trust, vanished)
