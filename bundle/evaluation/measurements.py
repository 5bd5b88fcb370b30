"""Measure the objects of one video (area, diameter, volume at end diastole and systole); write tables.

For research only; not for diagnosis. The values are only as good as the masks, and nobody has compared
them with measurements by hand. Lengths in mm and volumes are given only where the video declares its
pixel spacing; nothing is guessed.

T frames of H x W; spacings are (between rows, between columns).
"""

import csv
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, Float
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from scipy.spatial import ConvexHull
from scipy.spatial.distance import pdist

from bundle.evaluation.clinical import (
    Mask,
    Spacing,
    ed_es_frames,
    ejection_fraction_percent,
    volume_biplane_ml,
    volume_single_plane_ml,
)
from bundle.types import LabelMap
from bundle.utils.atomic_write import written_beside

RESEARCH_ONLY = "research only, not for diagnosis"
SUMMARY_COLUMNS = (
    "video", "object", "name", "frames_shown", "ed_frame", "es_frame", "area_ed_px", "area_es_px",
    "area_ed_mm2", "area_es_mm2", "fac_percent", "edv_ml", "esv_ml", "ef_percent",
    "largest_diameter_px", "largest_diameter_mm", "largest_diameter_frame", "notes",
)  # fmt: skip


@dataclass(frozen=True, eq=False)
class Measured:
    """Measurements of one object in one video.

    Attributes:
        object_id: Id of the object.
        area_px: Area in each frame; NaN in a frame without a mask, 0 where the mask does not show it.
        diameter_px: Largest distance between two of its points, from pixel edge to pixel edge; NaN and
            0 as for the area.
        diameter_mm: The same in mm; None without spacing.
        ed_frame: End diastole, the frame of the largest area; None if fewer than two frames show it.
        es_frame: End systole, the frame of the smallest area; None likewise.
        volumes_ml: Volumes at end diastole and end systole, by the method of disks from this one
            view; None without spacing, or if the object is not listed as a chamber.
    """

    object_id: int
    area_px: Float[np.ndarray, " T"]
    diameter_px: Float[np.ndarray, " T"]
    diameter_mm: Float[np.ndarray, " T"] | None
    ed_frame: int | None
    es_frame: int | None
    volumes_ml: tuple[float, float] | None

    @property
    def fac_percent(self) -> float | None:
        """Fractional area change in percent: (largest - smallest) / largest area."""
        if self.ed_frame is None or self.es_frame is None:
            return None
        return ejection_fraction_percent(self.area_px[self.ed_frame], self.area_px[self.es_frame])


def largest_diameter(mask: Mask, spacing: Spacing = (1.0, 1.0)) -> float:
    """The largest distance between two points of an object, in the unit of the spacing.

    Pixels are squares, not points: the diameter of a single pixel is its diagonal.

    Args:
        mask: The object in one frame; holes and parts do not matter.
        spacing: Distance between rows and between columns.

    Returns:
        0 for an empty mask.

    Example:
        >>> largest_diameter(np.ones((3, 4), bool))
        5.0
    """
    rows, columns = np.nonzero(mask)
    if not len(rows):
        return 0.0
    # The corners of the outer pixels of each row are enough.
    first, last = np.full(mask.shape[0], mask.shape[1]), np.full(mask.shape[0], -1)
    np.minimum.at(first, rows, columns)
    np.maximum.at(last, rows, columns)
    shown = np.flatnonzero(last >= 0)
    ends = np.stack([first[shown], last[shown] + 1], axis=1)  # left and right edge of each row
    corners = [
        (row + down, x)
        for row, pair in zip(shown, ends, strict=True)
        for down in (0, 1)
        for x in pair
    ]
    points = np.array(corners) * np.array(spacing, dtype=float)
    return float(pdist(points[ConvexHull(points).vertices]).max())


def measure_video(
    masks: Mapping[int, LabelMap],
    frame_count: int,
    spacing_mm: Spacing | None,
    chambers: Sequence[int] = (),
) -> dict[int, Measured]:
    """Measure every object that the masks show.

    Args:
        masks: Frame index -> labels; leave out frames without a mask.
        frame_count: Number of frames T.
        spacing_mm: Distance between rows and between columns; None if the video declares none.
        chambers: Ids of objects that are chambers of the heart. Only they get volumes, since the
            method of disks assumes a body that is round about its long axis.

    Returns:
        Object id -> measurements.

    Example:
        >>> masks = {0: np.ones((4, 4), np.uint8), 2: np.eye(4, dtype=np.uint8)}
        >>> measured = measure_video(masks, 3, spacing_mm=None)[1]
        >>> print(measured.area_px, measured.ed_frame, measured.fac_percent)
        [16. nan  4.] 0 75.0
    """
    ids = sorted({int(i) for labels in masks.values() for i in np.unique(labels) if i})
    return {i: _measure(i, masks, frame_count, spacing_mm, i in chambers) for i in ids}


def _measure(
    object_id: int,
    masks: Mapping[int, LabelMap],
    frame_count: int,
    spacing_mm: Spacing | None,
    chamber: bool,
) -> Measured:
    area, diameter = np.full(frame_count, np.nan), np.full(frame_count, np.nan)
    diameter_mm = None if spacing_mm is None else np.full(frame_count, np.nan)
    for index, labels in masks.items():
        mask = labels == object_id
        area[index] = mask.sum()
        diameter[index] = largest_diameter(mask)
        if diameter_mm is not None and spacing_mm is not None:
            diameter_mm[index] = largest_diameter(mask, spacing_mm)
    moments: tuple[int, int] | None = None
    if (area > 0).sum() >= 2:
        moments = ed_es_frames(np.nan_to_num(area))
    volumes = None
    if moments is not None and chamber and spacing_mm is not None:
        ed, es = (volume_single_plane_ml(masks[i] == object_id, spacing_mm) for i in moments)
        volumes = ed, es
    ed_frame, es_frame = moments or (None, None)
    return Measured(object_id, area, diameter, diameter_mm, ed_frame, es_frame, volumes)


def biplane_volumes_ml(
    view_a: Mapping[int, LabelMap],
    spacing_a: Spacing | None,
    view_b: Mapping[int, LabelMap],
    spacing_b: Spacing | None,
    object_id: int,
) -> tuple[float, float]:
    """End-diastolic and end-systolic volume in ml from two orthogonal views of one patient.

    ED and ES are found in each view separately; see ``bundle.evaluation.clinical``.

    Raises:
        ValueError: A spacing is unknown, or fewer than two frames of a view show the object.
    """
    moments: list[list[Bool[np.ndarray, "_ _"]]] = []
    for view in (view_a, view_b):
        indices = sorted(view)
        areas = np.array([float((view[i] == object_id).sum()) for i in indices])
        moments.append([view[indices[place]] == object_id for place in ed_es_frames(areas)])
    ed, es = (volume_biplane_ml(moments[0][i], spacing_a, moments[1][i], spacing_b) for i in (0, 1))
    return ed, es


def summarize(
    video: str,
    measured: Mapping[int, Measured],
    spacing_mm: Spacing | None,
    names: Mapping[int, str] | None = None,
) -> list[dict[str, Any]]:
    """One row for each object, with the keys ``SUMMARY_COLUMNS``; None where there is no value."""
    rows = []
    unit = None if spacing_mm is None else spacing_mm[0] * spacing_mm[1]
    for object_id, each in measured.items():
        notes = [RESEARCH_ONLY]
        if spacing_mm is None:
            notes.append("the video declares no pixel spacing: nothing in mm, no volume")
        missing = int(np.isnan(each.area_px).sum())
        if missing:
            notes.append(f"{missing} frames have no mask")
        row: dict[str, Any] = dict.fromkeys(SUMMARY_COLUMNS)
        row |= {"video": video, "object": object_id, "frames_shown": int((each.area_px > 0).sum())}
        row["name"] = (names or {}).get(object_id, f"object {object_id}")
        largest = int(np.nanargmax(each.diameter_px))
        row["largest_diameter_px"] = float(each.diameter_px[largest])
        row["largest_diameter_frame"] = largest
        if each.diameter_mm is not None:
            largest = int(np.nanargmax(each.diameter_mm))
            row["largest_diameter_mm"] = float(each.diameter_mm[largest])
            row["largest_diameter_frame"] = largest
        for moment, index in (("ed", each.ed_frame), ("es", each.es_frame)):
            if index is not None:
                row[f"{moment}_frame"], row[f"area_{moment}_px"] = index, int(each.area_px[index])
                row[f"area_{moment}_mm2"] = unit and float(each.area_px[index] * unit)
        row["fac_percent"] = each.fac_percent
        if each.volumes_ml is not None:
            row["edv_ml"], row["esv_ml"] = each.volumes_ml
            row["ef_percent"] = ejection_fraction_percent(*each.volumes_ml)
            notes.append("volumes from one view: the chamber is assumed to be round")
        if each.ed_frame is None:
            notes.append("fewer than two frames show it: no end diastole and systole")
        row["notes"] = "; ".join(notes)
        rows.append(row)
    return rows


def write_measurements(
    folder: str | Path,
    video: str,
    measured: Mapping[int, Measured],
    *,
    fps: float | None,
    spacing_mm: Spacing | None,
    names: Mapping[int, str] | None = None,
    colours: Mapping[int, str] | None = None,
) -> None:
    """Write ``VIDEO_measurements.csv``, ``VIDEO_curves.csv`` and ``VIDEO_measurements.png``.

    Args:
        folder: Made if it does not exist.
        video: Name of the video.
        measured: Output of ``measure_video``.
        fps: Frames per second; with None there are no times.
        spacing_mm: As for ``measure_video``.
        names: Object id -> name.
        colours: Object id -> colour, ``#rrggbb``.

    Raises:
        ValueError: There is nothing to measure.
        DiskFullError: The disk is full.
    """
    if not measured:
        raise ValueError(f"no mask of {video} shows an object: paint and propagate first")
    folder = Path(folder)
    rows = summarize(video, measured, spacing_mm, names)
    _write_table(folder / f"{video}_measurements.csv", SUMMARY_COLUMNS, rows)
    unit = None if spacing_mm is None else spacing_mm[0] * spacing_mm[1]
    curves = []
    for object_id, each in measured.items():
        for index in np.flatnonzero(~np.isnan(each.area_px)).tolist():
            row = {"frame": index, "time_s": None if fps is None else index / fps}
            row |= {"object": object_id, "area_px": int(each.area_px[index])}
            row["area_mm2"] = unit and float(each.area_px[index] * unit)
            row["diameter_px"] = float(each.diameter_px[index])
            row["diameter_mm"] = None if each.diameter_mm is None else each.diameter_mm[index]
            curves.append(row)
    _write_table(folder / f"{video}_curves.csv", tuple(curves[0]), curves)
    _draw(folder / f"{video}_measurements.png", video, measured, rows, fps, unit, colours or {})


def _write_table(path: Path, columns: Sequence[str], rows: Sequence[Mapping[str, Any]]) -> None:
    with written_beside(path) as beside, beside.open("w", newline="", encoding="utf-8") as file:
        table = csv.writer(file, lineterminator="\n")
        table.writerow(columns)
        for row in rows:
            table.writerow([_text(row[column]) for column in columns])


def _text(value: object) -> str:
    if value is None:
        return ""
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def _draw(
    path: Path,
    video: str,
    measured: Mapping[int, Measured],
    rows: Sequence[Mapping[str, Any]],
    fps: float | None,
    unit: float | None,
    colours: Mapping[int, str],
) -> None:
    figure = Figure(figsize=(9, 4.5), dpi=120, layout="constrained")
    axes = figure.subplots()
    for place, (each, row) in enumerate(zip(measured.values(), rows, strict=True)):
        times = np.arange(len(each.area_px)) / (fps or 1.0)
        areas = each.area_px * (unit or 1.0)
        label = str(row["name"])
        if row["fac_percent"] is not None:
            label += f": area change {row['fac_percent']:.0f} %"
        if row["ef_percent"] is not None:
            label += f", EF {row['ef_percent']:.0f} % (one view)"
        largest = row["largest_diameter_mm"]
        size = (
            f"{largest:.1f} mm" if largest is not None else f"{row['largest_diameter_px']:.0f} px"
        )
        label += f", largest diameter {size}"
        colour = colours.get(each.object_id, f"C{place}")
        axes.plot(times, areas, color=colour, label=label)
        for name, index in (("ED", each.ed_frame), ("ES", each.es_frame)):
            if index is not None and not math.isnan(areas[index]):
                axes.plot(times[index], areas[index], "o", color=colour)
                axes.annotate(
                    name, (times[index], areas[index]), (4, 6), textcoords="offset points"
                )
    axes.set_xlabel("frame" if fps is None else "time (s)")
    axes.set_ylabel("area (px)" if unit is None else "area (mm²)")
    if fps is None:
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.margins(x=0.02, y=0.12)  # room for the texts ED and ES
    axes.set_ylim(bottom=0)
    axes.grid(alpha=0.3)
    axes.set_title(video, parse_math=False)
    for text in axes.legend(loc="upper left", bbox_to_anchor=(0, -0.14), frameon=False).get_texts():
        text.set_parse_math(False)
    figure.text(0.995, 0.01, RESEARCH_ONLY, ha="right", fontsize=8, color="grey")
    with written_beside(path) as beside:
        FigureCanvasAgg(figure).print_png(str(beside))
