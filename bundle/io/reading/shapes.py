"""Convert polygons, ellipses and run lengths of annotation files to masks, after checking their sizes.

Masks are (H, W). Coordinates are in pixels from the upper left corner of the frame, so the centre of
the first pixel is at (0.5, 0.5).
"""

import json
import logging
from collections import Counter
from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from skimage import draw

from bundle.io.reading.labels import StoredMask
from bundle.io.reading.limits import DeclaredSizeError, check_size
from bundle.io.reading.mask_volumes import Masks

logger = logging.getLogger(__name__)

MAX_TEXT_BYTES = 2**28
"""Of a file of outlines or run lengths, which is read as a whole."""
MAX_POINTS = 10**6


@dataclass(frozen=True, eq=False)
class Shape:
    """One object in one frame.

    Attributes:
        frame: Index of the frame.
        name: Identifies the object in all frames, such as a track; None if the file does not say.
        kind: Class of the object, such as a label or a category.
        mask: (H, W) bool.
    """

    frame: int
    name: Hashable | None
    kind: Hashable
    mask: np.ndarray


def check_text(path: Path) -> None:
    """Check that a text file is small enough to be read as a whole.

    Raises:
        DeclaredSizeError: It has more than ``MAX_TEXT_BYTES``.
    """
    if path.stat().st_size > MAX_TEXT_BYTES:
        raise DeclaredSizeError(
            f"{path} has more than {MAX_TEXT_BYTES} bytes: export the masks as a label volume"
        )


def load_json(path: Path) -> Any:
    """Read a JSON file.

    Raises:
        DeclaredSizeError: It is too large.
        ValueError: It is not valid JSON.
    """
    check_text(path)
    try:
        return json.loads(path.read_text(encoding="utf-8-sig"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is not valid JSON ({error}): export it again") from error


def paint(shapes: Iterable[Shape], source: str) -> Masks:
    """Draw shapes into label maps. Where they overlap, the later one is on top, with a warning.

    If the names are numbers from 1 to 255, they are the ids. Other names are numbered in order. Shapes
    without names are numbered by kind: all shapes of a kind are one object, unless only one frame has
    shapes.

    Args:
        shapes: Shapes of all frames.
        source: Name for messages.
    """
    shapes = list(shapes)
    frames = sorted({shape.frame for shape in shapes})
    names = [
        shape.name if shape.name is not None
        else (shape.kind if len(frames) > 1 else ("part", number))
        for number, shape in enumerate(shapes)
    ]  # fmt: skip
    ids = _number(names, source)
    overlaps: list[int] = []
    for frame in frames:
        values = None
        for shape, name in zip(shapes, names, strict=True):
            if shape.frame == frame:
                if values is None:
                    values = np.zeros(shape.mask.shape, dtype=np.uint8)
                if shape.mask.shape != values.shape:
                    raise ValueError(
                        f"{source} has masks of two sizes in frame {frame}: export anew"
                    )
                if np.isin(values[shape.mask], (0, ids[name]), invert=True).any():
                    overlaps.append(frame)
                values[shape.mask] = ids[name]
        assert values is not None
        yield frame, StoredMask(values, "exact", f"frame {frame} of {source}")
    if overlaps:
        tell_overlap(min(overlaps), source)


def tell_overlap(frame: int, source: str) -> None:
    """Log that objects overlap, since a pixel of a label map belongs to one object only."""
    logger.warning("%s: objects overlap, first in frame %d: the later one is on top", source, frame)


def tell_left_out(kinds: Iterable[str], source: str) -> None:
    """Log which shapes are left out because they have no area."""
    counts = Counter(kinds)
    if counts:
        logger.warning(
            "%s: %s have no mask and are left out",
            source,
            ", ".join(f"{count} of the kind {kind}" for kind, count in sorted(counts.items())),
        )


def _number(names: Sequence[Hashable], source: str) -> dict[Hashable, int]:
    present = list(dict.fromkeys(names))
    if all(isinstance(name, int) and 1 <= name <= 255 for name in present):
        return {name: int(str(name)) for name in present}
    if len(present) > 255:
        raise ValueError(f"{source} holds {len(present)} objects: expected at most 255")
    if all(isinstance(name, int) for name in present):
        present = sorted(present, key=lambda name: int(str(name)))
    return {name: number for number, name in enumerate(present, start=1)}


def polygon(points: Sequence[Sequence[float]], height: int, width: int) -> np.ndarray:
    """Fill a polygon: (H, W) bool, the pixels whose centres lie inside; if none, those on the outline.

    Raises:
        ValueError: It has fewer than three points, too many, or points that are not pairs of numbers.
    """
    if not 3 <= len(points) <= MAX_POINTS:
        raise ValueError(f"a polygon has {len(points)} points: expected 3 to {MAX_POINTS}")
    outline = np.asarray(points, dtype=float)
    if outline.shape != (len(points), 2) or not np.isfinite(outline).all():
        raise ValueError("a polygon has points that are not pairs of numbers")
    mask = np.zeros((height, width), dtype=bool)
    outline = np.clip(outline, -2.0 * max(height, width), 3.0 * max(height, width))
    rows, columns = draw.polygon(outline[:, 1] - 0.5, outline[:, 0] - 0.5, (height, width))
    mask[rows, columns] = True
    if not mask.any():
        x, y = np.floor(outline).astype(int).T
        for i in range(len(x)):
            rows, columns = draw.line(y[i - 1], x[i - 1], y[i], x[i])
            inside = (rows >= 0) & (rows < height) & (columns >= 0) & (columns < width)
            mask[rows[inside], columns[inside]] = True
    return mask


def ellipse(
    centre: tuple[float, float], radii: tuple[float, float], height: int, width: int
) -> np.ndarray:
    """Fill an ellipse: (H, W) bool, at least one pixel. Centre and radii are (x, y) in pixels."""
    y, x = np.ogrid[:height, :width]
    rx, ry = max(radii[0], 1e-9), max(radii[1], 1e-9)
    inside = ((x + 0.5 - centre[0]) / rx) ** 2 + ((y + 0.5 - centre[1]) / ry) ** 2 <= 1
    row, column = int(np.floor(centre[1])), int(np.floor(centre[0]))
    if 0 <= row < height and 0 <= column < width:
        inside[row, column] = True
    return np.asarray(inside)


def run_mask(counts: Sequence[int], height: int, width: int, *, down: bool) -> np.ndarray:
    """Decode run lengths to a mask, (H, W) bool. The first run is of zeros.

    Args:
        counts: Lengths of the runs; their sum is H x W.
        height: H.
        width: W.
        down: Whether runs go down the columns, as in COCO, instead of along the rows.

    Raises:
        ValueError: The sum is not H x W.
    """
    check_size(Path("a mask"), height, width)
    lengths = np.asarray(counts, dtype=np.int64)
    if lengths.ndim != 1 or (lengths < 0).any() or lengths.sum() != height * width:
        raise ValueError(
            f"run lengths sum up to {int(lengths.sum())}, expected {height}x{width} = {height * width}"
        )
    values = np.repeat(np.arange(len(lengths)) % 2 == 1, lengths)
    return values.reshape((height, width), order="F" if down else "C")


def coco_mask(segmentation: Any, height: int, width: int) -> np.ndarray:
    """Decode polygons, run lengths or compressed run lengths of COCO to a mask, (H, W) bool.

    Raises:
        ValueError: It is none of them, or of another size.
    """
    if isinstance(segmentation, dict):
        size = [int(side) for side in segmentation["size"]]
        if size != [height, width]:
            raise ValueError(f"run lengths are for {size}, expected [{height}, {width}]")
        counts = segmentation["counts"]
        if isinstance(counts, str):
            counts = unpack_counts(counts)
        return run_mask(counts, height, width, down=True)
    mask = np.zeros((height, width), dtype=bool)
    for part in segmentation:
        mask |= polygon(np.reshape(part, (-1, 2)).tolist(), height, width)
    return mask


def unpack_counts(text: str) -> list[int]:
    """Unpack COCO's compressed run lengths: 5 bits a character; from the third run on, differences.

    Example:
        >>> unpack_counts("13")
        [1, 3]
    """
    counts: list[int] = []
    value, shift = 0, 0
    for byte in text.encode("ascii"):
        part = byte - 48
        value |= (part & 31) << shift
        shift += 5
        if part & 32:
            continue
        if part & 16:
            value |= -1 << shift
        counts.append(value + (counts[-2] if len(counts) > 2 else 0))
        value, shift = 0, 0
    return counts


def pack_counts(counts: Sequence[int]) -> str:
    """Pack run lengths as COCO does; the inverse of ``unpack_counts``."""
    packed = bytearray()
    for i, count in enumerate(counts):
        value, more = count - (counts[i - 2] if i > 2 else 0), True
        while more:
            part = value & 31
            value >>= 5
            more = value != -1 if part & 16 else value != 0
            packed.append(48 + (part | 32 if more else part))
    return packed.decode("ascii")
