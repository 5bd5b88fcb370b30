"""Boxes, points, scribbles and rough masks as partial masks; one test per message."""

import numpy as np
import pytest

from bundle.networks.prompts import from_box, from_points, from_rough_mask, from_scribble

SHAPE = (60, 80)


def test_pixels_outside_of_a_box_are_known_background():
    part = from_box(SHAPE, (10, 20, 50, 40))
    inside = np.zeros(SHAPE, bool)
    inside[20:40, 10:50] = True
    np.testing.assert_array_equal(part.unknown > 0, inside)
    assert not part.mask[~inside].any()
    assert part.mask.sum() == pytest.approx(np.pi / 4 * 40 * 20, rel=0.02)  # an ellipse


def test_a_box_may_reach_over_the_edge():
    part = from_box(SHAPE, (-10, -10, 20, 20))
    assert part.unknown.sum() == 20 * 20
    assert part.mask[5, 5] == 1


def test_points_are_known_and_all_other_pixels_unknown():
    part = from_points(SHAPE, [(20, 10), (60, 40)], [True, False])
    assert (part.mask[10, 20], part.unknown[10, 20]) == (1, 0)
    assert (part.mask[40, 60], part.unknown[40, 60]) == (0, 0)
    assert part.unknown.mean() > 0.98


def test_points_correct_a_guess_and_later_ones_win():
    guess = np.full(SHAPE, 0.75)
    part = from_points(SHAPE, [(20, 10), (20, 10)], [True, False], guess)
    assert part.mask[10, 20] == 0
    assert part.mask[50, 70] == 0.75
    assert guess.min() == 0.75  # the caller's stays as it is


def test_a_scribble_adds_to_what_is_known():
    box = from_box(SHAPE, (10, 20, 50, 40))
    part = from_scribble(SHAPE, [(15, 25), (45, 25)], False, box)
    assert (part.mask[25, 30], part.unknown[25, 30]) == (0, 0)
    assert part.unknown[35, 30] == 1
    assert part.unknown[5, 5] == 0


def test_only_the_outline_of_a_rough_mask_is_unknown():
    mask = np.zeros(SHAPE, np.uint8)
    mask[20:40, 30:60] = 7
    part = from_rough_mask(mask)
    np.testing.assert_array_equal(part.mask, mask > 0)
    assert part.unknown[30, 45] == 0
    assert part.unknown[19, 45] == part.unknown[20, 45] == 1
    assert part.unknown[5, 5] == 0


@pytest.mark.parametrize("box", [(10, 10, 10, 20), (30, 10, 20, 20), (90, 10, 120, 20)])
def test_a_box_without_area_is_refused(box):
    with pytest.raises(ValueError, match=r"has no area in a frame of 80x60: give left,top,right"):
        from_box(SHAPE, box)


def test_a_point_outside_of_the_frame_is_refused():
    with pytest.raises(ValueError, match="point 80,10 lies outside of the frame, which is 80x60"):
        from_points(SHAPE, [(80, 10)], [1])


def test_points_without_signs_are_refused():
    with pytest.raises(ValueError, match="got 1 points and 2 of these"):
        from_points(SHAPE, [(8, 10)], [1, 0])


def test_an_empty_scribble_is_refused():
    with pytest.raises(ValueError, match="expected a scribble of at least one point"):
        from_scribble(SHAPE, [])


def test_an_empty_rough_mask_is_refused():
    with pytest.raises(ValueError, match="expected a mask of an object, got an empty one"):
        from_rough_mask(np.zeros(SHAPE))
