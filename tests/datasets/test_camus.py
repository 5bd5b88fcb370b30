"""CAMUS in both releases: small files in the official layout, read back exactly."""

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk

from bundle.datasets.camus import camus
from bundle.datasets.frames import read_frames, read_masks
from bundle.io.reading.decode import read_image
from bundle.io.reading.video import open_video
from bundle.io.writing import ResultWriter

DATA = Path(__file__).parents[3] / "shared" / "data"
SIZE = (7, 5)  # x, y
RANDOM = np.random.default_rng(0)


def save(path, array, frame_s=None):
    """An array that is (x, y) or (x, y, t) as NIfTI or MetaImage, 0.3 mm by 0.2 mm."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".gz":
        image = nib.Nifti1Image(array, np.diag([0.3, 0.2, 1, 1]))
        image.header.set_xyzt_units("mm", "sec")
        nib.save(image, path)
    else:
        image = sitk.GetImageFromArray(np.ascontiguousarray(array.T))
        image.SetSpacing((0.3, 0.2, 1.0)[: array.ndim])
        sitk.WriteImage(image, str(path))  # .mhd with .raw beside it


def write_patient(root, patient, suffix, sequence, moments, info, views=("2CH", "4CH")):
    """Frame t of the sequence has grey 20 t + 10; ``moments`` are ED's and ES's indices in it.

    Returns:
        (x, y, t) frames and masks of each view.
    """
    written = {}
    for view in views:
        stem = root / patient / f"{patient}_{view}"
        count = max(moments.values()) + 2 if "half" not in sequence else max(moments.values()) + 1
        frames = RANDOM.integers(0, 256, (*SIZE, count), dtype=np.uint8)
        masks = RANDOM.integers(0, 4, (*SIZE, count), dtype=np.uint8)
        save(Path(f"{stem}_{sequence}{suffix}"), frames)
        if "half" in sequence:
            save(Path(f"{stem}_{sequence}_gt{suffix}"), masks)
        for name, t in moments.items():
            save(Path(f"{stem}_{name}{suffix}"), frames[..., t])
            save(Path(f"{stem}_{name}_gt{suffix}"), masks[..., t])
        lines = {**{name: t + 1 for name, t in moments.items()}, "NbFrame": count, **info}
        (root / patient / f"Info_{view}.cfg").write_text(
            "".join(f"{key}: {value}\n" for key, value in lines.items())
        )
        written[view] = frames, masks
    return written


@pytest.fixture
def nifti(tmp_path):
    """Patient 1 from ED to ES, patient 2 with ES before ED."""
    root = tmp_path / "CAMUS"
    folder = root / "database_nifti"
    info = {"Sex": "F", "ImageQuality": "Good", "EF": 58.5, "FrameRate": 47.6}
    write_patient(folder, "patient0001", ".nii.gz", "half_sequence", {"ED": 0, "ES": 3}, info)
    write_patient(folder, "patient0002", ".nii.gz", "half_sequence", {"ED": 3, "ES": 0}, info)
    (root / "database_split").mkdir()
    (root / "database_split/subgroup_training.txt").write_text("patient0002\npatient0001\n")
    return root


@pytest.fixture
def first(tmp_path):
    """The first release: the sequence goes on after ES, only ED and ES have truth."""
    info = {"LVedv": 100.0, "LVesv": 45.0, "LVef": 55.0}
    write_patient(
        tmp_path / "training", "patient0001", ".mhd", "sequence", {"ED": 1, "ES": 4}, info
    )
    return tmp_path


@pytest.fixture(params=["nifti", "first"])
def root(request):
    return request.getfixturevalue(request.param)


def volume(root, name):
    path = next(root.glob(f"*/*/{name}"))
    if path.suffix == ".gz":
        return np.asarray(nib.load(path).dataobj)
    return sitk.GetArrayFromImage(sitk.ReadImage(str(path))).T


# Pairs


@pytest.mark.parametrize("start", ["ED", "ES"])
def test_pairs_go_from_one_moment_to_the_other(root, start):
    video = camus(root, labels=[2, 3], start=start)[0]
    end = {"ED": "ES", "ES": "ED"}[start]
    suffix = "nii.gz" if root.joinpath("database_nifti").exists() else "mhd"
    assert [path.name for path in video.frames] == [
        f"patient0001_2CH_{moment}.{suffix}" for moment in (start, end)
    ]
    assert (video.id, video.patient) == (f"patient0001_2CH_{start}", "patient0001")
    assert (video.labels, video.binary) == ({2: "LV wall", 3: "left atrium"}, False)
    assert video.spacing_mm == pytest.approx((0.2, 0.3))  # rows are y
    for t, moment in enumerate((start, end)):
        expected = volume(root, f"patient0001_2CH_{moment}.{suffix}").T
        np.testing.assert_array_equal(read_frames(video, [t])[0][..., 0], expected)
        expected = volume(root, f"patient0001_2CH_{moment}_gt.{suffix}").T
        np.testing.assert_array_equal(read_masks(video, [t])[0], expected)


def test_splits_are_the_official_lists(nifti):
    assert [video.id[:15] for video in camus(nifti, "training")] == [
        "patient0002_2CH", "patient0002_4CH", "patient0001_2CH", "patient0001_4CH"
    ]  # fmt: skip
    with pytest.raises(FileNotFoundError, match=r"no .*subgroup_testing.txt: CAMUS's own splits"):
        camus(nifti, "testing")


def test_the_first_release_has_no_lists(first):
    with pytest.raises(FileNotFoundError, match=r"subgroup_training.txt: .*bundle.datasets.splits"):
        camus(first, "training")


def test_numbers_of_the_patient_come_along(nifti):
    assert dict(camus(nifti)[0].info) == {
        "ejection_fraction_percent": 58.5,
        "frames_per_second": 47.6,
    }


def test_the_first_release_calls_it_lvef(first):
    assert dict(camus(first)[0].info) == {"ejection_fraction_percent": 55.0}


def test_units_that_are_not_declared_give_no_spacing(nifti):
    path = nifti / "database_nifti/patient0001/patient0001_2CH_ED.nii.gz"
    image = nib.load(path)
    image.header.set_xyzt_units("unknown", "unknown")
    nib.save(nib.Nifti1Image(np.asarray(image.dataobj), None, image.header), path)
    assert camus(nifti)[0].spacing_mm is None


# Sequences


@pytest.mark.parametrize("patient", [0, 1], ids=["ED first", "ES first"])
@pytest.mark.parametrize("start", ["ED", "ES"])
def test_half_sequences_start_where_asked(nifti, patient, start):
    video = camus(nifti, sequences=True, start=start)[2 * patient]
    name = f"patient000{patient + 1}_2CH"
    frames = volume(nifti, f"{name}_half_sequence.nii.gz")
    masks = volume(nifti, f"{name}_half_sequence_gt.nii.gz")
    order = range(4) if (patient == 0) == (start == "ED") else range(3, -1, -1)
    assert sorted(video.masks) == [0, 1, 2, 3]
    for t, pixels, mask in zip(
        order, read_frames(video, range(4)), read_masks(video, range(4)), strict=True
    ):
        np.testing.assert_array_equal(pixels[..., 0], frames[..., t].T)
        np.testing.assert_array_equal(mask, masks[..., t].T)
    # The first frame is the one that the moment's own file shows.
    np.testing.assert_array_equal(
        read_frames(video, [0])[0][..., 0], volume(nifti, f"{name}_{start}.nii.gz").T
    )
    assert video.fps == 47.6


@pytest.mark.parametrize("start", ["ED", "ES"])
def test_sequences_of_the_first_release_have_truth_at_both_ends(first, start):
    video = camus(first, sequences=True, start=start)[0]
    assert (len(video.frames), sorted(video.masks)) == (4, [0, 3])
    frames = volume(first, "patient0001_2CH_sequence.mhd")
    order = [1, 2, 3, 4] if start == "ED" else [4, 3, 2, 1]
    for t, pixels in zip(order, read_frames(video, range(4)), strict=True):
        np.testing.assert_array_equal(pixels[..., 0], frames[..., t].T)
    end = {"ED": "ES", "ES": "ED"}[start]
    np.testing.assert_array_equal(
        read_masks(video, [3])[0], volume(first, f"patient0001_2CH_{end}_gt.mhd").T
    )


def test_both_libraries_show_the_same_frame(nifti, tmp_path):
    """nibabel gives (x, y), SimpleITK (y, x): the reader's frame is SimpleITK's array."""
    path = camus(nifti)[0].frames[0]
    itk = sitk.GetArrayFromImage(sitk.ReadImage(str(path)))
    assert itk.shape == SIZE[::-1]
    np.testing.assert_array_equal(read_image(path)[..., 0], itk)
    np.testing.assert_array_equal(np.asarray(nib.load(path).dataobj).T, itk)


def test_the_label_volume_lies_over_its_source(nifti, tmp_path):
    video = camus(nifti, sequences=True)[0]
    path = video.frames[0].path
    source = open_video(path)
    masks = read_masks(video, range(4))
    with ResultWriter(tmp_path / "out", source, annotated=(0,)) as writer:
        for frame, mask in zip(source, masks, strict=True):
            writer.write(frame, mask)
    written = next((tmp_path / "out").rglob("masks.nii.gz"))
    for read in (
        lambda file: (nib.load(file).affine, np.asarray(nib.load(file).dataobj)),
        lambda file: (
            np.array(sitk.ReadImage(str(file)).GetDirection()),
            sitk.GetArrayFromImage(sitk.ReadImage(str(file))),
        ),
    ):
        (place, pixels), (truth_place, truth) = (
            read(written),
            read(str(path).replace("sequence", "sequence_gt")),
        )
        np.testing.assert_allclose(place, truth_place)
        np.testing.assert_array_equal(pixels, truth)


# What is wrong


def test_views_that_a_patient_lacks_are_passed_over(nifti):
    for path in nifti.glob("database_nifti/patient0001/*2CH_E*"):
        path.unlink()
    assert [video.id[:15] for video in camus(nifti)] == [
        "patient0001_4CH", "patient0002_2CH", "patient0002_4CH"
    ]  # fmt: skip
    with pytest.raises(FileNotFoundError, match=r"no .*patient0001_2CH_ED.nii.gz, the first of"):
        camus(nifti, views=["2CH"])


@pytest.mark.parametrize("missing", ["ED", "ED_gt", "ES", "ES_gt"])
def test_half_a_pair_says_which(nifti, missing):
    next(nifti.glob(f"*/*/patient0001_4CH_{missing}.nii.gz")).unlink()
    with pytest.raises(FileNotFoundError, match=f"patient0001_4CH_{missing}.nii.gz: ED and ES"):
        camus(nifti)


@pytest.mark.parametrize("missing", ["half_sequence", "half_sequence_gt"])
def test_a_missing_sequence_says_which(nifti, missing):
    next(nifti.glob(f"*/*/patient0002_2CH_{missing}.nii.gz")).unlink()
    with pytest.raises(FileNotFoundError, match=rf"no .*patient0002_2CH_{missing}.nii.gz: "):
        camus(nifti, sequences=True)


def test_all_problems_are_reported(nifti):
    for name in ("patient0001_2CH_ED_gt", "patient0002_4CH_ES"):
        next(nifti.glob(f"*/*/{name}.nii.gz")).unlink()
    problems = []
    videos = camus(nifti, report=problems.append)
    assert [video.id for video in videos] == ["patient0001_4CH_ED", "patient0002_2CH_ED"]
    assert [Path(str(problem).split()[1]).name for problem in problems] == [
        "patient0001_2CH_ED_gt.nii.gz:", "patient0002_4CH_ES.nii.gz:"
    ]  # fmt: skip


def test_counts_that_differ(nifti):
    path = next(nifti.glob("*/*/patient0001_2CH_half_sequence_gt.nii.gz"))
    save(path, np.zeros((*SIZE, 3), np.uint8))
    with pytest.raises(ValueError, match=r"sequence_gt.nii.gz has 3 masks but .* 4 frames"):
        camus(nifti, sequences=True)


def test_moments_outside_the_sequence(nifti):
    config = nifti / "database_nifti/patient0001/Info_2CH.cfg"
    config.write_text("ED: 1\nES: 9\n")
    with pytest.raises(ValueError, match=r"Info_2CH.cfg says ED is frame 1 and ES 9 but .* has 4"):
        camus(nifti, sequences=True)


@pytest.mark.parametrize(
    ("text", "message"),
    [("NbFrame: 4\n", "no ED and ES in .*Info_2CH.cfg"), ("ED: x\n", "Info_2CH.cfg: expected num")],
)
def test_a_table_without_moments(nifti, text, message):
    (nifti / "database_nifti/patient0001/Info_2CH.cfg").write_text(text)
    with pytest.raises(ValueError, match=message):
        camus(nifti, sequences=True)


def test_a_short_raw_is_reported(first):
    path = next(first.glob("training/*/patient0001_2CH_ED.raw"))
    path.write_bytes(path.read_bytes()[:-3])
    video = camus(first)[0]
    with pytest.raises(ValueError, match=r"cannot read .*patient0001_2CH_ED.mhd as an image"):
        read_frames(video, [0])


@pytest.mark.parametrize(("labels", "start"), [([1, 4], "ED"), ([1], "ed")])
def test_unknown_names(nifti, labels, start):
    with pytest.raises(
        ValueError, match=rf"expected labels of \[1, 2, 3\] and ED or ES, .*{start}"
    ):
        camus(nifti, labels=labels, start=start)


def test_a_wrong_root_names_the_right_one(nifti):
    for wrong in (nifti.parent, nifti / "database_nifti"):
        with pytest.raises(FileNotFoundError, match=rf"no database_nifti or .*mean {nifti}\?"):
            camus(wrong)
    with pytest.raises(FileNotFoundError, match=r"no folder .*absent: expected the root of CAMUS"):
        camus(nifti / "absent")


def test_a_copy_without_patients(tmp_path):
    (tmp_path / "database_nifti").mkdir()
    with pytest.raises(FileNotFoundError, match=r"no folder patient\* in .*database_nifti"):
        camus(tmp_path)


@pytest.mark.skipif(not (DATA / "CAMUS").exists(), reason="no real CAMUS at hand")
def test_the_real_camus():
    videos = camus(DATA / "CAMUS", "training")
    assert len({video.patient for video in videos}) == 400
    assert {video.spacing_mm for video in videos} == {None}
    mask = read_masks(videos[0], [0])[0]
    assert set(np.unique(mask)) <= {0, 1, 2, 3}
    assert len(camus(DATA / "CAMUS", "validation")) == 100
