"""Read frames for inference in either direction and ahead of time; make tensors; check mask sizes."""

import threading
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Protocol, TypeVar, runtime_checkable

import numpy as np
import torch

from bundle.types import Frame, LabelMap

AHEAD = 4
"""Number of frames that are decoded ahead."""
KEPT_BYTES, KEPT_LEAST = 2**25, 8
"""Size of the frames that are kept for a second reader, and their number if they are large."""
CHUNK_BYTES = 2**26
"""Size of the block of frames that is decoded at once when a video is read backwards."""

Item = TypeVar("Item")


@runtime_checkable
class Frames(Protocol):
    """A video with random access, such as ``bundle.io.reading.volumes.VideoSource``."""

    @property
    def frame_count(self) -> int: ...

    @property
    def height(self) -> int: ...

    @property
    def width(self) -> int: ...

    def frames(self, indices: Sequence[int]) -> Iterator[Frame]:
        """Frames at strictly rising indices, (H, W, 3) uint8 RGB."""
        ...


@dataclass(frozen=True)
class FrameList:
    """A list of frames in memory as ``Frames``."""

    images: Sequence[Frame]

    @property
    def frame_count(self) -> int:
        return len(self.images)

    @property
    def height(self) -> int:
        return self.images[0].shape[0]

    @property
    def width(self) -> int:
        return self.images[0].shape[1]

    def frames(self, indices: Sequence[int]) -> Iterator[Frame]:
        return (self.images[i] for i in indices)


class RecentFrames:
    """A video that keeps what it decoded last, so that one who follows closely need not decode again.

    Args:
        video: The video.

    Example:
        >>> images = [np.full((2, 2, 3), i, np.uint8) for i in range(3)]
        >>> video = RecentFrames(FrameList(images))
        >>> [each[0, 0, 0].item() for each in video.frames([1, 2])]
        [1, 2]
        >>> [each[0, 0, 0].item() for each in video.in_order()]  # decodes the first only
        [0, 1, 2]
    """

    def __init__(self, video: Frames) -> None:
        self._video = video
        self.frame_count, self.height, self.width = video.frame_count, video.height, video.width
        self._most = max(KEPT_LEAST, KEPT_BYTES // (3 * video.height * video.width))
        self._kept: dict[int, Frame] = {}
        self._lock = threading.Lock()

    def frames(self, indices: Sequence[int]) -> Iterator[Frame]:
        """See ``Frames``."""
        for index, frame in zip(indices, self._video.frames(indices), strict=True):
            with self._lock:
                self._kept[index] = frame
                if len(self._kept) > self._most:
                    del self._kept[next(iter(self._kept))]
            yield frame

    def in_order(self) -> Iterator[Frame]:
        """All frames in time order. What ``frames`` has not just decoded is decoded here."""
        reader: Iterator[Frame] | None = None
        for index in range(self.frame_count):
            with self._lock:
                frame = self._kept.pop(index, None)
            if frame is not None:
                reader = None
            else:
                reader = reader or self._video.frames(range(index, self.frame_count))
                frame = next(reader)
            yield frame


def read_range(video: Frames, indices: range) -> Iterator[Frame]:
    """Read the frames of a range, rising or falling."""
    if indices.step > 0:
        yield from video.frames(indices)
        return
    size = max(1, CHUNK_BYTES // (3 * video.height * video.width))
    for begin in range(0, len(indices), size):
        chunk = indices[begin : begin + size]
        yield from reversed(list(video.frames(chunk[::-1])))


def list_ids(labels: Iterable[LabelMap]) -> list[int]:
    """The ids of all objects that the label maps show, rising."""
    return sorted({int(i) for each in labels for i in np.unique(each) if i > 0})


def split_objects(labels: LabelMap, ids: Sequence[int], device: torch.device) -> torch.Tensor:
    """Split a label map into the masks of these objects: (1, N, H, W) bool."""
    masks = labels[None, None] == np.array(ids)[:, None, None]
    return torch.from_numpy(masks).to(device)


def require_object(masks: Iterable[LabelMap]) -> None:
    """Check that the masks show an object.

    Raises:
        ValueError: All masks are empty.
    """
    if not any(labels.any() for labels in masks):
        raise ValueError("no mask shows an object: paint it on at least one frame")


def check_size(index: int, labels: LabelMap, size: tuple[int, int]) -> None:
    """Check that a mask has the size of its frame.

    Raises:
        ValueError: The sizes differ.
    """
    if labels.shape != size:
        raise ValueError(
            f"the mask of frame {index} is {labels.shape} but the frame is {size} "
            "(rows, columns): give the mask at the frame's size"
        )


def to_image(frame: Frame, device: torch.device) -> torch.Tensor:
    """Turn an RGB frame into a tensor (1, 3, H, W) in [0, 1]."""
    # Copied, since a frame may be read-only or have negative strides, which tensors do not support.
    return torch.from_numpy(frame.copy()).to(device).movedim(-1, 0)[None].float().div_(255)


def read_ahead(items: Iterator[Item], count: int = AHEAD) -> Iterator[Item]:
    """Yield the same items, while a thread prepares the next ``count``."""
    end = object()
    with ThreadPoolExecutor(1) as pool:
        waiting = deque(pool.submit(next, items, end) for _ in range(count))
        while (item := waiting.popleft().result()) is not end:
            waiting.append(pool.submit(next, items, end))
            yield item  # type: ignore[misc]
