"""What a job makes of masks and prompts in any frame, of any object; one test per message."""

import itertools
import logging

import numpy as np
import pytest
import torch

from bundle.inference.job import SegmentationJob
from bundle.inference.prompts import ObjectPrompt, complete_frame
from bundle.inference.settings import InferenceSettings
from bundle.networks import TCMN
from bundle.segmenter import VideoSegmenter
from tests.tiny import NETWORK, OWN_SIZE, make_prompted

HEIGHT, WIDTH, COUNT = 32, 48, 10
SIZE = (HEIGHT, WIDTH)
FRAMES = list(np.random.default_rng(0).integers(0, 256, (COUNT, *SIZE, 3), np.uint8))


@pytest.fixture(scope="module")
def network():
    """Takes partial masks; not trained, but its masks are not empty."""
    return make_prompted(2)


def segmenter_of(network, **settings):
    return VideoSegmenter(
        network, InferenceSettings(**(OWN_SIZE | {"precision": "float32"} | settings))
    )


@pytest.fixture
def segmenter(network):
    return segmenter_of(network)


@pytest.fixture
def job(segmenter):
    return segmenter.start(FRAMES)


def block(top, left, value=1, size=12):
    labels = np.zeros(SIZE, np.uint8)
    labels[top : top + size, left : left + size] = value
    return labels


ONE, TWO, OTHER = block(2, 2) > 0, block(16, 30) > 0, block(12, 10) > 0


def streamed(segmenter, masks):
    """Of complete masks."""
    return [result.labels for result in segmenter.segment(FRAMES, masks)]


def labels_of(job):
    return [result.labels for result in job.results()]


# Objects of which a frame's mask does not speak


def by_hand(segmenter, given):
    """The masks of frames that speak of some objects, completed: each object by itself, then all.

    ``given`` is frame to object to mask; no two objects are given in the same frames.
    """
    found = {}
    for i in {i for masks in given.values() for i in masks}:
        own = {frame: masks[i] * np.uint8(i) for frame, masks in given.items() if i in masks}
        found[i] = streamed(segmenter, own)
    whole = {}
    for frame, masks in given.items():
        whole[frame] = np.zeros(SIZE, np.uint8)
        for i in sorted(set(found) - set(masks), reverse=True):
            whole[frame][found[i][frame] == i] = i
        for i, mask in masks.items():
            whole[frame][mask] = i
    return whole


def test_objects_given_in_different_frames_are_found_in_all_frames(segmenter, job):
    job.add_mask(1, ONE, object_id=1)
    job.add_mask(7, TWO, object_id=2)
    whole = by_hand(segmenter, {1: {1: ONE}, 7: {2: TWO}})
    assert all(np.unique(labels).tolist() == [0, 1, 2] for labels in whole.values())
    np.testing.assert_array_equal(labels_of(job), streamed(segmenter, whole))
    np.testing.assert_array_equal(job.masks[7], whole[7])
    found = list(job.results())
    assert found[1].confidence[1] == found[7].confidence[2] == 1
    assert 0 < found[7].confidence[1] < 1


def test_a_correction_of_one_object_is_as_if_the_others_were_given_as_found(segmenter, job):
    first = ONE * np.uint8(1) + TWO * np.uint8(2)
    job.add_mask(0, first)
    before = labels_of(job)
    job.add_mask(5, OTHER, object_id=1)
    assert job.objects == {5: {1}}
    corrected = np.where(before[5] == 1, 0, before[5]).astype(np.uint8)
    corrected[OTHER] = 1
    np.testing.assert_array_equal(labels_of(job), streamed(segmenter, {0: first, 5: corrected}))


def test_prompts_given_at_once_or_after_propagating_are_the_same(segmenter):
    jobs = [segmenter.start(FRAMES) for _ in range(2)]
    for number, job in enumerate(jobs):
        job.add_mask(0, ONE * np.uint8(1) + TWO * np.uint8(2))
        if number:
            list(job.propagate())
        job.add_mask(6, OTHER, object_id=2)
    np.testing.assert_array_equal(labels_of(jobs[0]), labels_of(jobs[1]))


def test_what_was_found_beside_a_correction_follows_later_corrections(segmenter, job):
    """The correction in frame 5 speaks of object 1 alone, so object 2 there is not fixed by it."""
    job.add_mask(0, ONE * np.uint8(1) + TWO * np.uint8(2))
    list(job.propagate())
    job.add_mask(5, OTHER, object_id=1)
    list(job.propagate())
    before = job.masks[5].copy()
    job.add_mask(3, block(2, 34, size=8) > 0, object_id=2)
    changed = [result.frame for result in job.propagate()]
    assert sorted(changed) == [1, 2, 4, 5, 6, 7, 8, 9]
    at_once = segmenter.start(FRAMES)
    at_once.add_mask(0, ONE * np.uint8(1) + TWO * np.uint8(2))
    at_once.add_mask(5, OTHER, object_id=1)
    at_once.add_mask(3, block(2, 34, size=8) > 0, object_id=2)
    found = labels_of(at_once)[5]
    np.testing.assert_array_equal(job.masks[5] == 2, found == 2)
    assert not np.array_equal(job.masks[5], before)
    np.testing.assert_array_equal(job.masks[5] == 1, OTHER)


def test_a_correction_recomputes_only_up_to_the_next_prompts_of_its_object(job):
    job.add_mask(0, ONE * np.uint8(1) + TWO * np.uint8(2))
    job.add_mask(9, ONE * np.uint8(1) + TWO * np.uint8(2))
    assert sorted(result.frame for result in job.propagate()) == list(range(1, 9))
    job.add_mask(6, OTHER, object_id=1)
    assert sorted(result.frame for result in job.propagate()) == [1, 2, 3, 4, 5, 7, 8]
    job.add_mask(3, OTHER, object_id=1)
    assert sorted(result.frame for result in job.propagate()) == [1, 2, 4, 5]
    assert list(job.propagate()) == []
    job.remove_mask(3)
    assert sorted(result.frame for result in job.propagate()) == [1, 2, 3, 4, 5]


def test_an_object_that_is_said_to_be_gone_is_gone(job):
    job.add_mask(0, ONE * np.uint8(1) + TWO * np.uint8(2))
    list(job.propagate())
    job.add_mask(5, np.zeros(SIZE, bool), object_id=2)
    found = labels_of(job)
    assert 2 not in found[5]
    assert 1 in found[5]


def test_a_run_that_was_interrupted_while_objects_are_found_continues(segmenter):
    jobs = [segmenter.start(FRAMES) for _ in range(2)]
    for job in jobs:
        job.add_mask(2, ONE, object_id=1)
        job.add_mask(5, OTHER, object_id=3)
        job.add_mask(8, TWO, object_id=2)
    assert next(jobs[0].propagate()).frame in (2, 5, 8)
    list(itertools.islice(jobs[0].propagate(), 2))
    np.testing.assert_array_equal(labels_of(jobs[0]), labels_of(jobs[1]))
    assert all({1, 2, 3} == set(result.confidence) for result in jobs[0].results())


def test_forward_does_not_show_an_object_before_its_first_prompt(network):
    segmenter = segmenter_of(network, direction="forward")
    job = segmenter.start(FRAMES)
    job.add_mask(0, ONE, object_id=1)
    job.add_mask(6, TWO, object_id=2)
    found = list(job.results())
    assert all(set(result.confidence) == {1} for result in found[:6])
    assert not any(2 in result.labels for result in found[:6])
    assert all(set(result.confidence) == {1, 2} for result in found[6:])
    # In memory it is in frame 0, where it was found for that: nothing said that it is not there.
    backwards = streamed(segmenter_of(network), {6: TWO * np.uint8(2)})[0]
    both = streamed(segmenter_of(network), {0: ONE * np.uint8(1)})[6]
    whole = {
        0: np.where(ONE, 1, backwards).astype(np.uint8),
        6: np.where(TWO, 2, both).astype(np.uint8),
    }
    np.testing.assert_array_equal(
        [result.labels for result in found[7:]], streamed(segmenter, whole)[7:]
    )


# Boxes, points, scribbles


def test_each_prompt_answers_at_once_from_the_answer_before(segmenter, job):
    box, points = (4, 4, 40, 28), [(10, 10), (30, 20)]
    prompt = ObjectPrompt(box=box)
    first = complete_frame(segmenter, FRAMES[3], {2: prompt}, np.zeros(SIZE, np.uint8))
    np.testing.assert_array_equal(job.add_box(3, box, object_id=2), first)
    prompt = prompt.with_points(points, [1, 0])
    second = complete_frame(segmenter, FRAMES[3], {2: prompt}, first)
    np.testing.assert_array_equal(job.add_points(3, points, [1, 0], object_id=2), second)
    prompt = prompt.with_scribble([(12, 20), (20, 24)])
    third = complete_frame(segmenter, FRAMES[3], {2: prompt}, second)
    found = job.add_scribble(3, [(12, 20), (20, 24)], object_id=2)
    np.testing.assert_array_equal(found, third)
    np.testing.assert_array_equal(job.masks[3], third)
    assert found[10, 10] == found[24, 20] == 2
    assert found[20, 30] == 0


def test_several_objects_at_once_and_in_several_frames(job):
    job.add_prompts(0, {1: ObjectPrompt(box=(0, 0, 20, 20)), 4: ObjectPrompt(box=(24, 8, 48, 32))})
    job.add_points(6, [(5, 5)], [1], object_id=9)
    found = list(job.results())
    assert found[6].labels[5, 5] == 9
    for result in found:
        assert set(result.confidence) <= {1, 4, 9}
    assert job.objects == {0: {1, 4}, 6: {9}}


def test_a_correction_by_a_point_keeps_what_was_found_of_the_others(job):
    job.add_mask(0, ONE * np.uint8(1) + TWO * np.uint8(2))
    before = labels_of(job)[4]
    y, x = np.argwhere(before == 1)[0]
    after = job.add_points(4, [(int(x), int(y))], [0], object_id=1)
    np.testing.assert_array_equal(after == 2, before == 2)
    assert after[y, x] == 0
    results = {result.frame: result.labels for result in job.propagate()}
    assert set(results) == {1, 2, 3, 5, 6, 7, 8, 9}
    np.testing.assert_array_equal(job.masks[4], after)


def test_a_prompt_in_a_frame_with_a_complete_mask_leaves_it_complete(job):
    job.add_mask(0, ONE * np.uint8(1))
    labels = job.add_box(0, (20, 10, 48, 32), object_id=2)
    assert labels[ONE].tolist() == [1] * int(ONE.sum())
    assert job.objects == {}


def test_a_painted_mask_ends_what_was_pointed_at_before(segmenter, job):
    job.add_points(0, [(30, 20)], [1])
    job.add_mask(0, ONE, object_id=1)
    found = job.add_points(0, [(40, 5)], [1])
    expected = ObjectPrompt().with_points([(40, 5)], [1])
    np.testing.assert_array_equal(
        found, complete_frame(segmenter, FRAMES[0], {1: expected}, ONE * np.uint8(1))
    )


def test_unknown_pixels_of_a_mask_are_filled(segmenter, job):
    mask = block(2, 2, 1)
    mask[:, 24:] = 255
    expected = complete_frame(
        segmenter, FRAMES[0], {7: ObjectPrompt(mask=mask)}, np.zeros(SIZE, np.uint8)
    )
    np.testing.assert_array_equal(job.add_mask(0, mask, object_id=7, unknown=255), expected)
    assert job.objects == {0: {7}}
    np.testing.assert_array_equal(expected[:, :24] == 7, mask[:, :24] == 1)


def test_unknown_pixels_of_a_label_map_are_filled(segmenter, job):
    labels = ONE * np.uint8(3) + TWO * np.uint8(5)
    labels[:, 20:28] = 200
    prompts = {
        i: ObjectPrompt(mask=np.where(labels == 200, 255, labels == i).astype(np.uint8))
        for i in (3, 5)
    }
    known = np.where(labels == 200, 0, labels).astype(np.uint8)
    expected = complete_frame(segmenter, FRAMES[0], prompts, known)
    np.testing.assert_array_equal(job.add_mask(0, labels, unknown=200), expected)
    np.testing.assert_array_equal(expected[labels != 200], labels[labels != 200])
    assert job.objects == {}


def test_whole_masks_with_a_value_for_unknown_are_whole(job):
    np.testing.assert_array_equal(job.add_mask(0, ONE, object_id=3, unknown=255) == 3, ONE)


def test_what_was_given_of_one_object_is_taken_back(job):
    job.add_mask(0, ONE * np.uint8(1) + TWO * np.uint8(2))
    job.remove_mask(0, object_id=2)
    np.testing.assert_array_equal(job.masks[0], ONE)
    assert job.objects == {0: {1}}
    job.remove_mask(0, object_id=1)
    assert job.masks == {}
    assert job.objects == {}


def test_an_answer_is_the_callers_own(job):
    job.add_points(0, [(5, 5)], [1])[:] = 9
    assert 9 not in job.masks[0]


# Bad input: nothing is lost


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda job: job.add_box(10, (1, 1, 9, 9)), "no frame 10: the video has frames 0 to 9"),
        (lambda job: job.add_box(0, (9, 1, 9, 9)), "box 9,1,9,9 has no area in a frame of 48x32"),
        (
            lambda job: job.add_box(0, (1, 1, 9, 9), object_id=256),
            "object_id must be from 1 to 255",
        ),
        (lambda job: job.add_points(0, [(48, 1)], [1]), "point 48,1 of object 1 lies outside"),
        (lambda job: job.add_points(0, [(4, 1)], [1, 0]), "1 points have 2 signs: give for each"),
        (lambda job: job.add_points(0, [(20, 5)], [0]), "said to be on object 1 and beside it"),
        (lambda job: job.add_points(0, [(4, 1)], [0], 2), "nothing says where object 2 is"),
        (lambda job: job.add_box(0, (30, 1, 40, 20)), "point 20,5 on object 1 lies outside of its"),
        (lambda job: job.add_scribble(0, []), "a scribble of object 1 has no point"),
        (
            lambda job: job.add_mask(0, np.full(SIZE, 255), unknown=255),
            "the mask of frame 0 shows no object beside its unknown pixels",
        ),
        (lambda job: job.remove_mask(0, object_id=4), "nothing was given of object 4 in frame 0"),
    ],
)
def test_bad_input_is_refused(job, call, message):
    job.add_points(0, [(20, 5)], [1])
    before = job.masks[0].copy()
    with pytest.raises(ValueError, match=message):
        call(job)
    np.testing.assert_array_equal(job.masks[0], before)
    np.testing.assert_array_equal(job.add_points(0, [(22, 5)], [1])[5, [20, 22]], [1, 1])


@pytest.mark.parametrize(
    "call",
    [
        lambda job: job.add_box(0, (1, 1, 9, 9)),
        lambda job: job.add_points(0, [(4, 1)], [1]),
        lambda job: job.add_scribble(0, [(4, 1)]),
        lambda job: job.add_mask(0, np.where(ONE, 1, 255), object_id=1, unknown=255),
        lambda job: job.add_mask(0, np.where(ONE, 1, 255), unknown=255),
    ],
)
def test_a_network_without_partial_masks_says_so_and_keeps_the_masks(call):
    job = segmenter_of(TCMN(**NETWORK).eval()).start(FRAMES)
    job.add_mask(3, ONE, object_id=1)
    with pytest.raises(
        ValueError, match=r"need a network that takes them: these weights were trai"
    ):
        call(job)
    assert list(job.masks) == [3]
    assert len(list(job.propagate())) == COUNT - 1


def test_an_object_given_elsewhere_than_it_was_found_is_reported(job, caplog):
    job.add_mask(0, ONE, object_id=1)
    found = labels_of(job)[5] == 1
    elsewhere = np.zeros(SIZE, bool)
    y, x = np.argwhere(~found)[0]
    elsewhere[y, x] = True
    with caplog.at_level(logging.WARNING, "bundle"):
        job.add_mask(5, found, object_id=1)
        assert not caplog.records
        job.remove_mask(5)
        job.add_mask(5, elsewhere, object_id=1)
    assert "object 1 is given in frame 5 where nothing of it was found" in caplog.text


def test_a_prompt_that_finds_nothing_is_reported(caplog):
    network = TCMN(**NETWORK | {"partial_masks": True}).eval()
    torch.nn.init.zeros_(network.decoder.predict.weight)
    torch.nn.init.constant_(network.decoder.predict.bias, -9)
    with caplog.at_level(logging.WARNING, "bundle"):
        assert not segmenter_of(network).start(FRAMES).add_box(4, (1, 1, 20, 20), object_id=3).any()
    assert "nothing of object 3 was found in frame 4: add a point on it" in caplog.text


def test_a_job_can_be_made_of_anything_with_a_network(segmenter):
    assert isinstance(segmenter.start(FRAMES), SegmentationJob)
