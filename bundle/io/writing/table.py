"""Write ``frames.csv``: area, centroid and confidence of each object in each frame."""

import csv
from collections.abc import Collection
from pathlib import Path

import numpy as np
import numpy.typing as npt

from bundle.io.reading.video import VideoSource
from bundle.io.writing.writer import Segmented

COLUMNS = (
    "frame", "time_s", "object", "area_px", "area_mm2",
    "centroid_x_px", "centroid_y_px", "confidence", "review",
)  # fmt: skip


class TableWriter:
    """Writes a row for each frame and object. A cell is empty if its value is unknown.

    Centroids are in pixels from the centre of the top left pixel. Each frame has a row for every object
    of the video, so rows are written at the end. Until then each takes four numbers in memory.
    """

    def __init__(self, folder: Path, video: VideoSource, given: Collection[int]) -> None:
        self._path, self._video = folder / "frames.csv", video
        # Object id -> (T, 4): area, centroid x and y, confidence.
        self._measured: dict[int, npt.NDArray[np.float64]] = {}
        self._review = np.zeros(video.frame_count, dtype=bool)

    def write(self, result: Segmented) -> None:
        rows, columns = np.nonzero(result.labels)
        ids = result.labels[rows, columns]
        areas = np.bincount(ids)
        for object_id in np.flatnonzero(areas):
            area = areas[object_id]
            mine = ids == object_id
            centroid = columns[mine].mean(), rows[mine].mean()
            self._of(int(object_id))[result.index, :3] = area, *centroid
        for named, confidence in result.confidence.items():
            self._of(named)[result.index, 3] = confidence
        self._review[result.index] = result.review

    def finish(self) -> None:
        times, spacing = self._video.times, self._video.spacing_mm
        objects = sorted(self._measured)
        with open(self._path, "w", newline="", encoding="utf-8") as file:
            table = csv.writer(file, lineterminator="\n")
            table.writerow(COLUMNS)
            for index, review in enumerate(self._review):
                time = "" if times is None else f"{times[index]:.6f}"
                for object_id in objects:
                    area, x, y, confidence = self._measured[object_id][index]
                    mm2 = f"{area * spacing[0] * spacing[1]:.10g}" if spacing else ""
                    numbers = [_text(x, 2), _text(y, 2), _text(confidence, 4)]
                    flag = "true" if review else "false"
                    table.writerow([index, time, object_id, int(area), mm2, *numbers, flag])

    def close(self) -> None:
        pass

    def _of(self, object_id: int) -> npt.NDArray[np.float64]:
        unseen = np.full((self._video.frame_count, 4), (0, np.nan, np.nan, np.nan))
        return self._measured.setdefault(object_id, unseen)


def _text(value: float, digits: int) -> str:
    return "" if np.isnan(value) else f"{value:.{digits}f}"
