"""Write pictures of the results: palette PNGs, the overlay video, the summary picture."""

from collections.abc import Collection
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

from bundle.io.reading.video import VideoSource
from bundle.io.writing.writer import Segmented, import_meanwhile
from bundle.types import Frame
from bundle.visualization.overlay import (
    DRAWN_WITH,
    PALETTE,
    OverlayVideo,
    blend,
    draw_summary,
    pick_frames,
)

THUMBNAIL = (480, 480)


class PngWriter:
    """Writes ``masks/00000.png`` and so on: palette PNGs of object ids, in DAVIS colours."""

    def __init__(self, folder: Path, video: VideoSource, given: Collection[int]) -> None:
        self._folder = folder / "masks"
        self._folder.mkdir()
        self._digits = max(5, len(str(video.frame_count - 1)))

    def write(self, result: Segmented) -> None:
        picture = Image.fromarray(result.labels)
        picture.putpalette(PALETTE.tobytes())
        picture.save(self._folder / f"{result.index:0{self._digits}d}.png")

    def finish(self) -> None:
        pass

    def close(self) -> None:
        pass


class OverlayWriter:
    """Writes ``overlay.mp4``: frames with masks in H.264, at the source's rate or 25 a second."""

    def __init__(self, folder: Path, video: VideoSource, given: Collection[int]) -> None:
        self._video = OverlayVideo(
            folder / "overlay.mp4",
            (video.height, video.width),
            fps=video.fps,
            spacing_mm=video.spacing_mm,
            times=video.frame_times,
        )

    def write(self, result: Segmented) -> None:
        self._video.write(blend(result.frame, result.labels))

    def finish(self) -> None:
        self._video.flush()
        self.close()

    def close(self) -> None:
        self._video.__exit__()


class SummaryWriter:
    """Writes ``summary.png``: eight frames with masks, and a curve of the area of each object."""

    def __init__(self, folder: Path, video: VideoSource, given: Collection[int]) -> None:
        self._path, self._video, self._given = folder / "summary.png", video, given
        self._picks = pick_frames(video.frame_count, given=min(given, default=0))
        self._panels: dict[int, Frame] = {}
        self._areas_px: dict[int, npt.NDArray[np.int64]] = {}
        import_meanwhile(*DRAWN_WITH)

    def write(self, result: Segmented) -> None:
        areas = np.bincount(result.labels.ravel())
        for object_id in np.flatnonzero(areas[1:]) + 1:
            unseen = np.zeros(self._video.frame_count, dtype=np.int64)
            self._areas_px.setdefault(int(object_id), unseen)[result.index] = areas[object_id]
        if result.index in self._picks:
            thumbnail = Image.fromarray(blend(result.frame, result.labels))
            thumbnail.thumbnail(THUMBNAIL)
            self._panels[result.index] = np.asarray(thumbnail)

    def finish(self) -> None:
        draw_summary(
            self._path,
            self._video.name,
            self._panels,
            self._areas_px,
            times=self._video.times,
            spacing_mm=self._video.spacing_mm,
            given=self._given,
        )

    def close(self) -> None:
        pass
