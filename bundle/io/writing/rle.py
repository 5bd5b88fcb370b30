"""Write ``masks.json``: COCO's uncompressed run lengths of each object in each frame."""

import json
from collections.abc import Collection
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool

from bundle.io.reading.video import VideoSource
from bundle.io.writing.writer import Segmented


def run_lengths(mask: Bool[np.ndarray, "H W"]) -> dict[str, Any]:
    """Encode a mask, (H, W) bool, as COCO does: run lengths down the columns, the first of zeros.

    Example:
        >>> run_lengths(np.array([[False, True], [True, True]]))
        {'size': [2, 2], 'counts': [1, 3]}

    Returns:
        What ``pycocotools.mask.frPyObjects`` reads.
    """
    values = mask.ravel(order="F")
    changes = np.flatnonzero(values[1:] != values[:-1]) + 1
    counts = np.diff([0, *changes, values.size]).tolist()
    return {"size": list(mask.shape), "counts": [0, *counts] if values[0] else counts}


class RleWriter:
    """Writes one line of JSON for each frame, as soon as it is there; see ``run_lengths``.

    ``{"video": ..., "height": ..., "width": ..., "frames": [{"frame": 0, "objects": [{"id": 1,
    "segmentation": {"size": [H, W], "counts": [...]}}, ...]}, ...]}``
    """

    def __init__(self, folder: Path, video: VideoSource, given: Collection[int]) -> None:
        self._file = open(folder / "masks.json", "w", encoding="utf-8")  # noqa: SIM115
        head = {"video": video.name, "height": video.height, "width": video.width}
        self._file.write(json.dumps(head)[:-1] + ', "frames": [')

    def write(self, result: Segmented) -> None:
        objects = [
            {"id": int(object_id), "segmentation": run_lengths(result.labels == object_id)}
            for object_id in np.unique(result.labels)
            if object_id
        ]
        line = json.dumps({"frame": result.index, "objects": objects}, separators=(",", ":"))
        self._file.write(("\n" if result.index == 0 else ",\n") + line)

    def finish(self) -> None:
        self._file.write("\n]}\n")
        self.close()

    def close(self) -> None:
        self._file.close()
