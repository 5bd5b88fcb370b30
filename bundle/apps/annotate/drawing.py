"""Drawing tools of the page: brush, eraser, polygon, fill, close holes. Each returns a new label map.

Points are (x, y) in pixels from the top left corner of the frame, so that the centre of the first
pixel is (0.5, 0.5). Labels are (H, W); 0 erases.
"""

from collections.abc import Callable, Sequence
from itertools import pairwise

import numpy as np
from scipy import ndimage
from skimage.draw import polygon2mask
from skimage.segmentation import flood

from bundle.types import LabelMap

Point = Sequence[float]


def paint(labels: LabelMap, points: Sequence[Point], size: float, value: int) -> LabelMap:
    """Paint a stroke of a round brush along points: every pixel whose centre it covers.

    Args:
        labels: Label map to paint on.
        points: Points of the stroke; a single one makes a dot.
        size: Diameter in pixels.
        value: Object id.

    Raises:
        ValueError: There are no points, or the stroke misses the frame.
    """
    if not points:
        raise ValueError("the stroke has no points: hold the button down and draw")
    line = np.array(points, dtype=float)
    radius = max(size, 1) / 2
    touched = np.zeros(labels.shape, bool)
    for start, end in pairwise([line[0], *line]):
        _touch(touched, start, end, radius)
    return _put(labels, touched, value, "the stroke")


def _touch(touched: np.ndarray, start: np.ndarray, end: np.ndarray, radius: float) -> None:
    """Mark the pixels whose centres are within a radius of a line from start to end."""
    # Only where they can be: strokes are long, their steps short.
    low = np.floor(np.minimum(start, end) - radius).astype(int).clip(0)
    high = np.ceil(np.maximum(start, end) + radius).astype(int).clip(0)
    x, y = np.arange(low[0], min(high[0], touched.shape[1])), np.arange(low[1], high[1])[:, None]
    y = y[y[:, 0] < touched.shape[0]]
    (dx, dy), (px, py) = end - start, (x + 0.5 - start[0], y + 0.5 - start[1])
    along = ((px * dx + py * dy) / max(dx * dx + dy * dy, 1e-9)).clip(0, 1)
    near = (px - along * dx) ** 2 + (py - along * dy) ** 2 <= radius**2
    touched[low[1] : low[1] + len(y), low[0] : low[0] + len(x)] |= near


def fill_polygon(labels: LabelMap, points: Sequence[Point], value: int) -> LabelMap:
    """Fill a polygon: every pixel whose centre is inside.

    Raises:
        ValueError: The polygon has fewer than three corners, or holds no pixel of the frame.
    """
    if len(points) < 3:
        raise ValueError(f"the polygon has {len(points)} corners: set at least 3")
    corners = np.array(points, dtype=float)[:, ::-1] - 0.5
    return _put(labels, polygon2mask(labels.shape, corners), value, "the polygon")


def flood_fill(labels: LabelMap, points: Sequence[Point], value: int) -> LabelMap:
    """Fill the connected region of equal label around the last point.

    Raises:
        ValueError: There is no point, or it misses the frame; or it is background that reaches the
            frame's edge, so that all of it would be filled.
    """
    x, y = (int(np.floor(value)) for value in (points or [(-1, -1)])[-1])
    if not (0 <= y < labels.shape[0] and 0 <= x < labels.shape[1]):
        raise ValueError("the fill lies outside of the frame: click into it")
    region = flood(labels, (y, x), connectivity=1)
    on_edge = region[0].any() or region[-1].any() or region[:, 0].any() or region[:, -1].any()
    if labels[y, x] == 0 and on_edge:
        raise ValueError("the outline is open, the fill would run over the frame: close it first")
    return _put(labels, region, value, "the fill")


def close_holes(labels: LabelMap, value: int) -> LabelMap:
    """Fill background that is enclosed by an object with that object."""
    holes = ndimage.binary_fill_holes(labels == value) & (labels == 0)
    return np.where(holes, np.uint8(value), labels)


def _put(labels: LabelMap, where: np.ndarray, value: int, what: str) -> LabelMap:
    if not where.any():
        raise ValueError(f"{what} lies outside of the frame: draw inside of it")
    return np.where(where, np.uint8(value), labels)


TOOLS: dict[str, Callable[[LabelMap, Sequence[Point], float, int], LabelMap]] = {
    "brush": paint,
    "eraser": lambda labels, points, size, value: paint(labels, points, size, 0),
    "polygon": lambda labels, points, size, value: fill_polygon(labels, points, value),
    "fill": lambda labels, points, size, value: flood_fill(labels, points, value),
    "holes": lambda labels, points, size, value: close_holes(labels, value),
    "clear": lambda labels, points, size, value: np.zeros_like(labels),
}
"""By name; each takes labels, points, brush size in pixels and object id."""
