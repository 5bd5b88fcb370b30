"""Write the folder ``mots``: masks in the format of the MOTS benchmarks, as pictures and as text."""

from collections.abc import Collection
from pathlib import Path

import cv2
import numpy as np

from bundle.io.reading.shapes import pack_counts
from bundle.io.reading.video import VideoSource
from bundle.io.writing.rle import run_lengths
from bundle.io.writing.writer import Segmented

CLASS = 1
"""Of all objects; the benchmarks count instances within a class."""


class MotsWriter:
    """Writes 16-bit pictures ``mots/instances/000000.png`` and so on, and the text ``mots/gt/gt.txt``.

    A pixel is ``1000 * class + id``. A line of the text is ``frame id class height width
    run_lengths``, with the id of the picture. Frames count from 0.
    """

    def __init__(self, folder: Path, video: VideoSource, given: Collection[int]) -> None:
        self._pictures = folder / "mots" / "instances"
        self._pictures.mkdir(parents=True)
        (folder / "mots" / "gt").mkdir()
        self._file = open(folder / "mots" / "gt" / "gt.txt", "w", encoding="ascii")  # noqa: SIM115

    def write(self, result: Segmented) -> None:
        labels = result.labels.astype(np.uint16)
        picture = np.where(labels > 0, labels + 1000 * CLASS, 0).astype(np.uint16)
        encoded = cv2.imencode(".png", picture)[1]
        (self._pictures / f"{result.index:06d}.png").write_bytes(encoded.tobytes())
        height, width = labels.shape
        for object_id in np.unique(labels[labels > 0]).tolist():
            counts = pack_counts(run_lengths(labels == object_id)["counts"])
            number = 1000 * CLASS + object_id
            self._file.write(f"{result.index} {number} {CLASS} {height} {width} {counts}\n")

    def finish(self) -> None:
        self.close()

    def close(self) -> None:
        self._file.close()
