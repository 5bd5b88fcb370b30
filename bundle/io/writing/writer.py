"""Define the interface of all format writers, and a thread that writes while frames are computed."""

import threading
from collections import deque
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from importlib import import_module
from typing import Protocol, runtime_checkable

from bundle.types import Frame, LabelMap

BEHIND = 4
"""Frames that are being written or wait for it, at most."""


@dataclass(frozen=True, eq=False)
class Segmented:
    """One frame's result.

    Attributes:
        index: Index of the frame, from 0.
        frame: (H, W, 3) uint8 RGB.
        labels: (H, W) uint8 object ids, 0 for background.
        confidence: Object id to confidence, from 0 to 1; objects may be missing.
        review: Whether the frame is flagged for review.
    """

    index: int
    frame: Frame
    labels: LabelMap
    confidence: Mapping[int, float] = field(default_factory=dict)
    review: bool = False


@runtime_checkable
class FormatWriter(Protocol):
    """Writes the frames of one video in one format, in order, in memory that hardly grows.

    Every writer is made with the folder of the results, the video, and the indices of the frames whose
    mask was given.
    """

    def write(self, result: Segmented) -> None:
        """Append the next frame."""

    def finish(self) -> None:
        """Complete the file; called once, after the last frame."""

    def close(self) -> None:
        """Close open files, whether finished or not. A second call does nothing."""


def import_meanwhile(*names: str) -> None:
    """Import modules in a thread, while frames are computed: at the end all would wait for them."""
    threading.Thread(target=lambda: [import_module(name) for name in names]).start()


class WriteBehind:
    """Writes frames in a thread, one after another, while the next ones are computed.

    If writing raises an error, the next call of ``put`` or ``wait`` raises it. No later frame is
    written.

    Args:
        write: Writes one frame.
        count: Most frames in the queue. When it is full, ``put`` waits for the oldest.
    """

    def __init__(self, write: Callable[[Segmented], None], count: int = BEHIND) -> None:
        self._write, self._count = write, count
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="write-behind")
        self._in_hand: deque[Future[None]] = deque()
        self._broken = False

    def put(self, result: Segmented) -> None:
        """Put the next frame into the queue. Its pixels must not change any more."""
        while self._in_hand and (self._in_hand[0].done() or len(self._in_hand) >= self._count):
            self._in_hand.popleft().result()
        self._in_hand.append(self._thread.submit(self._write_next, result))

    def wait(self) -> None:
        """Wait until all frames are written."""
        while self._in_hand:
            self._in_hand.popleft().result()

    def close(self) -> None:
        """End the thread after the frame that it is writing. Frames behind it are dropped."""
        self._thread.shutdown(cancel_futures=True)

    def _write_next(self, result: Segmented) -> None:
        if not self._broken:
            self._broken = True
            self._write(result)
            self._broken = False
