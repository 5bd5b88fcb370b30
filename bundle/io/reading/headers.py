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
    """Distance of a file's pixels, (row, column) in mm; None unless the header declares units.

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
    """As ``image_spacing``."""
    zooms = [float(zoom) for zoom in header.get_zooms()]
    mm = MILLIMETRES.get(_units(header)[0], 0.0)
    return known_spacing(zooms[1] * mm, zooms[0] * mm)


def nifti_fps(header: nib.Nifti1Header) -> float | None:
    """Frames per second, if time is the fourth axis.

    Only that one is time to NIfTI; writers fill the zoom of a third one with anything.
    """
    frame_s = known(float(header.get_zooms()[3]) * SECONDS.get(_units(header)[1], 0.0))
    return 1 / frame_s if frame_s else None


def _units(header: nib.Nifti1Header) -> tuple[str, str]:
    """Of space and time; unknown also where the code means nothing."""
    try:
        return header.get_xyzt_units()
    except KeyError:
        return "unknown", "unknown"


def known(value: float) -> float | None:
    """A rate or distance as declared; None where it cannot be one, such as 0, NaN or 1e30."""
    return value if LEAST < value < 1 / LEAST else None


def known_spacing(row_mm: float, column_mm: float) -> Spacing | None:
    """Both distances, or None if one cannot be one."""
    return (row_mm, column_mm) if known(row_mm) and known(column_mm) else None


def meta_image_times(
    path: Path, count: int, has_time_axis: bool
) -> tuple[float | None, np.ndarray | None]:
    """Frames per second, and the seconds of frames that come unevenly.

    Timestamps of single frames tell, as PLUS and SlicerIGT write them; else the step of a fourth axis,
    in seconds. A step of 1 is what writers put where nothing is known.

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
    """A rate that agrees with the timestamps, or the timestamps where they come unevenly.

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
    """As ``image_spacing``. ITK answers 1 where the header is silent, so look into it ourselves."""
    if not {b"ElementSpacing", b"ElementSize"} & read_meta_header(path).fields.keys():
        return None
    spacing = meta_image_reader(path).GetSpacing()
    return known_spacing(spacing[1], spacing[0])
