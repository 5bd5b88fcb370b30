"""Read DICOM headers: order of frames in time, position in space, windows, pixel spacing.

An enhanced multi-frame file has these in functional groups, shared or per frame; a series of files has
them in each file. Both become ``FrameHeader``s.
"""

from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Any, NamedTuple

import numpy as np
from pydicom.dataset import Dataset

from bundle.io.reading.headers import LEAST, Spacing, known, known_spacing, settle_times
from bundle.io.reading.scaling import Window

ULTRASOUND_CM = 3  # the unit code of SequenceOfUltrasoundRegions for cm per pixel
NEAR_MM = 0.01
MM_PER_MM = 1.0

Get = Callable[[str, str], Any]
"""Value of a keyword within a functional group, or of the header itself; None if there is none."""


class FrameHeader(NamedTuple):
    """What the header says about one frame.

    Attributes:
        moments: Times by the name of their DICOM element, in seconds or as counting numbers.
        position: (3,) position of the first pixel in mm, LPS; None if unknown.
        orientation: (6,) direction of the rows, then of the columns.
        spacing: (row, column) distance of pixels in mm.
        thickness_mm: Thickness of the slice.
        slope: Rescale slope of the stored values.
        intercept: Rescale intercept of the stored values.
    """

    moments: dict[str, float]
    position: np.ndarray | None
    orientation: np.ndarray | None
    spacing: Spacing | None
    thickness_mm: float
    slope: float
    intercept: float


# Sources of time, the best first, and how many seconds one of their units is (0: only an order).
MOMENTS = {
    "TemporalPositionIndex": 0.0,
    "TemporalPositionIdentifier": 0.0,
    "TemporalPositionTimeOffset": 1.0,
    "TriggerTime": 1e-3,
    "NominalCardiacTriggerDelayTime": 1e-3,
    "FrameReferenceDateTime": 1.0,
    "FrameAcquisitionDateTime": 1.0,
    "AcquisitionDateTime": 1.0,
    "AcquisitionTime": 1.0,
    "ContentTime": 1.0,
    "InstanceNumber": 0.0,
}


def enhanced_getter(header: Dataset, index: int) -> Get:
    """Make a function that looks up a value in a frame's groups, the shared groups, the header."""
    shared = (header.get("SharedFunctionalGroupsSequence") or [None])[0]
    frames = header.get("PerFrameFunctionalGroupsSequence") or []
    own = frames[index] if index < len(frames) else None

    def get(group: str, keyword: str) -> Any:
        for place in (own, shared):
            items = place.get(group) if place is not None and group else None
            if items and items[0].get(keyword) is not None:
                return items[0].get(keyword)
        return header.get(keyword)

    return get


def read_frame_header(get: Get) -> FrameHeader:
    """Read the header of one frame."""
    moments: dict[str, float] = {}
    for keyword in MOMENTS:
        group = {
            "NominalCardiacTriggerDelayTime": "CardiacSynchronizationSequence",
            "TemporalPositionTimeOffset": "TemporalPositionSequence",
        }.get(keyword, "FrameContentSequence")
        day = {"AcquisitionTime": "AcquisitionDate", "ContentTime": "ContentDate"}.get(keyword)
        value = _moment(get(group, keyword), get("", day) if day else None, keyword)
        if value is not None:
            moments[keyword] = value
    pixels = "PixelMeasuresSequence"
    spacing = _floats(get(pixels, "PixelSpacing"), 2)
    thickness = _floats(get(pixels, "SpacingBetweenSlices"), 1)
    if thickness is None or not known(float(thickness[0])):
        thickness = _floats(get(pixels, "SliceThickness"), 1)
    values = "PixelValueTransformationSequence"
    slope = _floats(get(values, "RescaleSlope"), 1)
    intercept = _floats(get(values, "RescaleIntercept"), 1)
    return FrameHeader(
        moments,
        _floats(get("PlanePositionSequence", "ImagePositionPatient"), 3),
        _floats(get("PlaneOrientationSequence", "ImageOrientationPatient"), 6),
        known_spacing(float(spacing[0]), float(spacing[1])) if spacing is not None else None,
        known(float(thickness[0])) or MM_PER_MM if thickness is not None else MM_PER_MM,
        float(slope[0]) if slope is not None and slope[0] else 1.0,
        float(intercept[0]) if intercept is not None else 0.0,
    )


def _floats(value: Any, count: int) -> np.ndarray | None:
    if value is None or value == "":
        return None
    numbers = np.atleast_1d(np.asarray(value, dtype=float))
    return numbers if len(numbers) == count and np.isfinite(numbers).all() else None


def _moment(value: Any, day: Any, keyword: str) -> float | None:
    """Convert a time element to seconds, or to a number if it only counts."""
    if value in (None, ""):
        return None
    try:
        if keyword.endswith("DateTime"):
            return _clock(str(value)[:8], str(value)[8:])
        if keyword in ("AcquisitionTime", "ContentTime"):
            return _clock(str(day or "20000101"), str(value))
        number = float(value)
    except (TypeError, ValueError):
        return None
    return number if np.isfinite(number) else None


def _clock(day: str, time: str) -> float:
    time = time.split("+")[0].split("-")[0].strip()
    whole, _, fraction = time.partition(".")
    moment = datetime.strptime(day + whole.ljust(6, "0"), "%Y%m%d%H%M%S")
    return (moment - datetime(1900, 1, 1)).total_seconds() + float(f"0.{fraction or 0}")


def slice_places(frames: Sequence[FrameHeader]) -> np.ndarray | None:
    """Distance of each frame along the normal of the first, (F,) in mm; None if unknown."""
    if any(frame.position is None or frame.orientation is None for frame in frames):
        return None
    first = frames[0].orientation
    assert first is not None
    normal = np.cross(first[:3], first[3:])
    return np.array([frame.position for frame in frames], dtype=float) @ normal


def sort_frames(frames: Sequence[FrameHeader]) -> tuple[np.ndarray, str]:
    """Order frames by time, or by position in space if all have the same time.

    Returns:
        (F,) indices into ``frames``; and what they are ordered by: a key of ``MOMENTS``, "position",
        or "" for the order in the file.

    Raises:
        ValueError: There are several slices at several times.
    """
    places = slice_places(frames)
    levels = 1 if places is None else len(np.unique(np.round(places / NEAR_MM)))
    if 1 < levels < len(frames):
        raise ValueError(
            f"{len(frames)} frames at {levels} positions in space: expected one slice over time, "
            "export each slice on its own"
        )
    for keyword in MOMENTS:
        moments = [frame.moments.get(keyword) for frame in frames]
        if None in moments or len(set(moments)) < len(frames):
            continue
        if levels == len(frames) > 1 and keyword not in list(MOMENTS)[:5]:
            break  # a stack of slices, whose clock tells how it was taken
        return np.argsort(np.array(moments, dtype=float), kind="stable"), keyword
    if levels == len(frames) > 1 and places is not None:
        return np.argsort(places, kind="stable"), "position"
    return np.arange(len(frames)), ""


def frame_rate(header: Dataset) -> float | None:
    """Read the frame rate that the header declares for the whole video, in frames per second."""
    if frame_s := known(float(header.get("FrameTime") or 0) / 1000):
        return 1 / frame_s
    return known(float(header.get("CineRate") or header.get("RecommendedDisplayFrameRate") or 0))


def read_times(
    header: Dataset, frames: Sequence[FrameHeader], order: np.ndarray
) -> tuple[float | None, np.ndarray | None]:
    """Read the frame rate and, if frames are unevenly spaced, their times; see ``settle_times``."""
    vector = np.atleast_1d(np.asarray(header.get("FrameTimeVector") or [], dtype=float))
    count = len(order)
    if len(vector) in (count, count - 1) and count > 1:
        steps = vector[-(count - 1) :] / 1000
        if np.isfinite(steps).all() and (steps > 0).all():
            return settle_times(np.append(0, np.cumsum(steps)), [], LEAST)
    rate = frame_rate(header)
    for keyword, unit in MOMENTS.items():
        moments = [frame.moments.get(keyword) for frame in frames]
        if not unit or len(moments) < count or None in moments or count < 2:
            continue
        seconds = np.array(moments, dtype=float)[order] * unit
        if (np.diff(seconds) > 0).all() and known(float(seconds[-1] - seconds[0])):
            return settle_times(seconds - seconds[0], [rate or 0.0], 0.001)
    step = known(float(header.get("TemporalResolution") or 0) / 1000)
    return rate or (1 / step if step else None), None


def read_spacing(header: Dataset) -> Spacing | None:
    """Read the pixel spacing, (row, column) in mm. Ultrasound has it in its calibrated region."""
    for region in header.get("SequenceOfUltrasoundRegions") or ():
        units = region.get("PhysicalUnitsXDirection"), region.get("PhysicalUnitsYDirection")
        row_mm = 10 * abs(region.get("PhysicalDeltaY") or 0)
        column_mm = 10 * abs(region.get("PhysicalDeltaX") or 0)
        # A region beyond the frame tells that the picture was shrunk after it was measured.
        fits = (region.get("RegionLocationMaxX1") or 0) < header.Columns and (
            region.get("RegionLocationMaxY1") or 0
        ) < header.Rows
        spacing_mm = known_spacing(row_mm, column_mm)
        if units == (ULTRASOUND_CM, ULTRASOUND_CM) and fits and spacing_mm:
            return spacing_mm
    return None


def read_affine(frames: Sequence[FrameHeader], order: np.ndarray) -> np.ndarray | None:
    """Make the affine from voxels to RAS, (4, 4) in mm; None if any part of it is unknown."""
    first, last = frames[order[0]], frames[order[-1]]
    if first.position is None or first.orientation is None or first.spacing is None:
        return None
    rows, columns = first.orientation[:3], first.orientation[3:]
    normal = np.cross(rows, columns)
    if abs(np.linalg.norm(normal) - 1) > 0.1:
        return None
    affine = np.eye(4)
    affine[:3, 0], affine[:3, 1] = rows * first.spacing[1], columns * first.spacing[0]
    affine[:3, 2], affine[:3, 3] = normal * first.thickness_mm, first.position
    if last.position is not None and len(order) > 1:
        step = (last.position - first.position) / (len(order) - 1)
        if np.linalg.norm(step) > NEAR_MM and abs(np.dot(step, normal)) > NEAR_MM / 10:
            affine[:3, 2] = step
    return np.diag([-1.0, -1.0, 1.0, 1.0]) @ affine


def read_windows(header: Dataset, get: Get) -> tuple[Window, ...]:
    """Read the windows and lookup tables for showing a grey frame, in order of preference."""
    found = []
    function = str(get("FrameVOILUTSequence", "VOILUTFunction") or "LINEAR").upper()
    centres, widths = (
        np.atleast_1d(np.asarray(get("FrameVOILUTSequence", keyword) or [], dtype=float))
        for keyword in ("WindowCenter", "WindowWidth")
    )
    for table in header.get("VOILUTSequence") or ():
        count, first, bits = (int(value) for value in table.LUTDescriptor)
        levels = (
            np.frombuffer(table.LUTData, np.uint16)
            if isinstance(table.LUTData, bytes)
            else (np.asarray(table.LUTData))
        )
        levels = levels[: count or 2**16]
        if len(levels):
            top = 255 / (2 ** max(bits, 1) - 1)
            shown = np.clip(np.rint(levels * top), 0, 255).astype(np.uint8)
            found.append(Window(first, first + len(levels) - 1, table=shown))
    for centre, width in zip(centres, widths, strict=False):
        if not (np.isfinite(centre) and np.isfinite(width) and width > 0):
            continue
        # PS3.3 C.11.2.1.2: LINEAR takes whole values as the middles of bins.
        shift = 0.5 if function == "LINEAR" and width > 1 else 0.0
        reach = (width - 2 * shift) / 2
        found.append(
            Window(
                float(centre - shift - reach), float(centre - shift + reach), function == "SIGMOID"
            )
        )
    return tuple(found)
