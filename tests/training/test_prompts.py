"""Prompts that training draws: true to the mask that they stand for, and the same in every run."""

import numpy as np
import pytest
import torch
from scipy import ndimage

from bundle.networks import TCMN
from bundle.networks.prompts import click_error
from bundle.training.clips import ClipDataset
from bundle.training.engines import PrepareClips
from bundle.training.losses import TCMNLoss
from bundle.training.prompts import KINDS, PromptedClipInferer, RandPromptd, draw_prompt
from tests.training.test_clips import box_mask, write_video


@pytest.fixture
def mask():
    y, x = np.mgrid[:96, :128]
    return ((x - 60) / 30) ** 2 + ((y - 50) / 18) ** 2 < 1


def make_clip(mask):
    label = torch.from_numpy(np.where(mask, 1, 0))[None, :, :, None].repeat(1, 1, 1, 3)
    return {"image": torch.rand(3, *mask.shape, 3), "label": label, "kind": "static"}


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("kind", ["points", "scribble"])
def test_what_points_and_scribbles_are_sure_of_is_true(mask, kind, seed):
    part = draw_prompt(mask, kind, np.random.RandomState(seed))
    sure = part.unknown == 0
    assert sure.any()
    wrong = sure & ((part.mask > 0.5) != mask)
    depth = ndimage.distance_transform_edt(mask) + ndimage.distance_transform_edt(~mask)
    assert depth[wrong].max(initial=0) <= 4  # a pen's width over the outline, no more


@pytest.mark.parametrize("seed", range(5))
def test_a_box_holds_most_of_its_object(mask, seed):
    part = draw_prompt(mask, "box", np.random.RandomState(seed))
    assert (part.unknown * mask).sum() / mask.sum() > 0.8


@pytest.mark.parametrize("seed", range(8))
def test_a_rough_mask_is_near_the_true_one(mask, seed):
    part = draw_prompt(mask, "rough", np.random.RandomState(seed))
    both, either = (part.mask * mask).sum(), np.maximum(part.mask, mask).sum()
    assert 0.3 < both / either <= 1


@pytest.mark.parametrize("kind", KINDS)
def test_thin_and_tiny_objects_can_be_prompted(kind):
    thin = np.zeros((64, 64), bool)
    thin[10, 5:50] = True
    for seed in range(5):
        part = draw_prompt(thin, kind, np.random.RandomState(seed))
        assert np.isfinite(part.mask).all()
        assert part.unknown.any()


def test_a_share_of_clips_is_prompted_and_the_draw_repeats(mask):
    transform = RandPromptd(share=0.4, objects=2)
    transform.set_random_state(seed=3)
    clips = [transform(make_clip(mask)) for _ in range(200)]
    prompted = [bool(clip["unknown"].any()) for clip in clips]
    assert 0.3 < np.mean(prompted) < 0.5
    whole = clips[prompted.index(False)]
    np.testing.assert_array_equal(whole["guess"][0].numpy(), mask)
    assert not whole["guess"][1].any()  # there is no second object
    transform.set_random_state(seed=3)
    again = [transform(make_clip(mask)) for _ in range(200)]
    assert all(torch.equal(a["unknown"], b["unknown"]) for a, b in zip(clips, again, strict=True))


def test_no_point_is_set_on_what_no_point_can_tell(mask, monkeypatch):
    drawn = {"regions": set(), "videos": set()}
    transform = RandPromptd(share=1.0, outlined=["regions"])
    transform.set_random_state(seed=3)
    for group, kinds in drawn.items():
        monkeypatch.setattr(
            "bundle.training.prompts.draw_prompt",
            lambda mask, kind, random, kinds=kinds: (
                kinds.add(kind),
                draw_prompt(mask, kind, random),
            )[1],
        )
        for _ in range(60):
            transform({**make_clip(mask), "name": f"{group}/a"})
    assert drawn == {"regions": {"box", "rough"}, "videos": set(KINDS)}


def test_a_click_goes_to_the_middle_of_the_largest_error():
    """Against a search over all pixels for the one farthest from the error's edge."""
    truth, found = np.zeros((40, 50), bool), np.zeros((40, 50), bool)
    truth[5:20, 5:30] = True
    found[30:34, 40:44] = True  # a smaller error: too much
    (x, y), on = click_error(truth, found)
    error = truth & ~found
    edge = np.argwhere(~np.pad(error, 1)) - 1
    depths = {(c, r): np.hypot(edge[:, 0] - r, edge[:, 1] - c).min() for r, c in np.argwhere(error)}
    assert on
    assert depths[int(x), int(y)] == max(depths.values())


def test_a_click_on_too_much_is_negative_and_none_where_all_is_right():
    truth, found = np.zeros((20, 20), bool), np.zeros((20, 20), bool)
    assert click_error(truth, found) is None
    found[5:9, 5:9] = True
    assert click_error(truth, found)[1] is False


def make_network():
    torch.manual_seed(0)
    network = TCMN(
        "resnet18",
        key_channels=8,
        value_channels=16,
        decoder_channels=(16, 8, 8),
        context_channels=8,
        previous_mask=True,
        partial_masks=True,
    )
    torch.nn.init.normal_(network.decoder.predict.weight, std=0.3)
    return network


def test_a_training_step_from_prompts(mask):
    """Clips, clicks, network and loss together; the answer to a prompt has a loss of its own."""
    transform = RandPromptd(share=1.0, objects=2)
    transform.set_random_state(seed=1)
    clips = [transform(make_clip(mask)) for _ in range(3)]
    batch = {
        name: torch.stack([clip[name] for clip in clips])
        for name in ("image", "label", "guess", "unknown", "previous_use")
    }
    batch |= {"clicks": torch.tensor([0, 1, 3]), "ordered": torch.tensor([False] * 3)}
    inputs, targets, args, options = PrepareClips()(batch)
    before = options["unknown"].clone()
    network, loss = make_network(), TCMNLoss(dice=1.0)
    prediction = PromptedClipInferer("float32")(inputs, network, *args, **options)
    total = loss(prediction, targets)
    total.backward()
    assert loss.terms["prompted"] > 0
    assert network.mask_encoder.trunk.conv1.weight.grad[:, 2].any()
    torch.testing.assert_close(options["unknown"], before)  # clicks change a copy


def test_clicks_put_the_truth_where_the_answer_was_wrong(mask):
    logits = torch.stack([torch.ones(96, 128), -torch.ones(96, 128)])  # all background
    clip, unknown = torch.zeros(4, 96, 128, 1), torch.ones(1, 96, 128)
    truth = torch.from_numpy(mask).long()
    PromptedClipInferer._click(logits, clip, unknown, truth, 1)
    sure = unknown[0] == 0
    assert sure.any()
    assert (clip[3, ..., 0][sure] == 1).all()
    assert truth[sure].all()


def test_gone_objects_are_background(tmp_path):
    """With ``absent`` 1 every clip has another scene in later frames, without the object."""
    mask = box_mask((2, 2, 12, 12))
    videos = {
        "polyps": [write_video(tmp_path / "polyp", [mask] * 6)],
        "street": [write_video(tmp_path / "street", [mask] * 3)],
    }
    dataset = ClipDataset(videos, lambda clip: clip, length=8, absent=1.0, general=["street"])
    for index in range(8):
        clip = dataset[index]
        assert clip["label"][..., 0].any()
        gone = [t for t in (1, 2) if not clip["label"][..., t].any()]
        assert gone
        assert not clip["ordered"]


def test_without_other_scenes_nothing_is_gone(tmp_path):
    videos = {"polyps": [write_video(tmp_path / "polyp", [box_mask((2, 2, 12, 12))] * 6)]}
    clip = ClipDataset(videos, lambda clip: clip, length=1, absent=1.0)[0]
    assert all(clip["label"][..., t].any() for t in range(3))
