"""Write the folder ``yolo``: outlines in the format of YOLO's segmentation networks."""

import json
from collections.abc import Collection
from pathlib import Path

import cv2
import numpy as np

from bundle.io.reading.video import VideoSource
from bundle.io.structures import Structures
from bundle.io.writing.writer import Segmented


class YoloWriter:
    """Writes ``yolo/labels/00000.txt`` and so on: class and outline of each part of an object.

    Coordinates are fractions of width and height. The class of an object is its id minus 1;
    ``yolo/data.yaml`` names the classes. The format has neither holes nor outlines of fewer than three
    points, so a part of one or two pixels gets an outline around its pixels.
    """

    def __init__(
        self, folder: Path, video: VideoSource, given: Collection[int], structures: Structures
    ) -> None:
        self._folder, self._structures = folder / "yolo", structures
        self._labels = self._folder / "labels"
        self._labels.mkdir(parents=True)
        self._digits = max(5, len(str(video.frame_count - 1)))
        self._shown: set[int] = set()

    def write(self, result: Segmented) -> None:
        height, width = result.labels.shape
        lines = []
        for object_id in np.unique(result.labels[result.labels > 0]).tolist():
            self._shown.add(object_id)
            mask = (result.labels == object_id).astype(np.uint8)
            outlines, _ = cv2.findContours(mask, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE)
            for outline in outlines:
                # Through the centres of the border's pixels, which YOLO counts from their corner.
                points = outline[:, 0, :].astype(float) + 0.5
                if len(points) < 3:
                    (left, top), (right, bottom) = points.min(0) - 0.25, points.max(0) + 0.25
                    corners = [(left, top), (right, top), (right, bottom), (left, bottom)]
                    points = np.array(corners)
                shares = (points / (width, height)).ravel()
                lines.append(f"{object_id - 1} " + " ".join(f"{share:.6f}" for share in shares))
        path = self._labels / f"{result.index:0{self._digits}d}.txt"
        path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")

    def finish(self) -> None:
        known = self._structures
        lines = ["path: .", "train: images", "val: images", "names:"]
        for i in range(1, max(self._shown, default=0) + 1):
            name = known[i].name if i in known else f"object {i}"
            lines.append(f"  {i - 1}: {json.dumps(name)}")
        (self._folder / "data.yaml").write_text("\n".join(lines) + "\n", encoding="utf-8")

    def close(self) -> None:
        pass
