"""Read a video for inference: from any frame, in either direction, a few frames ahead."""

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Protocol, TypeVar, runtime_checkable

import numpy as np
import torch

from bundle.types import Frame, LabelMap

AHEAD = 4
"""Frames decoded ahead."""
CHUNK_BYTES = 2**26
"""Frames that are decoded at once where a video is read backwards."""

Item = TypeVar("Item")


@runtime_checkable
class Frames(Protocol):
    """A video that can be read from anywhere, such as ``bundle.io.reading.video.VideoSource``."""

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
    """Frames that are in memory, as ``Frames``."""

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


def read_range(video: Frames, indices: range) -> Iterator[Frame]:
    """Frames of a range, which may fall."""
    if indices.step > 0:
        yield from video.frames(indices)
        return
    size = max(1, CHUNK_BYTES // (3 * video.height * video.width))
    for begin in range(0, len(indices), size):
        chunk = indices[begin : begin + size]
        yield from reversed(list(video.frames(chunk[::-1])))


def list_ids(labels: Iterable[LabelMap]) -> list[int]:
    """The ids of all objects that label maps show, rising."""
    return sorted({int(i) for each in labels for i in np.unique(each) if i > 0})


def split_objects(labels: LabelMap, ids: Sequence[int], device: torch.device) -> torch.Tensor:
    """(1, N, H, W) masks of the objects with these ids."""
    masks = labels[None, None] == np.array(ids)[:, None, None]
    return torch.from_numpy(masks).to(device)


def require_object(masks: Iterable[LabelMap]) -> None:
    """Refuse masks that show nothing.

    Raises:
        ValueError: All are empty.
    """
    if not any(labels.any() for labels in masks):
        raise ValueError("no mask shows an object: paint it on at least one frame")


def check_size(index: int, labels: LabelMap, size: tuple[int, int]) -> None:
    """Refuse a mask that does not fit its frame.

    Raises:
        ValueError: The sizes differ.
    """
    if labels.shape != size:
        raise ValueError(
            f"the mask of frame {index} is {labels.shape} but the frame is {size} "
            "(rows, columns): give the mask at the frame's size"
        )


def to_image(frame: Frame, device: torch.device) -> torch.Tensor:
    """(1, 3, H, W) in [0, 1]."""
    # Copied, since a frame may be read-only or mirrored, which tensors cannot be.
    return torch.from_numpy(frame.copy()).to(device).movedim(-1, 0)[None].float() / 255


def read_ahead(items: Iterator[Item], count: int = AHEAD) -> Iterator[Item]:
    """Yield the same items, while a thread prepares the next few."""
    end = object()
    with ThreadPoolExecutor(1) as pool:
        waiting = deque(pool.submit(next, items, end) for _ in range(count))
        while (item := waiting.popleft().result()) is not end:
            waiting.append(pool.submit(next, items, end))
            yield item  # type: ignore[misc]
