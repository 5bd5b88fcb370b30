"""Which frames make a clip, what is read of them, and that draws depend on nothing but the seed."""

import warnings
from collections import Counter
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from monai.data import DataLoader
from monai.transforms import Compose, RandomizableTransform
from PIL import Image

from bundle.datasets.records import Video
from bundle.datasets.whole_videos import VideoDataset, read_clip
from bundle.training.clips import ClipDataset, pick_frames
from bundle.transforms.deformation import RandDeformClipd

HEIGHT, WIDTH = 20, 32


def unread(count, annotated):
    """A record whose files are not there."""
    frames = tuple(Path(f"{i}.png") for i in range(count))
    return Video("v", frames, {i: Path(f"{i}_gt.png") for i in annotated}, {1: "x"}, "v")


def draws(video, max_skip=5, count=600, frames=3):
    random = np.random.RandomState(0)
    return [pick_frames(video, random, max_skip, frames) for _ in range(count)]


def box_mask(*boxes):
    """(H, W) uint8 with ids 1, 2, ... filling (top, left, bottom, right)."""
    mask = np.zeros((HEIGHT, WIDTH), np.uint8)
    for i, (top, left, bottom, right) in enumerate(boxes, 1):
        mask[top:bottom, left:right] = i
    return mask


def write_video(folder, masks, labels=None, **options):
    """A video with frame t of grey 10 t and palette masks; None where not annotated."""
    folder.mkdir(parents=True, exist_ok=True)
    frames, paths = [], {}
    for t, mask in enumerate(masks):
        shape = (HEIGHT, WIDTH) if mask is None else mask.shape
        frames.append(folder / f"{t}.png")
        Image.fromarray(np.full((*shape, 3), 10 * t, np.uint8)).save(frames[-1])
        if mask is not None:
            paths[t] = folder / f"{t}_gt.png"
            picture = Image.fromarray(mask)
            if mask.max() <= 32:
                picture.putpalette([0, 0, 0, 128, 0, 0, 0, 128, 0, 128, 128, 0])
            picture.save(paths[t])
    names = {1: "a", 2: "b", 3: "c"} if labels is None else labels
    return Video(folder.name, tuple(frames), paths, names, folder.name, **options)


@pytest.fixture
def group(tmp_path):
    """A static picture, a pair and a video of six frames with two objects."""
    two = box_mask((2, 2, 12, 12), (4, 16, 18, 30))
    return {
        "static": [write_video(tmp_path / "static", [two])],
        "pair": [write_video(tmp_path / "pair", [two, two[::-1].copy()])],
        "video": [write_video(tmp_path / "video", [two] * 6)],
    }


def keep(clip):
    return clip


# Frames


def test_one_annotated_frame_is_repeated():
    assert draws(unread(4, [2]), count=1) == [([2, 2, 2], "static")]


def test_two_annotated_frames_go_there_and_back():
    picked = Counter((tuple(frames), kind) for frames, kind in draws(unread(9, [1, 7])))
    assert set(picked) == {((1, 7, 1), "pair"), ((7, 1, 7), "pair")}
    assert picked[(1, 7, 1), "pair"] == pytest.approx(300, abs=60)


@pytest.mark.parametrize("frames", [4, 5, 6])
def test_few_annotated_frames_go_there_and_back_in_longer_clips(frames):
    there = [1, 2, 5, 2, 1, 2]
    back = [5, 2, 1, 2, 5, 2]
    picked = {tuple(chosen) for chosen, _ in draws(unread(9, [1, 2, 5]), frames=frames)}
    assert picked == {tuple(there[:frames]), tuple(back[:frames])}
    assert draws(unread(9, [2]), count=1, frames=frames) == [([2] * frames, "static")]


@pytest.mark.parametrize("frames", [4, 6])
def test_longer_clips_of_videos_are_in_time_order(frames):
    picked = draws(unread(60, range(60)), max_skip=2, frames=frames)
    assert {kind for _, kind in picked} == {"video"}
    steps = np.array([np.diff(chosen) for chosen, _ in picked])
    assert steps.shape == (600, frames - 1)
    assert ((steps > 0).all(1) | (steps < 0).all(1)).all()
    assert set(abs(steps).flatten()) == {1, 2, 3}


@pytest.mark.parametrize("max_skip", [0, 2, 5])
def test_videos_skip_up_to_max_skip_and_reverse_half(max_skip):
    picked = draws(unread(60, range(60)), max_skip)
    assert {kind for _, kind in picked} == {"video"}
    steps = np.array([np.diff(frames) for frames, _ in picked])
    assert ((steps > 0).all(1) | (steps < 0).all(1)).all()
    for neighbours in abs(steps).T:
        assert set(neighbours - 1) == set(range(max_skip + 1))
    assert (steps[:, 0] < 0).mean() == pytest.approx(0.5, abs=0.1)
    starts = {min(frames) for frames, _ in picked}
    assert min(starts) == 0
    assert max(max(frames) for frames, _ in picked) == 59


@pytest.mark.parametrize("count", [3, 4, 5, 7])
def test_short_videos_are_never_left(count):
    annotated = list(range(0, 3 * count, 3))  # every third frame
    picked = draws(unread(3 * count, annotated))
    assert {i for frames, _ in picked for i in frames} == set(annotated)
    assert all(len(set(frames)) == 3 for frames, _ in picked)


# Pixels


def test_read_clip_gives_pixels_labels_and_minus_one_where_unknown(tmp_path):
    mask = box_mask((0, 0, 8, 8), (8, 8, 16, 16), (0, 16, 8, 24))
    video = write_video(tmp_path / "v", [mask, None, mask], labels={1: "a", 3: "c"})
    image, label = read_clip(video, [2, 1, 0])
    assert (image.shape, image.dtype) == ((3, HEIGHT, WIDTH, 3), torch.uint8)
    assert (label.shape, label.dtype) == ((1, HEIGHT, WIDTH, 3), torch.int64)
    assert image[:, 0, 0].tolist() == [[20, 10, 0]] * 3
    wanted = np.where(mask == 2, 0, mask)  # 2 is no object of this video
    np.testing.assert_array_equal(label[0, ..., 0], wanted)
    np.testing.assert_array_equal(label[0, ..., 2], wanted)
    assert (label[..., 1] == -1).all()


def test_read_clip_cuts_soft_edges_of_binary_masks(tmp_path):
    mask = np.tile(np.array([0, 60, 127, 128, 200, 255], np.uint8), (HEIGHT, 1))
    _, label = read_clip(write_video(tmp_path / "v", [mask], binary=True), [0])
    assert label[0, 0, :, 0].tolist() == [0, 0, 0, 1, 1, 1]


def test_read_clip_turns_nifti_upright(tmp_path):
    mask = box_mask((0, 0, 4, 20))
    for name, array in (("a.nii.gz", mask * 100), ("a_gt.nii.gz", mask)):
        nib.save(nib.Nifti1Image(array.T, np.eye(4)), tmp_path / name)
    frames, masks = (tmp_path / "a.nii.gz",), {0: tmp_path / "a_gt.nii.gz"}
    image, label = read_clip(Video("a", frames, masks, {1: "x"}, "a"), [0])
    np.testing.assert_array_equal(label[0, ..., 0], mask)
    np.testing.assert_array_equal(image[0, ..., 0], mask * 100)


def test_read_clip_refuses_a_mask_of_another_size(tmp_path):
    video = write_video(tmp_path / "v", [box_mask((0, 0, 9, 9))])
    Image.fromarray(np.ones((8, 9), np.uint8)).save(video.masks[0])
    with pytest.raises(ValueError, match=r"0_gt.png is 9x8 but .*0.png is 32x20: export the mask"):
        read_clip(video, [0])


def test_read_clip_refuses_frames_of_two_sizes(tmp_path):
    video = write_video(tmp_path / "v", [box_mask((0, 0, 9, 9)), np.ones((8, 9), np.uint8)])
    with pytest.raises(
        ValueError, match=r"1.png is 9x8 but .*0.png is 32x20: the frames of a video"
    ):
        read_clip(video, [0, 1])


# Random clips


class AddNoised(RandomizableTransform):
    """Makes the image show the draw."""

    def __call__(self, clip):
        return {**clip, "image": clip["image"] + self.R.rand()}


def collect(dataset, workers):
    with warnings.catch_warnings():
        # Python 3.12 warns of forks beside threads.
        warnings.simplefilter("ignore", DeprecationWarning)
        loader = DataLoader(dataset, batch_size=1, num_workers=workers)
        return [(b["name"][0], b["image"][0], b["label"][0], bool(b["ordered"])) for b in loader]


def same(first, second):
    return all(
        a[0] == b[0] and a[3] == b[3] and torch.equal(a[1], b[1]) and torch.equal(a[2], b[2])
        for a, b in zip(first, second, strict=True)
    )


@pytest.mark.parametrize("composed", [False, True])
def test_clips_depend_on_seed_epoch_and_index_only(group, composed):
    deform = RandDeformClipd(16, {"static": 1.0, "pair": 0.3, "video": 0.1})
    transform = Compose([deform, AddNoised()]) if composed else deform
    dataset = ClipDataset(group, transform, length=6, seed=3)
    dataset.set_epoch(1)
    first = collect(dataset, 0)
    assert same(first, collect(dataset, 2))
    assert torch.equal(dataset[4]["image"], first[4][1])  # out of order
    dataset.set_epoch(2)
    assert not same(first, collect(dataset, 0))
    other = ClipDataset(group, transform, length=6, seed=4)
    other.set_epoch(1)
    assert not same(first, collect(other, 0))
    fresh = ClipDataset(group, transform, length=6, seed=3)
    fresh.set_epoch(1)
    assert same(first, collect(fresh, 0))


def test_sampling_weights_are_kept(group):
    sampling_weights = {"static": 0.2, "pair": 0.0, "video": 0.6}
    dataset = ClipDataset(group, keep, length=160, sampling_weights=sampling_weights)
    names = Counter(dataset[i]["name"] for i in range(len(dataset)))
    assert set(names) == {"static/static", "video/video"}
    assert names["video/video"] == pytest.approx(120, abs=20)


def test_only_videos_are_ordered(group):
    dataset = ClipDataset(group, keep, length=30)
    assert {(clip["kind"], clip["ordered"]) for clip in map(dataset.__getitem__, range(30))} == {
        ("static", False), ("pair", False), ("video", True)
    }  # fmt: skip


def test_ids_become_one_to_n_in_any_order(tmp_path):
    mask = box_mask((0, 0, 8, 8), (8, 8, 16, 16), (0, 16, 8, 24))
    video = write_video(tmp_path / "v", [mask], labels={1: "a", 3: "c"})
    dataset = ClipDataset({"v": [video]}, keep, length=40, max_objects=2)
    maps = set()
    for i in range(40):
        label = dataset[i]["label"]
        assert label.dtype == torch.int64
        maps.add((int(label[0, 0, 0, 0]), int(label[0, 0, 16, 0])))
    # Both in either order, or one of them alone.
    assert maps == {(1, 2), (2, 1), (1, 0), (0, 1)}


def test_a_clip_takes_so_many_objects_at_most(tmp_path):
    mask = box_mask((0, 0, 8, 8), (8, 8, 16, 16), (0, 16, 8, 24))
    video = write_video(tmp_path / "v", [mask])
    for most in (1, 2, 3):
        dataset = ClipDataset({"v": [video]}, keep, length=40, max_objects=most)
        assert {int(dataset[i]["label"].max()) for i in range(40)} == set(range(1, most + 1))


def test_the_curriculum_widens_the_steps_epoch_by_epoch(tmp_path):
    video = write_video(tmp_path / "v", [box_mask((0, 0, 8, 8))] * 12)
    dataset = ClipDataset({"v": [video]}, keep, length=60, max_skip=[0, 3])
    widest = []
    for epoch in (1, 2, 5):
        dataset.set_epoch(epoch)
        greys = [dataset[i]["image"][0, 0, 0] * 255 / 10 for i in range(len(dataset))]
        widest.append(max(int(grey.diff().abs().max().round()) - 1 for grey in greys))
    assert widest == [0, 3, 3]


def test_an_interrupted_epoch_continues_with_the_remaining_clips(group):
    dataset = ClipDataset(group, keep, length=6)
    dataset.set_epoch(2)
    whole = [dataset[i]["image"] for i in range(6)]
    dataset.set_epoch(2, begin=4)
    assert len(dataset) == 2
    for i in range(2):
        assert torch.equal(dataset[i]["image"], whole[4 + i])


def test_objects_that_appear_later_are_background(tmp_path):
    one, two = box_mask((0, 0, 8, 8)), box_mask((0, 0, 8, 8), (8, 8, 16, 16))
    video = write_video(tmp_path / "v", [one, two, two])
    dataset = ClipDataset({"v": [video]}, keep, length=20)
    for clip in map(dataset.__getitem__, range(20)):
        first = set(clip["label"][..., 0].unique().tolist())
        assert set(clip["label"].unique().tolist()) == first


def test_the_first_frame_is_never_empty(tmp_path):
    empty, full = box_mask(), box_mask((4, 4, 16, 16))
    video = write_video(tmp_path / "v", [empty, full, empty, full])
    dataset = ClipDataset({"v": [video]}, keep, length=40)
    assert all((dataset[i]["label"][..., 0] > 0).any() for i in range(40))


def test_values_are_in_the_unit_range(group):
    image = ClipDataset({"video": group["video"]}, keep, length=1)[0]["image"]
    assert image.dtype == torch.float32
    assert {round(float(v) * 255) for v in image.unique()} <= {0, 10, 20, 30, 40, 50}


def test_a_group_without_objects_is_refused(tmp_path):
    video = write_video(tmp_path / "v", [box_mask()])
    with pytest.raises(
        ValueError, match="ten draws gave no object in a first frame, last of video v"
    ):
        ClipDataset({"v": [video]}, keep, length=1)[0]


def test_an_empty_group_is_refused(group):
    with pytest.raises(ValueError, match="group none holds no video"):
        ClipDataset({**group, "none": []}, keep, length=1)


def test_sampling_weights_must_name_the_groups(group):
    message = r"sampling_weights name \['a'\] but the groups are \['pair', 'sta"
    with pytest.raises(ValueError, match=message):
        ClipDataset(group, keep, length=1, sampling_weights={"a": 1.0})


def test_clips_have_as_many_frames_as_asked_for(group):
    dataset = ClipDataset(group, keep, length=20, clip_frames=5)
    assert {dataset[i]["image"].shape[-1] for i in range(20)} == {5}


def test_clips_of_two_frames_are_refused(group):
    with pytest.raises(ValueError, match="clip_frames is 2: a clip has 3 frames or more"):
        ClipDataset(group, keep, length=1, clip_frames=2)


def test_objects_of_longer_clips_go_late_or_at_once_or_come_back(group):
    street = {"street": group["static"], "polyps": group["video"]}
    dataset = ClipDataset(
        street, keep, length=40, clip_frames=4, absent=1.0, general=["street"], max_objects=1
    )
    shown = {
        tuple((dataset[i]["label"] > 0).any(0).any(0).any(0).tolist()) for i in range(len(dataset))
    }
    assert shown == {
        (True, False, False, False),
        (True, True, True, False),
        (True, False, False, True),
    }


def test_some_groups_get_a_cutout(tmp_path):
    """Everyday scenes take objects of each other, other groups only their own."""
    scenes = {
        name: [write_video(tmp_path / name, [box_mask((2, 3, 2 + side, 3 + side))])]
        for name, side in (("polyps", 5), ("hearts", 6), ("street", 7), ("park", 8))
    }
    dataset = ClipDataset(
        scenes, keep, length=80, pasted={"polyps": 1.0, "street": 0.5}, general=["street", "park"]
    )
    found = Counter()
    for clip in map(dataset.__getitem__, range(80)):
        name = clip["name"].split("/")[0]
        if "cutout" in clip:
            assert clip["cutout"].shape[1] == clip["cutout"].shape[2]
            assert (clip["cutout"][3] == 1).all()
            found[name, clip["cutout"].shape[1]] += 1
        found[name] += 1
    assert set(found) == {
        "polyps", "hearts", "street", "park", ("polyps", 5), ("street", 7), ("street", 8)
    }  # fmt: skip
    assert found["polyps", 5] == found["polyps"]
    assert 0 < found["street", 7] + found["street", 8] < found["street"]


def test_pasted_must_name_groups(group):
    message = r"pasted names \['a'\] but the groups are \['pair', 'sta"
    with pytest.raises(ValueError, match=message):
        ClipDataset(group, keep, length=1, pasted={"a": 1.0})


# Whole videos


def test_whole_videos_begin_at_the_first_mask(tmp_path):
    mask = box_mask((0, 0, 8, 8))
    video = write_video(tmp_path / "v", [None, mask, None, mask, None, mask, None])
    dataset = VideoDataset([video])
    assert len(dataset) == 1
    clip = dataset[0]
    assert (clip["name"], clip["image"].shape) == ("v", (3, HEIGHT, WIDTH, 6))
    assert (clip["label"] >= 0).all((0, 1, 2)).tolist() == [True, False] * 3
    torch.testing.assert_close(clip["image"][0, 0, 0] * 255, torch.arange(1.0, 7) * 10)


def test_whole_videos_begin_where_the_object_is(tmp_path):
    """An annotated frame may be empty: the structure is not in view yet."""
    mask, empty = box_mask((0, 0, 8, 8)), box_mask()
    clip = VideoDataset([write_video(tmp_path / "v", [empty, None, empty, mask, empty])])[0]
    assert clip["image"].shape[-1] == 2
    assert (clip["label"] > 0).any((0, 1, 2)).tolist() == [True, False]


def test_a_video_without_any_object_is_refused(tmp_path):
    with pytest.raises(ValueError, match="all 2 masks of video v are empty"):
        VideoDataset([write_video(tmp_path / "v", [box_mask(), box_mask()])])[0]


def test_whole_videos_thinned_out(tmp_path):
    mask = box_mask((0, 0, 8, 8))
    clip = VideoDataset([write_video(tmp_path / "v", [None] + [mask] * 6)], every=3)[0]
    torch.testing.assert_close(clip["image"][0, 0, 0] * 255, torch.tensor([10.0, 40.0]))


def test_whole_videos_number_the_objects_of_the_first_frame(tmp_path):
    boxes = (0, 0, 8, 8), (8, 8, 16, 16), (0, 16, 8, 24)
    first, later = box_mask(*boxes), box_mask(*boxes)
    first[first == 2] = 0
    labels = {1: "a", 2: "b", 3: "c"}
    clip = VideoDataset([write_video(tmp_path / "v", [first, None, later], labels)])[0]
    assert clip["classes"] == "a|c"
    expected = np.select([first == 1, first == 3], [1, 2])
    np.testing.assert_array_equal(clip["label"][0, ..., 0], expected)
    np.testing.assert_array_equal(clip["label"][0, ..., 2], expected)  # b was not asked for
    assert (clip["label"][..., 1] == -1).all()


def test_whole_videos_pass_through_a_transform(tmp_path):
    video = write_video(tmp_path / "v", [box_mask((4, 4, 16, 16))] * 3)

    def halve(item):
        return {**item, "image": item["image"] / 2}

    plain, halved = VideoDataset([video])[0], VideoDataset([video], transform=halve)[0]
    assert torch.equal(plain["image"] / 2, halved["image"])
