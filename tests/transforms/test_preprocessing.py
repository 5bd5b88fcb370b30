"""Which border goes and that masks come back to their place; one map of grey values for a clip."""

import numpy as np
import pytest
import torch
from monai.data import DataLoader
from monai.transforms import Compose

from bundle.transforms.preprocessing import CropBorderd, ScaleSectord, uncrop

HEIGHT, WIDTH, FRAMES = 50, 80, 3
BOX = (6, 10, 46, 70)


def make_clip(box=BOX, frames=FRAMES):
    """Tissue of random reds in a box, nearly black around; one blob of id 2 in the middle."""
    random = torch.Generator().manual_seed(0)
    top, left, bottom, right = box
    image = 0.04 * torch.rand(3, HEIGHT, WIDTH, frames, generator=random)
    tissue = 0.2 + 0.8 * torch.rand(bottom - top, right - left, frames, generator=random)
    image[0, top:bottom, left:right] = tissue
    label = torch.zeros(1, HEIGHT, WIDTH, frames, dtype=torch.int64)
    label[:, 20:30, 30:50] = 2
    return {"image": image, "label": label, "kind": "video"}


# Borders


@pytest.mark.parametrize("box", [BOX, (0, 5, HEIGHT, WIDTH), (3, 0, 49, WIDTH)])
def test_the_border_goes_and_nothing_else(box):
    clip = make_clip(box)
    out = CropBorderd()(clip)
    top, left, bottom, right = box
    assert out["crop_box"].tolist() == list(box)
    assert out["full_size"].tolist() == [HEIGHT, WIDTH]
    for key in ("image", "label"):
        assert torch.equal(out[key], clip[key][:, top:bottom, left:right])
    assert out["kind"] == "video"
    assert clip["image"].shape == (3, HEIGHT, WIDTH, FRAMES)


def test_the_field_of_a_round_scope_is_kept():
    """What a disc loses at 10 % of lit pixels is less than a hundredth of its side."""
    y, x = np.mgrid[:200, :300]
    disc = torch.from_numpy((y - 100) ** 2 + (x - 150) ** 2 < 90**2).float()
    out = CropBorderd(keys="image")({"image": disc[None, ..., None].repeat(3, 1, 1, 2)})
    np.testing.assert_allclose(out["crop_box"], [11, 61, 190, 240], atol=2)


def test_bright_pixels_and_letters_do_not_count():
    clip = make_clip()
    clip["image"][:, 1, 3] = 1.0
    clip["image"][:, HEIGHT - 2, WIDTH - 1] = 1.0
    for left in (1, 4, 7):  # strokes of three letters in the left border
        clip["image"][:, 25:29, left : left + 2] = 1.0
    assert CropBorderd()(clip)["crop_box"].tolist() == list(BOX)


def test_a_place_that_is_lit_in_one_frame_only_is_kept():
    clip = make_clip()
    clip["image"][0, :, :5, 1] = 0.5
    assert CropBorderd()(clip)["crop_box"].tolist() == [6, 0, 46, 70]


def test_an_object_in_the_dark_is_kept():
    clip = make_clip()
    clip["label"][:, 48, 75, 2] = 1  # in one frame only
    clip["label"][:, :, 0] = -1  # not annotated: no object
    assert CropBorderd()(clip)["crop_box"].tolist() == [6, 10, 49, 76]


@pytest.mark.parametrize("brightness", [0.0, 0.05, 0.5, 1.0])
def test_clips_without_dark_or_without_light_stay_whole(brightness):
    clip = make_clip()
    clip["image"] = torch.full_like(clip["image"], brightness)
    out = CropBorderd()(clip)
    assert out["crop_box"].tolist() == [0, 0, HEIGHT, WIDTH]
    assert torch.equal(out["image"], clip["image"])


def test_a_bright_line_alone_is_not_a_picture():
    clip = {"image": torch.zeros(3, HEIGHT, WIDTH, 1)}
    clip["image"][:, 10] = 1.0  # its columns are dark but for one pixel
    out = CropBorderd(allow_missing_keys=True)(clip)
    assert out["image"].shape == (3, HEIGHT, WIDTH, 1)


def test_masks_come_back_to_their_place():
    clip = make_clip()
    clip["label"][..., 1] = -1
    crop = CropBorderd()
    back = crop.inverse(crop(clip))
    assert torch.equal(back["label"], clip["label"])
    assert back["label"].dtype == torch.int64
    top, left, bottom, right = BOX
    assert torch.equal(
        back["image"][:, top:bottom, left:right], clip["image"][:, top:bottom, left:right]
    )
    back["image"][:, top:bottom, left:right] = 0
    assert not back["image"].any()
    assert set(back) == set(clip)


def test_monai_inverts_it_within_other_transforms():
    clip = make_clip()
    both = Compose([CropBorderd(), ScaleSectord()])
    assert torch.equal(both.inverse(both(clip))["label"], clip["label"])


def test_logits_come_back_as_background_around_the_box():
    clip = make_clip()
    out = CropBorderd()(clip)
    scores = torch.stack([-out["label"][0].float(), out["label"][0] - 1.0])  # (2, h, w, T)
    for outside in (0.0, torch.tensor([5.0, -5.0]).view(2, 1, 1, 1)):
        full = uncrop(scores[None], out["crop_box"], out["full_size"], outside)
        assert full.shape == (1, 2, HEIGHT, WIDTH, FRAMES)
        assert torch.equal(full.argmax(1), (clip["label"] > 0).long())
    assert full[0, :, 0, 0, 0].tolist() == [5.0, -5.0]


def test_a_prediction_of_another_size_is_reported():
    with pytest.raises(ValueError, match=r"expected 60x40, the size of the box .* got 30x20"):
        uncrop(torch.zeros(1, 20, 30, 2), BOX, (HEIGHT, WIDTH))


def test_boxes_go_through_a_loader():
    batch = next(iter(DataLoader([make_clip(), make_clip()], batch_size=2)))
    assert batch["image"].shape[0] == 2
    cropped = [CropBorderd()(make_clip()) for _ in range(2)]
    batch = next(iter(DataLoader(cropped, batch_size=2)))
    assert batch["crop_box"].tolist() == [list(BOX)] * 2


# Sectors


def make_sector(channels=3, frames=4):
    """A wedge of grey values 51 to 153 of 255, black around; frames get brighter."""
    y, x = np.mgrid[:HEIGHT, :WIDTH]
    wedge = torch.from_numpy(np.abs(x - WIDTH / 2) < y)
    speckle = torch.rand(HEIGHT, WIDTH, frames, generator=torch.Generator().manual_seed(0))
    grey = (0.2 + 0.3 * speckle + 0.1 * torch.linspace(0, 1, frames)) * wedge[..., None]
    return {"image": grey[None].repeat(channels, 1, 1, 1), "label": torch.zeros(1)}, wedge


def test_percentiles_of_the_sector_become_0_and_1():
    clip, wedge = make_sector()
    out = ScaleSectord(lower=1.0, upper=99.0)(clip)
    before, after = clip["image"][0, wedge], out["image"][0, wedge]
    low, high = np.percentile(before, [1, 99])
    expected = np.clip((before.numpy() - low) / (high - low), 0, 1)
    np.testing.assert_allclose(after, expected, atol=1e-5)
    assert after.min() == 0
    assert after.max() == 1
    assert not out["image"][:, ~wedge].any()
    assert out["label"] is clip["label"]


def test_all_frames_share_one_map():
    """Equal greys stay equal across frames, and a brighter frame stays brighter."""
    clip, wedge = make_sector()
    scaled = ScaleSectord(lower=0.0, upper=100.0)(clip)["image"]
    apart = (clip["image"][..., 3] - clip["image"][..., 0])[:, wedge]
    span = clip["image"][:, wedge].max() - clip["image"][:, wedge].min()
    torch.testing.assert_close((scaled[..., 3] - scaled[..., 0])[:, wedge], apart / span)


def test_grey_clips_become_rgb():
    (one, _), (three, _) = make_sector(1), make_sector(3)
    torch.testing.assert_close(ScaleSectord()(one)["image"], ScaleSectord()(three)["image"])


def test_traces_around_the_sector_count_unless_below_the_threshold():
    clip, wedge = make_sector()
    clean = ScaleSectord(lower=5.0)(clip)["image"]
    clip["image"][:, ~wedge] = 0.01
    assert not torch.allclose(ScaleSectord(lower=5.0)(clip)["image"], clean)
    torch.testing.assert_close(ScaleSectord(lower=5.0, threshold=0.02)(clip)["image"], clean)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("value", [0.0, 0.4, 1.0])
def test_flat_clips_survive(value, channels):
    out = ScaleSectord()({"image": torch.full((channels, 8, 9, 2), value)})["image"]
    assert torch.equal(out, torch.full((3, 8, 9, 2), value))
