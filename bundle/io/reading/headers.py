"""Read pixel spacing and frame times from the headers of NIfTI and MetaImage files.

Units that a header does not declare are unknown, not millimetres.
"""

from collections.abc import Sequence
from pathlib import Path

import nibabel as nib
import numpy as np

from bundle.io.reading.decode import (
    META_SUFFIXES,
    NIFTI_SUFFIXES,
    NRRD_SUFFIXES,
    explained,
    has_suffix,
    load_nifti,
)
from bundle.io.reading.meta_image import meta_image_reader, read_meta_header

MILLIMETRES = {"micron": 1e-3, "mm": 1.0, "meter": 1e3}
SECONDS = {"sec": 1.0, "msec": 1e-3, "usec": 1e-6}
SLACK_S = 0.001
"""Many containers round timestamps to milliseconds."""
LEAST = 1e-7
"""Of a spacing in mm or a frame rate that is meant; 1 / LEAST is the most."""

Spacing = tuple[float, float]
"""(row, column) distance of pixels, mm."""


def image_spacing(path: Path) -> Spacing | None:
    """Read the pixel spacing of a file, (row, column) in mm; None if the header declares no units.

    Raises:
        ValueError: The header cannot be read.
    """
    with explained(f"cannot open {path}"):
        if has_suffix(path, NIFTI_SUFFIXES):
            return nifti_spacing(load_nifti(path).header)
        if has_suffix(path, META_SUFFIXES):
            return meta_image_spacing(path)
        if has_suffix(path, NRRD_SUFFIXES):
            from bundle.io.reading.nrrd import read_place  # which imports this module

            return read_place(path)[1]
    return None


def nifti_spacing(header: nib.Nifti1Header) -> Spacing | None:
    """Read the pixel spacing of a NIfTI; see ``image_spacing``."""
    zooms = [float(zoom) for zoom in header.get_zooms()]
    mm = MILLIMETRES.get(_units(header)[0], 0.0)
    return known_spacing(zooms[1] * mm, zooms[0] * mm)


def nifti_fps(header: nib.Nifti1Header) -> float | None:
    """Read the frame rate of a NIfTI whose fourth axis is time; None otherwise.

    NIfTI defines only the fourth axis as time. The zoom of a third axis may be anything.
    """
    frame_s = known(float(header.get_zooms()[3]) * SECONDS.get(_units(header)[1], 0.0))
    return 1 / frame_s if frame_s else None


def _units(header: nib.Nifti1Header) -> tuple[str, str]:
    """Read the units of space and time; unknown if the code is not defined."""
    try:
        return header.get_xyzt_units()
    except KeyError:
        return "unknown", "unknown"


def known(value: float) -> float | None:
    """Return a declared rate or distance, or None if it is impossible, such as 0, NaN or 1e30."""
    return value if LEAST < value < 1 / LEAST else None


def known_spacing(row_mm: float, column_mm: float) -> Spacing | None:
    """Return both distances, or None if one is impossible."""
    return (row_mm, column_mm) if known(row_mm) and known(column_mm) else None


def meta_image_times(
    path: Path, count: int, has_time_axis: bool
) -> tuple[float | None, np.ndarray | None]:
    """Read the frame rate of a MetaImage and, if frames are unevenly spaced, their times.

    Uses the timestamps of single frames, as PLUS and SlicerIGT write them; else the step of a fourth
    axis, in seconds. A step of 1 counts as unknown, since many programs write it by default.

    Args:
        path: The file.
        count: Number of frames.
        has_time_axis: Whether time is the fourth axis.
    """
    header = read_meta_header(path)
    seconds = np.array([header.timestamps.get(i, np.nan) for i in range(count)])
    if count > 1 and np.isfinite(seconds).all() and (np.diff(seconds) > 0).all():
        return settle_times(seconds - seconds[0], [], LEAST)
    spacing = meta_image_reader(path).GetSpacing()
    step = known(spacing[3]) if has_time_axis and len(spacing) > 3 else None
    return (1 / step if step and step != 1 else None), None


def settle_times(
    seconds: np.ndarray, rates: Sequence[float], unit: float
) -> tuple[float | None, np.ndarray | None]:
    """Choose the declared rate that agrees with the timestamps, or keep uneven timestamps.

    Args:
        seconds: (F,) rising, from 0 on.
        rates: Declared frame rates, the best one first; 0 if unknown.
        unit: Unit of the timestamps, in seconds: they are rounded to it.

    Returns:
        The rate and None, or the mean rate and the seconds.

    Example:
        >>> settle_times(np.array([0, 0.033, 0.067, 0.1]), [30.0], 0.001)
        (30.0, None)
    """
    mean = (len(seconds) - 1) / float(seconds[-1])
    frames = np.arange(len(seconds))
    for rate in (*(rate for rate in rates if known(rate)), mean):
        slack = min(max(unit, SLACK_S) * 1.01, 0.5 / rate)
        if np.abs(seconds - frames / rate).max() <= slack:
            return known(rate), None
    return known(mean), seconds


def meta_image_spacing(path: Path) -> Spacing | None:
    """Read the pixel spacing of a MetaImage. Not by ITK, which says 1 if the header has none."""
    if not {b"ElementSpacing", b"ElementSize"} & read_meta_header(path).fields.keys():
        return None
    spacing = meta_image_reader(path).GetSpacing()
    return known_spacing(spacing[1], spacing[0])
