"""Random windows against plain resizing, and that image, label and frames move as they should."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from monai.transforms import Compose

from bundle.data.transforms import RandColourClipd, RandDeformClipd, rotation

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


def test_without_any_draw_it_is_a_resize():
    """At zoom 1 a square frame leaves the window one place."""
    clip = make_clip(72, 72, "still")
    out = deform(clip, **PLAIN)
    expected = F.interpolate(clip["image"].movedim(-1, 0), 24, mode="bilinear")
    torch.testing.assert_close(out["image"].movedim(-1, 0), expected, atol=1e-5, rtol=0)
    # 72 to 24: each new pixel's centre is that of an old one.
    assert torch.equal(out["label"], clip["label"][:, 1::3, 1::3])


def test_flip_is_left_to_right():
    clip = make_clip(72, 72, "still")
    out, flipped = deform(clip, **PLAIN), deform(clip, **{**PLAIN, "flip": 1.0})
    torch.testing.assert_close(flipped["image"], out["image"].flip(2), atol=1e-5, rtol=0)
    assert torch.equal(flipped["label"], out["label"].flip(2))


def test_rotation_matches_the_textbook():
    np.testing.assert_allclose(rotation(90.0), [[0, -1], [1, 0]], atol=1e-12)
    np.testing.assert_allclose(rotation(30.0) @ rotation(-30.0), np.eye(2), atol=1e-12)


@pytest.mark.parametrize("kind", STRENGTH)
@pytest.mark.parametrize("shape", [(60, 60), (48, 90), (90, 48)])
def test_image_and_label_move_together(shape, kind):
    for seed in range(8):
        clip = make_clip(*shape, kind)
        clip["image"] = clip["label"].float().repeat(3, 1, 1, 1)
        out = deform(clip, seed)
        assert out["image"].shape == (3, 24, 24, 3)
        assert out["label"].shape == (1, 24, 24, 3)
        assert out["label"].dtype == torch.int64
        agree = (out["image"][:1] > 0.5) == (out["label"] > 0)
        assert agree.float().mean() > 0.97


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


def test_windows_stay_in_the_frame():
    for seed in range(20):
        clip = make_clip(48, 90, "still")
        clip["image"] = torch.ones_like(clip["image"])
        image = deform(clip, seed, zoom=(1.0, 1.5), rotate=0.0)["image"]
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


def test_no_jitter_changes_nothing():
    clip = make_clip()
    out = RandColourClipd(0, 0, 0, 0, 0, 0).set_random_state(seed=0)(clip)
    torch.testing.assert_close(out["image"], clip["image"])


@pytest.mark.parametrize("frame_jitter", [0.0, 0.1])
def test_frames_share_the_clip_jitter_and_have_their_own(frame_jitter):
    out = RandColourClipd(frame_jitter=frame_jitter).set_random_state(seed=0)(make_clip())["image"]
    assert torch.equal(out[..., 0], out[..., 1]) == (frame_jitter == 0)


def test_grey_clips_have_equal_channels():
    out = RandColourClipd(grey=1.0).set_random_state(seed=0)(make_clip())["image"]
    torch.testing.assert_close(out[0], out[1])
    torch.testing.assert_close(out[0], out[2])
