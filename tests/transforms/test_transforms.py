"""Random windows against plain resizing, and that image, label and frames move as they should."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from monai.transforms import Compose
from scipy import ndimage

from bundle.transforms.deformation import (
    RandColourClipd,
    RandDeformClipd,
    RandIlluminationClipd,
    rotation,
)

STRENGTH = {"still": 0.0, "weak": 0.3, "full": 1.0}


def make_clip(height=60, width=60, kind="full", frames=3):
    """One blob, which does not move; random pixels."""
    y, x = np.mgrid[:height, :width]
    blob = ((y - 0.45 * height) / height) ** 2 + ((x - 0.55 * width) / width) ** 2 < 0.06
    label = torch.from_numpy(blob).long()[None, ..., None].repeat(1, 1, 1, frames)
    image = torch.rand(3, height, width, 1, generator=torch.Generator().manual_seed(0))
    return {"image": image.repeat(1, 1, 1, frames), "label": label, "kind": kind}


def deform(clip, seed=0, size=24, **options):
    transform = RandDeformClipd(size, STRENGTH, **options)
    transform.set_random_state(seed=seed)
    return transform(clip)


PLAIN = {"zoom": (1.0, 1.0), "rotate": 0.0, "flip": 0.0}


@pytest.mark.parametrize("size", [24, (24, 24), [24, 36], (36, 24)])
def test_without_any_draw_it_is_a_resize(size):
    """At zoom 1 a frame of the window's aspect leaves the window one place."""
    height, width = (size, size) if isinstance(size, int) else size
    clip = make_clip(3 * height, 3 * width, "still")
    out = deform(clip, size=size, **PLAIN)
    expected = F.interpolate(clip["image"].movedim(-1, 0), (height, width), mode="bilinear")
    torch.testing.assert_close(out["image"].movedim(-1, 0), expected, atol=1e-5, rtol=0)
    # Each new pixel's centre is that of an old one.
    assert torch.equal(out["label"], clip["label"][:, 1::3, 1::3])


def test_a_size_of_three_numbers_is_refused():
    with pytest.raises(ValueError, match="Sequence must have length 2, got 3"):
        RandDeformClipd((24, 24, 3), STRENGTH)


@pytest.mark.parametrize("size", [(192, 384), (384, 192), 240])
@pytest.mark.parametrize("shape", [(240, 400), (400, 240), (300, 300)])
def test_nothing_is_stretched(shape, size):
    """A round spot stays round, whatever the aspects of frame and window."""
    clip = make_clip(*shape, "still", frames=1)
    y, x = np.mgrid[: shape[0], : shape[1]]
    squared = (y - shape[0] / 2) ** 2 + (x - shape[1] / 2) ** 2
    spot = torch.from_numpy(np.exp(-squared / (2 * 5**2))).float()
    clip["image"] = spot[None, ..., None].repeat(3, 1, 1, 1)
    clip["label"] = (clip["image"][:1] > 0.7).long()
    for seed in range(4):
        seen = deform(clip, seed, size, zoom=(0.5, 0.6))["image"][0, ..., 0].numpy()
        row, column = ndimage.center_of_mass(seen)
        i, j = np.indices(seen.shape)
        high = np.average((i - row) ** 2, weights=seen)
        wide = np.average((j - column) ** 2, weights=seen)
        assert 0.95 < high / wide < 1.05


def test_flip_is_left_to_right():
    clip = make_clip(72, 72, "still")
    out, flipped = deform(clip, **PLAIN), deform(clip, **{**PLAIN, "flip": 1.0})
    torch.testing.assert_close(flipped["image"], out["image"].flip(2), atol=1e-5, rtol=0)
    assert torch.equal(flipped["label"], out["label"].flip(2))


def test_rotation_matches_the_textbook():
    np.testing.assert_allclose(rotation(90.0), [[0, -1], [1, 0]], atol=1e-12)
    np.testing.assert_allclose(rotation(30.0) @ rotation(-30.0), np.eye(2), atol=1e-12)


def make_shapes(height, width, kind, frames=3):
    """A ring and a disc that move, as white on black and as one object each."""
    y, x = np.mgrid[:height, :width]
    label = np.zeros((height, width, frames), np.int64)
    for t in range(frames):
        ring = np.hypot(y - 0.4 * height, x - 0.4 * width - t)
        label[(ring < 16) & (ring > 7), t] = 1
        label[np.hypot(y - 0.75 * height + 2 * t, x - 0.75 * width) < 8, t] = 2
    image = torch.from_numpy(label > 0).float()
    return {
        "image": image[None].repeat(3, 1, 1, 1),
        "label": torch.from_numpy(label)[None],
        "kind": kind,
    }


@pytest.mark.parametrize("kind", STRENGTH)
@pytest.mark.parametrize("size", [24, (20, 30), (30, 20)])
@pytest.mark.parametrize("shape", [(60, 60), (64, 100), (100, 64)])
def test_image_and_label_share_each_draw(shape, size, kind):
    """A picture of the mask stays one, but for how each is interpolated at the edges."""
    height, width = (size, size) if isinstance(size, int) else size
    for seed in range(6):
        clip = make_shapes(*shape, kind)
        out = deform(clip, seed, size, spline=1.0)
        assert out["image"].shape == (3, height, width, 3)
        assert out["label"].shape == (1, height, width, 3)
        assert out["label"].dtype == torch.int64
        for t in range(3):
            seen, marked = (
                out["image"][0, ..., t].numpy() > 0.5,
                out["label"][0, ..., t].numpy() > 0,
            )
            edge = ndimage.maximum_filter(marked, 3) & ~ndimage.minimum_filter(marked, 3)
            assert not ((seen != marked) & ~edge).any()


def test_a_clip_without_object_is_cut_all_the_same():
    clip = make_clip()
    clip["label"] = torch.zeros_like(clip["label"])
    clip["label"][..., 0] = -1  # not annotated
    assert deform(clip)["image"].shape == (3, 24, 24, 3)


def test_ids_do_not_mix():
    clip = make_clip()
    clip["label"] = clip["label"] * 7
    assert set(deform(clip)["label"].unique().tolist()) == {0, 7}


def test_motion_grows_with_strength():
    apart = {}
    for kind in STRENGTH:
        clips = [deform(make_clip(kind=kind), seed)["label"] for seed in range(8)]
        apart[kind] = np.mean([(x[..., 0] != x[..., 2]).float().mean() for x in clips])
    assert apart["still"] == 0
    assert 0.005 < apart["weak"] < 0.6 * apart["full"]


def test_at_strength_zero_a_static_clip_stays_static():
    out = deform(make_clip(kind="still"))
    for t in (1, 2):
        assert torch.equal(out["image"][..., 0], out["image"][..., t])
        assert torch.equal(out["label"][..., 0], out["label"][..., t])


MOTIONLESS = {"frame_rotate": 0, "frame_scale": 0, "frame_shear": 0, "frame_shift": 0, "spline": 0}


def test_a_radial_warp_swells_and_shrinks_the_object_about_its_centre():
    clip = make_clip(96, 96, "full", frames=40)
    y, x = np.mgrid[:96, :96]
    disk = (y - 47.5) ** 2 + (x - 47.5) ** 2 < 16**2
    clip["label"] = torch.from_numpy(disk).long()[None, ..., None].repeat(1, 1, 1, 40)
    swellings = 0
    for seed in range(8):
        out = deform(clip, seed, size=96, radial_warp=0.4, **PLAIN, **MOTIONLESS)
        areas = out["label"].sum((0, 1, 2)).float() / disk.sum()
        swellings += bool((areas != 1).any())
        if not (areas != 1).any():
            assert torch.equal(out["label"], clip["label"])
            continue
        assert areas.min() < 0.8
        assert areas.max() > 1.2
        assert areas.max() < 1 / (1 - 0.4) ** 2
        middles = [ndimage.center_of_mass(frame.numpy()) for frame in out["label"][0].unbind(-1)]
        np.testing.assert_allclose(middles, 47.5, atol=0.5)
        # It fades: the corners stay where they are.
        for t in range(40):
            torch.testing.assert_close(
                out["image"][:, 0, 0, t], clip["image"][:, 0, 0, t], atol=0.07, rtol=0
            )
    assert 1 <= swellings <= 7  # half of the clips


def test_a_radial_warp_does_not_fold():
    """Distances from the middle keep their order, so no place is shown twice."""
    transform = RandDeformClipd(64, STRENGTH, radial_warp=0.95, **PLAIN, **MOTIONLESS)
    transform.set_random_state(seed=0)
    window = torch.tensor([[32.0, 0, 32], [0, 32, 32]])
    middle = torch.tensor([32.0, 32.0])
    for _ in range(20):
        grid = transform._frame_grid(window, (64, 64), 1.0, middle, 10.0)
        assert (grid[32, 32:].norm(dim=-1).diff() > 0).all()


@pytest.mark.parametrize("size", [24, (16, 30), (30, 16)])
@pytest.mark.parametrize("shape", [(48, 90), (90, 48)])
def test_windows_stay_in_the_frame(shape, size):
    for seed in range(10):
        clip = make_clip(*shape, "still")
        clip["image"] = torch.ones_like(clip["image"])
        image = deform(clip, seed, size, zoom=(1.0, 1.5), rotate=0.0)["image"]
        torch.testing.assert_close(image, torch.ones_like(image))


@pytest.mark.parametrize("corner", [(0, 0), (0, 80), (38, 0), (38, 80)])
def test_the_first_frame_keeps_an_object(corner):
    clip = make_clip(48, 90)
    clip["label"] = torch.zeros_like(clip["label"])
    clip["label"][:, corner[0] : corner[0] + 10, corner[1] : corner[1] + 10] = 1
    for seed in range(20):
        assert (deform(clip, seed)["label"][..., 0] > 0).any()


def test_draws_follow_the_random_state():
    clip = make_clip()
    both = Compose([RandDeformClipd(24, STRENGTH), RandColourClipd()])
    first, again, other = (both.set_random_state(seed=s)(clip)["image"] for s in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_the_input_is_left_as_it_was():
    clip = make_clip()
    image, label = clip["image"].clone(), clip["label"].clone()
    out = RandColourClipd().set_random_state(seed=0)(deform(clip))
    assert torch.equal(clip["image"], image)
    assert torch.equal(clip["label"], label)
    assert out["kind"] == "full"


# Colours


def test_colours_change_and_the_label_does_not():
    clip = make_clip()
    out = RandColourClipd().set_random_state(seed=0)(clip)
    assert out["label"] is clip["label"]
    assert out["image"].shape == clip["image"].shape
    assert 0 <= out["image"].min() < out["image"].max() <= 1
    assert not torch.equal(out["image"], clip["image"])


NO_COLOUR = dict.fromkeys(
    ["brightness", "contrast", "saturation", "hue", "grey", "frame_jitter", "grain"], 0.0
)


def grain(clip, seed=0, most=0.1):
    return RandColourClipd(**{**NO_COLOUR, "grain": most}).set_random_state(seed=seed)(clip)[
        "image"
    ]


def test_no_jitter_changes_nothing():
    clip = make_clip()
    out = RandColourClipd(**NO_COLOUR).set_random_state(seed=0)(clip)
    assert torch.equal(out["image"], clip["image"])


@pytest.mark.parametrize("frame_jitter", [0.0, 0.1])
def test_frames_share_the_clip_jitter_and_have_their_own(frame_jitter):
    colours = RandColourClipd(frame_jitter=frame_jitter, grain=0.0).set_random_state(seed=0)
    out = colours(make_clip())["image"]
    assert torch.equal(out[..., 0], out[..., 1]) == (frame_jitter == 0)


def test_grain_is_coarse_and_fresh_in_each_frame():
    clip = make_clip(61, 80)
    clip["image"] = torch.full_like(clip["image"], 0.5)
    assert 0.02 < max((grain(clip, seed) - 0.5).std() for seed in range(6)) < 0.07
    noise = (grain(clip) - 0.5).numpy()
    assert (noise == noise[:1]).all()  # no colour
    first, second = noise[0, ..., 0], noise[0, ..., 1]
    assert abs(np.corrcoef(first.ravel(), second.ravel())[0, 1]) < 0.1
    for a, b in ((first[1:], first[:-1]), (first[:, 1:], first[:, :-1])):
        assert np.corrcoef(a.ravel(), b.ravel())[0, 1] > 0.6


def test_grain_stays_in_range_and_follows_the_random_state():
    clip = make_clip()
    first, again, other = (grain(clip, seed, most=2.0) for seed in (1, 1, 2))
    assert first.min() == 0
    assert first.max() == 1
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_grey_clips_have_equal_channels():
    out = RandColourClipd(grey=1.0).set_random_state(seed=0)(make_clip())["image"]
    torch.testing.assert_close(out[0], out[1])
    torch.testing.assert_close(out[0], out[2])


# Light that changes


def lit(clip, seed, illumination=1.0):
    transform = RandIlluminationClipd(STRENGTH, illumination)
    transform.set_random_state(seed=seed)
    return transform(clip)


def test_the_object_brightens_and_darkens_smoothly_and_frame_by_frame():
    clip = make_clip(60, 60, "full", frames=12)
    clip["image"] = torch.full_like(clip["image"], 0.1)  # bright parts have room to grow
    mask = clip["label"][0, ..., 0] > 0
    changed = 0
    for seed in range(12):
        out = lit(clip, seed)
        assert torch.equal(out["label"], clip["label"])
        if torch.equal(out["image"], clip["image"]):
            continue
        changed += 1
        logs = (out["image"] / clip["image"]).log()[0]
        inside = logs[mask].mean(0)
        assert inside.min() < -0.2
        assert inside.max() > 0.2
        assert logs.abs().max() <= 3  # three bumps of 1 at most
        # No edge at the object's border gives it away.
        steps = torch.cat([logs.diff(dim=0).flatten(), logs.diff(dim=1).flatten()])
        assert steps.abs().max() < 0.4
    assert 2 <= changed <= 10  # half of the clips


@pytest.mark.parametrize(("kind", "most"), [("still", 0.0), ("weak", 0.9), ("full", 3.0)])
def test_light_changes_by_the_strength_of_the_kind(kind, most):
    clip = make_clip(kind=kind)
    clip["image"] = torch.full_like(clip["image"], 0.04)
    logs = torch.stack([(lit(clip, seed)["image"] / 0.04).log() for seed in range(8)]).abs()
    assert logs.max() <= most + 1e-5
    assert logs.max() >= 0.3 * most


def test_light_stays_in_range_and_follows_the_random_state():
    clip = make_clip()
    outs = [lit(clip, seed, illumination=4.0)["image"] for seed in (3, 3, 4, 5)]
    assert torch.equal(outs[0], outs[1])
    assert any(not torch.equal(outs[0], other) for other in outs[2:])
    assert all(out.min() >= 0 and out.max() <= 1 for out in outs)


def test_light_of_an_object_that_leaves_and_of_none():
    clip = make_clip(frames=3)
    clip["label"][..., 2] = 0
    assert all(lit(clip, seed)["image"].isfinite().all() for seed in range(6))
    clip["label"][:] = 0
    assert all(torch.equal(lit(clip, seed)["image"], clip["image"]) for seed in range(6))
