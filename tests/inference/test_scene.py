"""A frame that may be of another scene is flagged; one that surely is shows no object."""

import cv2
import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter

from bundle.inference.inferers import VideoInferer
from bundle.inference.scene import (
    LIMITS,
    Appearance,
    Scene,
    SceneMatch,
    count_colours,
    describe_appearance,
)
from bundle.inference.session import TRUST_ELSEWHERE, VideoSession
from bundle.inference.settings import parse_settings

SIZE = 48, 64


def make_scene(seed, light=0.0):
    """A smooth picture of colours of its own."""
    noise = np.random.default_rng(seed).random((*SIZE, 3))
    smooth = gaussian_filter(noise, (8, 8, 0))
    low, high = smooth.min((0, 1)), smooth.max((0, 1))
    return (255 * np.clip((smooth - low) / (high - low) + light, 0, 1)).astype(np.uint8)


def reddish(seed):
    return (make_scene(seed) * (0.3, 0.1, 0.1) + (150, 40, 40)).astype(np.uint8)


def bluish(seed):
    return (make_scene(seed) * (0.1, 0.1, 0.3) + (20, 60, 150)).astype(np.uint8)


def to_tensor(frame):
    return torch.from_numpy(frame / 255).float().permute(2, 0, 1)[None]


def describe(frame):
    """With keys that tell nothing."""
    return describe_appearance(to_tensor(frame), torch.zeros(1, 8, 9, 9))


def match(same):
    return SceneMatch(torch.tensor([same]), torch.tensor([not same]))


def is_blue(frame):
    blue = count_colours(to_tensor(bluish(0)))
    return 0.5 * float((frame.colours - blue).abs().sum()) < LIMITS[0]


@pytest.fixture
def mask():
    labels = np.zeros(SIZE, np.uint8)
    labels[10:30, 20:44] = 1
    return labels


def stream(network, frames, given):
    inferer = VideoInferer(inference_size=None, precision="float32", spatial_prior=None)
    return list(inferer.stream(frames, given, network))


def test_colours_are_those_of_opencvs_histogram():
    frame = make_scene(0)
    small = cv2.resize(frame, (64, 64), interpolation=cv2.INTER_AREA)
    hsv = cv2.cvtColor(small, cv2.COLOR_RGB2HSV).reshape(-1, 3)
    expected, _ = np.histogramdd(hsv, (8, 8, 8), [(0, 180), (0, 256), (0, 256)])
    found = count_colours(to_tensor(frame))[0].numpy().reshape(8, 8, 8)
    # Rounding of the small picture may move a pixel to the next bin.
    assert np.abs(found - expected / 64**2).sum() < 0.05


def test_distances_of_keys_are_those_of_a_loop():
    maps = torch.randn(3, 8, 9, 7)
    given, last, frame = (
        describe_appearance(torch.zeros(1, 3, 32, 32), each[None]) for each in maps
    )

    def nearest(key, place, others):
        return min(
            float((key[:, *place] - other[:, *there]).norm())
            for other, there in others
            if other is not key or max(abs(place[0] - there[0]), abs(place[1] - there[1])) > 2
        )

    places = list(np.ndindex(9, 7))
    within = [
        np.mean([nearest(key, place, [(key, there) for there in places]) for place in places[::2]])
        for key in maps
    ]
    for each, expected in zip((given, last, frame), within, strict=True):
        assert float(each.within) == pytest.approx(expected, rel=1e-4)
    across = np.mean(
        [
            nearest(maps[2], place, [(key, there) for key in maps[:2] for there in places])
            for place in places[::2]
        ]
    )
    # Keys a little nearer than the limit are of the scene, a little farther not.
    usual = (within[2] + (within[0] + within[1]) / 2) / 2
    for factor, same in ((0.99, True), (1.01, False)):
        scene = Scene()
        scene.give(given._replace(within=given.within * across / usual / factor))
        scene._last = last._replace(within=last.within * across / usual / factor)
        match = scene.follow(frame._replace(within=frame.within * across / usual / factor))
        assert bool(match.same) is same
        assert not match.elsewhere  # the colours are the same


def test_after_a_change_of_colours_the_confidence_is_half_and_the_masks_are_the_same(
    network, mask, monkeypatch
):
    frames = [reddish(0), reddish(1), bluish(2), bluish(3), reddish(4)]
    found = stream(network, frames, {0: mask})
    monkeypatch.setattr(Scene, "follow", lambda self, frame: match(same=True))
    blind = stream(network, frames, {0: mask})
    factors = [1, 1, TRUST_ELSEWHERE, TRUST_ELSEWHERE, 1]
    for one, other, factor in zip(found, blind, factors, strict=True):
        np.testing.assert_array_equal(one.labels, other.labels)
        assert one.confidence[1] == pytest.approx(factor * other.confidence[1])
    assert all(one.review for one in found[2:4])


def test_a_frame_surely_of_another_scene_has_no_mask_and_is_flagged(network, mask, monkeypatch):
    frames = [reddish(0), reddish(1), bluish(2), reddish(4)]
    monkeypatch.setattr(Scene, "follow", lambda self, frame: match(same=True))
    blind = stream(network, frames, {0: mask})
    assert blind[2].labels.any()
    monkeypatch.setattr(Scene, "follow", lambda self, frame: match(same=not is_blue(frame)))
    found = stream(network, frames, {0: mask})
    assert not found[2].labels.any()
    assert found[2].vanished == {1}
    assert found[2].review
    assert found[2].confidence[1] == pytest.approx(TRUST_ELSEWHERE * blind[2].confidence[1])
    np.testing.assert_array_equal(found[1].labels, blind[1].labels)
    assert found[3].labels.any()


def test_frames_of_another_scene_leave_no_trace_in_the_session(network, mask, monkeypatch):
    monkeypatch.setattr(Scene, "follow", lambda self, frame: match(same=not is_blue(frame)))
    given = to_tensor(reddish(0)), torch.from_numpy(mask)[None, None].float()
    sessions = [VideoSession(parse_settings(memory_every=2), network) for _ in range(2)]
    for session in sessions:
        session.prompt(*given)
    for seed in (1, 2):
        sessions[0].step(to_tensor(bluish(seed)))
    assert sessions[0].remembered == 1
    back = [session.step(to_tensor(reddish(3))) for session in sessions]
    torch.testing.assert_close(back[0].logits, back[1].logits, rtol=0, atol=0)


def test_both_signs_together_tell_another_scene():
    key = torch.randn(1, 8, 9, 9)
    scene = Scene()
    scene.give(describe_appearance(to_tensor(reddish(0)), key))
    for frame, other_key, same, elsewhere in (
        (reddish(1), key, True, False),
        (bluish(1), key, False, False),
        (reddish(1), key + 9, False, False),
        (bluish(1), key + 9, False, True),
    ):
        found = scene.follow(describe_appearance(to_tensor(frame), other_key))
        assert (bool(found.same), bool(found.elsewhere)) == (same, elsewhere)


def test_a_sign_does_not_count_where_it_is_usual():
    key = torch.randn(1, 8, 9, 9)
    scene = Scene()
    scene.give(describe_appearance(to_tensor(reddish(0)), key))
    other = describe_appearance(to_tensor(bluish(1)), key + 9)
    leap = describe_appearance(to_tensor(bluish(2)), key)
    assert scene.follow(other).elsewhere
    assert not scene.follow(leap).same  # the first of its kind
    assert scene.follow(leap).same
    scene.give(describe_appearance(to_tensor(reddish(0)), key))
    match = scene.follow(other)
    assert not match.elsewhere  # by its keys alone, now
    assert not match.same


def test_keys_of_very_small_frames_are_not_compared():
    scene, small = Scene(), torch.randn(1, 8, 3, 3)
    scene.give(describe_appearance(to_tensor(reddish(0)), small))
    assert scene.follow(describe_appearance(to_tensor(reddish(0)), small + 9)).same


def test_a_mask_given_in_the_other_scene_makes_it_known():
    red, blue = (describe(frame) for frame in (reddish(0), bluish(2)))
    scene = Scene()
    scene.give(red)
    assert not scene.follow(blue).same
    scene.give(blue)
    assert scene.follow(blue).same
    assert scene.follow(red).same


def test_light_that_changes_slowly_is_the_same_scene():
    frames = [describe(make_scene(0, light)) for light in np.linspace(0, 0.5, 40)]
    scene = Scene()
    scene.give(frames[0])
    assert 0.5 * (frames[0].colours - frames[-1].colours).abs().sum() > LIMITS[0]
    assert all(scene.follow(each).same.all() for each in frames[1:])


def test_clips_of_a_batch_are_told_apart():
    red, blue = describe(reddish(0)), describe(bluish(2))
    both = Appearance(*(torch.cat(pair) for pair in zip(red, blue, strict=True)))
    scene = Scene()
    scene.give(Appearance(*(torch.cat([each, each]) for each in red)))
    assert scene.follow(both).same.tolist() == [True, False]
    assert torch.equal(scene._last.colours[1], red.colours[0])  # not the other scene's


def test_a_session_goes_on_with_the_scene_of_another(network, mask):
    inferer = VideoInferer(inference_size=None, precision="float32", spatial_prior=None)
    session = inferer.start(network)
    session.prompt(to_tensor(reddish(0)), torch.from_numpy(mask)[None, None].float())
    session.step(to_tensor(bluish(1)))
    other = VideoSession(session.settings, network)
    other.load_state(session.state())
    frame = to_tensor(bluish(2))
    assert torch.equal(session.step(frame).confidence, other.step(frame).confidence)
    assert float(other.step(frame).confidence) <= TRUST_ELSEWHERE
