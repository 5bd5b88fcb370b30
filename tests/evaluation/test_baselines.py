"""Baselines on textured shapes whose motion is known."""

import cv2
import numpy as np
import pytest
from scipy.ndimage import gaussian_filter, map_coordinates

from bundle.evaluation.baselines import BASELINES, copy_first_mask, warp_first_mask

HEIGHT, WIDTH, FRAMES = 120, 160, 12
CENTRES = {3: (40, 45), 7: (75, 110)}  # of two disks, by their ids
RADIUS = 20


def texture(seed):
    """A smooth random function of points (row, column), with values 0 to 255 for red, green, blue."""
    noise = np.random.default_rng(seed).standard_normal((3, 2 * HEIGHT, 2 * WIDTH))
    smooth = gaussian_filter(noise, (0, 2, 2), mode="wrap")
    levels = np.clip(128 + 50 * smooth / smooth.std(), 0, 255)
    return lambda points: np.stack(
        [map_coordinates(channel, points, order=1, mode="grid-wrap") for channel in levels], axis=-1
    )


def make_video(place_of, background_of=None):
    """Two textured disks on a textured background.

    Args:
        place_of: From points (row, column) of frame t, and t, to where they were in frame 0.
        background_of: The same for the background; by default it moves with the disks.

    Returns:
        Frames (H, W, 3, T) and labels (H, W, T), both uint8.
    """
    points = np.mgrid[:HEIGHT, :WIDTH].astype(float)
    background, foreground = texture(0), texture(1)
    frames, labels = [], []
    for t in range(FRAMES):
        before = place_of(points, t)
        label = np.zeros((HEIGHT, WIDTH), np.uint8)
        for i, (row, column) in CENTRES.items():
            label[(before[0] - row) ** 2 + (before[1] - column) ** 2 <= RADIUS**2] = i
        behind = background((background_of or place_of)(points, t))
        frames.append(np.where(label[..., None] > 0, foreground(before), behind).astype(np.uint8))
        labels.append(label)
    return np.stack(frames, axis=-1), np.stack(labels, axis=-1)


def pan(points, t):
    """2 pixels down and 1.5 to the right per frame."""
    return points - np.array([2, 1.5]).reshape(2, 1, 1) * t


def grow(points, t):
    """All grows by 3 % per frame about the middle of the frame."""
    middle = np.array([HEIGHT / 2, WIDTH / 2]).reshape(2, 1, 1)
    return middle + (points - middle) / 1.03**t


def stay(points, t):
    return points


def dice(one, other):
    return 2 * (one & other).sum() / (one.sum() + other.sum())


@pytest.mark.parametrize(("motion", "copying"), [(pan, 0.5), (grow, 0.8)])
def test_optical_flow_follows_motion_that_copying_misses(motion, copying):
    frames, truth = make_video(motion)
    copied, warped = (method(frames, truth[..., 0]) for method in BASELINES.values())
    for i in CENTRES:
        assert dice(copied[..., -1] == i, truth[..., -1] == i) < copying
        every = [dice(warped[..., t] == i, truth[..., t] == i) for t in range(FRAMES)]
        assert every[0] == 1
        assert min(every) > 0.9


def test_optical_flow_keeps_a_mask_where_nothing_moves():
    frames, truth = make_video(stay)
    assert (warp_first_mask(frames, truth[..., 0]) == truth).all()


def test_flow_follows_an_object_but_keeps_what_it_uncovers():
    frames, truth = make_video(pan, background_of=stay)
    copied, warped = (method(frames, truth[..., 0]) for method in BASELINES.values())
    for i in CENTRES:
        last, found = truth[..., -1] == i, warped[..., -1] == i
        assert dice(found, last) > dice(copied[..., -1] == i, last) + 0.2
        assert found.sum() > 1.1 * last.sum()


def test_flow_does_not_wear_away_an_object_that_the_edge_cuts():
    def down(points, t):
        return points - np.array([2, 0]).reshape(2, 1, 1) * t

    frames, truth = make_video(down)
    cut = np.s_[:, 40:]  # through the disk at column 45
    frames, truth = frames[cut], truth[cut]
    warped = warp_first_mask(frames, truth[..., 0])
    assert dice(warped[..., -1] == 3, truth[..., -1] == 3) > 0.9
    assert (warped[:, 0, -1] == 3).sum() > 0.9 * (truth[:, 0, -1] == 3).sum()


def test_copying_repeats_the_first_mask():
    frames, truth = make_video(pan)
    copied = copy_first_mask(frames, truth[..., 0])
    assert all((copied[..., t] == truth[..., 0]).all() for t in range(FRAMES))


@pytest.mark.parametrize("method", BASELINES)
def test_labels_come_back_for_each_frame(method):
    frames, truth = make_video(pan)
    found = BASELINES[method](frames, truth[..., 0])
    assert found.shape == (HEIGHT, WIDTH, FRAMES)
    assert found.dtype == np.uint8
    assert set(np.unique(found)) == {0, 3, 7}
    single = BASELINES[method](frames[..., :1], truth[..., 0])
    assert (single[..., 0] == truth[..., 0]).all()
    assert not BASELINES[method](frames, np.zeros_like(truth[..., 0])).any()


def test_flow_is_the_same_each_time_by_any_number_of_threads():
    frames, truth = make_video(pan)
    threads = cv2.getNumThreads()
    found = []
    try:
        for count in (1, 2, 2):
            cv2.setNumThreads(count)
            found.append(warp_first_mask(frames, truth[..., 0]))
    finally:
        cv2.setNumThreads(threads)
    assert (found[0] == found[1]).all()
    assert (found[1] == found[2]).all()


def test_frames_too_small_for_the_flow_are_refused():
    first = np.zeros((40, 15), np.uint8)
    with pytest.raises(ValueError, match=r"frames are 15x40: .* needs at least 16 pixels a side"):
        warp_first_mask(np.zeros((40, 15, 3, 2), np.uint8), first)
    frames, first = np.zeros((16, 40, 3, 3), np.uint8), np.ones((16, 40), np.uint8)
    assert (warp_first_mask(frames, first) == 1).all()
