"""A frame of another scene is trusted less, so that it is flagged; the masks stay as they are."""

import cv2
import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter

from bundle.inference.inferers import VideoInferer
from bundle.inference.scene import LARGEST_CHANGE, Scene, count_colours
from bundle.inference.session import TRUST_ELSEWHERE, VideoSession

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


def test_after_a_cut_the_confidence_is_half_and_the_masks_are_the_same(network, mask, monkeypatch):
    frames = [reddish(0), reddish(1), bluish(2), bluish(3), reddish(4)]
    found = stream(network, frames, {0: mask})
    monkeypatch.setattr(Scene, "follow", lambda self, colours: torch.tensor([True]))
    blind = stream(network, frames, {0: mask})
    factors = [1, 1, TRUST_ELSEWHERE, TRUST_ELSEWHERE, 1]
    for one, other, factor in zip(found, blind, factors, strict=True):
        np.testing.assert_array_equal(one.labels, other.labels)
        assert one.confidence[1] == pytest.approx(factor * other.confidence[1])
    assert all(one.review for one in found[2:4])


def test_a_mask_given_in_the_other_scene_makes_it_known():
    red, blue = (count_colours(to_tensor(frame)) for frame in (reddish(0), bluish(2)))
    scene = Scene()
    scene.give(red)
    assert not scene.follow(blue)
    scene.give(blue)
    assert scene.follow(blue)
    assert scene.follow(red)


def test_light_that_changes_slowly_is_the_same_scene():
    frames = [make_scene(0, light) for light in np.linspace(0, 0.5, 40)]
    colours = [count_colours(to_tensor(frame)) for frame in frames]
    scene = Scene()
    scene.give(colours[0])
    assert 0.5 * (colours[0] - colours[-1]).abs().sum() > LARGEST_CHANGE
    assert all(scene.follow(each).all() for each in colours[1:])


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
