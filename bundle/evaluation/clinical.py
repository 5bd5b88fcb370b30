"""Areas, volumes and ejection fraction of the left ventricle, from its masks.

Volumes follow Simpson's method of disks (Lang et al., Recommendations for Cardiac Chamber
Quantification by Echocardiography in Adults, J Am Soc Echocardiogr 2015;28:1-39): the chamber is cut
at right angles to its long axis into 20 slices of equal height. Each slice counts as a circular disk
or, from two views, an elliptic one. The long axis is the principal axis of the mask's pixels, not a
line drawn from apex to mitral annulus, so a chamber nearly as wide as long may get the wrong axis.

No clinical accuracy is claimed: use these values to compare masks, not to act on.

T frames of H x W; positions and lengths in mm, rows first.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Bool, Float

DISKS = 20
COLUMNS = (
    "patient", "view", "name", "ed_frame", "es_frame", "edv_ml", "esv_ml", "ef_percent",
    "truth_edv_ml", "truth_esv_ml", "truth_ef_percent", "reference_ef_percent", "notes",
)  # fmt: skip

Mask = Bool[np.ndarray, "H W"]
Masks = Bool[np.ndarray, "T H W"]
Spacing = tuple[float, float]


def ed_es_frames(areas: Float[np.ndarray, " T"]) -> tuple[int, int]:
    """Find end diastole and end systole: the frames of largest and of smallest area.

    Of equal areas the first counts. Frames without the object are ignored, since an empty mask is a
    failure of the segmentation and not a contraction.

    Args:
        areas: Area in each frame, in any unit.

    Raises:
        ValueError: Fewer than two frames show the object.
    """
    shown = np.flatnonzero(areas > 0)
    if len(shown) < 2:
        raise ValueError(
            f"the object is in {len(shown)} of {len(areas)} frames: end diastole and end systole "
            "need two"
        )
    return int(shown[areas[shown].argmax()]), int(shown[areas[shown].argmin()])


def disks(
    mask: Mask, spacing_mm: Spacing, count: int = DISKS
) -> tuple[Float[np.ndarray, " count"], float]:
    """Cut a mask into slices of equal height at right angles to its long axis.

    Args:
        mask: The chamber in one frame.
        spacing_mm: Distance between rows and between columns.
        count: Number of slices.

    Returns:
        Diameter of each slice, its area divided by its height, from the top of the picture (where
        the probe and so the apex is in apical views) to its bottom; and the length of the long axis.

    Raises:
        ValueError: The mask is empty.
    """
    if not mask.any():
        raise ValueError("the mask is empty: a volume needs a frame that shows the object")
    spacing = np.array(spacing_mm)
    points = np.argwhere(mask) * spacing
    points -= points.mean(0)
    # A pixel's own spread keeps a single row or pixel from having no axis.
    spread = points.T @ points / len(points) + np.diag(spacing**2) / 12
    axis = np.linalg.eigh(spread)[1][:, -1]
    if (axis[0], axis[1]) < (0.0, 0.0):
        axis = -axis  # down, or to the right if it is level
    along = points @ axis
    # Each pixel covers a stretch of the axis, so that narrow slices share it smoothly.
    stretch = np.abs(axis * spacing).max()
    start = along.min() - stretch / 2
    length = along.max() + stretch / 2 - start
    cuts = start + length * np.arange(count + 1) / count
    below = [np.clip((cut - along) / stretch + 0.5, 0, 1).sum() for cut in cuts]
    slice_areas = np.diff(below) * spacing.prod()
    return slice_areas / (length / count), float(length)


def volume_single_plane_ml(mask: Mask, spacing_mm: Spacing | None) -> float:
    """Volume in ml by the method of disks from one view, with circular disks.

    Raises:
        ValueError: The pixel spacing is unknown, or the mask is empty.
    """
    diameters, length = disks(mask, _known(spacing_mm, "volume"))
    return float(np.pi / 4 * (diameters**2).sum() * length / DISKS / 1000)


def volume_biplane_ml(
    mask_a: Mask,
    spacing_a: Spacing | None,
    mask_b: Bool[np.ndarray, "H2 W2"],
    spacing_b: Spacing | None,
) -> float:
    """Volume in ml by the method of disks from two orthogonal views, with elliptic disks.

    Both views show the same moment of the cycle and have the apex on the same side. The height of
    the disks comes from the longer of the two long axes (Lang et al. 2015).

    Raises:
        ValueError: A pixel spacing is unknown, or a mask is empty.
    """
    diameters_a, length_a = disks(mask_a, _known(spacing_a, "volume"))
    diameters_b, length_b = disks(mask_b, _known(spacing_b, "volume"))
    height = max(length_a, length_b) / DISKS
    return float(np.pi / 4 * (diameters_a * diameters_b).sum() * height / 1000)


def ejection_fraction_percent(edv: float, esv: float) -> float:
    """Percentage of the end-diastolic volume that is pumped out.

    Args:
        edv: End-diastolic volume, above 0.
        esv: End-systolic volume, in the same unit.

    Raises:
        ValueError: The end-diastolic volume is not above 0.

    Example:
        >>> ejection_fraction_percent(120, 54)
        55.0
    """
    if not edv > 0:
        raise ValueError(f"the end-diastolic volume must be above 0, got {edv}")
    return 100 * (edv - esv) / edv


@dataclass(frozen=True, eq=False)
class Chamber:
    """The left ventricle in one video, as segmented.

    Attributes:
        patient: Name of the patient; the two views of a patient give a biplane volume.
        view: ``2CH``, ``4CH`` or another.
        name: Name of the video.
        frame_ids: Name of each frame, T of them.
        masks: Predicted masks.
        truth: Annotated masks, T of them, None where a frame is not annotated.
        spacing_mm: Distance between rows and between columns; None if unknown.
        reference_ef_percent: From the data set's own records; None if it has none.
    """

    patient: str
    view: str
    name: str
    frame_ids: Sequence[str]
    masks: Masks
    truth: Sequence[Mask | None]
    spacing_mm: Spacing | None
    reference_ef_percent: float | None


def read_outs(videos: Sequence[Chamber]) -> list[dict[str, Any]]:
    """Volumes and ejection fractions: a row for each video, then one for each patient with two views.

    ED and ES are found in each view separately; for the annotated masks, among the annotated frames.
    Where the pixel spacing is unknown, there are no volumes. The ejection fraction, in which the unit
    cancels, is then computed for square pixels, and ``notes`` says so.

    Returns:
        Rows with the keys ``COLUMNS``; a value that is None is explained in ``notes``.
    """
    rows = [_row([video], video.view, video.name) for video in videos]
    for patient in dict.fromkeys(video.patient for video in videos):
        two, four = (
            [video for video in videos if (video.patient, video.view) == (patient, view)]
            for view in ("2CH", "4CH")
        )
        if not two or not four:
            continue
        row = _row([two[0], four[0]], "biplane", f"{two[0].name} + {four[0].name}")
        if len(two) + len(four) > 2:
            row["notes"] = _joined([row["notes"], "first of several videos of a view"])
        rows.append(row)
    return rows


def _row(videos: Sequence[Chamber], view: str, name: str) -> dict[str, Any]:
    row: dict[str, Any] = dict.fromkeys(COLUMNS)
    references = [video.reference_ef_percent for video in videos]
    row |= {"patient": videos[0].patient, "view": view, "name": name}
    row["reference_ef_percent"] = next((ef for ef in references if ef is not None), None)
    known = all(video.spacing_mm is not None for video in videos)
    notes = [] if known else ["no spacing: pixels assumed square, no volumes"]
    lost = sum(int((~video.masks.any((1, 2))).sum()) for video in videos)
    if lost:
        notes.append(f"object lost in {lost} frames, which do not count")
    try:
        if not known and len({video.masks.shape[1:] for video in videos}) > 1:
            raise ValueError("views of different size and unknown spacing: no biplane volume")
        predicted = [dict(enumerate(video.masks)) for video in videos]
        row |= _measured(videos, predicted, known, prefix="")
        truths = [
            {t: mask for t, mask in enumerate(video.truth) if mask is not None} for video in videos
        ]
        if all(len(truth) >= 2 for truth in truths):
            measured = _measured(videos, truths, known, prefix="truth_")
            row |= {key: value for key, value in measured.items() if key in COLUMNS}
    except ValueError as error:
        notes.append(str(error))
    row["notes"] = _joined(notes)
    return row


def _measured(
    videos: Sequence[Chamber], masks: Sequence[dict[int, Mask]], known: bool, prefix: str
) -> dict[str, Any]:
    """Frames, volumes and ejection fraction from one view or two, frame index to mask in each."""
    moments: tuple[list[int], list[int]] = ([], [])
    for shown in masks:
        indices = list(shown)
        found = ed_es_frames(np.array([float(mask.sum()) for mask in shown.values()]))
        for moment, place in zip(moments, found, strict=True):
            moment.append(indices[place])
    volumes = []
    for moment in moments:
        views: list[Any] = []
        for video, shown, index in zip(videos, masks, moment, strict=True):
            views += [shown[index], video.spacing_mm if known else (1.0, 1.0)]
        volume = volume_single_plane_ml if len(videos) == 1 else volume_biplane_ml
        volumes.append(volume(*views))
    ids = [
        " + ".join(video.frame_ids[index] for video, index in zip(videos, moment, strict=True))
        for moment in moments
    ]
    return {
        f"{prefix}ed_frame": ids[0],
        f"{prefix}es_frame": ids[1],
        f"{prefix}edv_ml": volumes[0] if known else None,
        f"{prefix}esv_ml": volumes[1] if known else None,
        f"{prefix}ef_percent": ejection_fraction_percent(*volumes),
    }


def _joined(notes: Sequence[str]) -> str:
    return "; ".join(note for note in notes if note)


def _known(spacing_mm: Spacing | None, what: str) -> Spacing:
    if spacing_mm is None:
        raise ValueError(
            f"the pixel spacing is unknown, so there can be no {what}: "
            "the source's header declares no spacing in mm"
        )
    return spacing_mm
