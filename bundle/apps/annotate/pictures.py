"""Encode frames as JPEG at display size for the browser, on demand and cached."""

import threading
from collections import OrderedDict

import cv2
import numpy as np

from bundle.inference.frame_stream import Frames

LONGER_SIDE_PX = 1024
"""Larger frames are shown at this size; masks keep the video's own."""
QUALITY = 92
BLOCK = 8
"""Number of frames decoded at once: seeking in a file is slow, reading on is fast."""
CACHE_BYTES = 64 * 2**20


class FramePictures:
    """JPEGs of a video's frames, the latest kept.

    Args:
        video: Whose frames.
        longer_side: Longer side of a picture at most, in pixels.
    """

    def __init__(self, video: Frames, longer_side: int = LONGER_SIDE_PX) -> None:
        self._video = video
        scale = min(1.0, longer_side / max(video.height, video.width))
        self.size = max(1, round(video.width * scale)), max(1, round(video.height * scale))
        self._kept: OrderedDict[int, bytes] = OrderedDict()
        self._bytes = 0
        self._lock = threading.Lock()

    def jpeg(self, index: int) -> bytes:
        """The picture of a frame.

        Raises:
            IndexError: There is no such frame.
            ValueError: The video is unreadable there.
        """
        if not 0 <= index < self._video.frame_count:
            raise IndexError(
                f"the video has frames 0 to {self._video.frame_count - 1}, not {index}"
            )
        with self._lock:  # else two requests would decode the same block
            if index not in self._kept:
                self._load(index)
            self._kept.move_to_end(index)
            return self._kept[index]

    def _load(self, index: int) -> None:
        first = index // BLOCK * BLOCK
        wanted = range(first, min(first + BLOCK, self._video.frame_count))
        for i, frame in zip(wanted, self._video.frames(wanted), strict=True):
            if (frame.shape[1], frame.shape[0]) != self.size:
                frame = cv2.resize(frame, self.size, interpolation=cv2.INTER_AREA)
            bgr = np.ascontiguousarray(frame[..., ::-1])
            data = cv2.imencode(".jpg", bgr, [cv2.IMWRITE_JPEG_QUALITY, QUALITY])[1].tobytes()
            self._bytes += len(data) - len(self._kept.pop(i, b""))
            self._kept[i] = data
        while self._bytes > CACHE_BYTES and len(self._kept) > BLOCK:
            self._bytes -= len(self._kept.popitem(last=False)[1])
