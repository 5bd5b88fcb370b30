"""Each reader against small folders in the official layout, and one test per error message."""

import csv
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from PIL import Image

from bundle.data.camus import camus
from bundle.data.cvc_clinicdb import cvc_clinicdb
from bundle.data.generic import davis, image_pairs, list_images
from bundle.data.records import Video

DATA = Path(__file__).parents[2] / "shared" / "data"


def touch(root, *names):
    """Empty files: readers look at names only."""
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()


def relative(video, root):
    """Frames and masks of a record as paths below ``root``."""
    frames = [path.relative_to(root).as_posix() for path in video.frames]
    return frames, {i: path.relative_to(root).as_posix() for i, path in video.masks.items()}


# Records


def test_a_record_needs_a_mask():
    with pytest.raises(ValueError, match="video a has no mask: one annotated frame is the least"):
        Video("a", (Path("0.png"),), {}, {1: "x"}, "a")


@pytest.mark.parametrize("index", [1, -1])
def test_a_record_has_masks_of_its_frames_only(index):
    with pytest.raises(ValueError, match=f"video a has 1 frames but a mask for frame {index}"):
        Video("a", (Path("0.png"),), {index: Path("m.png")}, {1: "x"}, "a")


# CVC-ClinicDB


@pytest.fixture
def cvc(tmp_path):
    """Sequence 2 is frames 2, 9, 10 (of the train split), sequence 10 is frame 11 (valid)."""
    rows = [(10, 2, "train"), (11, 10, "valid"), (2, 2, "train"), (9, 2, "train")]
    with (tmp_path / "metadata.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["frame_id", "sequence_id", "split", "png_image_path", "png_mask_path"])
        for frame, sequence, split in rows:
            paths = f"PNG/Original/{frame}.png", f"PNG/Ground Truth/{frame}.png"
            writer.writerow((frame, sequence, split, *paths))
            touch(tmp_path, *paths)
    return tmp_path


def test_cvc_reads_sequences_in_the_order_of_frame_numbers(cvc):
    first, second = cvc_clinicdb(cvc)
    assert (first.id, first.patient, second.id) == ("sequence02", "2", "sequence10")
    assert relative(first, cvc) == (
        ["PNG/Original/2.png", "PNG/Original/9.png", "PNG/Original/10.png"],
        {0: "PNG/Ground Truth/2.png", 1: "PNG/Ground Truth/9.png", 2: "PNG/Ground Truth/10.png"},
    )
    assert first.labels == {1: "polyp"}
    assert first.binary


def test_cvc_splits(cvc):
    assert [video.id for video in cvc_clinicdb(cvc, "valid")] == ["sequence10"]
    with pytest.raises(ValueError, match=r"metadata.csv lists no frame of split 'test'"):
        cvc_clinicdb(cvc, "test")


def test_cvc_without_table_says_which(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no .*metadata.csv: expected the root of CVC"):
        cvc_clinicdb(tmp_path)


@pytest.mark.parametrize("folder", ["Original", "Ground Truth"])
def test_cvc_half_a_pair_says_which(cvc, folder):
    (cvc / "PNG" / folder / "9.png").unlink()
    with pytest.raises(FileNotFoundError, match=rf"no .*{folder}/9.png, which .* for sequence 2"):
        cvc_clinicdb(cvc)


@pytest.mark.skipif(not (DATA / "CVC-ClinicDB").exists(), reason="no real CVC-ClinicDB at hand")
def test_the_real_cvc():
    videos = cvc_clinicdb(DATA / "CVC-ClinicDB")
    assert (len(videos), sum(len(video.frames) for video in videos)) == (24, 490)
    assert [len(cvc_clinicdb(DATA / "CVC-ClinicDB", s)) for s in ("train", "valid")] == [18, 6]


# CAMUS


def camus_files(patient, view):
    return [
        f"database_nifti/{patient}/{patient}_{view}_{moment}{half}.nii.gz"
        for moment in ("ED", "ES")
        for half in ("", "_gt")
    ]


@pytest.fixture
def camus_root(tmp_path):
    """Two patients with both views."""
    for patient in ("patient0001", "patient0002"):
        for view in ("2CH", "4CH"):
            touch(tmp_path, *camus_files(patient, view))
    touch(tmp_path, "database_split/subgroup_training.txt")
    split = tmp_path / "database_split/subgroup_training.txt"
    split.write_text("patient0002\npatient0001\n")
    return tmp_path


@pytest.mark.parametrize("start", ["ED", "ES"])
def test_camus_reads_pairs(camus_root, start):
    videos = camus(camus_root, "training", labels=[2, 3], start=start)
    assert [video.id for video in videos] == [
        f"patient000{number}_{view}_{start}" for number in (2, 1) for view in ("2CH", "4CH")
    ]
    stem = "database_nifti/patient0002/patient0002_2CH"
    end = {"ED": "ES", "ES": "ED"}[start]
    assert relative(videos[0], camus_root) == (
        [f"{stem}_{start}.nii.gz", f"{stem}_{end}.nii.gz"],
        {0: f"{stem}_{start}_gt.nii.gz", 1: f"{stem}_{end}_gt.nii.gz"},
    )
    assert (videos[0].labels, videos[0].binary) == ({2: "LV wall", 3: "left atrium"}, False)
    assert [video.patient for video in videos[1:3]] == ["patient0002", "patient0001"]


def test_camus_passes_over_views_that_a_patient_lacks(camus_root):
    for name in camus_files("patient0002", "2CH"):
        (camus_root / name).unlink()
    videos = camus(camus_root, "training", labels=[1])
    assert [video.id[:15] for video in videos] == [
        "patient0002_4CH", "patient0001_2CH", "patient0001_4CH"
    ]  # fmt: skip
    assert len(camus(camus_root, "training", labels=[1], views=["4CH"])) == 2
    with pytest.raises(
        FileNotFoundError, match=r"no .*patient0002_2CH_ED.nii.gz, which .*training"
    ):
        camus(camus_root, "training", labels=[1], views=["2CH"])


@pytest.mark.parametrize("missing", ["ED", "ED_gt", "ES", "ES_gt"])
def test_camus_half_a_pair_says_which(camus_root, missing):
    (camus_root / f"database_nifti/patient0001/patient0001_4CH_{missing}.nii.gz").unlink()
    with pytest.raises(
        FileNotFoundError, match=f"no .*patient0001_4CH_{missing}.nii.gz: ED and ES"
    ):
        camus(camus_root, "training", labels=[1])


def test_camus_without_split_file_says_which(camus_root):
    with pytest.raises(FileNotFoundError, match=r"no .*subgroup_testing.txt: expected the root"):
        camus(camus_root, "testing", labels=[1])


@pytest.mark.parametrize(("labels", "start"), [([1, 4], "ED"), ([1], "ed")])
def test_camus_names_what_it_does_not_know(camus_root, labels, start):
    with pytest.raises(
        ValueError, match=rf"expected labels of \[1, 2, 3\] and ED or ES, .*{start}"
    ):
        camus(camus_root, "training", labels=labels, start=start)


@pytest.mark.skipif(not (DATA / "CAMUS").exists(), reason="no real CAMUS at hand")
def test_the_real_camus():
    videos = camus(DATA / "CAMUS", "training", labels=[1])
    assert len({video.patient for video in videos}) == 400
    mask = nib.load(videos[0].masks[0])
    assert set(np.unique(np.asanyarray(mask.dataobj))) <= {0, 1, 2, 3}


# DAVIS


@pytest.fixture(params=["", "480p/"], ids=["plain", "with resolution"])
def davis_root(request, tmp_path):
    """Video ``bear`` with masks on frames 0 and 2 of 3, video ``ant`` on its only frame."""
    for name in ("bear/00000", "bear/00001", "bear/00002", "ant/00000"):
        touch(tmp_path, f"JPEGImages/{request.param}{name}.jpg")
    for name in ("bear/00000", "bear/00002", "ant/00000"):
        touch(tmp_path, f"Annotations/{request.param}{name}.png")
    touch(tmp_path, f"JPEGImages/{request.param}.DS_Store", "JPEGImages/.DS_Store")
    return tmp_path


def test_davis_reads_sparse_annotations(davis_root):
    ant, bear = davis(davis_root)
    assert (ant.id, bear.id, bear.patient, bear.binary) == ("ant", "bear", "bear", False)
    frames, masks = relative(bear, davis_root)
    assert [name[-14:] for name in frames] == [f"bear/0000{i}.jpg" for i in range(3)]
    assert {i: name[-14:] for i, name in masks.items()} == {
        0: "bear/00000.png",
        2: "bear/00002.png",
    }
    assert set(bear.labels) == set(range(1, 256))


def test_davis_takes_and_leaves_out_videos(davis_root):
    assert [video.id for video in davis(davis_root, include=["bear"])] == ["bear"]
    assert [video.id for video in davis(davis_root, exclude=["bear"])] == ["ant"]


@pytest.mark.parametrize("option", ["include", "exclude"])
def test_davis_names_a_video_that_it_lacks(davis_root, option):
    with pytest.raises(FileNotFoundError, match=r"no video cat in .*; there are ant, bear"):
        davis(davis_root, **{option: ["cat"]})


def test_davis_needs_the_first_mask(davis_root):
    next(davis_root.glob("Annotations/**/bear/00000.png")).unlink()
    with pytest.raises(FileNotFoundError, match=r"no mask .*00000.png for the first frame of bear"):
        davis(davis_root)


def test_davis_needs_frames_in_every_video(davis_root):
    next(davis_root.glob("JPEGImages/**/ant/00000.jpg")).unlink()
    with pytest.raises(FileNotFoundError, match=r"no pictures \(.png, .*\) in .*ant"):
        davis(davis_root)


def test_davis_without_videos_says_where_it_looked(tmp_path):
    (tmp_path / "JPEGImages/480p").mkdir(parents=True)
    (tmp_path / "Annotations/480p").mkdir(parents=True)
    with pytest.raises(FileNotFoundError, match=r"no folder of frames in .*480p"):
        davis(tmp_path)


@pytest.mark.parametrize("folder", ["JPEGImages", "Annotations"])
def test_davis_needs_both_folders(tmp_path, folder):
    other = {"JPEGImages": "Annotations", "Annotations": "JPEGImages"}[folder]
    (tmp_path / other).mkdir()
    with pytest.raises(FileNotFoundError, match=f"no folder .*{folder}: the DAVIS layout has it"):
        davis(tmp_path)


# Pairs of pictures


def test_image_pairs_match_by_stem(tmp_path):
    touch(tmp_path, "images/b10.jpg", "images/b2.PNG", "images/notes.txt", "images/._b2.png")
    touch(tmp_path, "truth/b10.png", "truth/b2.png")
    first, second = image_pairs(tmp_path, masks="truth")
    assert relative(first, tmp_path) == (["images/b2.PNG"], {0: "truth/b2.png"})
    assert relative(second, tmp_path) == (["images/b10.jpg"], {0: "truth/b10.png"})
    assert (first.id, first.labels, first.binary) == ("b2", {1: "object"}, True)


def test_image_pairs_name_a_picture_without_mask(tmp_path):
    touch(tmp_path, "images/a.jpg", "images/b.jpg", "masks/a.png")
    with pytest.raises(FileNotFoundError, match=r"no mask for .*b.jpg: looked for .*masks/b\.\*"):
        image_pairs(tmp_path)


def test_image_pairs_say_which_folder_is_missing(tmp_path):
    touch(tmp_path, "masks/a.png")
    with pytest.raises(FileNotFoundError, match=r"no folder .*images"):
        image_pairs(tmp_path)


def test_a_folder_without_pictures_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no pictures \(\.png, .*\) in"):
        list_images(tmp_path)


def test_readers_agree_with_the_pixels(tmp_path):
    """What a record names is what the decoder reads: one video through to its labels."""
    from bundle.data.clips import read_clip

    pixels = np.random.default_rng(0).integers(0, 256, (6, 8, 3), dtype=np.uint8)
    for folder in ("images", "masks"):
        (tmp_path / folder).mkdir()
    Image.fromarray(pixels).save(tmp_path / "images/a.png")
    Image.fromarray(pixels[..., 0]).save(tmp_path / "masks/a.png")
    image, label = read_clip(image_pairs(tmp_path)[0], [0])
    np.testing.assert_array_equal(image[..., 0].movedim(0, -1), pixels)
    np.testing.assert_array_equal(label[0, ..., 0], pixels[..., 0] > 127)
