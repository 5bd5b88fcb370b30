"""Make thumbnails of many videos, one after another in the background."""

from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from bundle.apps.annotate.pictures import FramePictures
from bundle.inference.frame_stream import FrameList
from bundle.io.reading.video import open_video
from bundle.project.listing import ListedVideo

LONGER_SIDE_PX = 144


@dataclass(frozen=True)
class Thumbnail:
    """A look at a video.

    Attributes:
        jpeg: Its first frame; None if it cannot be opened.
        frame_count: Number of frames.
        fps: Frames per second; None if unknown.
        problem: Why it cannot be opened.
    """

    jpeg: bytes | None
    frame_count: int | None = None
    fps: float | None = None
    problem: str | None = None


class Thumbnails:
    """Thumbnails by name, as far as they are there."""

    def __init__(self) -> None:
        self._made: dict[str, Thumbnail | None] = {}
        self._thread = ThreadPoolExecutor(1, "thumbnails")

    def ask(self, videos: Iterable[ListedVideo]) -> None:
        """Make those that nobody asked for yet, in this order."""
        for video in videos:
            if video.name not in self._made:
                self._made[video.name] = None
                self._thread.submit(self._make, video)

    def get(self, name: str) -> Thumbnail | None:
        """None while it is not there."""
        return self._made.get(name)

    def close(self) -> None:
        """Make no more."""
        self._thread.shutdown(wait=False, cancel_futures=True)

    def _make(self, video: ListedVideo) -> None:
        try:
            source = open_video(video.path)
            frame = next(iter(source.frames([0])))
            jpeg = FramePictures(FrameList([frame]), LONGER_SIDE_PX).jpeg(0)
            self._made[video.name] = Thumbnail(jpeg, source.frame_count, source.fps)
        except Exception as error:  # shown in the list, whatever it was
            self._made[video.name] = Thumbnail(None, problem=str(error))
