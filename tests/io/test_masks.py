"""Which frame a mask belongs to, and where in it its labels lie."""

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk
from PIL import Image

from bundle.io.reading.frame_folder import split_folder
from bundle.io.reading.masks import read_annotations
from bundle.io.reading.video import open_video

COUNT, HEIGHT, WIDTH = 6, 20, 30


def make_frames(seed=0):
    return np.random.default_rng(seed).integers(0, 255, (COUNT, HEIGHT, WIDTH), dtype=np.uint8)


def make_labels(value=1):
    labels = np.zeros((HEIGHT, WIDTH), np.uint8)
    labels[3:8, 5:15] = value
    labels[8:10, 5:7] = value  # like no mirror image of itself
    return labels


def save_frames(folder, name="{:05d}.png"):
    folder.mkdir(parents=True, exist_ok=True)
    for index, frame in enumerate(make_frames()):
        Image.fromarray(frame).save(folder / name.format(index))
    return open_video(folder)


def save_mask(path, labels=None):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(make_labels() if labels is None else labels).save(path)
    return path


def save_nifti(path, array, affine):
    nib.save(nib.Nifti1Image(array, affine), path)
    return path


def nifti_video(tmp_path, affine=None):
    """(x, y, t) with a place in space."""
    affine = np.diag([-0.5, -0.5, 1, 1]) if affine is None else affine
    path = save_nifti(tmp_path / "video.nii.gz", make_frames().T, affine)
    return open_video(path), affine


def volume_of(labels, index=2):
    volume = np.zeros((WIDTH, HEIGHT, COUNT), np.uint8)
    volume[:, :, index] = labels.T
    return volume


# Numbers in a mask's name


@pytest.mark.parametrize("name", ["mask.png", "mask0.png", "00000.png", "left_00.png"])
def test_a_mask_without_another_number_is_the_first_frames(tmp_path, name):
    video = save_frames(tmp_path / "frames", "f{}.png")
    assert list(read_annotations(save_mask(tmp_path / name), video)) == [0]


@pytest.mark.parametrize(
    "name", ["00004.png", "mask_4.png", "mask4.png", "frame-004.png", "a04.png"]
)
def test_a_number_in_a_masks_name_is_asked_about(tmp_path, name):
    video, _ = nifti_video(tmp_path)
    mask = save_mask(tmp_path / name)
    message = "has the number 4 in its name: say which frame .* --mask-frame 0, or --mask-frame 4"
    with pytest.raises(ValueError, match=message):
        read_annotations(mask, video)
    assert list(read_annotations(mask, video, 4)) == [4]
    assert list(read_annotations(mask, video, 0)) == [0]


def test_a_mask_that_is_called_like_a_frame_is_that_frames(tmp_path, caplog):
    video = save_frames(tmp_path / "frames")
    for name in ("00003.png", "00003_mask.png"):
        assert list(read_annotations(save_mask(tmp_path / name), video)) == [3]
    assert "is taken as the mask of frame 3" in caplog.text


def test_numbers_that_the_video_has_as_well_say_nothing(tmp_path):
    save_frames(tmp_path / "patient_12_view_03", "f{}.png")
    video = open_video(tmp_path / "patient_12_view_03")
    mask = save_mask(tmp_path / "patient_12_view_03_mask.png")
    assert list(read_annotations(mask, video)) == [0]


def test_a_number_within_a_word_is_no_frame_and_a_warning_says_so(tmp_path, caplog):
    video, _ = nifti_video(tmp_path)
    assert list(read_annotations(save_mask(tmp_path / "touch2.png"), video)) == [0]
    assert "is taken as the mask of the first frame: --mask-frame N says otherwise" in caplog.text


def test_a_frame_that_does_not_exist_is_refused(tmp_path):
    video, _ = nifti_video(tmp_path)
    with pytest.raises(ValueError, match=r"--mask-frame 6: .* has 6 frames, expected 0 to 5"):
        read_annotations(save_mask(tmp_path / "a.png"), video, 6)


def test_numbers_of_a_folder_may_count_from_0_or_from_1(tmp_path):
    video, _ = nifti_video(tmp_path)
    folder = save_mask(tmp_path / "masks" / "00001.png").parent
    (folder / "._00001.png").write_bytes(b"of macOS")
    with pytest.raises(
        ValueError, match=r"numbered from 1.*--mask-frame 1 .*--mask-frame 0 if from 1"
    ):
        read_annotations(folder, video)
    assert list(read_annotations(folder, video, 0)) == [0]
    save_mask(folder / "00003.png")
    assert list(read_annotations(folder, video, 0)) == [0, 2]
    assert list(read_annotations(folder, video, 1)) == [1, 3]


@pytest.mark.parametrize(("names", "expected"), [((0, 3), [0, 3]), ((2, 6), [1, 5])])
def test_numbers_of_a_folder_that_can_only_count_one_way(tmp_path, names, expected):
    video, _ = nifti_video(tmp_path)
    for name in names:
        save_mask(tmp_path / "masks" / f"{name:05d}.png")
    assert list(read_annotations(tmp_path / "masks", video)) == expected


# Frames and masks in one folder


@pytest.mark.parametrize(
    ("frame", "mask"),
    [("{:03d}.jpg", "{:03d}.png"), ("{}.png", "{}_mask.png"), ("frame{}.png", "seg_{}.png")],
)
def test_masks_among_frames_are_no_frames(tmp_path, caplog, frame, mask):
    for index in range(COUNT):
        save_mask(tmp_path / "mixed" / mask.format(index))
    video = save_frames(tmp_path / "mixed", frame)
    assert video.frame_count == COUNT
    assert "holds 6 masks among its frames" in caplog.text
    assert list(read_annotations(tmp_path / "mixed", video)) == list(range(COUNT))
    first = tmp_path / "mixed" / mask.format(0)
    assert list(read_annotations(first, video)) == [0]


def test_one_mask_among_frames(tmp_path):
    save_mask(tmp_path / "mixed" / "outline.png")
    assert save_frames(tmp_path / "mixed").frame_count == COUNT


def test_frames_of_two_kinds_are_all_frames(tmp_path):
    save_frames(tmp_path / "a", "{}.png")
    for index in range(COUNT):
        (tmp_path / "a" / f"{index}.png").rename(tmp_path / "a" / f"{'ab'[index % 2]}{index}.png")
    assert open_video(tmp_path / "a").frame_count == COUNT


def test_two_pictures_of_one_name_that_look_alike_are_refused(tmp_path):
    save_frames(tmp_path / "a", "{}.png")
    save_frames_again = make_frames(1)
    for index, frame in enumerate(save_frames_again):
        Image.fromarray(frame).save(tmp_path / "a" / f"{index}.bmp")
    with pytest.raises(ValueError, match=r"a holds 0.bmp and 0.png: which is the frame"):
        split_folder(tmp_path / "a")


# Where a volume's labels lie


def read_volume(tmp_path, video, array, affine, name="mask.nii.gz"):
    return read_annotations(save_nifti(tmp_path / name, array, affine), video)


@pytest.mark.parametrize("codes", ["RAS", "LPS", "LAS", "RPI", "ASR", "SAL", "PIL"])
def test_a_mask_in_another_orientation_is_put_right(tmp_path, codes):
    video, affine = nifti_video(tmp_path)
    image = nib.Nifti1Image(volume_of(make_labels(7)), affine)
    turn = nib.orientations.ornt_transform(
        nib.io_orientation(affine), nib.orientations.axcodes2ornt(codes)
    )
    turned = image.as_reoriented(turn)
    found = read_volume(tmp_path, video, np.asarray(turned.dataobj), turned.affine)
    assert list(found) == [2]
    np.testing.assert_array_equal(found[2], make_labels(7))


def test_a_meta_image_in_another_orientation_is_put_right(tmp_path):
    frames = sitk.GetImageFromArray(make_frames())
    frames.SetSpacing((0.3, 0.4, 1.0))
    frames.SetOrigin((5.0, -7.0, 2.0))
    sitk.WriteImage(frames, str(tmp_path / "video.mha"))
    labels = sitk.GetImageFromArray(np.ascontiguousarray(volume_of(make_labels()).T))
    labels.CopyInformation(frames)
    sitk.WriteImage(sitk.DICOMOrient(labels, "RAS"), str(tmp_path / "mask.mha"))
    found = read_annotations(tmp_path / "mask.mha", open_video(tmp_path / "video.mha"))
    np.testing.assert_array_equal(found[2], make_labels())


@pytest.mark.parametrize("suffix", ["nii.gz", "mha"])
def test_a_single_mask_in_another_orientation_is_put_right(tmp_path, suffix):
    video, affine = nifti_video(tmp_path)
    image = nib.Nifti1Image(make_labels(7).T[:, :, None], affine)
    turned = nib.as_closest_canonical(image)
    path = save_nifti(tmp_path / "mask.nii.gz", np.asarray(turned.dataobj), turned.affine)
    if suffix == "mha":
        sitk.WriteImage(sitk.ReadImage(str(path)), str(tmp_path / "mask.mha"))
    found = read_annotations(tmp_path / f"mask.{suffix}", video)
    np.testing.assert_array_equal(found[0], make_labels(7))


def test_a_cropped_mask_lands_where_it_was_cropped(tmp_path):
    video, affine = nifti_video(tmp_path)
    cropped = nib.Nifti1Image(volume_of(make_labels()), affine).slicer[4:17, 2:12, :]
    found = read_volume(tmp_path, video, np.asarray(cropped.dataobj), cropped.affine)
    np.testing.assert_array_equal(found[2], make_labels())


def test_a_mask_of_half_the_voxels_is_resampled(tmp_path):
    video, affine = nifti_video(tmp_path)
    fine = affine @ np.diag([2.0, 2.0, 1.0, 1.0])
    fine[:2, 3] = affine[:2, :2] @ [0.5, 0.5]
    coarse = np.zeros((HEIGHT // 2, WIDTH // 2), np.uint8)
    coarse[2:5, 3:9] = 4
    volume = np.zeros((WIDTH // 2, HEIGHT // 2, COUNT), np.uint8)
    volume[:, :, 1] = coarse.T
    found = read_volume(tmp_path, video, volume, fine)
    np.testing.assert_array_equal(found[1], coarse.repeat(2, axis=0).repeat(2, axis=1))


@pytest.mark.parametrize(
    "affine", [np.eye(4), np.diag([-1.0, -1, 1, 1]), np.diag([-0.7, -0.7, 1, 1])]
)
def test_a_mask_without_a_place_of_its_own_goes_pixel_by_pixel(tmp_path, affine):
    video, _ = nifti_video(tmp_path)
    found = read_volume(tmp_path, video, volume_of(make_labels()), affine)
    np.testing.assert_array_equal(found[2], make_labels())


def test_a_mask_that_lies_elsewhere_is_refused(tmp_path):
    video, affine = nifti_video(tmp_path)
    away = affine.copy()
    away[0, 3], away[0, 0] = 500, 0.5
    with pytest.raises(ValueError, match=r"lies elsewhere in space than .*, or obliquely to it"):
        read_volume(tmp_path, video, volume_of(make_labels()), away)


def test_an_oblique_mask_is_refused(tmp_path):
    video, affine = nifti_video(tmp_path)
    turn = np.eye(4)
    turn[1:3, 1:3] = [[0.8, -0.6], [0.6, 0.8]]
    with pytest.raises(ValueError, match=r"lies elsewhere in space than .*, or obliquely to it"):
        read_volume(tmp_path, video, volume_of(make_labels()), turn @ affine)
