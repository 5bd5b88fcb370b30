"""Which frames are looked at, and in which order."""

import numpy as np
import pytest

from bundle.project.review import (
    FrameFacts,
    Limits,
    estimate_rest,
    find_problems,
    measure_frame,
    review_queue,
)


def disk(row=20.0, column=20.0, radius=8.0, object_id=1, size=(48, 64)):
    rows, columns = np.mgrid[: size[0], : size[1]]
    inside = (rows - row) ** 2 + (columns - column) ** 2 <= radius**2
    return np.where(inside, np.uint8(object_id), np.uint8(0))


def facts_of(masks, confidence=0.95):
    return {i: measure_frame(mask, {1: confidence}) for i, mask in enumerate(masks)}


def test_areas_and_centres_are_those_of_the_pixels():
    labels = np.random.default_rng(0).integers(0, 4, (9, 11)).astype(np.uint8)
    facts = measure_frame(labels, {1: 0.5})
    for object_id in (1, 2, 3):
        rows, columns = np.nonzero(labels == object_id)
        assert facts.areas[object_id] == len(rows)
        assert facts.centres[object_id] == pytest.approx((rows.mean(), columns.mean()), abs=0.01)
    assert measure_frame(np.zeros((4, 4), np.uint8)) == FrameFacts({}, {})


def test_a_beating_heart_is_not_suspicious():
    beat = [disk(radius=14 + 4 * np.cos(i / 4)) for i in range(60)]
    assert review_queue(facts_of(beat)) == []


def test_a_steady_walk_is_not_suspicious():
    walk = [disk(column=8 + 1.5 * i) for i in range(30)]
    assert review_queue(facts_of(walk)) == []


def test_low_confidence_comes_worst_first_by_stretch():
    frames = facts_of([disk()] * 40)
    for i, value in {5: 0.2, 20: 0.5, 21: 0.45, 22: 0.3, 23: 0.4, 24: 0.5}.items():
        frames[i] = FrameFacts(frames[i].areas, frames[i].centres, {1: value})
    long, short = review_queue(frames)
    assert (long.frame, long.frames) == (22, (20, 21, 22, 23, 24))
    assert (short.frame, short.frames) == (5, (5,))
    assert short.findings[0].reason == "low confidence"
    assert short.findings[0].score == pytest.approx(1 - 0.2 / 0.7)
    assert review_queue(frames, limits=Limits(confidence=0.1)) == []


def test_a_hole_is_suspicious_in_each_frame_an_end_in_one():
    masks = [disk() if i < 10 or 14 <= i < 30 else disk() * 0 for i in range(40)]
    found = find_problems(facts_of(masks))
    assert [(each.frame, each.reason, each.score) for each in found] == [
        *((i, "vanished", 1.0) for i in range(10, 14)), (30, "vanished", 0.5)
    ]  # fmt: skip
    hole, end = review_queue(facts_of(masks))
    assert hole.frames == (10, 11, 12, 13)
    assert hole.frame in (11, 12)
    assert end.frame == 30


def test_what_was_lost_going_backward_is_reported_too():
    masks = [disk() * (i >= 6) for i in range(12)]
    (item,) = review_queue(facts_of(masks), trusted=[11])
    assert item.frame == 5


@pytest.mark.parametrize(
    ("bad", "reason"),
    [(disk(radius=11), "area jumps"), (disk(column=34), "position jumps")],
)
def test_a_jump_is_blamed_on_the_frame_that_is_less_sure(bad, reason):
    frames = facts_of([disk(radius=8 + 0.05 * (i % 2)) for i in range(20)])
    frames[12] = measure_frame(bad, {1: 0.8})
    found = find_problems(frames, trusted=[0])
    assert {(each.frame, each.reason) for each in found} == {(12, reason)}
    (item,) = review_queue(frames, trusted=[0])
    assert item.frame == 12
    assert item.findings[0].reason == reason


def test_without_confidence_the_frame_far_from_the_given_mask_is_blamed():
    frames = {i: measure_frame(disk(column=20 if i < 7 else 40)) for i in range(14)}
    (finding,) = find_problems(frames, trusted=[0])
    assert (finding.frame, finding.reason) == (7, "position jumps")


def test_what_somebody_accepted_is_not_asked_again_and_splits_a_stretch():
    frames = facts_of([disk()] * 12, confidence=0.4)
    (whole,) = review_queue(frames)
    assert whole.frames == tuple(range(12))
    queue = review_queue(frames, trusted=[whole.frame])
    assert sorted(i for item in queue for i in item.frames) == [
        i for i in range(12) if i != whole.frame
    ]
    assert len(queue) == 2
    assert review_queue(frames, trusted=range(12)) == []


def test_frames_without_a_mask_are_no_jump():
    frames = facts_of([disk()] * 4) | {30: measure_frame(disk(column=50), {1: 0.9})}
    assert review_queue(frames) == []


def test_the_rest_is_estimated_from_what_was_done():
    assert estimate_rest(3, 60.0, 6, unfinished=2, minutes_of_finished=[4, 9, 5]) == 10.5
    assert estimate_rest(3, 0.0, 0) is None
    assert estimate_rest(0, 0.0, 0, unfinished=1) is None
    assert estimate_rest(0, 0.0, 0) == 0
