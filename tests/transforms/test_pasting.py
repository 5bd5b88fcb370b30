"""A cut-out object moves across a clip, and image and label agree about where it is."""

import pytest
import torch

from bundle.transforms.pasting import RandPasteClipd

RED = torch.tensor([1.0, 0.0, 0.0])


def make_clip(frames=4, cutout=True):
    """A grey clip with object 1 on its left half, and a red square to paste."""
    label = torch.zeros(1, 64, 96, frames, dtype=torch.long)
    label[:, :, :48] = 1
    clip = {"image": torch.full((3, 64, 96, frames), 0.5), "label": label, "kind": "video"}
    if cutout:
        clip["cutout"] = torch.cat([RED[:, None, None].expand(3, 20, 20), torch.ones(1, 20, 20)])
    return clip


def paste(seed, clip=None, **options):
    return RandPasteClipd(**options).set_random_state(seed)(make_clip() if clip is None else clip)


def red(image):
    return (image - RED[:, None, None, None]).abs().amax(0) < 0.01


SEEDS = range(12)


def test_a_clip_without_a_cutout_stays_as_it_is():
    clip = make_clip(cutout=False)
    out = paste(0, clip)
    assert out.keys() == clip.keys()
    assert all(out[key] is clip[key] for key in clip)


@pytest.mark.parametrize("seed", SEEDS)
def test_only_what_is_covered_changes(seed):
    clip, out = make_clip(), paste(seed, objects=2)
    assert "cutout" not in out
    covered = red(out["image"])
    untouched = (out["image"] == clip["image"]).all(0)
    assert torch.equal(out["label"][0][untouched], clip["label"][0][untouched])
    # All of the covered pixels are the new object's, or all are background.
    assert len(out["label"][0][covered].unique()) <= 1
    assert not (out["label"][0][covered] == 1).any()


def test_half_of_the_cutouts_become_an_object():
    numbers = [int(paste(seed, objects=2)["label"].max()) for seed in range(60)]
    assert 10 <= numbers.count(2) <= 40  # of those in view in the first frame


def test_there_are_no_more_objects_than_asked_for():
    assert all(int(paste(seed, objects=1)["label"].max()) == 1 for seed in SEEDS)


def test_it_moves_steadily():
    """Without turning and growing, the middle moves by the same step from frame to frame."""
    steady = 0
    for seed in range(40):
        out = paste(seed, size=(0.15, 0.15), speed=0.1, turn=0.0, growth=0.0)
        at = [red(out["image"])[..., t].nonzero().double() for t in range(4)]
        if min(map(len, at)) < max(map(len, at)) - 8 or not len(at[0]):
            continue  # it leaves the frame
        middles = torch.stack([pixels.mean(0) for pixels in at])
        steps = middles.diff(dim=0)
        assert steps.norm(dim=1).max() <= 0.1 * 64 * 2**0.5 + 1
        torch.testing.assert_close(steps, steps.mean(0).expand(3, 2), atol=0.7, rtol=0)
        steady += 1
    assert steady >= 10


@pytest.mark.parametrize("seed", SEEDS)
def test_it_never_hides_an_object_of_the_first_frame(seed):
    clip = make_clip()
    clip["label"].zero_()
    clip["label"][:, 30:36, 44:50] = 1
    out = paste(seed, clip, size=(2.0, 2.0), objects=1)  # it would cover nearly all
    assert (out["label"][..., 0] == 1).sum() >= 16


def test_it_depends_on_the_random_state_alone():
    first, again, other = paste(3), paste(3), paste(4)
    assert torch.equal(first["image"], again["image"])
    assert torch.equal(first["label"], again["label"])
    assert not torch.equal(first["image"], other["image"])
