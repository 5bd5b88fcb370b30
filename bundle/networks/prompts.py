"""Turn prompts (boxes, points, scribbles, rough masks) into partial masks; place simulated clicks.

H x W is a frame. A partial mask has two maps: the object's mask, known or guessed, and where it is a
guess. Together they give each pixel one of three states: surely object (1, 0), surely not (0, 0), or
unknown (guess, 1).
"""

from collections.abc import Sequence
from typing import NamedTuple

import cv2
import numpy as np
from jaxtyping import Bool, Float32, Shaped

POINT_RADIUS = 0.02
"""Radius of the disk that a point or a scribble's pen draws, as a share of the frame's shorter side."""


class PartialMask(NamedTuple):
    """The partial mask of one object in one frame.

    Attributes:
        mask: The object, in [0, 1].
        unknown: 1 where ``mask`` is a guess, else 0.
    """

    mask: Float32[np.ndarray, "H W"]
    unknown: Float32[np.ndarray, "H W"]


def from_box(shape: tuple[int, int], box: tuple[float, float, float, float]) -> PartialMask:
    """Partial mask from a box: outside is surely not the object; inside, its ellipse is the guess.

    Args:
        shape: (height, width) of the frame.
        box: Left, top, right, bottom in pixels; right and bottom are exclusive.

    Raises:
        ValueError: The box has no area within the frame.

    Example:
        >>> part = from_box((40, 60), (10, 5, 50, 35))
        >>> int(part.unknown.sum()), part.mask[20, 30], part.mask[6, 11]
        (1200, np.float32(1.0), np.float32(0.0))
    """
    height, width = shape
    left, top, right, bottom = box
    if min(right, width) - max(left, 0) < 1 or min(bottom, height) - max(top, 0) < 1:
        raise ValueError(
            f"box {left:g},{top:g},{right:g},{bottom:g} has no area in a frame of {width}x{height}: "
            "give left,top,right,bottom in pixels, right of left and below top"
        )
    y, x = np.mgrid[:height, :width] + 0.5
    inside = (x > left) & (x < right) & (y > top) & (y < bottom)
    across = (2 * x - left - right) / (right - left)
    down = (2 * y - top - bottom) / (bottom - top)
    ellipse = (across**2 + down**2 < 1) & inside
    return PartialMask(ellipse.astype(np.float32), inside.astype(np.float32))


def from_points(
    shape: tuple[int, int],
    points: Sequence[tuple[float, float]],
    positive: Sequence[bool | int],
    guess: Shaped[np.ndarray, "H W"] | None = None,
) -> PartialMask:
    """Partial mask from points on the object and beside it; a later point overwrites earlier ones.

    Args:
        shape: (height, width) of the frame.
        points: (x, y) in pixels.
        positive: For each point, whether it is on the object.
        guess: Mask that the points correct, in [0, 1]; empty by default.

    Raises:
        ValueError: There is no point, a point is outside the frame, or the numbers differ.

    Example:
        >>> part = from_points((50, 50), [(20, 10), (40, 40)], [1, 0])
        >>> part.mask[10, 20], part.mask[40, 40], part.unknown[40, 40], part.unknown[25, 25]
        (np.float32(1.0), np.float32(0.0), np.float32(0.0), np.float32(1.0))
    """
    height, width = shape
    if not points or len(points) != len(positive):
        raise ValueError(
            f"expected points and for each 1 (on the object) or 0 (beside it), got {len(points)} "
            f"points and {len(positive)} of these"
        )
    mask = np.zeros(shape, np.float32) if guess is None else guess.astype(np.float32)
    unknown = np.ones(shape, np.float32)
    radius = point_radius(shape)
    for (x, y), on in zip(points, positive, strict=True):
        if not (0 <= x < width and 0 <= y < height):
            raise ValueError(
                f"point {x:g},{y:g} lies outside of the frame, which is {width}x{height} pixels"
            )

        cv2.circle(mask, (int(x), int(y)), radius, float(bool(on)), thickness=-1)
        cv2.circle(unknown, (int(x), int(y)), radius, 0.0, thickness=-1)
    return PartialMask(mask, unknown)


def from_scribble(
    shape: tuple[int, int],
    points: Sequence[tuple[float, float]],
    positive: bool | int = True,
    onto: PartialMask | None = None,
) -> PartialMask:
    """Partial mask from a line drawn on the object or beside it.

    Args:
        shape: (height, width) of the frame.
        points: (x, y) of the line's corners, in pixels.
        positive: Whether the line is on the object.
        onto: Partial mask to draw on; by default everything is unknown.

    Raises:
        ValueError: There is no point.

    Example:
        >>> part = from_scribble((50, 50), [(5, 25), (45, 25)])
        >>> part.mask[25, 30], part.unknown[25, 30], part.unknown[5, 5]
        (np.float32(1.0), np.float32(0.0), np.float32(1.0))
    """
    if not points:
        raise ValueError("expected a scribble of at least one point, got none")
    if onto is None:
        onto = PartialMask(np.zeros(shape, np.float32), np.ones(shape, np.float32))
    mask, unknown = onto.mask.copy(), onto.unknown.copy()
    line = np.round(np.array(points, float)).astype(np.int32)[:, None]
    thick = 2 * point_radius(shape)
    cv2.polylines(mask, [line], False, float(bool(positive)), thickness=thick)
    cv2.polylines(unknown, [line], False, 0.0, thickness=thick)
    return PartialMask(mask, unknown)


def from_rough_mask(mask: Shaped[np.ndarray, "H W"], margin: float = 0.1) -> PartialMask:
    """Partial mask from a mask whose outline is not exact.

    Args:
        mask: Non-zero on the object.
        margin: Width of the unknown band on each side of the outline, as a share of the diameter of a
            disk of the mask's area.

    Raises:
        ValueError: The mask is empty.

    Example:
        >>> disk = np.hypot(*np.mgrid[-20:20, -20:20]) < 10
        >>> part = from_rough_mask(disk)
        >>> part.unknown[20, 20], part.unknown[20, 30], part.unknown[0, 0]
        (np.float32(0.0), np.float32(1.0), np.float32(0.0))
    """
    inside = (mask > 0).astype(np.uint8)
    if not inside.any():
        raise ValueError("expected a mask of an object, got an empty one")
    reach = max(1, round(margin * 2 * np.sqrt(inside.sum() / np.pi)))
    pen = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * reach + 1, 2 * reach + 1))
    band = cv2.dilate(inside, pen) - cv2.erode(inside, pen)
    return PartialMask(inside.astype(np.float32), band.astype(np.float32))


def limit_changes(
    before: Bool[np.ndarray, "H W"],
    after: Bool[np.ndarray, "H W"],
    hints: Bool[np.ndarray, "H W"],
) -> Bool[np.ndarray, "H W"]:
    """Change a mask only in those regions that differ and that a hint touches.

    A network that is asked about one spot may spoil the rest of a good mask.

    Args:
        before: The mask that was corrected.
        after: The network's answer.
        hints: Pixels of points and scribbles.

    Source:
        "Progressive merge" of FocalClick, Chen et al. 2022, arXiv:2204.02574.

    Example:
        >>> before, after = np.array([[1, 1, 0, 0, 0]], bool), np.array([[1, 0, 0, 1, 1]], bool)
        >>> limit_changes(before, after, np.array([[0, 0, 0, 0, 1]], bool)).astype(int)
        array([[1, 1, 0, 1, 1]])
    """
    _, regions = cv2.connectedComponents((before != after).astype(np.uint8), connectivity=8)
    touched = np.setdiff1d(regions[hints], [0])
    changed: Bool[np.ndarray, "H W"] = np.where(np.isin(regions, touched), after, before)
    return changed


def click_error(
    truth: Bool[np.ndarray, "H W"], found: Bool[np.ndarray, "H W"]
) -> tuple[tuple[float, float], bool] | None:
    """Simulate the next click: the middle of the largest error region, and whether it is object.

    The middle is the pixel farthest from the region's edge.

    Returns:
        ((x, y), positive); None if there is no error.

    Source:
        Xu et al. 2016, arXiv:1603.04042; the usual way of interactive evaluations since then.

    Example:
        >>> truth = np.zeros((9, 9), bool)
        >>> truth[2:7, 2:7] = True
        >>> click_error(truth, np.zeros((9, 9), bool))
        ((4.0, 4.0), True)
    """
    parts, areas = _regions(truth != found)
    if not len(areas):
        return None
    inside = np.pad((parts == 1 + int(np.argmax(areas))).astype(np.uint8), 1)
    depth = cv2.distanceTransform(inside, cv2.DIST_L2, cv2.DIST_MASK_PRECISE)[1:-1, 1:-1]
    row, column = np.unravel_index(int(depth.argmax()), depth.shape)
    return (float(column), float(row)), bool(truth[row, column])


def largest_region(mask: Bool[np.ndarray, "H W"]) -> int:
    """Number of pixels of the largest connected region of a mask, 0 if it is empty.

    Example:
        >>> largest_region(np.array([[True, True, False], [False, False, True]]))
        2
    """
    return int(max(_regions(mask)[1], default=0))


def _regions(mask: Bool[np.ndarray, "H W"]) -> tuple[np.ndarray, np.ndarray]:
    """Number of the region of each pixel, from 1, and the area of each region in pixels."""
    _, parts, stats, _ = cv2.connectedComponentsWithStats(mask.astype(np.uint8), connectivity=4)
    return parts, stats[1:, cv2.CC_STAT_AREA]


def point_radius(shape: tuple[int, int]) -> int:
    """Radius in pixels of a point's disk in a frame of (height, width)."""
    return max(2, round(POINT_RADIUS * min(shape)))
