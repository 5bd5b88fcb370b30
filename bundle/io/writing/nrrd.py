"""Write ``masks.nrrd``: a label volume in the geometry and time of the source, for 3D Slicer.

A source of one slice over time, (x, y, 1, t), becomes a sequence: the fourth axis is of kind list, and
its index values are the times of the frames in seconds.
"""

import gzip
from collections.abc import Collection
from pathlib import Path
from typing import IO, cast

import numpy as np

from bundle.io.reading.video import VideoSource
from bundle.io.writing.writer import Segmented

MAGIC = (
    "NRRD0004",
    "# Complete NRRD file format specification at:",
    "# http://teem.sourceforge.net/nrrd/format.html",
)


class NrrdWriter:
    """Writes a label volume as NRRD; see ``bundle.io.writing.writer``. Equal masks give equal files."""

    def __init__(self, folder: Path, video: VideoSource, given: Collection[int]) -> None:
        self._file = (folder / "masks.nrrd").open("wb")
        self._file.write(_header(video).encode())
        packed = gzip.GzipFile("", "wb", compresslevel=6, fileobj=self._file, mtime=0)
        self._gzip = cast(IO[bytes], packed)

    def write(self, result: Segmented) -> None:
        self._gzip.write(np.ascontiguousarray(result.labels).data)

    def finish(self) -> None:
        self.close()

    def close(self) -> None:
        self._gzip.close()
        self._file.close()


def _header(video: VideoSource) -> str:
    shape = video.geometry.shape
    over_time = len(shape) == 4
    nowhere = np.allclose(np.abs(video.geometry.affine), np.eye(4))
    placed = video.spacing_mm is not None or over_time or not nowhere
    lines = [
        *MAGIC,
        "type: unsigned char",
        f"dimension: {len(shape)}",
        *(["space: left-posterior-superior"] if placed else []),
        f"sizes: {' '.join(str(size) for size in shape)}",
        f"kinds: domain domain domain{' list' if over_time else ''}",
        "encoding: gzip",
    ]
    if placed:
        steps, origin = place(video)
        lines += [f"space directions: {steps}{' none' if over_time else ''}"]
        lines += [f"space origin: {origin}"]
    if video.spacing_mm is not None:
        lines += ['space units: "mm" "mm" "mm"']
    if over_time and video.times is not None:
        seconds = " ".join(f"{second:.9g}" for second in video.times.tolist())
        lines += ['units: "" "" "" "s"']
        lines += ["axis 3 index type:=numeric", f"axis 3 index values:={seconds}"]
    return "\n".join(lines) + "\n\n"


def place(video: VideoSource) -> tuple[str, str]:
    """Make the header fields of a video's position: directions and origin, in LPS and mm."""
    lps = np.diag([-1.0, -1.0, 1.0, 1.0]) @ video.geometry.affine
    return " ".join(_vector(axis) for axis in lps[:3, :3].T), _vector(lps[:3, 3])


def _vector(values: np.ndarray) -> str:
    return "(" + ",".join(f"{value:.17g}" for value in values) + ")"
