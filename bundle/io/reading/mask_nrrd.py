"""Read masks from NRRD: segmentations of 3D Slicer, with overlapping segments too, and label volumes.

Frames are (H, W). Axes are listed as in the header, the fastest first.
"""

import re
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path

import numpy as np

from bundle.io.reading.decode import explained, has_suffix
from bundle.io.reading.labels import whole_numbers
from bundle.io.reading.nrrd import NrrdAxes, NrrdFile, open_nrrd, read_axes_place, read_nrrd
from bundle.io.reading.shapes import tell_overlap
from bundle.io.reading.volumes import Geometry, VideoSource, source_name

SEGMENTATION_SUFFIXES = (".seg.nrrd", ".seg.nhdr")
LAYERS = ("list", "vector", "none", "???")

Segment = tuple[int, int]
"""Layer and label value."""


def open_labels(path: Path) -> VideoSource:
    """Open masks in NRRD as a label volume: a segmentation, labels over time or a sequence.

    3D Slicer stores overlapping segments in layers. They are merged; a later segment covers an
    earlier one. Ids are the label values of the segments. If two layers use the same value,
    segments are numbered in order.

    Raises:
        ValueError: The file is damaged, or is neither a segmentation (x, y, t), with or without layers,
            nor one slice over time.
    """
    file = read_nrrd(path)
    with explained(f"cannot read the header of {path}"):
        segments = _segments(file)
    if not segments and not has_suffix(path, SEGMENTATION_SUFFIXES):
        return open_nrrd(path)
    layers, space = _find_layers(file)
    with explained(f"cannot read the header of {path}"):
        affine, _ = read_axes_place(file, NrrdAxes(space, space[2], layers))
    width, height, count = (file.sizes[axis] for axis in space)
    return VideoSource(
        path=path,
        name=source_name(path),
        height=height,
        width=width,
        frame_count=count,
        fps=None,
        spacing_mm=None,
        geometry=Geometry((width, height, count), affine),
        read=partial(_read, file, space, layers, segments),
    )


def _find_layers(file: NrrdFile) -> tuple[int | None, tuple[int, ...]]:
    """Find the axis of the layers, None if there is one layer, and the axes of x, y and time."""
    directions = file.fields.get("space directions")
    layers = None
    if len(file.sizes) == 4:
        none = [] if directions is None else [np.isnan(each).all() for each in directions]
        layers = next(
            (i for i in (0, 3) if file.kinds[i] in LAYERS or (len(none) == 4 and none[i])), 0
        )
    space = tuple(axis for axis in range(len(file.sizes)) if axis != layers)
    if len(space) != 3:
        raise ValueError(
            f"{file.path} has sizes {list(file.sizes)}: expected label numbers over (x, y, t), with "
            "or without layers"
        )
    return layers, space


def _segments(file: NrrdFile) -> list[Segment]:
    found = {}
    for key, value in file.fields.items():
        if match := re.fullmatch("Segment([0-9]+)_LabelValue", key):
            layer = int(file.fields.get(f"Segment{match[1]}_Layer", 0))
            found[int(match[1])] = (layer, int(value))
    return [found[number] for number in sorted(found)]


def _read(
    file: NrrdFile,
    space: tuple[int, ...],
    layers: int | None,
    segments: Sequence[Segment],
    indices: Sequence[int],
) -> Iterator[np.ndarray]:
    """Read the labels, (H, W), at positions of the third axis."""
    if layers is None:
        yield from file.slices(space[2], indices)
        return
    segments = segments or _values(file, layers)
    values = [value for _, value in segments]
    own = len(set(values)) == len(values)
    ids = whole_numbers(
        np.array([values if own else range(1, len(values) + 1)]), f"the segments of {file.path}"
    )[0]
    told = False
    for index, frame in zip(indices, file.slices(space[2], indices), strict=True):
        stack = np.moveaxis(frame, -1 if layers == 0 else 0, 0)  # (layer, H, W)
        flat = np.zeros(stack.shape[1:], dtype=np.uint8)
        for object_id, (layer, value) in zip(ids, segments, strict=True):
            if not 0 <= layer < len(stack):
                raise ValueError(
                    f"{file.path} has {len(stack)} layers and a segment on layer {layer}: save it "
                    "again"
                )
            shown = stack[layer] == value
            if np.isin(flat[shown], (0, object_id), invert=True).any():
                if not told:
                    tell_overlap(index, str(file.path))
                told = True
            flat[shown] = object_id
        yield flat


def _values(file: NrrdFile, layers: int) -> list[Segment]:
    """Read the values of the layers, for files whose header does not list segments."""
    return [
        (layer, int(value))
        for layer, values in enumerate(file.slices(layers, range(file.sizes[layers])))
        for value in np.unique(values[values > 0]).tolist()
    ]
