"""Write ``coco.json``: COCO annotations with tracks."""

import json
from collections.abc import Collection
from pathlib import Path

import numpy as np

from bundle.io.reading.shapes import pack_counts
from bundle.io.reading.video import VideoSource
from bundle.io.structures import Structures
from bundle.io.writing.rle import run_lengths
from bundle.io.writing.writer import Segmented


class CocoWriter:
    """Writes an image for each frame, and an annotation with a ``track_id`` for each object in it.

    Masks are compressed run lengths, which are exact. Each object is a category of its own.
    """

    def __init__(
        self, folder: Path, video: VideoSource, given: Collection[int], structures: Structures
    ) -> None:
        self._structures, self._number = structures, 0
        self._shown: set[int] = set()
        self._file = open(folder / "coco.json", "w", encoding="utf-8")  # noqa: SIM115
        size = {"width": video.width, "height": video.height}
        about = {"id": 1, "name": video.name, **size, "length": video.frame_count}
        self._file.write('{"info": {"description": "masks of a video"}, "licenses": [],\n')
        self._file.write(f'"videos": [{json.dumps(about)}],\n"images": [')
        for index in range(video.frame_count):
            image = {
                "id": index + 1, "file_name": f"{index:05d}.png", **size, "video_id": 1,
                "frame_index": index, "frame_id": index,
            }  # fmt: skip
            self._file.write((",\n" if index else "\n") + json.dumps(image))
        self._file.write('],\n"annotations": [')

    def write(self, result: Segmented) -> None:
        for object_id in np.unique(result.labels[result.labels > 0]).tolist():
            mask = result.labels == object_id
            runs = run_lengths(mask)
            rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
            box = [columns[0], rows[0], np.ptp(columns) + 1, np.ptp(rows) + 1]
            self._shown.add(object_id)
            annotation = {
                "id": self._number + 1,
                "image_id": result.index + 1,
                "video_id": 1,
                "category_id": object_id,
                "track_id": object_id,
                "instance_id": object_id,
                "segmentation": {"size": runs["size"], "counts": pack_counts(runs["counts"])},
                "area": int(mask.sum()),
                "bbox": [float(side) for side in box],
                "iscrowd": 0,
            }
            self._file.write((",\n" if self._number else "\n") + json.dumps(annotation))
            self._number += 1

    def finish(self) -> None:
        ids = sorted(self._shown)
        names = {
            i: self._structures[i].name if i in self._structures else f"object {i}" for i in ids
        }
        categories = [{"id": i, "name": names[i], "supercategory": ""} for i in ids]
        tracks = [{"id": i, "category_id": i, "video_id": 1} for i in ids]
        self._file.write(f'],\n"categories": {json.dumps(categories)},\n')
        self._file.write(f'"tracks": {json.dumps(tracks)}}}\n')
        self.close()

    def close(self) -> None:
        self._file.close()
