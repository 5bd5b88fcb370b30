"""What superpixels are like as objects, and that their maps are kept and read like other masks."""

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from PIL import Image
from scipy import ndimage

from bundle.datasets.frames import read_frames, read_masks
from bundle.datasets.records import Video
from bundle.io.reading.frame_refs import FrameOf
from bundle.training.regions import dark_regions, find_dark_regions, find_regions, regions

HEIGHT, WIDTH = 120, 160
y, x = np.mgrid[:HEIGHT, :WIDTH]
SECTOR = (y - 60) ** 2 / 50**2 + (x - 80) ** 2 / 70**2 < 1


def make_picture(seed=0):
    """Speckled blobs in an ellipse, black around; (H, W, 3) uint8."""
    random = np.random.RandomState(seed)
    blobs = ndimage.gaussian_filter(random.rand(HEIGHT, WIDTH), 8)
    blobs = (blobs - blobs.min()) / np.ptp(blobs)
    grey = (30 + 160 * blobs + 30 * random.rand(HEIGHT, WIDTH)) * SECTOR
    return np.repeat(grey.astype(np.uint8)[..., None], 3, axis=2)


# One picture


@pytest.mark.parametrize("count", [2, 8, 24, 32])
def test_regions_are_connected_and_numbered_without_gaps(count):
    labels = find_regions(make_picture(), count)
    assert labels.shape == (HEIGHT, WIDTH)
    assert labels.dtype == np.uint8
    ids = np.unique(labels[labels > 0])
    assert ids.tolist() == list(range(1, len(ids) + 1))
    assert count // 2 <= len(ids) <= 32
    for i in ids:
        assert ndimage.label(labels == i)[1] == 1
        assert (labels == i).sum() >= HEIGHT * WIDTH / 100


def test_the_lit_part_is_covered_and_the_rest_is_background():
    labels = find_regions(make_picture(), 8)
    assert (labels[SECTOR] > 0).mean() > 0.9
    assert not labels[~ndimage.binary_dilation(SECTOR, iterations=6)].any()


def test_a_lit_island_too_small_for_a_region_leaves_no_gap_in_the_ids():
    picture = make_picture()
    picture[:16, :16] = 0
    picture[4:10, 4:10] = 90  # above all else, so that its number would come first
    labels = find_regions(picture, 8)
    assert not labels[:16, :16].any()
    assert np.unique(labels).tolist() == list(range(labels.max() + 1))


@pytest.mark.parametrize("side", [0, 8])
def test_a_dark_picture_has_no_region(side):
    picture = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
    picture[40 : 40 + side, 40 : 40 + side] = 255
    assert not find_regions(picture, 16).any()


@pytest.mark.parametrize("axis", [0, 1])
def test_regions_keep_to_edges(axis):
    half = (y if axis == 0 else x) < 70
    picture = np.repeat(np.where(half, 60, 180).astype(np.uint8)[..., None], 3, axis=2)
    labels = find_regions(picture, 12)
    assert labels.max() >= 6
    for i in range(1, labels.max() + 1):
        share = half[labels == i].mean()
        assert max(share, 1 - share) > 0.95


def test_a_flat_picture_is_cut_too():
    assert find_regions(np.full((HEIGHT, WIDTH, 3), 90, np.uint8), 10).max() >= 5


# Dark regions


def make_chambers(scale=1):
    """Two dark ellipses, one twice as large, and a small one, in a brighter sector; their masks."""
    y, x = np.mgrid[: 224 * scale, : 224 * scale] / scale
    sector = (y < 210) & (np.abs(x - 112) < 0.6 * y + 8)
    masks = [
        (y - 90) ** 2 / 40**2 + (x - 112) ** 2 / 22**2 < 1,
        (y - 165) ** 2 / 20**2 + (x - 135) ** 2 / 22**2 < 1,
        (y - 165) ** 2 / 6**2 + (x - 75) ** 2 / 6**2 < 1,
    ]
    grey = np.where(np.any(masks, axis=0), 25, 120) * sector
    speckle = np.random.RandomState(0).uniform(0.7, 1.3, grey.shape)
    picture = np.clip(grey * speckle, 0, 255).astype(np.uint8)
    return np.repeat(picture[..., None], 3, axis=2), masks, sector


@pytest.mark.parametrize("scale", [1, 2])
def test_dark_regions_are_the_chambers_alone(scale):
    picture, (large, small, tiny), sector = make_chambers(scale)
    labels = find_dark_regions(picture)
    assert labels.dtype == np.uint8
    assert labels.max() == 2
    for i, chamber in ((1, large), (2, small)):
        found = labels == i
        assert (found & chamber).sum() / (found | chamber).sum() > 0.75
    assert not labels[tiny].any()  # less than a hundredth of the picture
    assert not labels[~sector].any()


def test_a_dark_region_has_no_hole_where_something_bright_lies_in_it():
    picture, (large, *_), _ = make_chambers()
    picture[88:92, 110:114] = 200
    found = find_dark_regions(picture) == 1
    assert found[88:92, 110:114].all()
    assert (found & large).sum() / (found | large).sum() > 0.7


def test_chambers_part_where_the_valve_is_open():
    picture, (large, small, _), _ = make_chambers()
    picture[120:155, 118:128] = 25
    labels = find_dark_regions(picture)
    for chamber, middle in ((large, (90, 112)), (small, (165, 135))):
        found = labels == labels[middle]
        assert (found & chamber).sum() / (found | chamber).sum() > 0.7


@pytest.mark.parametrize("level", [0, 90])
def test_a_picture_of_one_grey_has_no_dark_region(level):
    assert not find_dark_regions(np.full((HEIGHT, WIDTH, 3), level, np.uint8)).any()


@pytest.mark.parametrize("side", [1, 7, 30])
def test_pictures_too_small_for_dark_regions(side):
    assert find_dark_regions(make_picture()[:side, : side + 1]).shape == (side, side + 1)


def test_pictures_without_dark_regions_are_left_out(tmp_path):
    frames = (tmp_path / "chambers.png", tmp_path / "flat.png")
    Image.fromarray(make_chambers()[0]).save(frames[0])
    Image.fromarray(np.full((224, 224, 3), 90, np.uint8)).save(frames[1])
    video = Video("v", frames, dict.fromkeys((0, 1), tmp_path / "unread.png"), {1: "x"}, "v")
    (one,) = dark_regions([video], tmp_path / "cache")
    assert one.frames == frames[:1]
    assert read_masks(one, [0])[0].max() == 2
    # Superpixels of the same data set lie beside them.
    assert len(regions([video], tmp_path / "cache")) == 2
    assert len(list((tmp_path / "cache").iterdir())) == 4


# Data sets


@pytest.fixture
def video(tmp_path):
    """Three frames, of which the first and the last are annotated; masks that nobody reads."""
    frames = tuple(tmp_path / f"{t}.png" for t in range(3))
    for t, path in enumerate(frames):
        Image.fromarray(make_picture(t)).save(path)
    masks = dict.fromkeys((2, 0), tmp_path / "unread.png")
    return Video("a/v.1", frames, masks, {1: "polyp"}, "p", binary=True)


def test_each_annotated_frame_becomes_a_picture_of_its_own(video, tmp_path):
    found = regions([video, video], tmp_path / "new" / "cache")
    assert [one.frames for one in found] == [(video.frames[0],), (video.frames[2],)] * 2
    assert len({one.id for one in found[:2]}) == 2
    for one in found:
        assert one.patient == "p"
        (labels,) = read_masks(one, [0])
        count = int(one.id.rsplit("_", 1)[1])
        assert 8 <= count <= 24
        np.testing.assert_array_equal(labels, find_regions(read_frames(one, [0])[0], count))
        assert labels.max() >= 4
        assert set(np.unique(labels)) - {0} <= set(one.labels)


def test_maps_are_written_once(video, tmp_path):
    first = regions([video], tmp_path / "cache")
    times = [one.masks[0].stat().st_mtime_ns for one in first]
    again = regions([video], tmp_path / "cache")
    assert again == first
    assert [one.masks[0].stat().st_mtime_ns for one in again] == times
    assert sorted(path.name for path in (tmp_path / "cache").iterdir()) == sorted(
        one.masks[0].name for one in first
    )


def test_another_seed_asks_for_other_numbers_of_regions(video, tmp_path):
    assert regions([video], tmp_path, seed=0) != regions([video], tmp_path, seed=1)


@pytest.mark.parametrize("keep", [0, 20, -20, None])
def test_a_damaged_map_is_made_anew(video, tmp_path, keep):
    path = regions([video], tmp_path / "cache")[0].masks[0]
    whole = path.read_bytes()
    damaged = bytearray(whole[:keep])
    if keep is None:
        damaged[len(whole) // 2] ^= 255
    path.write_bytes(damaged)
    regions([video], tmp_path / "cache")
    assert path.read_bytes() == whole


def test_a_write_that_fails_leaves_nothing(video, tmp_path, monkeypatch):
    def full(image, path, format):  # noqa: A002
        Path(path).write_bytes(b"half")
        raise OSError("no space left")

    monkeypatch.setattr(Image.Image, "save", full)
    with pytest.raises(OSError, match="no space left"):
        regions([video], tmp_path / "cache")
    assert not list((tmp_path / "cache").iterdir())


def test_frames_of_a_volume_and_of_other_depth_and_size(tmp_path):
    """16-bit pixels, two frames in one file, masks drawn at half the size."""
    stack = np.stack([make_picture(t)[..., 0].T.astype(np.int16) * 40 for t in range(2)], axis=-1)
    nib.save(nib.Nifti1Image(stack[:, :, None], np.eye(4)), tmp_path / "v.nii.gz")
    frames = tuple(FrameOf(tmp_path / "v.nii.gz", t) for t in range(2))
    video = Video("v", frames, {1: tmp_path / "no.png"}, {1: "x"}, "v", size=(60, 80))
    (one,) = regions([video], tmp_path / "cache")
    assert one.frames == frames[1:]
    (labels,) = read_masks(one, [0])
    assert labels.shape == read_frames(one, [0])[0].shape[:2] == (60, 80)
    assert labels.max() >= 4
