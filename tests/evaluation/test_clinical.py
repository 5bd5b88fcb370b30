"""Volumes against ellipsoids whose volume is known, and what must not change them."""

import numpy as np
import pytest

from bundle.evaluation.clinical import (
    COLUMNS,
    Chamber,
    disks,
    ed_es_frames,
    ejection_fraction_percent,
    read_outs,
    volume_biplane_ml,
    volume_single_plane_ml,
)

SPACINGS = [(0.5, 0.5), (0.3, 0.6), (0.7, 0.35)]


def ellipse(long_mm, wide_mm, spacing, degrees=0.0, mitral=1.0, size_mm=130.0):
    """An upright ellipse of these half axes, apex up, cut off below ``mitral`` half axes."""
    rows, columns = (round(size_mm / step) for step in spacing)
    row = (np.arange(rows)[:, None] - rows / 2 + 0.25) * spacing[0]
    column = (np.arange(columns) - columns / 2 + 0.15) * spacing[1]
    turn = np.deg2rad(degrees)
    along = row * np.cos(turn) + column * np.sin(turn)
    across = column * np.cos(turn) - row * np.sin(turn)
    inside = (along / long_mm) ** 2 + (across / wide_mm) ** 2 <= 1
    return inside & (along <= mitral * long_mm)


def ellipsoid_ml(long_mm, wide_a, wide_b, mitral=1.0):
    """The integral of its disks from the apex, at -1, to the mitral plane."""
    return np.pi * long_mm * wide_a * wide_b * (mitral - mitral**3 / 3 + 2 / 3) / 1000


@pytest.mark.parametrize("spacing", SPACINGS)
@pytest.mark.parametrize("degrees", [0, 17, 45, -30])
@pytest.mark.parametrize("mitral", [1.0, 0.6])
def test_single_plane_volume_of_an_ellipsoid(spacing, degrees, mitral):
    mask = ellipse(45, 24, spacing, degrees, mitral)
    volume = volume_single_plane_ml(mask, spacing)
    assert volume == pytest.approx(ellipsoid_ml(45, 24, 24, mitral), rel=0.02)


@pytest.mark.parametrize("spacings", [(SPACINGS[0], SPACINGS[1]), (SPACINGS[2], SPACINGS[0])])
@pytest.mark.parametrize("mitral", [1.0, 0.6])
def test_biplane_volume_of_an_ellipsoid_with_three_axes(spacings, mitral):
    volume = volume_biplane_ml(
        ellipse(45, 26, spacings[0], 10, mitral),
        spacings[0],
        ellipse(45, 20, spacings[1], -20, mitral),
        spacings[1],
    )
    assert volume == pytest.approx(ellipsoid_ml(45, 26, 20, mitral), rel=0.02)


def test_biplane_takes_the_height_of_the_longer_view():
    short, long = ellipse(36, 24, (0.5, 0.5)), ellipse(45, 24, (0.5, 0.5))
    volume = volume_biplane_ml(short, (0.5, 0.5), long, (0.5, 0.5))
    assert volume == pytest.approx(ellipsoid_ml(45, 24, 24), rel=0.02)


def test_disks_follow_the_contour_from_top_to_bottom():
    spacing = (0.5, 0.5)
    diameters, length = disks(ellipse(45, 24, spacing, mitral=0.6), spacing)
    height = length / 20
    assert length == pytest.approx(45 * 1.6, abs=0.5)
    centres = -45 + height * (np.arange(20) + 0.5)
    expected = 48 * np.sqrt(1 - (centres / 45) ** 2)
    np.testing.assert_allclose(diameters[1:], expected[1:], atol=1.0)
    assert diameters[0] < diameters[-1]  # the apex comes first


def test_slices_hold_the_whole_area():
    mask = ellipse(45, 24, (0.3, 0.6), 33, 0.6)
    diameters, length = disks(mask, (0.3, 0.6), count=7)
    assert diameters.sum() * length / 7 == pytest.approx(mask.sum() * 0.18)


def test_volume_stays_under_shift_flip_turn_and_transposition():
    spacing = (0.5, 0.5)
    mask = ellipse(45, 24, spacing, 20, 0.6)
    volume = volume_single_plane_ml(mask, spacing)
    turned = [mask[::-1], mask[:, ::-1], mask.T, np.rot90(mask), np.roll(mask, (5, -9), (0, 1))]
    for changed in turned:
        assert volume_single_plane_ml(changed, spacing) == pytest.approx(volume, rel=1e-6)


def test_volume_grows_with_the_cube_of_the_pixel_and_ef_not_at_all():
    large, small = ellipse(45, 24, (0.5, 0.5)), ellipse(38, 18, (0.5, 0.5))
    volumes = [[volume_single_plane_ml(m, (s, s)) for m in (large, small)] for s in (0.5, 1.5)]
    assert volumes[1] == pytest.approx([27 * volume for volume in volumes[0]])
    fractions = [ejection_fraction_percent(*pair) for pair in volumes]
    assert fractions[0] == pytest.approx(fractions[1])


@pytest.mark.parametrize("shape", [(1, 1), (1, 9), (9, 1)])
def test_the_smallest_masks_are_boxes(shape):
    mask = np.zeros((12, 12), dtype=bool)
    mask[1 : 1 + shape[0], 2 : 2 + shape[1]] = True
    diameters, length = disks(mask, (2.0, 2.0))
    np.testing.assert_allclose(diameters, 2.0)
    assert length == pytest.approx(2.0 * max(shape))


def test_ed_and_es_are_the_frames_of_largest_and_smallest_area():
    masks = np.zeros((5, 10, 10), dtype=bool)
    for index, width in enumerate([4, 6, 6, 0, 2]):  # lost in frame 3
        masks[index, :3, :width] = True
    assert ed_es_frames(masks.sum((1, 2)).astype(float)) == (1, 4)


# Read-outs


def chamber(view="4CH", spacing=(0.5, 0.5), half_axes=((40, 20), (45, 24), (36, 17)), **changes):
    masks = np.stack([ellipse(*axes, spacing or (0.5, 0.5), mitral=0.6) for axes in half_axes])
    options = {
        "patient": "p1",
        "view": view,
        "name": f"p1_{view}",
        "frame_ids": ["00000", "00007", "00012"],
        "masks": masks,
        "truth": [masks[0], None, masks[2]],
        "spacing_mm": spacing,
        "reference_ef_percent": 55.0,
    }
    return Chamber(**options | changes)


def test_a_row_for_each_video_and_one_for_both_views():
    rows = read_outs([chamber("2CH"), chamber("4CH"), chamber("PLAX", patient="p2", name="p2")])
    assert [row["view"] for row in rows] == ["2CH", "4CH", "PLAX", "biplane"]
    assert all(tuple(row) == COLUMNS for row in rows)
    ef = 100 * (1 - 36 * 17**2 / (45 * 24**2))
    assert rows[0]["ed_frame"] == "00007"
    assert rows[0]["es_frame"] == "00012"
    for row in rows:
        assert row["ef_percent"] == pytest.approx(ef, abs=1)
        assert row["edv_ml"] == pytest.approx(ellipsoid_ml(45, 24, 24, 0.6), rel=0.02)
        true_ef = 100 * (1 - 36 * 17**2 / (40 * 20**2))
        assert row["truth_ef_percent"] == pytest.approx(true_ef, abs=1)
        assert (row["reference_ef_percent"], row["notes"]) == (55.0, "")
    assert rows[3]["ed_frame"] == "00007 + 00007"


def test_without_spacing_there_is_a_fraction_but_no_volume():
    known = read_outs([chamber("4CH"), chamber("2CH")])
    videos = [chamber(view, spacing_mm=None) for view in ("4CH", "2CH")]
    for row, reference in zip(read_outs(videos), known, strict=True):
        assert row["ef_percent"] == pytest.approx(reference["ef_percent"])
        assert (row["edv_ml"], row["esv_ml"], row["truth_edv_ml"]) == (None, None, None)
        assert "pixels assumed square" in row["notes"]


def test_views_of_unknown_spacing_and_different_size_have_no_biplane():
    wide = np.pad(chamber().masks, ((0, 0), (0, 0), (0, 9)))
    wide = chamber("2CH", masks=wide, truth=[None] * 3, spacing_mm=None)
    row = read_outs([wide, chamber("4CH", spacing_mm=None)])[-1]
    assert (row["view"], row["ef_percent"]) == ("biplane", None)
    assert "different size and unknown spacing" in row["notes"]


def test_lost_frames_and_lost_objects_are_noted():
    masks = chamber().masks.copy()
    masks[2] = False
    row = read_outs([chamber(masks=masks)])[0]
    assert (row["es_frame"], row["notes"]) == (
        "00000",
        "object lost in 1 frames, which do not count",
    )
    row = read_outs([chamber(masks=np.zeros_like(masks))])[0]
    assert row["ef_percent"] is None
    assert "the object is in 0 of 3 frames" in row["notes"]


def test_a_second_video_of_a_view_is_noted():
    row = read_outs([chamber("2CH"), chamber("2CH", name="again"), chamber("4CH")])[-1]
    assert row["name"] == "p1_2CH + p1_4CH"
    assert row["notes"] == "first of several videos of a view"


# Errors


def test_no_spacing_no_millilitres():
    mask = ellipse(45, 24, (0.5, 0.5))
    with pytest.raises(ValueError, match="pixel spacing is unknown, so there can be no volume"):
        volume_single_plane_ml(mask, None)
    with pytest.raises(ValueError, match="header declares no spacing in mm"):
        volume_biplane_ml(mask, (0.5, 0.5), mask, None)


def test_an_empty_mask():
    with pytest.raises(ValueError, match="the mask is empty: a volume needs a frame"):
        volume_single_plane_ml(np.zeros((4, 4), dtype=bool), (1.0, 1.0))


def test_too_few_frames_with_the_object():
    with pytest.raises(ValueError, match="in 1 of 3 frames: end diastole and end systole need two"):
        ed_es_frames(np.array([0.0, 5.0, 0.0]))


def test_an_ejection_fraction_without_volume_is_refused():
    with pytest.raises(ValueError, match=r"must be above 0, got 0\.0"):
        ejection_fraction_percent(0.0, 0.0)
