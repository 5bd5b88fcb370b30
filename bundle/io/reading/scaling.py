"""Scale pixel values of any type to 8-bit RGB: choose the values that become black and white.

Outliers are ignored. A hot pixel, a burnt-in marker or the padding around a picture has values far from
all others. If these were black and white, the picture itself would be all dark or pale.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from bundle.types import Frame

SAMPLED_PIXELS = 2**16
"""Of one frame, to choose a range by."""
APART = 0.5
"""Share of the whole range from which on a gap without values tells outliers from the picture."""
FEW_VALUES, FEW_PIXELS = 8, 0.01
"""Outliers have at most so many different values, or are at most this share of all pixels."""
MARKER_PIXELS = 0.03
"""Of a constant above the picture, such as a burnt-in text."""
LEAST_VALUES = 16
"""A picture has more different values than this, unless its outliers are ``FEW_PIXELS``."""
TAIL_PERCENT = 0.5
LEAST_SHOWN = 3
"""Grey levels, of 255, that a picture must span to be visible."""


@dataclass(frozen=True, eq=False)
class Window:
    """Which values are shown as black and which as white.

    Attributes:
        low: This value and lower ones are black.
        high: This value and higher ones are white.
        sigmoid: Whether values between follow DICOM's SIGMOID curve instead of a straight line.
        table: (N,) uint8 grey levels of ``low``, ``low + 1`` and so on; None without a table.
    """

    low: float
    high: float
    sigmoid: bool = False
    table: np.ndarray | None = None

    def show(self, values: np.ndarray) -> np.ndarray:
        """Convert values of any type to grey levels, uint8. NaN becomes 0.

        Example:
            >>> Window(1000, 2000).show(np.array([0, 1000, 1500, 9000])).tolist()
            [0, 0, 128, 255]
        """
        if self.table is not None:
            places = np.clip(np.nan_to_num(values) - self.low, 0, len(self.table) - 1)
            shown = self.table[places.astype(np.intp)]
            return np.where(np.isnan(values), 0, shown).astype(np.uint8)
        if self.sigmoid:
            middle, width = (self.low + self.high) / 2, self.high - self.low
            with np.errstate(over="ignore"):
                values = 1 / (1 + np.exp(-4 * (values.astype(np.float64) - middle) / width))
            return _stretch(values, 0.0, 1.0)
        return _stretch(values, self.low, self.high)

    def turned(self) -> "Window":
        """Return the window with black and white exchanged. NaN stays black."""
        if self.table is not None:
            return replace(self, table=~self.table)
        return replace(self, low=self.high, high=self.low)


def value_range(values: np.ndarray) -> tuple[float, float]:
    """Choose the range of values to show as 0 to 255 from the pixels of one frame.

    It is 0 to 255 if all values lie within, else their range without outliers; see ``robust_range``.

    Raises:
        ValueError: No value is finite.
    """
    return (0.0, 255.0) if values.dtype == np.uint8 else choose_range([Drawn.of(values)])


class Drawn(NamedTuple):
    """Sampled values of a frame, to choose a range.

    Attributes:
        sample: (N,) finite values.
        ends: Smallest and largest finite value of the whole frame; see ``finite_ends``.
    """

    sample: np.ndarray
    ends: tuple[float, float]

    @classmethod
    def of(cls, values: np.ndarray) -> "Drawn":
        """Sample a frame of any type."""
        return cls(sample(values), finite_ends(values))


def choose_range(frames: Sequence[Drawn]) -> tuple[float, float]:
    """Choose the range of values to show as 0 to 255 from samples of some frames of one video.

    Raises:
        ValueError: No value is finite.
    """
    samples, ends = zip(*frames, strict=True)
    pixels = np.concatenate(samples)
    if np.isnan(ends).all():
        raise ValueError("none of its values is a finite number")
    lowest, highest = float(np.nanmin(ends)), float(np.nanmax(ends))
    low, high = robust_range(pixels) if pixels.size else (lowest, highest)
    # The samples do not hold the very ends; those are meant, unless they lie far out.
    reach = APART * (high - low)
    if high > low:
        low = lowest if lowest >= low - reach else low
        high = highest if highest <= high + reach else high
    else:
        low, high = lowest, highest
    return (0.0, 255.0) if low >= 0 and 1 < high <= 255 else (low, high)


def sample(values: np.ndarray) -> np.ndarray:
    """Take up to ``SAMPLED_PIXELS`` finite values, evenly spaced over a frame: (N,) float64."""
    step = 1
    while -(-values.shape[0] // step) * -(-values.shape[-1 if values.ndim < 3 else 1] // step) > (
        SAMPLED_PIXELS
    ):
        step += 1
    picked = values[::step, ::step] if values.ndim > 1 else values[::step]
    picked = picked.astype(np.float64).ravel()
    return picked[np.isfinite(picked)]


def robust_range(pixels: np.ndarray) -> tuple[float, float]:
    """Compute the range of values of a picture without outliers.

    Values are outliers if a gap of half of the whole range separates them from the others, and they are
    either one constant value (padding below the picture, a small marker above it) or less than 1 in 100
    pixels. The range extends beyond the percentiles 0.5 and 99.5 by at most the distance between them.

    Args:
        pixels: (N,) finite values.

    Example:
        >>> grey = np.arange(2000.0)
        >>> robust_range(np.append(grey, 32000.0))
        (0.0, 1999.0)
    """
    values, counts = np.unique(pixels, return_counts=True)
    while len(values) > 2:
        gaps = np.diff(values)
        cut = int(gaps.argmax()) + 1
        if gaps[cut - 1] <= APART * (values[-1] - values[0]):
            break
        below, above = slice(None, cut), slice(cut, None)
        odd, rest = (below, above) if cut < len(values) - cut else (above, below)
        share = counts[odd].sum() / counts.sum()
        kept, left_out = len(values[rest]), len(values[odd])
        if share <= FEW_PIXELS:
            outside = kept > max(2, left_out)
        else:
            # Padding may be most of a picture, which markers are not: a bright structure stays.
            padding = odd == below or share <= MARKER_PIXELS
            outside = padding and left_out <= FEW_VALUES and kept > LEAST_VALUES
        if not outside:
            break
        values, counts = values[rest], counts[rest]
    shares = np.cumsum(counts) / counts.sum()
    low = values[np.searchsorted(shares, TAIL_PERCENT / 100)]
    high = values[min(int(np.searchsorted(shares, 1 - TAIL_PERCENT / 100)), len(values) - 1)]
    body = high - low
    if body > 0:
        return float(max(values[0], low - body)), float(min(values[-1], high + body))
    return float(values[0]), float(values[-1])


def is_visible(shown: np.ndarray) -> bool:
    """Whether grey levels differ enough to see something; a few outliers do not count."""
    low, high = np.percentile(shown, [TAIL_PERCENT, 100 - TAIL_PERCENT])
    return bool(high - low >= LEAST_SHOWN)


def finite_ends(values: np.ndarray) -> tuple[float, float]:
    """Find the smallest and the largest finite value; NaN if there is none."""
    finite = values if values.dtype.kind in "biu" else values[np.isfinite(values)]
    return (float(finite.min()), float(finite.max())) if finite.size else (np.nan, np.nan)


def to_uint8(values: np.ndarray, low: float, high: float) -> np.ndarray:
    """Map [low, high] linearly to 0..255, NaN to 0; values of uint8 pass unchanged."""
    return values if values.dtype == np.uint8 else _stretch(values, low, high)


def _stretch(values: np.ndarray, low: float, high: float) -> np.ndarray:
    scale = 255 / (high - low) if high != low else 0.0
    wide = np.float64 if values.dtype.itemsize > 4 else np.float32
    with np.errstate(over="ignore", invalid="ignore"):  # infinities come out at the ends
        scaled: npt.NDArray[np.floating] = values.astype(wide)
        # In place from here: frames may be large.
        scaled -= low
        scaled *= scale
        np.rint(scaled, out=scaled)
    np.nan_to_num(scaled, copy=False, nan=0.0)
    return np.clip(scaled, 0, 255, out=scaled).astype(np.uint8)


def to_rgb(pixels: np.ndarray) -> Frame:
    """Convert (H, W) grey or (H, W, 3 or 4) colours to (H, W, 3); transparency is dropped."""
    if pixels.ndim == 2:
        return np.repeat(pixels[..., None], 3, axis=2)
    return np.ascontiguousarray(pixels[..., :3])
