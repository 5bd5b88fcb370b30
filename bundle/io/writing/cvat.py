"""Write ``annotations.xml``: CVAT for video 1.1, with a track of masks for each object."""

import shutil
import tempfile
from collections.abc import Collection
from pathlib import Path
from typing import IO, cast
from xml.sax.saxutils import quoteattr

import numpy as np

from bundle.io.reading.video import VideoSource
from bundle.io.structures import Structures
from bundle.io.writing.writer import Segmented


class CvatWriter:
    """Writes each track to a temporary file, and joins them at the end.

    Masks are run lengths along the rows of the object's bounding box. The first run is of zeros.
    """

    def __init__(
        self, folder: Path, video: VideoSource, given: Collection[int], structures: Structures
    ) -> None:
        self._folder, self._video, self._structures = folder, video, structures
        self._tracks: dict[int, IO[str]] = {}
        self._last: dict[int, tuple[int, str]] = {}

    def write(self, result: Segmented) -> None:
        for object_id in np.unique(result.labels[result.labels > 0]).tolist():
            self._end(object_id, result.index)
            self._element(object_id, result.index, _box(result.labels == object_id), outside=False)

    def finish(self) -> None:
        video = self._video
        for object_id in self._tracks:
            self._end(object_id, video.frame_count)
        names = {i: self._structures[i].name if i in self._structures else f"object {i}"
                 for i in sorted(self._tracks)}  # fmt: skip
        with open(self._folder / "annotations.xml", "w", encoding="utf-8") as file:
            labels = "".join(
                f"<label><name>{_text(name)}</name></label>" for name in names.values()
            )
            file.write(
                '<?xml version="1.0" encoding="utf-8"?>\n<annotations>\n<version>1.1</version>\n'
                f"<meta><task><name>{_text(video.name)}</name><size>{video.frame_count}</size>"
                "<mode>interpolation</mode><start_frame>0</start_frame>"
                f"<stop_frame>{video.frame_count - 1}</stop_frame><labels>{labels}</labels>"
                f"<original_size><width>{video.width}</width><height>{video.height}</height>"
                "</original_size></task></meta>\n"
            )
            for object_id, name in names.items():
                track = self._tracks[object_id]
                file.write(f'<track id="{object_id}" label={quoteattr(name)} source="semi-auto">\n')
                track.seek(0)
                shutil.copyfileobj(track, file)
                file.write("</track>\n")
            file.write("</annotations>\n")
        self.close()

    def close(self) -> None:
        for track in self._tracks.values():
            track.close()

    def _end(self, object_id: int, index: int) -> None:
        """End a track if its object was not in the previous frame: it has left the view."""
        last = self._last.get(object_id)
        if last is not None and last[0] + 1 < index:
            self._element(object_id, last[0] + 1, last[1], outside=True)

    def _element(self, object_id: int, index: int, box: str, *, outside: bool) -> None:
        if object_id not in self._tracks:
            self._tracks[object_id] = cast(
                IO[str],
                tempfile.TemporaryFile("w+", dir=self._folder, encoding="utf-8"),  # noqa: SIM115
            )
        self._tracks[object_id].write(
            f'<mask frame="{index}" keyframe="1" outside="{int(outside)}" occluded="0" {box} '
            'z_order="0"></mask>\n'
        )
        self._last[object_id] = index, box


def _box(mask: np.ndarray) -> str:
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    part = mask[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    values = part.ravel()
    changes = np.flatnonzero(values[1:] != values[:-1]) + 1
    counts = np.diff([0, *changes, values.size]).tolist()
    runs = ", ".join(str(count) for count in ([0, *counts] if values[0] else counts))
    height, width = part.shape
    return f'rle="{runs}" left="{columns[0]}" top="{rows[0]}" width="{width}" height="{height}"'


def _text(text: str) -> str:
    return quoteattr(text, {'"': "&quot;"})[1:-1]
