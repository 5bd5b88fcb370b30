"""Dictionaries of paths, as MONAI Label injects them, become records."""

import nibabel as nib
import numpy as np
import pytest
from PIL import Image

from bundle.datasets.datalists import as_videos
from bundle.datasets.frames import read_frames, read_masks
from bundle.datasets.records import Video
from bundle.datasets.whole_videos import VideoDataset
from bundle.io.reading.frame_refs import FrameOf
from bundle.training.clips import ClipDataset, validation_dataset
from bundle.transforms.deformation import RandDeformClipd

SHAPE = (24, 20, 4)  # x, y, t


@pytest.fixture
def volume(tmp_path):
    """A 2D+t NIfTI whose frames 1 and 3 are painted."""
    pixels = np.arange(np.prod(SHAPE)).reshape(SHAPE).astype(np.uint8)
    labels = np.zeros(SHAPE, np.uint8)
    labels[2:9, 3:12, 1], labels[4:11, 3:12, 3] = 1, 2
    paths = {"image": tmp_path / "cine.nii.gz", "label": tmp_path / "labels" / "cine.nii.gz"}
    (tmp_path / "labels").mkdir()
    for path, array in zip(paths.values(), (pixels, labels), strict=True):
        nib.save(nib.Nifti1Image(array, np.eye(4)), path)
    return {name: str(path) for name, path in paths.items()}, pixels, labels


def test_painted_frames_of_a_volume_are_annotated(volume):
    paths, pixels, labels = volume
    (video,) = as_videos([paths])
    assert sorted(video.masks) == [1, 3]
    assert len(video.frames) == 4
    np.testing.assert_array_equal(read_frames(video, [2])[0][..., 0], pixels[..., 2].T)
    for mask, t in zip(read_masks(video, [1, 3]), (1, 3), strict=True):
        np.testing.assert_array_equal(mask, labels[..., t].T)


def test_a_picture_with_its_mask(tmp_path):
    for name in ("a.png", "m.png"):
        Image.fromarray(np.eye(8, dtype=np.uint8)).save(tmp_path / name)
    (video,) = as_videos([{"image": tmp_path / "a.png", "label": tmp_path / "m.png"}])
    assert (video.frames, video.masks) == ((tmp_path / "a.png",), {0: tmp_path / "m.png"})


def test_records_pass_unchanged(tmp_path):
    video = Video("v", (FrameOf(tmp_path / "v.avi", 0),), {0: tmp_path / "m.png"}, {1: "x"}, "v")
    assert as_videos([video]) == [video]


def test_data_sets_take_dictionaries(volume):
    paths = volume[0]
    deform = RandDeformClipd(16, {"pair": 0.3})
    clip = ClipDataset([paths], deform, length=2, sampling_weights={"of": 1, "the config": 2})[0]
    assert (clip["kind"], clip["image"].shape) == ("pair", (3, 16, 16, 3))
    whole = VideoDataset([paths])[0]
    assert whole["image"].shape == (3, 20, 24, 3)  # from the first painted frame on
    assert (whole["label"] >= 0).all((0, 1, 2)).tolist() == [True, False, True]


def test_validation_of_pictures_is_by_deformed_copies(tmp_path):
    label = np.zeros((20, 24), np.uint8)
    label[5:15, 5:15] = 1
    Image.fromarray(label).save(tmp_path / "m.png")
    Image.fromarray(200 * label).save(tmp_path / "a.png")
    pictures = as_videos([{"image": tmp_path / "a.png", "label": tmp_path / "m.png"}] * 3)
    deform = RandDeformClipd(16, {"static": 1.0})
    dataset = validation_dataset(pictures, deform)
    assert len(dataset) == 3
    assert dataset[1]["image"].shape == (3, 16, 16, 3)
    assert (dataset[1]["image"] == validation_dataset(pictures, deform)[1]["image"]).all()


def test_validation_of_videos_is_whole(volume):
    assert isinstance(
        validation_dataset(as_videos([volume[0]]), RandDeformClipd(16, {})), VideoDataset
    )


@pytest.mark.parametrize("lacking", ["image", "label"])
def test_a_dictionary_needs_image_and_label(volume, lacking):
    del volume[0][lacking]
    with pytest.raises(ValueError, match=r"expected a dictionary with image and label, got \['"):
        as_videos([volume[0]])


@pytest.mark.parametrize("gone", ["image", "label"])
def test_a_missing_file_is_named(volume, gone):
    volume[0][gone] += ".gz"
    with pytest.raises(FileNotFoundError, match=r"no such file: .*cine.nii.gz.gz"):
        as_videos([volume[0]])


def test_a_volume_without_masks_is_refused(volume):
    path = volume[0]["label"]
    nib.save(nib.Nifti1Image(np.zeros(SHAPE, np.uint8), np.eye(4)), path)
    with pytest.raises(ValueError, match=r"cine.nii.gz is empty: paint the structure on one frame"):
        as_videos([volume[0]])
