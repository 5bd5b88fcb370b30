"""Masks in NRRD: 3D Slicer's ``.seg.nrrd``, and label volumes in ``.nrrd``."""

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import nrrd
import numpy as np

from bundle.io.reading.decode import explained
from bundle.io.reading.labels import whole_numbers
from bundle.io.reading.limits import check_inflated, check_stored
from bundle.io.reading.volumes import Geometry, VideoSource

LAYERS = ("list", "vector", "none", "???")


def open_segmentation(path: Path) -> VideoSource:
    """Open a segmentation of 3D Slicer, or any label volume in NRRD, as a volume of labels.

    Layers, which hold segments that overlap, are laid on one another. Ids are the segments' label
    values; where two layers use one value, segments are numbered in order.

    Raises:
        ValueError: It is damaged, or not (x, y, t) with layers before or without.
    """
    with explained(f"cannot open {path} as NRRD"):
        header = nrrd.read_header(str(path))
        sizes = [int(size) for size in header["sizes"]]
        declared = math.prod(sizes) * _voxel_bytes(str(header["type"]))
    check_inflated(path, declared)
    if "data file" not in header and "datafile" not in header:
        check_stored(path, declared, path.stat().st_size)
    with explained(f"cannot read {path} as NRRD"):
        labels, header = nrrd.read(str(path))
    kinds = list(header.get("kinds") or ["domain"] * len(sizes))
    directions = header.get("space directions")
    if labels.ndim == 4 and (
        kinds[0] in LAYERS or (directions is not None and np.isnan(directions[0]).all())
    ):
        labels = _flatten(labels, _segments(header), path)
        directions = None if directions is None else directions[1:]
    elif labels.ndim == 4 and 1 in labels.shape[2:]:
        labels = labels[:, :, 0] if labels.shape[2] == 1 else labels[..., 0]
        directions = None
    if labels.ndim == 2:
        labels = labels[:, :, None]
    if labels.ndim != 3:
        raise ValueError(f"{path} has shape {tuple(sizes)}: expected label numbers over (x, y, t)")
    return VideoSource(
        path=path,
        name=path.name.split(".")[0],
        height=labels.shape[1],
        width=labels.shape[0],
        frame_count=labels.shape[2],
        fps=None,
        spacing_mm=None,
        geometry=Geometry(labels.shape, _affine(header, directions)),
        read=partial(_read, labels),
    )


def _voxel_bytes(kind: str) -> int:
    """Of one of NRRD's names of types."""
    sizes = {"char": 1, "int8": 1, "short": 2, "16": 2, "double": 8, "long long": 8, "64": 8}
    return next((size for word, size in sizes.items() if word in kind), 4)


def _read(labels: np.ndarray, indices: Sequence[int]) -> Iterator[np.ndarray]:
    for index in indices:
        yield labels[:, :, index].T


def _segments(header: Mapping[str, Any]) -> list[tuple[int, int]]:
    """Layer and label value of each segment."""
    found = {}
    for key in header:
        match = re.fullmatch("Segment([0-9]+)_LabelValue", key)
        if match:
            layer = int(header.get(f"Segment{match[1]}_Layer", 0))
            found[int(match[1])] = (layer, int(header[key]))
    return [found[number] for number in sorted(found)]


def _flatten(labels: np.ndarray, segments: Sequence[tuple[int, int]], path: Path) -> np.ndarray:
    values = [value for _, value in segments]
    own = len(set(values)) == len(values)
    flat = np.zeros(labels.shape[1:], dtype=np.uint8)
    if not segments:
        segments = [
            (layer, int(value))
            for layer in range(len(labels))
            for value in np.unique(labels[layer][labels[layer] > 0])
        ]
        own = len({value for _, value in segments}) == len(segments)
    for number, (layer, value) in enumerate(segments, start=1):
        shown = labels[layer] == value
        wanted = np.array([[value if own else number]])
        flat[shown] = whole_numbers(wanted, str(path))[0, 0]
    return flat


def _affine(header: Mapping[str, Any], directions: np.ndarray | None) -> np.ndarray:
    """(4, 4), voxels to RAS; of files without a place, as of videos without one."""
    affine = np.diag([-1.0, -1.0, 1.0, 1.0])
    origin = header.get("space origin")
    if directions is None or np.shape(directions) != (3, 3) or not np.isfinite(directions).all():
        return affine
    affine = np.eye(4)
    affine[:3, :3] = np.asarray(directions).T
    if origin is not None:
        affine[:3, 3] = origin
    space = str(header.get("space", "left-posterior-superior")).lower()
    words = [part[0] for part in space.split("-")] if "-" in space else list(space)
    signs = [-1.0 if words[:1] == ["l"] else 1.0, -1.0 if words[1:2] == ["p"] else 1.0, 1.0, 1.0]
    return np.diag(signs) @ affine
