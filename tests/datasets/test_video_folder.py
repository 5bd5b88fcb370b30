"""Videos of every kind with every kind of mask, written and read back, and what is wrong with one."""

import shutil

import av
import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk
from PIL import Image
from pydicom.data import get_testdata_file

from bundle.datasets.frames import read_frames, read_masks
from bundle.datasets.video_folder import video_folder
from bundle.io.reading.frame_refs import FrameOf

COUNT, HEIGHT, WIDTH = 12, 24, 40


@pytest.fixture
def frames():
    """(T, H, W) uint8, no symmetry anywhere."""
    return np.random.default_rng(0).integers(0, 256, (COUNT, HEIGHT, WIDTH), dtype=np.uint8)


@pytest.fixture
def labels():
    """(T, H, W) uint8: two objects that wander."""
    maps = np.zeros((COUNT, HEIGHT, WIDTH), np.uint8)
    for i in range(COUNT):
        maps[i, 2:9, i : i + 7] = 1
        maps[i, 12:20, 2 * i : 2 * i + 5] = 2
    return maps


def write_video_file(path, frames):
    with av.open(str(path), "w") as container:
        stream = container.add_stream("ffv1", rate=25)
        stream.height, stream.width = frames.shape[1:]
        stream.pix_fmt = "gray"
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="gray")))
        container.mux(stream.encode())


def write_nifti(path, frames):
    image = nib.Nifti1Image(np.moveaxis(frames, 0, 2).swapaxes(0, 1)[:, :, None, :], None)
    image.header.set_zooms((0.3, 0.4, 1, 0.02))
    image.header.set_xyzt_units("mm", "sec")
    nib.save(image, path)


def write_meta_image(path, frames):
    sitk.WriteImage(sitk.GetImageFromArray(frames), str(path))


def write_folder(path, frames, name="{}.png", first=0):
    """Numbers without leading zeros: 10 sorts before 2 unless by value."""
    path.mkdir()
    for i, frame in enumerate(frames):
        Image.fromarray(frame).save(path / name.format(first + i))


WRITERS = {
    ".avi": write_video_file,
    ".MKV": write_video_file,
    ".nii.gz": write_nifti,
    ".mha": write_meta_image,
    ".mhd": write_meta_image,
    "": write_folder,
}


@pytest.mark.parametrize("mask", [".nii.gz", ".mha", ""])
@pytest.mark.parametrize("kind", WRITERS)
def test_a_mask_for_each_frame(tmp_path, frames, labels, kind, mask):
    WRITERS[kind](tmp_path / f"a{kind}", frames)
    WRITERS[mask](tmp_path / f"a_mask{mask}", labels)
    (video,) = video_folder(tmp_path)
    assert (video.id, video.patient, video.binary) == ("a", "a", False)
    assert video.labels == {i: f"object {i}" for i in range(1, 256)}
    if kind:
        assert video.frames == tuple(FrameOf(tmp_path / f"a{kind}", i) for i in range(COUNT))
    else:
        assert video.frames == tuple(tmp_path / f"a/{i}.png" for i in range(COUNT))
    if mask:
        assert video.masks[3] == FrameOf(tmp_path / f"a_mask{mask}", 3)
    everything = range(COUNT)
    assert list(video.masks) == list(everything)
    np.testing.assert_array_equal(np.stack(read_frames(video, everything))[..., 0], frames)
    np.testing.assert_array_equal(read_masks(video, everything), labels)


@pytest.mark.parametrize("name", ["a_mask.png", "a_mask.TIF", "a_mask.nii", "a_mask.mha"])
def test_a_single_mask_is_of_the_first_frame(tmp_path, frames, labels, name):
    write_video_file(tmp_path / "a.avi", frames)
    if name.endswith("nii"):
        nib.save(nib.Nifti1Image(labels[0].T, None), tmp_path / name)
    elif name.endswith("mha"):
        write_meta_image(tmp_path / name, labels[0])
    else:
        Image.fromarray(labels[0]).save(tmp_path / name)
    (video,) = video_folder(tmp_path)
    assert video.masks == {0: tmp_path / name}
    assert len(video.frames) == COUNT
    np.testing.assert_array_equal(read_masks(video, [0])[0], labels[0])


def test_empty_masks_of_a_volume_are_none(tmp_path, frames, labels):
    write_video_file(tmp_path / "a.avi", frames)
    painted = labels.copy()
    painted[[0, 2]] = 0
    write_nifti(tmp_path / "a_mask.nii.gz", painted)
    assert list(video_folder(tmp_path)[0].masks) == [i for i in range(COUNT) if i not in (0, 2)]
    write_nifti(tmp_path / "a_mask.nii.gz", 0 * painted)
    with pytest.raises(ValueError, match=r"a_mask.nii.gz is empty: paint the structure on one"):
        video_folder(tmp_path)


def test_rate_and_spacing_are_the_files_own(tmp_path, frames, labels):
    write_nifti(tmp_path / "a.nii.gz", frames)
    write_video_file(tmp_path / "b.avi", frames)
    write_folder(tmp_path / "c", frames)
    for name in "abc":
        Image.fromarray(labels[0]).save(tmp_path / f"{name}_mask.png")
    a, b, c = video_folder(tmp_path)
    assert a.fps == pytest.approx(50)
    assert a.spacing_mm == pytest.approx((0.4, 0.3))
    assert (b.fps, b.spacing_mm, c.fps, c.spacing_mm) == (25, None, None, None)


def test_a_dicom_is_known_by_its_content(tmp_path):
    cine = get_testdata_file("examples_ybr_color.dcm", download=False)
    if cine is None:
        pytest.skip("this pydicom ships no examples_ybr_color.dcm")
    shutil.copy(cine, tmp_path / "1.2.840.7")
    mask = np.zeros((240, 320), np.uint8)
    mask[50:90, 60:120] = 255
    Image.fromarray(mask).save(tmp_path / "1.2.840.7_mask.png")
    (video,) = video_folder(tmp_path)
    assert (video.id, len(video.frames)) == ("1.2.840.7", 30)
    assert video.fps == pytest.approx(30, abs=0.1)
    assert read_frames(video, [29])[0].shape == (240, 320, 3)
    np.testing.assert_array_equal(read_masks(video, [0])[0], mask // 255)


def test_videos_come_in_natural_order_without_foreign_files(tmp_path, frames, labels):
    for name in ("case10", "case2", "Case1"):
        write_video_file(tmp_path / f"{name}.avi", frames)
        Image.fromarray(labels[0]).save(tmp_path / f"{name}_mask.png")
    write_meta_image(tmp_path / "case3.mhd", frames)  # with a .raw beside it
    write_meta_image(tmp_path / "case3_mask.mhd", labels)
    for name in ("notes.txt", "case2.csv", "._case2.avi", "case2.jpg", "gone_mask.txt"):
        (tmp_path / name).touch()
    for name in (".cache", "empty"):
        (tmp_path / name).mkdir()
    ids = [video.id for video in video_folder(tmp_path)]
    assert ids == ["Case1", "case2", "case3", "case10"]


# Folders of masks


@pytest.mark.parametrize(
    ("frame", "mask", "first"),
    [
        ("{}.png", "{}.png", 0),  # by name
        ("f{:03d}.png", "f{:03d}.tif", 1),
        ("frame_{}.png", "mask_{}.png", 1),  # by number
        ("t2_{}.png", "truth_{}.png", 7),
    ],
)
def test_frames_of_a_folder_may_go_without_mask(tmp_path, frames, labels, frame, mask, first):
    write_folder(tmp_path / "a", frames, frame, first)
    write_folder(tmp_path / "a_mask", labels, mask, first)
    annotated = [0, 2, 10]
    for i in set(range(COUNT)) - set(annotated):
        (tmp_path / "a_mask" / mask.format(first + i)).unlink()
    (video,) = video_folder(tmp_path)
    assert list(video.masks) == annotated
    np.testing.assert_array_equal(read_masks(video, annotated), labels[annotated])


def test_frames_of_a_file_count_from_0(tmp_path, frames, labels):
    write_video_file(tmp_path / "a.avi", frames)
    write_folder(tmp_path / "a_mask", labels, "{:05d}.png")
    for i in set(range(COUNT)) - {1, 11}:
        (tmp_path / f"a_mask/{i:05d}.png").unlink()
    (video,) = video_folder(tmp_path)
    assert sorted(video.masks) == [1, 11]
    np.testing.assert_array_equal(read_masks(video, [1, 11]), labels[[1, 11]])


@pytest.mark.parametrize("kind", [".avi", ""])
def test_as_many_masks_as_frames_go_in_order(tmp_path, frames, labels, kind):
    """Whatever their numbers begin with."""
    WRITERS[kind](tmp_path / f"a{kind}", frames)
    write_folder(tmp_path / "a_mask", labels, "truth {}.png", first=1)
    (video,) = video_folder(tmp_path)
    np.testing.assert_array_equal(read_masks(video, range(COUNT)), labels)


@pytest.mark.parametrize(
    ("kind", "names", "stray"),
    [
        (".avi", ["12"], "12"),  # the last is 11
        (".avi", ["0", "last"], "last"),
        (".avi", [f"{i}" for i in range(COUNT + 1)], "12"),
        ("", ["3", "30"], "30"),
        ("", ["x"], "x"),
    ],
)
def test_a_mask_in_a_folder_that_fits_no_frame(tmp_path, frames, labels, kind, names, stray):
    WRITERS[kind](tmp_path / f"a{kind}", frames)
    (tmp_path / "a_mask").mkdir()
    for name in names:
        Image.fromarray(labels[0]).save(tmp_path / f"a_mask/{name}.png")
    with pytest.raises(
        ValueError,
        match=rf"a_mask/{stray}.png belongs to no frame: .*a_mask holds {len(names)} masks and "
        rf".*a{kind} has 12 frames",
    ):
        video_folder(tmp_path)


def test_names_without_numbers_do_not_fit_each_other(tmp_path, frames, labels):
    write_folder(tmp_path / "a", frames[:1], "early.png")
    write_folder(tmp_path / "a_mask", labels[:1], "truth.png")
    assert list(video_folder(tmp_path)[0].masks) == [0]  # as many as frames
    Image.fromarray(frames[1]).save(tmp_path / "a/late.png")
    with pytest.raises(ValueError, match=r"truth.png belongs to no frame: .* holds 1 masks"):
        video_folder(tmp_path)


def test_two_masks_of_one_frame(tmp_path, frames, labels):
    write_video_file(tmp_path / "a.avi", frames)
    write_folder(tmp_path / "a_mask", labels[:2], "frame_{}_v2.png")
    with pytest.raises(
        ValueError, match=r"frame_0_v2.png and .*frame_1_v2.png are both for frame 2"
    ):
        video_folder(tmp_path)


# What else can be wrong


def test_a_video_without_mask(tmp_path, frames, labels):
    for name in "ab":
        write_video_file(tmp_path / f"{name}.avi", frames)
    Image.fromarray(labels[0]).save(tmp_path / "a_mask.png")
    with pytest.raises(
        FileNotFoundError,
        match=r"no mask for .*b.avi: looked for .*b_mask\.\* and a folder .*b_mask",
    ):
        video_folder(tmp_path)


@pytest.mark.parametrize("name", ["b_mask.png", "b_mask"])
def test_a_mask_without_video(tmp_path, labels, name):
    if name.endswith("png"):
        Image.fromarray(labels[0]).save(tmp_path / name)
    else:
        write_folder(tmp_path / name, labels)
    (tmp_path / "b.txt").touch()
    with pytest.raises(
        FileNotFoundError, match=rf"no video for .*{name}: looked for .*/b\.\* and a folder .*/b$"
    ):
        video_folder(tmp_path)


@pytest.mark.parametrize("suffix", [".nii.gz", ".mha"])
def test_a_mask_volume_of_another_length(tmp_path, frames, labels, suffix):
    write_video_file(tmp_path / "a.avi", frames)
    WRITERS[suffix](tmp_path / f"a_mask{suffix}", labels[:-1])
    with pytest.raises(
        ValueError, match=rf"a_mask{suffix} holds 11 masks but .*a.avi has 12 frames: expected"
    ):
        video_folder(tmp_path)


@pytest.mark.parametrize("names", [("a.avi", "a.mkv"), ("a_mask.png", "a_mask.tif")])
def test_two_files_of_one_name_are_refused(tmp_path, frames, labels, names):
    write_video_file(tmp_path / "a.avi", frames)
    Image.fromarray(labels[0]).save(tmp_path / "a_mask.png")
    shutil.copy(tmp_path / ("a.avi" if names[0] == "a.avi" else "a_mask.png"), tmp_path / names[1])
    what = "mask a_mask" if "mask" in names[0] else "video a"
    with pytest.raises(ValueError, match=rf"{names[0]} and {names[1]} are both the {what}: rename"):
        video_folder(tmp_path)


def test_all_problems_are_reported(tmp_path, frames, labels):
    for name in ("a", "b", "d"):
        write_video_file(tmp_path / f"{name}.avi", frames)
    (tmp_path / "c.avi").write_text("no video")
    for name in ("a", "c", "e"):
        Image.fromarray(labels[0]).save(tmp_path / f"{name}_mask.png")
    write_nifti(tmp_path / "d_mask.nii.gz", labels[:-1])
    problems = []
    (video,) = video_folder(tmp_path, report=problems.append)
    assert video.id == "a"
    found = [
        next(name for name in "bcde" if f"{name}.avi" in str(p) or f"{name}_" in str(p))
        for p in problems
    ]
    assert found == ["b", "c", "d", "e"]


def test_the_root_must_hold_masks(tmp_path, frames, labels):
    write_video_file(tmp_path / "a.avi", frames)
    with pytest.raises(
        FileNotFoundError,
        match=r"no \*_mask or \*_mask\.\* in .*: expected the root of videos with",
    ):
        video_folder(tmp_path)
    root = tmp_path / "videos"
    root.mkdir()
    Image.fromarray(labels[0]).save(root / "a_mask.png")
    with pytest.raises(FileNotFoundError, match=rf"did you mean {root}\?"):
        video_folder(tmp_path)
