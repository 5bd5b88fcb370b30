"""Values of any type as 8 bits of RGB."""

import numpy as np
import numpy.typing as npt

from bundle.types import Frame


def value_range(values: np.ndarray) -> tuple[float, float]:
    """The range that ``to_uint8`` maps to 0..255: that of the data, 0..255 for data that fit it.

    Raises:
        ValueError: No value is finite.
    """
    if values.dtype == np.uint8:
        return 0.0, 255.0
    low, high = finite_ends(values)
    if np.isnan(low):
        raise ValueError("none of its values is a finite number")
    return (0.0, 255.0) if low >= 0 and 1 < high <= 255 else (low, high)


def finite_ends(values: np.ndarray) -> tuple[float, float]:
    """The least and the largest value that is neither infinite nor NaN; NaN if there is none."""
    finite = values[np.isfinite(values)]
    return (float(finite.min()), float(finite.max())) if finite.size else (np.nan, np.nan)


def to_uint8(values: np.ndarray, low: float, high: float) -> np.ndarray:
    """Map [low, high] linearly to 0..255, NaN to 0; values of uint8 pass unchanged."""
    if values.dtype == np.uint8:
        return values
    scale = 255 / (high - low) if high > low else 0.0
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
    """(H, W) grey or (H, W, 3 or 4) colours as (H, W, 3): grey repeated, transparency dropped."""
    if pixels.ndim == 2:
        return np.repeat(pixels[..., None], 3, axis=2)
    return np.ascontiguousarray(pixels[..., :3])
