"""Each perturbation does what it says, to the first mask or to the frames, and nothing else."""

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.ndimage import binary_dilation, binary_erosion, gaussian_filter

from bundle.datasets.generic import davis
from bundle.datasets.whole_videos import VideoDataset
from bundle.evaluation.perturbations import (
    PERTURBATIONS,
    Perturbation,
    PerturbedDataset,
    parse_perturbation,
    perturb,
)

HEIGHT, WIDTH = 60, 80


def disk(row, column, radius, height=HEIGHT, width=WIDTH):
    i, j = np.mgrid[:height, :width]
    return (i - row) ** 2 + (j - column) ** 2 <= radius**2


def structure(radius):
    return disk(radius, radius, radius, 2 * radius + 1, 2 * radius + 1)


def make_item(*masks, frames=6, name="video"):
    """A random video whose every second frame is annotated, with object i in the i-th mask."""
    generator = torch.Generator().manual_seed(0)
    label = torch.zeros(1, HEIGHT, WIDTH, frames, dtype=torch.long)
    for i, mask in enumerate(masks, start=1):
        label[0, torch.from_numpy(mask)] = i
    label[..., 1::2] = -1
    return {
        "image": torch.rand(3, HEIGHT, WIDTH, frames, generator=generator),
        "label": label,
        "name": name,
        "classes": "|".join(f"object {i + 1}" for i in range(len(masks))),
        "ids": "|".join(str(i + 1) for i in range(len(masks))),
        "frame_names": "|".join(f"{t:05d}" for t in range(frames)),
    }


def first_mask(item, text):
    """The labels of frame 0 after a perturbation, (H, W)."""
    return perturb(item, parse_perturbation(text))["label"][0, ..., 0].numpy()


def copy_of(item):
    return {key: v.clone() if isinstance(v, torch.Tensor) else v for key, v in item.items()}


def same(one, other):
    return all(
        torch.equal(one[key], other[key])
        if isinstance(one[key], torch.Tensor)
        else one[key] == other[key]
        for key in one | other
    )


TWO = (disk(25, 25, 14), disk(35, 60, 9))
EXAMPLES = [example for example, _ in PERTURBATIONS.values()]


@pytest.mark.parametrize("text", EXAMPLES)
def test_only_what_a_perturbation_is_about_changes(text):
    item = make_item(*TWO, frames=9)
    before = copy_of(item)
    changed = perturb(item, parse_perturbation(text))
    assert same(item, before)
    assert not same(changed, item)
    assert same(perturb(item, parse_perturbation(text)), changed)  # the same each time
    kind = text.split(":")[0]
    touched = {"noise": {"image"}, "blur": {"image"}, "drop": {"image", "label", "frame_names"}}
    for key in item.keys() - touched.get(kind, {"label"}):
        assert same({key: changed[key]}, {key: item[key]})
    if kind != "drop":
        assert torch.equal(changed["label"][..., 1:], item["label"][..., 1:])
        assert changed["image"].dtype == torch.float32
        assert 0 <= changed["image"].min() <= changed["image"].max() <= 1
    assert changed["label"].dtype == torch.int64


def test_none_changes_nothing():
    item = make_item(*TWO)
    assert same(perturb(item, parse_perturbation("none")), item)


@pytest.mark.parametrize("radius", [1, 5, 8])
def test_eroding_and_dilating_equal_scipy_with_a_disk(radius):
    for mask in (TWO[0], TWO[0] & ~disk(25, 25, 3), disk(5, 40, 20), disk(59, 0, 20)):
        item = make_item(mask)
        eroded = binary_erosion(mask, structure(radius), border_value=1)
        assert (first_mask(item, f"erode:{radius}") == eroded).all() or not eroded.any()
        dilated = binary_dilation(mask, structure(radius))
        assert (first_mask(item, f"dilate:{radius}") == dilated).all()


def test_an_object_away_from_the_edge_of_the_frame_erodes_as_in_scipys_default():
    eroded = binary_erosion(TWO[0], structure(5))
    assert eroded.any()
    assert (first_mask(make_item(TWO[0]), "erode:5") == eroded).all()


def test_eroding_stops_before_an_object_is_gone():
    thick, thin = TWO[0], np.zeros((HEIGHT, WIDTH), bool)
    thin[30:35, 50:70] = True
    found = first_mask(make_item(thick, thin), "erode:6")
    assert ((found == 1) == binary_erosion(thick, structure(6))).all()
    assert not binary_erosion(thin, structure(3)).any()
    assert ((found == 2) == binary_erosion(thin, structure(2))).all()
    everything = make_item(np.ones((HEIGHT, WIDTH), bool))
    assert (first_mask(everything, "erode:5") == 1).all()


def test_dilating_leaves_other_objects_and_parts_the_gap_between_them():
    left, right = np.zeros((2, HEIGHT, WIDTH), bool)
    left[20:30, 20:30] = True
    right[20:30, 34:44] = True
    found = first_mask(make_item(left, right), "dilate:5")
    assert (found[25, 15:50] == [1] * 17 + [2] * 17 + [0]).all()
    touching = np.roll(right, -4, axis=1)
    found = first_mask(make_item(left, touching), "dilate:5")
    assert (found[touching] == 2).all()
    assert (found[left] == 1).all()


def test_shifting_moves_all_objects_by_as_many_pixels_in_a_direction_of_the_videos_own():
    steps = set()
    for name in map(str, range(20)):
        item = make_item(*TWO, name=name)
        labels, found = item["label"][0, ..., 0].numpy(), first_mask(item, "shift:5")
        shifts = [(0, 5), (0, -5), (5, 0), (-5, 0)]
        steps |= {shift for shift in shifts if (np.roll(labels, shift, (0, 1)) == found).all()}
        assert any((np.roll(labels, shift, (0, 1)) == found).all() for shift in shifts)
    assert len(steps) == 4


def test_what_is_shifted_out_of_the_frame_is_lost_but_never_an_object():
    corners = np.zeros((4, HEIGHT, WIDTH), bool)
    for mask, (i, j) in zip(corners, [(0, 0), (0, -2), (-2, 0), (-2, -2)], strict=True):
        mask[i : i + 2 or None, j : j + 2 or None] = True
    for name in map(str, range(8)):
        found = first_mask(make_item(*corners, name=name), "shift:5")
        # Two of the four objects lose one of their two rows or columns, then all stop.
        assert sorted((found == i).sum() for i in (1, 2, 3, 4)) == [2, 2, 4, 4]
    found = first_mask(make_item(disk(30, 40, 10)), "shift:999")
    assert 0 < found.sum() < disk(30, 40, 10).sum()


@pytest.mark.parametrize("share", [0.1, 0.3, 0.9])
def test_a_hole_is_a_disk_of_its_share_of_the_area(share):
    found = first_mask(make_item(*TWO), f"hole:{share}")
    for i, (mask, centre) in enumerate(zip(TWO, [(25, 25), (35, 60)], strict=True), start=1):
        hole = mask & (found != i)
        assert hole.sum() == round(share * mask.sum())
        assert (found[hole] == 0).all()
        farthest = np.hypot(*(np.argwhere(hole) - centre).T).max()
        nearest = np.hypot(*(np.argwhere(found == i) - centre).T).min()
        assert farthest <= nearest


def test_a_hole_lies_in_the_object_not_in_a_bay_of_it():
    ring = disk(30, 40, 25) & ~disk(30, 40, 15)
    found = first_mask(make_item(ring), "hole:0.01")
    hole = ring & (found == 0)
    assert hole.sum() == round(0.01 * ring.sum())
    assert not binary_dilation(~ring)[hole].any()


def test_a_hole_never_takes_a_whole_object():
    pixels = np.zeros((2, HEIGHT, WIDTH), bool)
    pixels[0, 5, 5] = pixels[1, 50, 60:62] = True
    found = first_mask(make_item(*pixels), "hole:0.99")
    assert [(found == 1).sum(), (found == 2).sum()] == [1, 1]


def test_noise_has_its_standard_deviation_and_differs_between_videos():
    item = make_item(*TWO)
    item["image"] = torch.full_like(item["image"], 0.5)
    changes = [
        perturb(item | {"name": name}, parse_perturbation("noise:10"))["image"] - 0.5
        for name in ("a", "b")
    ]
    for change in changes:
        assert change.std().item() * 255 == pytest.approx(10, rel=0.02)
        assert change.mean().item() * 255 == pytest.approx(0, abs=0.2)
    for one, other in (changes, (changes[0][..., 0], changes[0][..., 1]), changes[0][:2]):
        assert abs((one * other).mean() / (one.std() * other.std())) < 0.05


def test_blurring_equals_scipy_in_every_frame():
    item = make_item(*TWO)
    found = perturb(item, parse_perturbation("blur:2"))["image"].numpy()
    expected = gaussian_filter(item["image"].numpy(), (0, 2, 2, 0), mode="mirror")
    np.testing.assert_allclose(found, expected, atol=1e-3)


@pytest.mark.parametrize(("share", "dropped"), [(0.5, 10), (0.25, 5), (0.99, 19)])
def test_dropped_frames_are_gone_from_all_that_an_item_holds(share, dropped):
    item = make_item(*TWO, frames=21)
    found = perturb(item, parse_perturbation(f"drop:{share}"))
    kept = [int(name) for name in found["frame_names"].split("|")]
    assert kept == sorted(set(kept))
    assert len(kept) == 21 - dropped
    assert kept[0] == 0
    assert kept[-1] == 20  # the last annotated one
    assert torch.equal(found["image"], item["image"][..., kept])
    assert torch.equal(found["label"], item["label"][..., kept])


def test_videos_drop_frames_of_their_own():
    drop = parse_perturbation("drop:0.5")
    names = {perturb(make_item(*TWO, frames=21, name=n), drop)["frame_names"] for n in "abcdef"}
    assert len(names) == 6


def test_a_short_video_loses_nothing_that_it_needs():
    drop = parse_perturbation("drop:0.9")
    assert perturb(make_item(*TWO, frames=1), drop)["frame_names"] == "00000"
    assert perturb(make_item(*TWO, frames=3), drop)["frame_names"] == "00000|00002"


def test_kinds_and_amounts_are_read():
    assert parse_perturbation("none") == Perturbation("none", "none", 0)
    assert parse_perturbation("hole:0.3") == Perturbation("hole:0.3", "hole", 0.3)
    assert parse_perturbation("noise:7.5").amount == 7.5


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "rotate:5",
            r"unknown perturbation 'rotate:5': expected none, or one like erode:5, .*drop",
        ),
        ("", "unknown perturbation ''"),
        ("none:1", "perturbation 'none:1': none takes no amount"),
        (
            "erode",
            "'erode' has no amount: write it like erode:5, with a whole number of pixels, at",
        ),
        (
            "hole:",
            "'hole:' has no amount: write it like hole:0.3, with a share above 0 and below 1",
        ),
        ("shift:x", "'shift:x': 'x' is not a whole number of pixels, at least 1; .* like shift:5"),
        ("dilate:0", "'0' is not a whole number of pixels, at least 1; write it like dilate:5"),
        ("erode:2.5", "'2.5' is not a whole number of pixels"),
        ("erode:inf", "'inf' is not a whole number of pixels"),
        ("hole:1", "'1' is not a share above 0 and below 1"),
        ("drop:-0.5", "'-0.5' is not a share above 0 and below 1"),
        ("noise:0", "'0' is not a standard deviation above 0, at most 255; .* noise:10"),
        ("blur:nan", "'nan' is not a standard deviation"),
    ],
)
def test_wrong_texts_are_refused(text, message):
    with pytest.raises(ValueError, match=message):
        parse_perturbation(text)


class Counted(torch.utils.data.Dataset):
    """Videos that count how often they are read."""

    def __init__(self, items):
        self.items, self.reads = items, 0

    def __len__(self):
        return len(self.items)

    def __getitem__(self, index):
        self.reads += 1
        return self.items[index]


def test_a_data_set_holds_all_perturbations_of_a_video_side_by_side():
    videos = Counted([make_item(*TWO, name="a"), make_item(TWO[1], name="b")])
    texts = ["none", "erode:3", "noise:5"]
    data = PerturbedDataset(videos, texts)
    assert len(data) == 6
    items = [data[i] for i in range(6)]
    assert [(item["name"], item["perturbation"]) for item in items] == [
        (name, text) for name in "ab" for text in texts
    ]
    assert videos.reads == 2
    for i in (5, 1, 0):  # in any order
        assert same(data[i], items[i])
        text = texts[i % 3]
        expected = perturb(videos.items[i // 3], parse_perturbation(text))
        assert same(items[i], expected | {"perturbation": text})


def test_a_data_set_refuses_what_it_cannot_do_before_reading():
    videos = Counted([make_item(*TWO)])
    with pytest.raises(ValueError, match="unknown perturbation 'crop:3'"):
        PerturbedDataset(videos, ["none", "crop:3"])
    with pytest.raises(ValueError, match="perturbations is empty: list at least one"):
        PerturbedDataset(videos, [])
    assert videos.reads == 0


def test_videos_from_disk_are_perturbed(tmp_path):
    for folder, suffix in (("JPEGImages", "jpg"), ("Annotations", "png")):
        (tmp_path / folder / "480p" / "bear").mkdir(parents=True)
        for t in range(3):
            picture = TWO[0].astype(np.uint8) * (200 if suffix == "jpg" else 1)
            Image.fromarray(picture).save(tmp_path / folder / "480p/bear" / f"{t:05d}.{suffix}")
    data = PerturbedDataset(VideoDataset(davis(tmp_path)), ["none", "erode:5", "drop:0.5"])
    plain, eroded, dropped = (data[i] for i in range(3))
    assert ((plain["label"] == 1).sum((0, 1, 2)) == TWO[0].sum()).all()
    assert (eroded["label"] == 1).sum((0, 1, 2)).tolist() == [
        binary_erosion(TWO[0], structure(5)).sum(),
        TWO[0].sum(),
        TWO[0].sum(),
    ]
    assert dropped["frame_names"] == "00000|00002"
