"""Areas, moments, volumes and diameters of the objects of a video."""

import csv
import math

import numpy as np
import pytest
from PIL import Image
from scipy.spatial.distance import pdist

from bundle.evaluation.clinical import volume_single_plane_ml
from bundle.evaluation.measurements import (
    RESEARCH_ONLY,
    biplane_volumes_ml,
    largest_diameter,
    measure_video,
    summarize,
    write_measurements,
)

SPACING = (0.5, 0.8)


def ellipse(scale=1.0, size=(80, 90), object_id=1):
    rows, columns = np.mgrid[: size[0], : size[1]]
    inside = ((rows - 40) / (30 * scale)) ** 2 + ((columns - 45) / (16 * scale)) ** 2 <= 1
    return np.where(inside, np.uint8(object_id), np.uint8(0))


def beat(frames=20):
    return {i: ellipse(0.85 + 0.15 * math.cos(2 * math.pi * i / frames)) for i in range(frames)}


@pytest.mark.parametrize("spacing", [(1.0, 1.0), SPACING])
def test_the_diameter_is_that_of_all_corners(spacing):
    random = np.random.default_rng(0)
    for _ in range(20):
        mask = random.random((9, 12)) < random.choice([0.03, 0.2, 0.8])
        mask[4, 5] = True
        corners = [
            ((row + down) * spacing[0], (column + right) * spacing[1])
            for row, column in np.argwhere(mask)
            for down in (0, 1)
            for right in (0, 1)
        ]
        assert largest_diameter(mask, spacing) == pytest.approx(pdist(corners).max())
    assert largest_diameter(np.zeros((3, 3), bool)) == 0


def test_a_beat_has_its_moments_and_volumes():
    masks = beat()
    each = measure_video(masks, 20, SPACING, chambers=[1])[1]
    assert (each.ed_frame, each.es_frame) == (0, 10)
    areas = [masks[0].sum(), masks[10].sum()]
    assert each.fac_percent == pytest.approx(100 * (1 - areas[1] / areas[0]))
    assert each.fac_percent == pytest.approx(100 * (1 - 0.7**2), abs=1)
    wanted = tuple(volume_single_plane_ml(masks[i] == 1, SPACING) for i in (0, 10))
    assert each.volumes_ml == pytest.approx(wanted)
    # A body of revolution with half axes of 15 and 12.8 mm.
    assert each.volumes_ml[0] == pytest.approx(4 / 3 * math.pi * 15 * 12.8**2 / 1000, rel=0.03)
    assert np.nanmax(each.diameter_mm) == pytest.approx(30, abs=0.6)


def test_two_views_of_one_chamber():
    two, four = beat(), {i + 3: mask for i, mask in beat(12).items()}
    ed, es = biplane_volumes_ml(two, SPACING, four, SPACING, 1)
    assert ed == pytest.approx(volume_single_plane_ml(two[0] == 1, SPACING), rel=1e-6)
    assert es == pytest.approx(volume_single_plane_ml(two[10] == 1, SPACING), rel=1e-6)
    with pytest.raises(ValueError, match="the pixel spacing is unknown"):
        biplane_volumes_ml(two, None, four, SPACING, 1)
    with pytest.raises(ValueError, match="the object is in 0 of 20 frames"):
        biplane_volumes_ml(two, SPACING, four, SPACING, 2)


def test_without_spacing_nothing_is_in_mm():
    each = measure_video(beat(), 20, None, chambers=[1])[1]
    assert each.volumes_ml is None
    assert each.diameter_mm is None
    (row,) = summarize("echo", {1: each}, None)
    empty = {key for key, value in row.items() if value is None}
    assert empty == {
        "area_ed_mm2", "area_es_mm2", "edv_ml", "esv_ml", "ef_percent", "largest_diameter_mm"
    }  # fmt: skip
    assert row["notes"].startswith(RESEARCH_ONLY)
    assert "declares no pixel spacing" in row["notes"]


def test_only_chambers_have_a_volume_and_only_objects_seen_twice_have_moments():
    masks = {2: ellipse(0.3), 4: ellipse() * 0}
    each = measure_video(masks, 6, SPACING)[1]
    assert (each.volumes_ml, each.ed_frame, each.fac_percent) == (None, None, None)
    (row,) = summarize("polyp", {1: each}, SPACING, {1: "polyp"})
    assert row["largest_diameter_frame"] == 2
    assert row["name"] == "polyp"
    assert "4 frames have no mask" in row["notes"]
    assert "fewer than two frames show it" in row["notes"]


def test_tables_and_picture(tmp_path):
    masks = {i: mask + ellipse(0.1, object_id=1) * 0 for i, mask in beat().items()}
    del masks[7]
    measured = measure_video(masks, 20, SPACING, chambers=[1])
    write_measurements(tmp_path, "echo", measured, fps=25, spacing_mm=SPACING, names={1: "LV $x"})
    with open(tmp_path / "echo_curves.csv", newline="") as file:
        curves = list(csv.DictReader(file))
    assert [int(row["frame"]) for row in curves] == sorted(masks)
    assert float(curves[5]["time_s"]) == pytest.approx(0.2)
    assert float(curves[5]["area_mm2"]) == pytest.approx((masks[5] == 1).sum() * 0.4, rel=1e-5)
    with open(tmp_path / "echo_measurements.csv", newline="") as file:
        (row,) = csv.DictReader(file)
    assert row["name"] == "LV $x"
    assert float(row["ef_percent"]) == pytest.approx(100 * (1 - 0.7**3), abs=2)
    assert RESEARCH_ONLY in row["notes"]
    picture = np.array(Image.open(tmp_path / "echo_measurements.png").convert("L"))
    assert picture.std() > 5
    assert {path.name for path in tmp_path.iterdir()} == {
        "echo_curves.csv", "echo_measurements.csv", "echo_measurements.png"
    }  # fmt: skip


def test_a_video_without_objects_is_refused(tmp_path):
    with pytest.raises(ValueError, match="no mask of echo shows an object: paint and propagate"):
        write_measurements(tmp_path, "echo", {}, fps=None, spacing_mm=None)
