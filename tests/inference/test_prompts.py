"""A frame completed from prompts: what is kept to, what stays, one test per message."""

import itertools

import numpy as np
import pytest
import torch

from bundle.inference.prompts import (
    NEEDS_PARTIAL_MASKS,
    ObjectPrompt,
    complete_frame,
    takes_prompts,
)
from bundle.inference.settings import InferenceSettings
from bundle.networks import TCMN, load_weights, make_network
from bundle.networks.fold_batchnorm import fold_batch_norm
from bundle.networks.prompts import from_box, from_points, from_rough_mask, from_scribble
from bundle.networks.tcmn import aggregate
from bundle.segmenter import VideoSegmenter
from bundle.utils.bundle_files import bundle_root
from tests.tiny import NETWORK, OWN_SIZE, make_prompted

SHAPE = HEIGHT, WIDTH = 48, 64
SETTINGS = InferenceSettings(**OWN_SIZE, precision="float32")
FRAME = np.random.default_rng(0).integers(0, 256, (*SHAPE, 3), np.uint8)
NOTHING = np.zeros(SHAPE, np.uint8)


class Told:
    """Stands in for a network: answers probabilities that it was told, keeps what it was asked."""

    partial_masks = True

    def __init__(self, *probability):
        self.probability = torch.from_numpy(np.stack(probability)).float()[None]

    def encode(self, image):
        return image

    def memorize(self, features, masks, unknown=None):
        raise AssertionError("a frame is completed, not remembered")

    segment = memorize

    def complete(self, features, masks, unknown):
        self.masks, self.unknown = masks[0].numpy(), unknown[0].numpy()
        missing = torch.zeros(1, masks.shape[1] - self.probability.shape[1], *SHAPE)
        return aggregate(torch.cat([self.probability, missing], 1))

    def parameters(self):
        return iter(())


def told(*probability):
    return VideoSegmenter(Told(*probability), SETTINGS)


def nothing(count=1):
    return told(*([np.zeros(SHAPE)] * count))


def everything(count=1):
    return told(*([np.full(SHAPE, 0.9)] * count))


def block(top, left, size=12, value=1):
    labels = np.zeros(SHAPE, np.uint8)
    labels[top : top + size, left : left + size] = value
    return labels


@pytest.fixture(scope="module")
def real():
    """A network with the parts of prompts, whose masks are not empty; not trained."""
    return VideoSegmenter(make_prompted(1), SETTINGS)


# What the network is asked


def test_a_box_alone_begins_anew():
    segmenter, box = nothing(), (10, 5, 40, 30)
    complete_frame(segmenter, FRAME, {3: ObjectPrompt(box=box)}, block(8, 12, value=3))
    expected = from_box(SHAPE, box)
    np.testing.assert_array_equal(segmenter.network.masks, expected.mask[None])
    np.testing.assert_array_equal(segmenter.network.unknown, expected.unknown[None])


def test_points_correct_what_was_found():
    segmenter, points, labels = nothing(), [(20.0, 10.0), (50.0, 40.0)], block(8, 12, value=3)
    prompt = ObjectPrompt().with_points(points, [True, False])
    complete_frame(segmenter, FRAME, {3: prompt}, labels)
    expected = from_points(SHAPE, points, [True, False], labels == 3)
    np.testing.assert_array_equal(segmenter.network.masks, expected.mask[None])
    np.testing.assert_array_equal(segmenter.network.unknown, expected.unknown[None])


def test_points_in_a_box_correct_what_was_found_there():
    box, labels = (10, 5, 40, 30), block(20, 30, value=1)
    segmenter = nothing()
    prompt = ObjectPrompt(box=box).with_points([(20, 10)], [True])
    complete_frame(segmenter, FRAME, {1: prompt}, labels)
    inside = from_box(SHAPE, box).unknown
    point = from_points(SHAPE, [(20, 10)], [True], inside * labels)
    np.testing.assert_array_equal(segmenter.network.masks[0], point.mask)
    np.testing.assert_array_equal(segmenter.network.unknown[0], inside * point.unknown)


def test_scribbles_and_a_rough_mask_add_up():
    rough = block(10, 10, size=24)
    segmenter = nothing()
    prompt = ObjectPrompt(mask=rough).with_scribble([(12, 40), (50, 40)], False)
    complete_frame(segmenter, FRAME, {1: prompt}, NOTHING)
    expected = from_scribble(SHAPE, [(12, 40), (50, 40)], False, from_rough_mask(rough))
    np.testing.assert_array_equal(segmenter.network.masks[0], expected.mask)
    np.testing.assert_array_equal(segmenter.network.unknown[0], expected.unknown)


def test_an_unknown_part_of_a_mask_is_guessed_from_what_was_found():
    mask = block(10, 10)
    mask[:, 32:] = 255
    segmenter, labels = nothing(), block(30, 40, value=4)
    complete_frame(segmenter, FRAME, {4: ObjectPrompt(mask=mask)}, labels)
    np.testing.assert_array_equal(segmenter.network.masks[0], (mask == 1) | (labels == 4))
    np.testing.assert_array_equal(segmenter.network.unknown[0], mask == 255)


def test_the_other_objects_are_told_as_known():
    segmenter, labels = nothing(), block(0, 0, value=7) + block(20, 0, value=9)
    complete_frame(segmenter, FRAME, {8: ObjectPrompt(box=(30, 5, 60, 30))}, labels)
    assert segmenter.network.masks.shape[0] == 2
    np.testing.assert_array_equal(segmenter.network.masks[1], labels > 0)
    assert not segmenter.network.unknown[1].any()


# What comes of its answer


def test_labels_are_those_of_a_loop_over_pixels():
    """Two objects with boxes among two others, pixel by pixel."""
    random = np.random.default_rng(5)
    probability = random.random((2, *SHAPE))
    labels = random.choice([0, 0, 2, 4, 6, 8], SHAPE).astype(np.uint8)
    boxes = {4: (5, 3, 50, 30), 2: (20, 10, 64, 48)}  # ids out of order
    prompts = {i: ObjectPrompt(box=box) for i, box in boxes.items()}
    found = complete_frame(told(*probability), FRAME, prompts, labels)
    for y, x in itertools.product(range(HEIGHT), range(WIDTH)):
        chances = {0: np.prod(1 - probability[:, y, x])}
        for number, i in enumerate((2, 4)):
            left, top, right, bottom = boxes[i]
            if left < x + 0.5 < right and top < y + 0.5 < bottom:
                chances[i] = probability[number, y, x]
        odds = {i: p / (1 - p) for i, p in chances.items()}
        expected = labels[y, x] if labels[y, x] in (6, 8) else max(odds, key=odds.get)
        assert found[y, x] == expected, (y, x)


@pytest.mark.parametrize("make", [nothing, everything])
def test_points_and_scribbles_hold_whatever_the_network_finds(make):
    box = (8, 4, 56, 40)
    prompt = (
        ObjectPrompt(box=box)
        .with_points([(20, 10), (22, 10), (50, 38)], [True, False, True])
        .with_scribble([(30, 20), (40, 24), (44, 20)], True)
        .with_scribble([(10, 34), (30, 34)], False)
        .with_scribble([(15, 25)], True)
    )
    found = complete_frame(make(), FRAME, {2: prompt}, NOTHING) == 2
    assert found[10, 20]
    assert not found[10, 22]
    assert found[38, 50]
    assert found[20, 30]
    assert found[24, 40]
    assert found[25, 15]
    assert not found[34, 10:31].any()
    outside = np.ones(SHAPE, bool)
    outside[4:40, 8:56] = False
    assert not found[outside].any()


def test_a_point_that_the_network_agrees_with_changes_nothing():
    answer = block(10, 10).astype(float) * 0.9
    prompt = ObjectPrompt().with_points([(10, 10), (9, 9)], [True, False])
    found = complete_frame(told(answer), FRAME, {1: prompt}, NOTHING)
    np.testing.assert_array_equal(found, answer > 0.5)


def test_a_point_that_the_network_denies_brings_more_than_a_pixel():
    prompt = ObjectPrompt().with_points([(20, 10)], [True])
    found = complete_frame(nothing(), FRAME, {1: prompt}, NOTHING)
    assert found.sum() == from_points(SHAPE, [(20, 10)], [True]).mask.sum()


def test_what_a_partial_mask_is_sure_of_stays():
    mask = np.full(SHAPE, 255, np.uint8)
    mask[10:20, 10:20], mask[30:40] = 1, 0
    for make, rest in ((nothing, 0), (everything, 1)):
        found = complete_frame(make(), FRAME, {1: ObjectPrompt(mask=mask)}, NOTHING)
        np.testing.assert_array_equal(found, np.where(mask == 255, rest, mask))


def test_objects_without_a_prompt_keep_their_pixels():
    labels = block(0, 0, value=1) + block(20, 20, value=2)
    prompt = ObjectPrompt(box=(0, 0, 40, 40))
    found = complete_frame(everything(), FRAME, {3: prompt}, labels)
    np.testing.assert_array_equal(found[labels > 0], labels[labels > 0])
    assert (found == 3).sum() == 40 * 40 - (labels > 0).sum()


def test_a_sure_point_takes_its_place_from_another_object():
    labels = block(10, 10, size=30)
    prompt = ObjectPrompt().with_points([(20, 20)], [True])
    found = complete_frame(nothing(), FRAME, {2: prompt}, labels)
    disk = from_points(SHAPE, [(20, 20)], [True]).mask > 0
    np.testing.assert_array_equal(found, np.where(disk, 2, labels))


def test_no_pen_covers_the_point_of_another_object():
    prompts = {
        5: ObjectPrompt().with_points([(20, 10)], [True]),
        9: ObjectPrompt().with_points([(21, 10)], [True]).with_scribble([(10, 10), (30, 10)]),
    }
    found = complete_frame(nothing(2), FRAME, prompts, NOTHING)
    assert (found[10, 20], found[10, 21], found[10, 12]) == (5, 9, 9)


def test_the_later_of_two_scribbles_that_cross_counts():
    prompt = (
        ObjectPrompt().with_scribble([(10, 20), (40, 20)]).with_scribble([(25, 5), (25, 40)], 0)
    )
    found = complete_frame(nothing(), FRAME, {1: prompt}, NOTHING)
    assert not found[20, 25]
    assert found[20, 12]
    assert found[20, 38]


def test_a_point_corrects_only_what_it_touches():
    second = block(30, 40, size=10)
    labels = block(4, 4, size=20) | second
    answer = np.zeros(SHAPE)
    answer[4:24, 4:34] = 0.9  # grows to the right of the first part, and forgets the second
    prompt = ObjectPrompt().with_points([(29, 12)], [True])
    found = complete_frame(told(answer), FRAME, {1: prompt}, labels)
    np.testing.assert_array_equal(found == 1, (answer > 0.5) | (second > 0))


def test_with_a_box_the_whole_answer_is_taken():
    labels = block(4, 4, size=20) | block(30, 40, size=10)
    answer = block(4, 4, size=20) * 0.9
    prompt = ObjectPrompt(box=(2, 2, 60, 46)).with_points([(8, 8)], [True])
    found = complete_frame(told(answer), FRAME, {1: prompt}, labels)
    np.testing.assert_array_equal(found == 1, answer > 0.5)


def test_an_object_that_is_elsewhere_leaves_its_old_place():
    labels, answer = block(4, 4), block(30, 40) * 0.9
    prompt = ObjectPrompt().with_points([(46, 36)], [True])
    found = complete_frame(told(answer), FRAME, {1: prompt}, labels)
    np.testing.assert_array_equal(found == 1, answer > 0.5)


def test_without_a_mask_before_the_whole_answer_of_a_point_is_taken():
    answer = (block(4, 4) | block(30, 40)) * 0.9
    prompt = ObjectPrompt().with_points([(8, 8)], [True])
    found = complete_frame(told(answer), FRAME, {1: prompt}, NOTHING)
    np.testing.assert_array_equal(found == 1, answer > 0.5)


PART, REST = block(4, 4), block(20, 30, size=20)


@pytest.mark.parametrize("before", [PART | REST, PART], ids=["at once", "later"])
def test_a_point_in_the_middle_of_a_separate_part_takes_it_away(before):
    """However often the network answers with it, with a hole of a few pixels at the point."""
    answer = (PART | REST) * 0.9
    answer[29:32, 39:42] = 0
    prompt = ObjectPrompt().with_points([(8, 8), (40, 30)], [True, False])
    found = complete_frame(told(answer), FRAME, {1: prompt}, before)
    np.testing.assert_array_equal(found == 1, PART > 0)


@pytest.mark.parametrize(
    "prompt",
    [
        ObjectPrompt().with_points([(8, 8), (31, 21)], [True, False]),
        ObjectPrompt().with_points([(8, 8), (40, 25), (40, 35)], [True, False, True]),
        ObjectPrompt().with_points([(40, 30)], [False]),
        ObjectPrompt((2, 2, 60, 46)).with_points([(8, 8), (40, 30)], [True, False]),
    ],
    ids=["at its rim", "with a point on it", "not begun by a point", "in a box"],
)
def test_such_a_part_stays(prompt):
    found = complete_frame(told((PART | REST) * 0.9), FRAME, {1: prompt}, PART | REST)
    away = ((PART | REST) > 0) & (found != 1)
    assert 0 < away.sum() < 30


def test_a_part_that_is_kept_takes_no_pixel_of_another_prompted_object():
    labels = block(4, 4, size=20, value=1)
    second = block(14, 4, size=10, value=1) * 0.9  # the lower half is given to object 2
    prompts = {
        1: ObjectPrompt().with_points([(20, 5)], [True]),
        2: ObjectPrompt().with_points([(8, 20)], [True]),
    }
    found = complete_frame(told(np.zeros(SHAPE), second), FRAME, prompts, labels)
    assert found[20, 8] == 2
    assert found[16, 12] == 2
    assert found[5, 20] == 1


def test_prompts_are_the_same_in_any_order_and_leave_their_input_alone(real):
    labels = block(4, 4, value=6)
    kept = labels.copy()
    prompts = {
        9: ObjectPrompt(box=(10, 10, 40, 40)),
        3: ObjectPrompt().with_points([(50, 20)], [True]),
    }
    found = complete_frame(real, FRAME, prompts, labels)
    again = complete_frame(real, FRAME, dict(reversed(prompts.items())), labels)
    np.testing.assert_array_equal(found, again)
    np.testing.assert_array_equal(labels, kept)
    assert found[20, 50] == 3
    assert complete_frame(real, FRAME, {}, labels) is not labels


def test_a_box_and_points_given_at_once_or_by_steps_of_one_prompt_are_the_same(real):
    points, signs = [(20, 20), (12, 30)], [True, False]
    once = ObjectPrompt((10, 10, 40, 40), tuple(points), tuple(signs))
    steps = ObjectPrompt().with_points(points[:1], signs[:1]).with_box((10, 10, 40, 40))
    steps = steps.with_points(points[1:], signs[1:])
    first, second = (complete_frame(real, FRAME, {1: each}, NOTHING) for each in (once, steps))
    np.testing.assert_array_equal(first, second)


@pytest.mark.slow
def test_shipped_weights_grow_into_a_network_that_answers():
    weights = bundle_root() / "models" / "model.pt"
    parts = {"context_channels": 128, "previous_mask": True, "partial_masks": True}
    network = load_weights(make_network(weights=weights, **parts), weights, grow=True).eval()
    segmenter = VideoSegmenter(fold_batch_norm(network), InferenceSettings(inference_size=96))
    labels = block(4, 4, value=2)
    prompt = ObjectPrompt(box=(20, 10, 50, 40)).with_points([(30, 20)], [True])
    found = complete_frame(segmenter, FRAME, {1: prompt}, labels)
    assert found[20, 30] == 1
    np.testing.assert_array_equal(found == 2, labels == 2)


# Bad input


def points(*places, signs=None):
    return ObjectPrompt().with_points(places, [True] * len(places) if signs is None else signs)


@pytest.mark.parametrize(
    ("prompts", "message"),
    [
        ({0: points((1, 1))}, "object ids must be from 1 to 255, got 0"),
        ({256: points((1, 1))}, "object ids must be from 1 to 255, got 256"),
        ({2: points((64, 1))}, "point 64,1 of object 2 lies outside of the frame, which is 64x48"),
        ({2: points((1, -0.5))}, "point 1,-0.5 of object 2 lies outside of the frame"),
        (
            {2: ObjectPrompt(points=((1, 1),), positive=(True, False))},
            "object 2 has 1 points and 2 signs: give for each",
        ),
        (
            {2: ObjectPrompt().with_scribble([(5, 5), (5, 48)])},
            "scribble point 5,48 of object 2 lies outside of the frame, which is 64x48",
        ),
        ({2: ObjectPrompt().with_scribble([])}, "a scribble of object 2 has no point"),
        ({2: ObjectPrompt(box=(5, 5, 5, 20))}, "box 5,5,5,20 has no area in a frame of 64x48"),
        (
            {2: points((9.5, 7), (9, 7.5), signs=[1, 0])},
            "point 9,7.5 is said to be on object 2 and beside it: take one",
        ),
        (
            {2: points((9, 7)).with_box((20, 5, 40, 30))},
            "point 9,7 on object 2 lies outside of its box 20,5,40,30: move the point, or draw",
        ),
        (
            {2: points((9, 7)), 5: points((9, 7))},
            "point 9,7 is given to object 2 and to object 5: a pixel belongs to one object",
        ),
        (
            {2: ObjectPrompt(mask=block(5, 5)), 5: ObjectPrompt(mask=block(6, 6))},
            "is given to object 2 and to object 5 by their masks: a pixel belongs to one object",
        ),
        ({2: points((9, 7), signs=[0])}, "nothing says where object 2 is: give a box, or a point"),
        ({2: ObjectPrompt()}, "nothing says where object 2 is"),
        ({2: ObjectPrompt(mask=NOTHING[1:])}, r"mask of object 2 is \(47, 64\) but the frame is"),
        ({2: ObjectPrompt(mask=block(5, 5, value=3))}, "mask of object 2 holds 3: expected 1 on"),
        ({2: ObjectPrompt(mask=NOTHING)}, "the mask of object 2 is empty: show the object"),
    ],
)
def test_prompts_that_make_no_sense_are_refused(prompts, message):
    with pytest.raises(ValueError, match=message):
        complete_frame(nothing(2), FRAME, prompts, NOTHING)


def test_labels_of_another_size_are_refused():
    with pytest.raises(ValueError, match=r"the labels are \(47, 64\) but the frame is \(48, 64\)"):
        complete_frame(nothing(), FRAME, {1: points((1, 1))}, NOTHING[1:])


def test_a_network_without_partial_masks_says_so():
    network = TCMN(**NETWORK).eval()
    assert not takes_prompts(network)
    with pytest.raises(ValueError, match=NEEDS_PARTIAL_MASKS[:60]):
        complete_frame(VideoSegmenter(network), FRAME, {1: points((1, 1))}, NOTHING)


def test_points_without_their_signs_are_refused():
    with pytest.raises(ValueError, match="1 points have 2 signs: give for each point 1"):
        ObjectPrompt().with_points([(1, 1)], [1, 0])


def test_prompts_join():
    first = ObjectPrompt(box=(1, 1, 9, 9)).with_points([(2, 2)], [True]).with_scribble([(3, 3)])
    second = (
        ObjectPrompt(mask=block(2, 2)).with_points([(4, 4)], [False]).with_scribble([(5, 5)], 0)
    )
    both = first.with_prompt(second)
    assert (both.box, both.mask is second.mask) == ((1, 1, 9, 9), True)
    assert (both.points, both.positive) == (((2, 2), (4, 4)), (True, False))
    assert [each.positive for each in both.scribbles] == [True, False]
    assert both.with_prompt(ObjectPrompt(box=(2, 2, 8, 8))).box == (2, 2, 8, 8)
