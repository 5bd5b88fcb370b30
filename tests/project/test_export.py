"""Data sets that a project becomes, read back by the tools that they are for."""

import hashlib
import json
import os
from importlib.util import find_spec
from pathlib import Path
from xml.etree import ElementTree

import cv2
import highdicom
import nibabel as nib
import numpy as np
import pytest
import yaml
from PIL import Image
from pycocotools.coco import COCO
from pydicom.uid import generate_uid

from bundle.datasets.frames import read_masks
from bundle.datasets.generic import davis
from bundle.datasets.splits import split_videos
from bundle.datasets.video_folder import video_folder
from bundle.inference.results import FrameResult
from bundle.io.structures import Code, Structure, make_structures
from bundle.project.export import export_project
from bundle.project.layouts import LAYOUTS
from bundle.project.locks import VideoLockedError
from bundle.project.store import Project, create_project
from bundle.utils.atomic_write import DiskFullError
from tests.dicom_files import new_cine, put_pixels

SIZE, COUNT = (20, 28), 4
STRUCTURES = make_structures(
    [
        Structure(2, "left ventricle", "#3ecf8e", code=Code("87878005", "SCT", "Left ventricle")),
        Structure(5, "left atrium", "#ff6f91"),
    ]
)


def labels_of(seed, frame):
    labels = np.zeros(SIZE, np.uint8)
    labels[2 + frame : 12 + frame, 3 : 9 + seed] = 2
    labels[5:15, 18:22] = 5
    return labels


def write_nifti(path, pixels):
    image = nib.Nifti1Image(np.moveaxis(pixels, (0, 1, 2), (2, 1, 0)), np.diag([0.5, 0.4, 1, 1]))
    image.header.set_xyzt_units("mm", "sec")
    nib.save(image, path)


def write_dicom(path, pixels):
    cine = new_cine(pixels.shape)
    cine.StudyInstanceUID, cine.SeriesInstanceUID = generate_uid(), generate_uid()
    cine.PatientName, cine.PatientID = "Doe^Jane", "4711"
    put_pixels(cine, pixels)
    cine.save_as(path, enforce_file_format=True)


def write_frames(path, pixels):
    path.mkdir()
    for i, frame in enumerate(pixels):
        Image.fromarray(frame).save(path / f"{i}.png")


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    """Three videos of three formats and two patients, two of them signed."""
    folder = tmp_path_factory.mktemp("cines")
    random = np.random.default_rng(0)
    writers = {"a/x.nii.gz": write_nifti, "a/z": write_frames, "b/y.dcm": write_dicom}
    for name, write in writers.items():
        (folder / name).parent.mkdir(exist_ok=True)
        write(folder / name, random.integers(0, 256, (COUNT, *SIZE), np.uint8))
    project = Project(create_project(folder, structures=STRUCTURES), who="Anna")
    for seed, name in enumerate(project.videos):
        with project.open(name) as video:
            video.give({1: labels_of(seed, 1)})
            results = [
                FrameResult(i, labels_of(seed, i), {2: 0.9, 5: 0.9}, False) for i in (0, 2, 3)
            ]
            video.find(results, propagated_from=[1], weights={"model.pt": "0" * 64})
            video.accept([2])
            video.sign(name != "a/z")
    return project


def export(done, tmp_path, layout, **options):
    return export_project(done, tmp_path / "set", layout, **{"unfinished": "include", **options})


def read_manifest(folder):
    return json.loads((folder / "manifest.json").read_text(encoding="utf-8"))


def expected(done, name):
    seed = sorted(done.videos).index(name)
    return {i: labels_of(seed, i) for i in range(COUNT)}


def test_our_own_layout_trains_as_it_is(done, tmp_path):
    folder = export(done, tmp_path, "video_folder")
    records = {record.id: record for record in video_folder(folder)}
    assert set(records) == {"a__x", "a__z", "b__y"}
    for name in done.videos:
        record = records[name.replace("/", "__")]
        assert len(record.frames) == COUNT
        for i, labels in expected(done, name).items():
            np.testing.assert_array_equal(read_masks(record, [i])[0], labels)
    assert records["a__x"].spacing_mm == pytest.approx((0.4, 0.5))
    split = folder / "split.json"
    parts = {
        part: {each.id for each in split_videos(list(records.values()), part, split)}
        for part in ("train", "valid")
    }
    assert sorted(parts.values(), key=len) == [{"b__y"}, {"a__x", "a__z"}]  # by patient


def test_davis_reads_back(done, tmp_path):
    folder = export(done, tmp_path, "davis", frames="reviewed")
    records = davis(folder)
    # Frames 1 and 2, of three from the first that has a mask.
    assert [record.id for record in records] == ["a__x", "a__z", "b__y"]
    assert [sorted(record.masks) for record in records] == [[0, 1]] * 3
    assert {len(record.frames) for record in records} == {3}
    np.testing.assert_array_equal(read_masks(records[0], [0])[0], labels_of(0, 1))
    listed = [
        (folder / "ImageSets" / f"{part}.txt").read_text().split() for part in ("train", "val")
    ]
    assert sorted([*listed[0], *listed[1]]) == ["a__x", "a__z", "b__y"]


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # in pycocotools
def test_coco_reads_back(done, tmp_path):
    folder = export(done, tmp_path, "coco")
    seen = {}
    for part in ("train", "valid"):
        coco = COCO(str(folder / "annotations" / f"instances_{part}.json"))
        assert [each["name"] for each in coco.loadCats([2, 5])] == ["left ventricle", "left atrium"]
        videos = {each["id"]: each["name"] for each in coco.dataset["videos"]}
        for image in coco.imgs.values():
            assert Image.open(folder / "images" / image["file_name"]).size == SIZE[::-1]
            labels, tracks = np.zeros(SIZE, np.uint8), {}
            for annotation in coco.loadAnns(coco.getAnnIds(image["id"])):
                mask = coco.annToMask(annotation)
                labels[mask > 0] = annotation["category_id"]
                assert annotation["area"] == mask.sum()
                rows, columns = np.nonzero(mask)
                box = [columns.min(), rows.min(), np.ptp(columns) + 1, np.ptp(rows) + 1]
                assert annotation["bbox"] == box
                tracks[annotation["category_id"]] = annotation["track_id"]
            name = videos[image["video_id"]]
            seen.setdefault(name, {})[image["frame_id"]] = labels
            seen.setdefault(f"tracks of {name}", set()).add(tuple(sorted(tracks.items())))
    for name in done.videos:
        short = name.replace("/", "__")
        for i, labels in expected(done, name).items():
            np.testing.assert_array_equal(seen[short][i], labels)
        assert len(seen[f"tracks of {short}"]) == 1  # the same in each frame
    assert len({seen[f"tracks of {name.replace('/', '__')}"].pop() for name in done.videos}) == 3


def test_yolo_reads_back(done, tmp_path):
    folder = export(done, tmp_path, "yolo")
    head = yaml.safe_load((folder / "data.yaml").read_text())
    assert (head["names"][1], head["names"][4]) == ("left ventricle", "left atrium")
    files = sorted((folder / "labels").glob("*/*.txt"))
    images = sorted((folder / "images").glob("*/*.png"))
    assert [file.relative_to(folder / "labels").with_suffix("") for file in files] == [
        image.relative_to(folder / "images").with_suffix("") for image in images
    ]
    assert len(files) == 3 * COUNT
    assert {file.parent.name for file in files if file.name.startswith("a__")} != {"train", "valid"}
    (file,) = (folder / "labels").glob("*/a__z_00003.txt")
    found = np.zeros(SIZE, np.uint8)
    for line in file.read_text().splitlines():
        number, *shares = line.split()
        points = np.array(shares, float).reshape(-1, 2) * SIZE[::-1]
        cv2.fillPoly(found, [np.floor(points).astype(np.int32)], int(number) + 1)
    np.testing.assert_array_equal(found, labels_of(1, 3))


def test_cvat_names_tracks(done, tmp_path):
    folder = export(done, tmp_path, "cvat")
    (path,) = folder.glob("*/b__y/annotations.xml")
    tracks = ElementTree.parse(path).getroot().findall("track")
    assert [track.get("label") for track in tracks] == ["left ventricle", "left atrium"]
    shown = [mask for mask in tracks[0].findall("mask") if mask.get("outside") == "0"]
    assert [int(mask.get("frame")) for mask in shown] == list(range(COUNT))


@pytest.mark.parametrize("frames", ["all", "reviewed"])
@pytest.mark.parametrize("layout", ["nnunet_2d", "nnunet_3d"])
def test_nnunet_takes_it(done, tmp_path, layout, frames):
    """By the rules of nnU-Net's ``verify_dataset_integrity``, which itself runs below."""
    (root,) = export(done, tmp_path, layout, frames=frames).glob("Dataset501_*")
    head = json.loads((root / "dataset.json").read_text())
    ending, masks = head["file_ending"], {}
    known = sorted(head["labels"].values())
    assert known == list(range(len(known)))
    assert head["labels"]["left atrium"] == 2
    for file in sorted((root / "labelsTr").iterdir()):
        case = file.name.removesuffix(ending)
        channels = sorted((root / "imagesTr").glob(f"{case}_????{ending}"))
        if layout == "nnunet_2d":
            (channel,) = channels
            label = np.array(Image.open(file))
            assert np.array(Image.open(channel)).shape == (*SIZE, 3)
            assert label.shape == SIZE
        else:
            images = [nib.load(channel) for channel in channels]
            assert len(images) == len(head["channel_names"]) == 3
            image = nib.load(file)
            label = np.asarray(image.dataobj)
            assert {each.shape for each in images} == {label.shape}
            for each in images:
                np.testing.assert_allclose(each.affine, image.affine)
            label = np.moveaxis(label, 0, 1)
            if case == "a__x":
                np.testing.assert_allclose(image.header.get_zooms(), (0.5, 0.4, 1))
        assert set(np.unique(label)) <= set(known)
        masks[case] = label
    assert head["numTraining"] == len(masks)
    fold = json.loads((root / "splits_final.json").read_text())[0]
    assert sorted(fold["train"] + fold["val"]) == sorted(masks)
    wanted = np.where(labels_of(0, 2) == 5, 2, (labels_of(0, 2) == 2) * 1)
    found = masks["a__x_00002"] if layout == "nnunet_2d" else masks["a__x"][..., 2]
    np.testing.assert_array_equal(found, wanted)
    if layout == "nnunet_3d" and frames == "reviewed":
        assert head["labels"]["ignore"] == 3
        assert (masks["a__x"][..., 0] == 3).all()


@pytest.mark.slow
@pytest.mark.parametrize("layout", ["nnunet_2d", "nnunet_3d"])
def test_nnunet_verifies_it(done, tmp_path, layout, monkeypatch):
    if find_spec("nnunetv2") is None:
        pytest.skip("nnU-Net is not installed: pip install nnunetv2")
    from tests.processes import run

    (root,) = export(done, tmp_path, layout).glob("Dataset501_*")
    script = tmp_path / "verify.py"
    script.write_text(
        "import sys\n"
        "from nnunetv2.experiment_planning.verify_dataset_integrity import *\n"
        "if __name__ == '__main__':\n    verify_dataset_integrity(sys.argv[1], 1)\n"
    )
    answer = run([script, root], PYTHONPATH=os.environ.get("PYTHONPATH", ""))
    assert answer.returncode == 0, answer.stderr
    assert "verify_dataset_integrity Done" in answer.stdout
    assert "Error" not in answer.stdout


@pytest.mark.slow
def test_ultralytics_takes_it(done, tmp_path):
    """From another folder than the data set's, as somebody would train who keeps several."""
    if find_spec("ultralytics") is None:
        pytest.skip("Ultralytics is not installed: pip install ultralytics")
    from tests.processes import run

    folder = export(done, tmp_path, "yolo")
    script = tmp_path / "check.py"
    script.write_text(
        "import json, sys\n"
        "from ultralytics.data.dataset import YOLODataset\n"
        "from ultralytics.data.utils import check_det_dataset\n"
        "data = check_det_dataset(sys.argv[1], autodownload=False)\n"
        "found = {}\n"
        "for part in ('train', 'val'):\n"
        "    images = YOLODataset(img_path=data[part], data=data, task='segment', augment=False)\n"
        "    found[part] = [sorted(map(int, each['cls'].ravel())) for each in images.labels]\n"
        "print('found', json.dumps(found))\n"
    )
    environment = {"YOLO_AUTOINSTALL": "false", "YOLO_CONFIG_DIR": str(tmp_path / "settings")}
    answer = run(
        [script, folder / "data.yaml"], PYTHONPATH=os.environ.get("PYTHONPATH", ""), **environment
    )
    assert answer.returncode == 0, answer.stderr
    found = json.loads(answer.stdout.rpartition("found ")[2])
    assert sorted(len(each) for each in found.values()) == [COUNT, 2 * COUNT]
    assert all(each == [1, 4] for part in found.values() for each in part)  # ids from 0 on
    assert "corrupt" not in answer.stdout.replace("0 corrupt", "")


def test_dicom_segmentations_name_what_they_show(done, tmp_path):
    folder = export(done, tmp_path, "dicom_seg")
    (path,) = folder.glob("*/b__y/masks.dcm")
    segmentation = highdicom.seg.segread(path)
    ventricle, atrium = (segmentation.get_segment_description(i) for i in (1, 2))
    assert ventricle.segmented_property_type.value == "87878005"
    assert atrium.segment_label == "left atrium"
    pixels = segmentation.pixel_array
    wanted = [labels == i for labels in expected(done, "b/y").values() for i in (2, 5)]
    np.testing.assert_array_equal(pixels, wanted)
    manifest = read_manifest(folder)
    assert [each["name"] for each in manifest["left_out"]] == ["a/x", "a/z"]
    assert [each["name"] for each in manifest["videos"]] == ["b__y"]


@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_manifest_lists_every_file(done, tmp_path, layout):
    folder = export(done, tmp_path, layout, unfinished="leave out")
    manifest = read_manifest(folder)
    files = {
        path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()
    } - {"manifest.json"}
    assert set(manifest["files"]) == files
    for name, entry in manifest["files"].items():
        data = (folder / name).read_bytes()
        assert entry == {"sha256": hashlib.sha256(data).hexdigest(), "bytes": len(data)}
    assert manifest["versions"]["numpy"] == np.__version__
    assert manifest["videos"][-1]["weights"] == {"model.pt": "0" * 64}
    assert {"name": "a/z", "reason": "it is not done: propagated"} in manifest["left_out"]
    assert "4711" not in (folder / "manifest.json").read_text()


def test_videos_that_nobody_finished_are_reported(done, tmp_path):
    with pytest.raises(
        ValueError, match=r"1 of 3 videos are not done, the first is a/z \(propagated\)"
    ):
        export(done, tmp_path, "davis", unfinished="refuse")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"layout": "voc"}, ValueError, "unknown layout 'voc': there are video_folder"),
        (
            {"layout": "davis", "unfinished": "leave out", "frames": "none"},
            ValueError,
            "no video of",
        ),
    ],
)
def test_what_cannot_be_exported(done, tmp_path, options, error, message, monkeypatch):
    if options.get("frames") == "none":
        options = {**options, "frames": "reviewed"}
        monkeypatch.setattr("bundle.project.state.VideoState.reviewed", frozenset())
    with pytest.raises(error, match=message):
        export(done, tmp_path, **options)
    assert list(tmp_path.iterdir()) == []


def test_one_patient_cannot_be_split(done, tmp_path, monkeypatch):
    for name, video in done.videos.items():
        monkeypatch.setitem(done.videos, name, type(video)(name, video.path, "one"))
    with pytest.raises(ValueError, match="are of 1 patient: a split needs 2"):
        export(done, tmp_path, "davis")
    folder = export(done, tmp_path, "davis", valid_fraction=0)
    assert (folder / "ImageSets/val.txt").read_text() == ""


def test_nothing_is_replaced(done, tmp_path):
    (tmp_path / "set").mkdir()
    with pytest.raises(FileExistsError, match="exists: choose another folder"):
        export(done, tmp_path, "davis")


def test_a_video_that_somebody_has_open_and_a_full_disk_leave_nothing(done, tmp_path, monkeypatch):
    other = Project(done.folder, who="Ben")
    with other.open("b/y"), pytest.raises(VideoLockedError, match="b/y is open by Ben"):
        export(done, tmp_path, "davis")
    assert list(tmp_path.iterdir()) == []

    def full(*arguments, **options):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("bundle.project.layouts.encode_mask", full)
        with pytest.raises(DiskFullError, match="No space left"):
            export(done, tmp_path, "davis")
    assert list(tmp_path.iterdir()) == []
    assert Path(export(done, tmp_path, "davis")).is_dir()
