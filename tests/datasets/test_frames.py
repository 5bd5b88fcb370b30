"""Pixels of records whose frames lie in files of many, with and without the cache."""

from pathlib import Path

import av
import nibabel as nib
import numpy as np
import pytest
from PIL import Image
from scipy import io

from bundle.datasets import frames as module
from bundle.datasets.frames import read_frames, read_masks
from bundle.datasets.records import Video
from bundle.io.reading.frame_refs import FrameOf

HEIGHT, WIDTH, COUNT = 32, 48, 6
LEVELS = [20 * t + 10 for t in range(COUNT)]


@pytest.fixture
def video(tmp_path):
    """Frame t is of grey 20 t + 10; the .mat of masks has t + 1 pixels in frame t."""
    path = tmp_path / "a.avi"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("ffv1", rate=25, width=WIDTH, height=HEIGHT, pix_fmt="gray")
        for level in LEVELS:
            picture = np.full((HEIGHT, WIDTH), level, np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="gray")))
        container.mux(stream.encode())
    masks = np.zeros((COUNT, HEIGHT, WIDTH), np.uint8)
    for t in range(COUNT):
        masks[t].flat[: t + 1] = 1
    io.savemat(tmp_path / "a.mat", {"predicted": masks})
    frames = tuple(FrameOf(path, t) for t in range(COUNT))
    return Video(
        "a", frames, {t: FrameOf(tmp_path / "a.mat", t) for t in range(COUNT)}, {1: "x"}, "a"
    )


@pytest.fixture(params=[False, True], ids=["decoded", "cached"])
def cache(request, tmp_path):
    return tmp_path / "cache" if request.param else None


@pytest.mark.parametrize("indices", [[0, 1, 2], [5, 3, 0], [2, 2, 2], [4]])
def test_frames_come_in_the_order_asked_for(video, cache, indices):
    found = read_frames(video, indices, cache)
    assert [frame.shape for frame in found] == [(HEIGHT, WIDTH, 3)] * len(indices)
    assert [int(frame.min()) for frame in found] == [LEVELS[i] for i in indices]
    assert [int(frame.max()) for frame in found] == [LEVELS[i] for i in indices]


def test_masks_come_in_the_order_asked_for(video):
    assert [int(mask.sum()) for mask in read_masks(video, [4, 0, 4])] == [5, 1, 5]


def test_masks_of_a_volume(video, tmp_path):
    volume = np.zeros((WIDTH, HEIGHT, 3), np.uint8)  # x, y, t
    volume[5, 2, 1] = 1
    nib.save(nib.Nifti1Image(volume, np.eye(4)), tmp_path / "m.nii.gz")
    masks = {0: FrameOf(tmp_path / "m.nii.gz", 1)}
    mask = read_masks(Video("v", video.frames, masks, {1: "x"}, "v"), [0])[0]
    assert np.argwhere(mask).tolist() == [[2, 5]]  # row, column


def test_frames_take_the_size_of_the_record(video, cache, tmp_path):
    sized = Video("a", video.frames, video.masks, {1: "x"}, "a", size=(20, 24))
    assert [frame.shape for frame in read_frames(sized, [3, 1], cache)] == [(20, 24, 3)] * 2
    # The cache keeps both sizes apart.
    assert read_frames(video, [3], cache)[0].shape == (HEIGHT, WIDTH, 3)
    assert int(read_frames(sized, [3], cache)[0].mean()) == LEVELS[3]


def test_shrinking_does_not_alias(tmp_path):
    stripes = np.tile(np.array([0, 255], np.uint8), (64, 32))
    Image.fromarray(stripes).save(tmp_path / "s.png")
    path = tmp_path / "s.png"
    video = Video("s", (path,), {0: path}, {1: "x"}, "s", size=(16, 16))
    frame = read_frames(video, [0])[0]
    assert abs(frame[2:-2, 2:-2].astype(int) - 127).max() < 20


def test_cached_frames_are_not_decoded_again(video, tmp_path, monkeypatch):
    read_frames(video, [0], tmp_path / "cache")
    assert len(list((tmp_path / "cache").iterdir())) == 1  # nothing half-written is left

    def refuse(*_):
        raise AssertionError("decoded again")

    monkeypatch.setattr(module, "_open", refuse)
    assert int(read_frames(video, [5], tmp_path / "cache")[0][0, 0, 0]) == LEVELS[5]


def test_the_cache_notices_a_new_file(video, tmp_path):
    volume = tmp_path / "v.nii"

    def save(level):
        nib.save(nib.Nifti1Image(np.full((4, 4, 2 + level), level, np.uint8), np.eye(4)), volume)
        module._open.cache_clear()

    record = Video("v", (FrameOf(volume, 1),), {0: volume}, {1: "x"}, "v")
    save(7)
    assert int(read_frames(record, [0], tmp_path / "cache")[0].max()) == 7
    save(9)
    assert int(read_frames(record, [0], tmp_path / "cache")[0].max()) == 9


def test_a_broken_decode_leaves_no_cache(video, tmp_path):
    path = video.frames[0].path
    path.write_bytes(path.read_bytes()[:-400])
    with pytest.raises(ValueError, match=r"a\.avi"):
        read_frames(video, [0], tmp_path / "cache")
    assert not list((tmp_path / "cache").glob("*"))


def test_a_mask_beyond_the_file(video, tmp_path):
    masks = {0: FrameOf(tmp_path / "a.mat", 9)}
    with pytest.raises(ValueError, match=r"a.mat holds 6 masks but frame 9 of it was asked for"):
        read_masks(Video("v", video.frames, masks, {1: "x"}, "v"), [0])


def test_a_mat_file_without_masks_is_refused(video, tmp_path):
    io.savemat(tmp_path / "b.mat", {"other": np.zeros((2, 3))})
    masks = {0: FrameOf(tmp_path / "b.mat", 0)}
    with pytest.raises(ValueError, match=r"b.mat holds {'other': \(2, 3\)}: expected 'predicted'"):
        read_masks(Video("v", video.frames, masks, {1: "x"}, "v"), [0])


def test_a_damaged_mat_file_is_refused(video, tmp_path):
    path = tmp_path / "a.mat"
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(ValueError, match=r"cannot read .*a.mat as a MATLAB file"):
        read_masks(video, [0])


def test_a_missing_mat_file_is_named(video, tmp_path):
    (tmp_path / "a.mat").unlink()
    with pytest.raises(FileNotFoundError, match=r"no such file: .*a.mat"):
        read_masks(video, [0])


def test_a_frame_of_a_file_says_which():
    assert str(FrameOf(Path("a.avi"), 3)) == "frame 3 of a.avi"
