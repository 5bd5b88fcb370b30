"""Masks as other tools have them: what we write, their libraries read; what they write, we read."""

import base64
import dataclasses
import io
import json
import xml.etree.ElementTree as ET
import zipfile

import cv2
import highdicom as hd
import nibabel as nib
import nrrd
import numpy as np
import pydicom
import pytest
import SimpleITK as sitk
from PIL import Image
from pycocotools import mask as coco_masks
from pycocotools.coco import COCO
from pydicom.data import get_testdata_file
from pydicom.uid import UltrasoundImageStorage, generate_uid
from skimage import draw

from bundle.io.reading.masks import read_annotations
from bundle.io.reading.shapes import pack_counts, unpack_counts
from bundle.io.reading.video import Geometry, open_video
from bundle.io.structures import Structure
from bundle.io.writing import ResultWriter
from bundle.io.writing.formats import choose_formats
from tests.dicom_files import new_cine, put_pixels

COUNT, HEIGHT, WIDTH = 6, 21, 30
FILES = {
    "rle": "masks.json", "seg_nrrd": "masks.seg.nrrd", "coco": "coco.json",
    "cvat": "annotations.xml", "yolo": "yolo", "mots": "mots",
}  # fmt: skip
PYCOCOTOOLS = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
NAMES = {3: Structure(3, 'wall "a" & <b>', "#ff0000"), 7: Structure(7, "object 7", "#00ff00")}


def make_labels():
    """Object 3 with a hole, not in the third frame; object 7 of one pixel at times; both at edges."""
    stack = np.zeros((COUNT, HEIGHT, WIDTH), np.uint8)
    for index in range(COUNT):
        if index != 2:
            stack[index, : 9 + index, :11] = 3
            stack[index, 3:5, 3:5] = 0
        if index >= 1:
            stack[index, 18 : 19 + index % 3, 20 + index] = 7
    return stack


@pytest.fixture(scope="module")
def video(tmp_path_factory):
    """A NIfTI, which has a place in space."""
    path = tmp_path_factory.mktemp("video") / "cine.nii.gz"
    affine = np.array([[-0.3, 0, 0, 12], [0, -0.4, 0, -5], [0, 0, 1, 7], [0, 0, 0, 1.0]])
    noise = np.random.default_rng(0).integers(0, 255, (WIDTH, HEIGHT, COUNT), dtype=np.uint8)
    nib.save(nib.Nifti1Image(noise, affine), path)
    return open_video(path)


def write(output_dir, video, formats, labels=None, structures=NAMES):
    with ResultWriter(output_dir, video, formats=formats, structures=structures) as writer:
        for frame, each in zip(video, make_labels() if labels is None else labels, strict=True):
            writer.write(frame, each)
    return writer.folder


@pytest.fixture(scope="module")
def results(tmp_path_factory, video):
    return write(tmp_path_factory.mktemp("results"), video, list(FILES))


def check(annotations, expected=None):
    expected = make_labels() if expected is None else expected
    shown = [index for index, labels in enumerate(expected) if labels.any()]
    assert sorted(annotations) == shown
    for index in shown:
        np.testing.assert_array_equal(annotations[index], expected[index])


@pytest.mark.parametrize("name", ["rle", "seg_nrrd", "coco", "cvat"])
def test_what_was_written_is_taken_back(results, video, name):
    check(read_annotations(results / FILES[name], video))


# As others read them


@PYCOCOTOOLS
def test_pycocotools_reads_the_tracks(results):
    coco = COCO(str(results / "coco.json"))
    found = np.zeros((COUNT, HEIGHT, WIDTH), np.uint8)
    for annotation in coco.loadAnns(coco.getAnnIds()):
        mask = coco.annToMask(annotation).astype(bool)
        index = coco.loadImgs(annotation["image_id"])[0]["frame_index"]
        found[index][mask] = annotation["track_id"]
        assert annotation["area"] == mask.sum()
        rows, columns = np.nonzero(mask)
        box = [columns.min(), rows.min(), np.ptp(columns) + 1, np.ptp(rows) + 1]
        assert annotation["bbox"] == box
    np.testing.assert_array_equal(found, make_labels())
    assert {each["id"]: each["name"] for each in coco.loadCats(coco.getCatIds())} == {
        3: NAMES[3].name, 7: "object 7",
    }  # fmt: skip


@pytest.mark.parametrize("seed", range(20))
def test_packed_run_lengths_are_those_of_pycocotools(seed):
    random = np.random.default_rng(seed)
    mask = random.random((40, 50)) < random.random()
    if seed % 2:
        mask = mask.repeat(9, axis=0).repeat(7, axis=1)
    theirs = coco_masks.encode(np.asfortranarray(mask.astype(np.uint8)))["counts"].decode()
    counts = unpack_counts(theirs)
    assert pack_counts(counts) == theirs
    runs = np.repeat(np.arange(len(counts)) % 2 == 1, counts).reshape(mask.shape, order="F")
    np.testing.assert_array_equal(runs, mask)


def test_pynrrd_reads_the_segments_where_the_source_lies(results, video):
    labels, header = nrrd.read(str(results / "masks.seg.nrrd"))
    np.testing.assert_array_equal(labels.T, make_labels())
    affine = np.eye(4)
    affine[:3, :3] = header["space directions"].T
    affine[:3, 3] = header["space origin"]
    np.testing.assert_allclose(np.diag([-1, -1, 1, 1]) @ affine, video.geometry.affine)
    assert header["space"] == "left-posterior-superior"


def test_slicerio_reads_the_segments(results):
    slicerio = pytest.importorskip("slicerio")
    segmentation = slicerio.read_segmentation(str(results / "masks.seg.nrrd"))
    np.testing.assert_array_equal(segmentation["voxels"].T, make_labels())
    found = {each["labelValue"]: (each["name"], each["color"]) for each in segmentation["segments"]}
    assert found == {3: (NAMES[3].name, [1.0, 0.0, 0.0]), 7: ("object 7", [0.0, 1.0, 0.0])}


def test_slicerio_writes_what_is_read(tmp_path, results, video):
    slicerio = pytest.importorskip("slicerio")
    segmentation = slicerio.read_segmentation(str(results / "masks.seg.nrrd"))
    slicerio.write_segmentation(str(tmp_path / "a.seg.nrrd"), segmentation)
    check(read_annotations(tmp_path / "a.seg.nrrd", video))


def test_cvat_xml_as_its_format_says(results):
    """An independent reading of it: runs along the rows of a box, tracks that end outside."""
    root = ET.parse(results / "annotations.xml").getroot()
    assert root.findtext("version") == "1.1"
    assert root.find("meta/task/original_size/width").text == str(WIDTH)
    found = np.zeros((COUNT, HEIGHT, WIDTH), np.uint8)
    for track in root.findall("track"):
        gone = [int(each.get("frame")) for each in track if each.get("outside") == "1"]
        assert gone == ([2] if track.get("id") == "3" else [])
        for element in track.findall("mask[@outside='0']"):
            left, top, width, height = (
                int(element.get(k)) for k in ("left", "top", "width", "height")
            )
            values, value = [], 0
            for count in element.get("rle").split(","):
                values += [value] * int(count)
                value = 1 - value
            part = np.array(values, bool).reshape(height, width)
            frame = found[int(element.get("frame"))]
            frame[top : top + height, left : left + width][part] = int(track.get("id"))
    np.testing.assert_array_equal(found, make_labels())
    assert {each.get("label") for each in root.findall("track")} == {NAMES[3].name, "object 7"}


def test_yolo_outlines_filled_are_the_masks_without_holes(results):
    labels = make_labels()
    for index in range(COUNT):
        found = np.zeros((HEIGHT, WIDTH), np.uint8)
        for line in (results / f"yolo/labels/{index:05d}.txt").read_text().splitlines():
            kind, *shares = line.split()
            points = np.array(shares, float).reshape(-1, 2) * (WIDTH, HEIGHT)
            assert len(points) >= 3
            assert (points >= 0).all()
            outline = np.floor(points).astype(np.int32)
            cv2.fillPoly(found, [outline], int(kind) + 1)
        expected = labels[index].copy()
        if index != 2:
            expected[3:5, 3:5] = 3
        np.testing.assert_array_equal(found, expected)
    names = (results / "yolo/data.yaml").read_text()
    assert '  6: "object 7"' in names


@PYCOCOTOOLS
def test_mots_pictures_and_text_agree_with_the_masks(results):
    labels = make_labels()
    found = np.zeros_like(labels)
    for line in (results / "mots/gt/gt.txt").read_text().splitlines():
        frame, number, kind, height, width, runs = line.split()
        assert int(number) // 1000 == int(kind) == 1
        size = [int(height), int(width)]
        mask = coco_masks.decode({"size": size, "counts": runs.encode()}).astype(bool)
        found[int(frame)][mask] = int(number) % 1000
    np.testing.assert_array_equal(found, labels)
    for index, expected in enumerate(labels):
        picture = np.asarray(Image.open(results / f"mots/instances/{index:06d}.png")).astype(int)
        expected = expected.astype(int)
        np.testing.assert_array_equal(picture, np.where(expected, expected + 1000, 0))


# DICOM segmentations


@pytest.fixture(scope="module")
def cine():
    path = get_testdata_file("examples_ybr_color.dcm", download=False)
    if path is None:
        pytest.skip("this pydicom ships no examples_ybr_color.dcm")
    return open_video(path)


def cine_labels(cine):
    stack = np.zeros((cine.frame_count, cine.height, cine.width), np.uint8)
    stack[2:9, 20:71, 33:50] = 3
    stack[::4, 100:103, 200:301] = 12
    return stack


def test_our_dicom_segmentation_is_taken_back_with_its_ids(tmp_path, cine):
    names = {3: Structure(3, "wall", "#ff0000"), 12: Structure(12, "object 12", "#00ff00")}
    folder = write(tmp_path, cine, "dicom_seg", cine_labels(cine), names)
    check(read_annotations(folder / "masks.dcm", cine), cine_labels(cine))


def give_place(source):
    """What highdicom wants of a source: frames one behind the other in space."""
    source.FrameOfReferenceUID = hd.UID()
    shared, frames = pydicom.Dataset(), []
    measures, orientation = pydicom.Dataset(), pydicom.Dataset()
    measures.PixelSpacing, measures.SliceThickness = [1, 1], 1
    orientation.ImageOrientationPatient = [1, 0, 0, 0, 1, 0]
    shared.PixelMeasuresSequence, shared.PlaneOrientationSequence = [measures], [orientation]
    for index in range(int(source.NumberOfFrames)):
        group, position = pydicom.Dataset(), pydicom.Dataset()
        position.ImagePositionPatient = [0, 0, index]
        group.PlanePositionSequence = [position]
        frames.append(group)
    source.SharedFunctionalGroupsSequence = [shared]
    source.PerFrameFunctionalGroupsSequence = frames


@pytest.mark.parametrize("kind", ["BINARY", "FRACTIONAL", "LABELMAP"])
def test_a_segmentation_of_highdicom(tmp_path, cine, kind):
    source = pydicom.dcmread(cine.path)
    source.PatientName = "Doe^Jane"
    give_place(source)
    labels = np.zeros((cine.frame_count, cine.height, cine.width), np.uint8)
    labels[3, 20:71, 33:50], labels[8, 100:103, 200:301] = 1, 2
    codes = hd.sr.CodedConcept("91772007", "SCT", "part")
    described = [
        hd.seg.SegmentDescription(
            number, f"part {number}", codes, codes, hd.seg.SegmentAlgorithmTypeValues.MANUAL
        )
        for number in (1, 2)
    ]
    pixels = labels
    if kind == "FRACTIONAL":
        pixels = np.stack([labels == 1, labels == 2], axis=-1).astype(np.float32)
    segmentation = hd.seg.Segmentation(
        [source], pixels, kind, described, hd.UID(), 1, hd.UID(), 1, "maker", "model", "1", "1",
        omit_empty_frames=False,
    )  # fmt: skip
    segmentation.save_as(tmp_path / "a.dcm")
    check(read_annotations(tmp_path / "a.dcm", cine), labels)


def test_a_segmentation_for_another_video(tmp_path, cine, video):
    folder = write(tmp_path, cine, "dicom_seg", cine_labels(cine), None)
    with pytest.raises(ValueError, match=r"masks.dcm: it has a mask for frame .*cine.nii.gz has 6"):
        read_annotations(folder / "masks.dcm", video)


# NRRD, and series of DICOM files


def write_sequence(path, labels, **fields):
    """(T, H, W) as 3D Slicer writes a sequence of label volumes, its list before or after space."""
    axis = fields.pop("list_axis", 0)
    volume = np.moveaxis(labels.transpose(2, 1, 0)[:, :, None, :], 3, axis)
    kinds, directions = ["domain"] * 3, [[0.3, 0, 0], [0, 0.4, 0], [0, 0, 1]]
    kinds.insert(axis, "list")
    directions.insert(axis, [np.nan] * 3)
    header = {
        "space": "left-posterior-superior",
        "kinds": kinds,
        "space directions": directions,
        "space origin": [-12, 5, 7],
        "units": ["s" if kind == "list" else "mm" for kind in kinds],
    }
    nrrd.write(str(path), volume, header | fields)
    return path


@pytest.fixture(scope="module")
def sequence(tmp_path_factory):
    """A video at uneven times."""
    path = tmp_path_factory.mktemp("sequence") / "cine.seq.nrrd"
    noise = np.random.default_rng(0).integers(0, 255, (COUNT, HEIGHT, WIDTH), dtype=np.uint8)
    values = {"axis 0 index values": "0 0.1 0.2 0.4 0.5 0.7"}
    return open_video(write_sequence(path, noise, **values))


@pytest.mark.parametrize("list_axis", [0, 3])
@pytest.mark.parametrize("name", ["mask.seq.nrrd", "mask.nrrd"])
def test_a_sequence_of_label_volumes(tmp_path, sequence, list_axis, name):
    path = write_sequence(tmp_path / name, make_labels(), list_axis=list_axis)
    check(read_annotations(path, sequence))


def test_masks_at_some_times_go_to_the_frames_of_these_times(tmp_path, sequence, caplog):
    values = {"axis 0 index values": "0 0.2 0.5"}  # after the first, at 0.2 s
    path = write_sequence(tmp_path / "a.seq.nrrd", make_labels()[[0, 3, 5]], **values)
    with pytest.raises(ValueError, match=r"holds 3 masks .* has 6 frames: .*--mask-frame N"):
        read_annotations(path, sequence)
    found = read_annotations(path, sequence, 2)
    assert sorted(found) == [2, 3, 5]
    np.testing.assert_array_equal(found[3], make_labels()[3])
    assert "taken by their times as those of the frames 2, 3, 5" in caplog.text
    with pytest.raises(ValueError, match=r"at times at which .* has no frames, from frame 3 on"):
        read_annotations(path, sequence, 3)


def test_masks_that_span_another_time_are_reported(tmp_path, sequence, caplog):
    values = {"axis 0 index values": "0 1 2 3 4 5.5"}
    path = write_sequence(tmp_path / "a.seq.nrrd", make_labels(), **values)
    check(read_annotations(path, sequence))
    assert "spans 5.5 s and" in caplog.text


def test_a_sequence_that_lies_elsewhere_is_reported(tmp_path, sequence):
    turned = write_sequence(
        tmp_path / "a.seq.nrrd",
        make_labels()[:, :, ::-1],
        **{
            "space directions": [[np.nan] * 3, [-0.3, 0, 0], [0, 0.4, 0], [0, 0, 1]],
            "space origin": [-12 + 0.3 * (WIDTH - 1), 5, 7],
        },
    )
    check(read_annotations(turned, sequence))
    away = write_sequence(
        tmp_path / "b.seq.nrrd", make_labels()[:, :, :-2], **{"space origin": [900, 5, 7]}
    )
    with pytest.raises(ValueError, match=r"b.seq.nrrd lies elsewhere in space than"):
        read_annotations(away, sequence)


def test_several_slices_over_time_are_no_masks(tmp_path, video):
    nrrd.write(str(tmp_path / "a.seq.nrrd"), np.ones((5, 4, 3, 2), np.uint8), {})
    with pytest.raises(ValueError, match=r"a.seq.nrrd has sizes \[5, 4, 3, 2\].*one slice over"):
        read_annotations(tmp_path / "a.seq.nrrd", video)


def test_a_segmentation_that_names_a_layer_that_it_lacks(tmp_path, video):
    layers = np.ones((2, WIDTH, HEIGHT, COUNT), np.uint8)
    header = {"kinds": ["list"] + ["domain"] * 3, "Segment0_LabelValue": "1", "Segment0_Layer": "2"}
    nrrd.write(str(tmp_path / "a.seg.nrrd"), layers, header)
    with pytest.raises(ValueError, match="has 2 layers and a segment on layer 2: save it again"):
        read_annotations(tmp_path / "a.seg.nrrd", video)


def test_nrrd_results_lie_where_the_source_lies_and_keep_its_times(tmp_path, sequence):
    assert "nrrd" in choose_formats("auto", sequence)
    file = write(tmp_path, sequence, "nrrd") / "masks.nrrd"
    labels, header = nrrd.read(str(file))
    np.testing.assert_array_equal(labels[:, :, 0].T, make_labels())
    assert header["kinds"] == ["domain", "domain", "domain", "list"]
    assert header["axis 3 index values"] == "0 0.1 0.2 0.4 0.5 0.7"
    again = open_video(file)
    np.testing.assert_allclose(again.times, sequence.times)
    np.testing.assert_allclose(again.geometry.affine, sequence.geometry.affine)
    assert (again.geometry.shape, again.spacing_mm) == (
        sequence.geometry.shape, sequence.spacing_mm
    )  # fmt: skip
    check(read_annotations(file, sequence))


def test_nrrd_results_of_other_sources(tmp_path, video):
    file = write(tmp_path, video, "nrrd") / "masks.nrrd"
    image = sitk.ReadImage(str(file))
    np.testing.assert_array_equal(sitk.GetArrayFromImage(image), make_labels())
    np.testing.assert_allclose(
        image.GetOrigin(), np.array([-1, -1, 1]) * video.geometry.affine[:3, 3]
    )
    check(read_annotations(file, video))
    plain = dataclasses.replace(
        video, name="plain", spacing_mm=None,
        geometry=Geometry((WIDTH, HEIGHT, COUNT), np.diag([-1.0, -1, 1, 1])),
    )  # fmt: skip
    file = write(tmp_path, plain, "nrrd") / "masks.nrrd"
    assert open_video(file).spacing_mm is None
    np.testing.assert_array_equal(nrrd.read(str(file))[0].T, make_labels())


def write_series(folder, *, place=True, **changes):
    """Six files whose names run against their time."""
    folder.mkdir()
    study, series, reference = generate_uid(), generate_uid(), generate_uid()
    frames = np.random.default_rng(0).integers(0, 255, (COUNT, HEIGHT, WIDTH), dtype=np.uint8)
    for index, frame in enumerate(frames):
        file = new_cine((1, HEIGHT, WIDTH), storage=UltrasoundImageStorage)
        file.file_meta.MediaStorageSOPInstanceUID = file.SOPInstanceUID = generate_uid()
        file.StudyInstanceUID, file.SeriesInstanceUID = study, series
        file.PatientName, file.PatientID, file.InstanceNumber = "Doe^Jane", "17", index + 1
        if place:
            file.FrameOfReferenceUID, file.SliceThickness = reference, 2
            file.ImagePositionPatient, file.PixelSpacing = [1, 2, 3], [0.4, 0.3]
            file.ImageOrientationPatient = [0, 1, 0, 0, 0, -1]
        for keyword, value in changes.items():
            setattr(file, keyword, value)
        put_pixels(file, frame)
        file.save_as(folder / f"IM{COUNT - index:03d}", enforce_file_format=True)
    return open_video(folder)


@pytest.mark.parametrize("place", [True, False])
def test_a_segmentation_of_a_series_refers_to_each_of_its_files(tmp_path, place):
    video = write_series(tmp_path / "series", place=place)
    assert "dicom_seg" in choose_formats("auto", video)
    file = write(tmp_path / "out", video, "dicom_seg") / "masks.dcm"
    check(read_annotations(file, video))
    uids = [
        pydicom.dcmread(video.files[video.stored_index(i)]).SOPInstanceUID for i in range(COUNT)
    ]
    dataset = pydicom.dcmread(file)
    listed = dataset.ReferencedSeriesSequence[0].ReferencedInstanceSequence
    shown = [i for i, labels in enumerate(make_labels()) if labels.any()]
    assert [each.ReferencedSOPInstanceUID for each in listed] == [uids[i] for i in shown]
    for group in dataset.PerFrameFunctionalGroupsSequence:
        source = group.DerivationImageSequence[0].SourceImageSequence[0]
        index = group.FrameContentSequence[0].TemporalPositionIndex - 1
        assert source.ReferencedSOPInstanceUID == uids[index]
        assert "ReferencedFrameNumber" not in source
    if place:
        shared = dataset.SharedFunctionalGroupsSequence[0]
        assert shared.PixelMeasuresSequence[0].PixelSpacing == [0.4, 0.3]
        assert shared.PlaneOrientationSequence[0].ImageOrientationPatient == [0, 1, 0, 0, 0, -1]
        group = dataset.PerFrameFunctionalGroupsSequence[0]
        assert group.PlanePositionSequence[0].ImagePositionPatient == [1, 2, 3]
    assert ("FrameOfReferenceUID" in dataset) == place

    read = hd.seg.segread(file)
    assert [instance for _, _, instance in read.get_source_image_uids()] == [uids[i] for i in shown]
    labels = read.get_pixels_by_source_instance(
        uids, combine_segments=True, assert_missing_frames_are_empty=True
    )
    np.testing.assert_array_equal(np.array([0, 3, 7])[labels], make_labels())
    assert read.PatientName == "Doe^Jane"


def test_a_segmentation_of_the_series_before_its_names_were_taken_away(tmp_path, caplog):
    file = write(tmp_path / "out", write_series(tmp_path / "a"), "dicom_seg") / "masks.dcm"
    check(read_annotations(file, write_series(tmp_path / "b")))
    assert "refer to other images than" in caplog.text


def test_a_segmentation_of_which_some_files_are_not_there(tmp_path):
    video = write_series(tmp_path / "series")
    file = write(tmp_path / "out", video, "dicom_seg") / "masks.dcm"
    video.files[0].unlink()
    with pytest.raises(ValueError, match="refers to 6 images, of which 1 are not in"):
        read_annotations(file, open_video(tmp_path / "series"))


def test_a_series_whose_files_cannot_be_told_apart(tmp_path, caplog):
    video = write_series(tmp_path / "series", SOPInstanceUID="1.2.3")
    with pytest.raises(ValueError, match=r"IM002 have one SOPInstanceUID, by which dicom_seg"):
        choose_formats("dicom_seg", video)
    assert "dicom_seg" not in choose_formats("auto", video)
    assert "no masks.dcm: " in caplog.text


# What other tools write


SQUARE = [[4, 2], [10, 2], [10, 8], [4, 8]]


def square(value=1):
    labels = np.zeros((HEIGHT, WIDTH), np.uint8)
    labels[2:8, 4:10] = value
    return labels


def coco_file(path, names, **annotation):
    images = [
        {"id": 10 + i, "file_name": name, "width": WIDTH, "height": HEIGHT}
        for i, name in enumerate(names)
    ]
    annotations = [
        {"id": i, "image_id": 10 + i, "category_id": 1,
         "segmentation": [np.ravel(SQUARE).tolist()], **annotation}
        for i in range(len(names))
    ]  # fmt: skip
    content = {"images": images, "annotations": annotations, "categories": [{"id": 1, "name": "a"}]}
    path.write_text(json.dumps(content))
    return path


@pytest.mark.parametrize(
    ("annotation", "value"),
    [({}, 1), ({"attributes": {"track_id": 5}}, 5), ({"category_id": 4}, 4), ({"track_id": 9}, 9)],
)
def test_coco_with_polygons(tmp_path, video, annotation, value):
    names = [f"frame_{index:06d}.PNG" for index in (0, 3)]
    found = read_annotations(coco_file(tmp_path / "a.json", names, **annotation), video)
    assert sorted(found) == [0, 3]
    np.testing.assert_array_equal(found[3], square(value))


def test_numbers_of_coco_images_are_asked_about(tmp_path, video):
    path = coco_file(tmp_path / "a.json", ["00001.png", "00004.png"])
    with pytest.raises(ValueError, match=r"a.json has masks numbered from 1"):
        read_annotations(path, video)
    assert sorted(read_annotations(path, video, 0)) == [0, 3]


def cvat_file(path, inside):
    path.write_text(
        f'<?xml version="1.0"?><annotations><version>1.1</version>{inside}</annotations>'
    )
    return path


def test_cvat_tracks_of_polygons_count_from_zero(tmp_path, video):
    points = ";".join(f"{x:.2f},{y:.2f}" for x, y in SQUARE)
    shape = f'<polygon frame="{{}}" outside="{{}}" occluded="0" keyframe="1" points="{points}"/>'
    track = '<track id="0" label="a">' + shape.format(1, 0) + shape.format(2, 1) + "</track>"
    other = '<track id="4" label="b">' + shape.format(5, 0) + "</track>"
    found = read_annotations(cvat_file(tmp_path / "a.xml", track + other), video)
    assert sorted(found) == [1, 5]
    np.testing.assert_array_equal(found[1], square(1))
    np.testing.assert_array_equal(found[5], square(5))


def test_the_archive_that_cvat_exports(tmp_path, results, video):
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.write(results / "annotations.xml", "annotations.xml")
    check(read_annotations(tmp_path / "a.zip", video))


def test_xml_that_would_grow_without_end_is_refused(tmp_path, video):
    bomb = '<?xml version="1.0"?><!DOCTYPE a [<!ENTITY b "c"><!ENTITY d "&b;&b;">]><a>&d;</a>'
    (tmp_path / "a.xml").write_text(bomb)
    with pytest.raises(ValueError, match=r"a.xml is not readable XML \(EntitiesForbidden"):
        read_annotations(tmp_path / "a.xml", video)


def labelme_file(path, *shapes):
    path.parent.mkdir(exist_ok=True)
    content = {"shapes": shapes, "imageHeight": HEIGHT, "imageWidth": WIDTH, "imagePath": "x.png"}
    path.write_text(json.dumps(content))
    return path


def test_labelme_files_of_a_folder(tmp_path, video):
    part = io.BytesIO()
    Image.fromarray(np.full((6, 6), 255, np.uint8)).save(part, "PNG")
    packed = base64.b64encode(part.getvalue()).decode()
    polygon = {"label": "a", "points": SQUARE, "shape_type": "polygon", "group_id": None}
    drawn = {"label": "b", "points": [[4, 2], [9, 7]], "shape_type": "mask", "mask": packed}
    round_one = {"label": "b", "points": [[15, 10], [15, 15]], "shape_type": "circle"}
    labelme_file(tmp_path / "masks" / "00000.json", polygon)
    labelme_file(tmp_path / "masks" / "00004.json", drawn, round_one)
    found = read_annotations(tmp_path / "masks", video)
    assert sorted(found) == [0, 4]
    np.testing.assert_array_equal(found[0], square(1))
    expected = square(2)
    expected[draw.disk((9.5, 14.5), 5.0001, shape=expected.shape)] = 2
    np.testing.assert_array_equal(found[4], expected)


def test_a_single_labelme_file_is_asked_about_like_a_picture(tmp_path, video):
    shape = {"label": "a", "points": SQUARE, "shape_type": "polygon"}
    path = labelme_file(tmp_path / "masks" / "00003.json", shape)
    with pytest.raises(ValueError, match="has masks numbered from 3"):
        read_annotations(path, video)
    assert list(read_annotations(path, video, 3)) == [3]


def test_segments_that_overlap_lie_in_layers(tmp_path, video, caplog):
    layers = np.zeros((2, WIDTH, HEIGHT, COUNT), np.uint8)
    layers[0, 4:10, 2:8, 1] = 1
    layers[1, 8:12, 6:9, 1] = 1
    lps = np.diag([-1, -1, 1, 1]) @ video.geometry.affine
    header = {
        "space": "left-posterior-superior",
        "kinds": ["list", "domain", "domain", "domain"],
        "space directions": np.vstack([[np.nan] * 3, lps[:3, :3].T]),
        "space origin": lps[:3, 3],
        "Segment0_LabelValue": "1", "Segment0_Layer": "0",
        "Segment1_LabelValue": "1", "Segment1_Layer": "1",
    }  # fmt: skip
    nrrd.write(str(tmp_path / "a.seg.nrrd"), layers, header)
    found = read_annotations(tmp_path / "a.seg.nrrd", video)
    expected = square(1)
    expected[6:9, 8:12] = 2
    np.testing.assert_array_equal(found[1], expected)
    assert "a.seg.nrrd: objects overlap, first in frame 1: the later one is on top" in caplog.text


def test_a_cropped_segmentation_lands_where_it_was(tmp_path, video):
    labels = make_labels()[:, 1:20, 0:29]
    lps = np.diag([-1, -1, 1, 1]) @ video.geometry.affine
    header = {
        "space": "left-posterior-superior",
        "space directions": lps[:3, :3].T,
        "space origin": (lps @ [0, 1, 0, 1])[:3],
    }
    nrrd.write(str(tmp_path / "a.seg.nrrd"), np.ascontiguousarray(labels.T), header)
    expected = make_labels()
    expected[:, :1], expected[:, 20:], expected[:, :, 29:] = 0, 0, 0
    check(read_annotations(tmp_path / "a.seg.nrrd", video), expected)


# No label is lost without a word


THIN = [[4, 2.1], [10, 2.1], [10, 2.3], [4, 2.3]]  # between the centres of two rows
TINY = [[4.6, 2.6], [4.9, 2.6], [4.9, 2.9]]


@pytest.mark.parametrize(("points", "area"), [(THIN, 7), (TINY, 1)])
def test_thin_and_tiny_outlines_stay(tmp_path, video, points, area):
    shape = {"label": "a", "points": points, "shape_type": "polygon"}
    path = labelme_file(tmp_path / "masks" / "a.json", shape)
    (labels,) = read_annotations(path, video).values()
    assert labels.sum() == area
    assert labels[2, 4] == 1


def test_a_tiny_circle_stays(tmp_path, video):
    shape = {"label": "a", "points": [[4.9, 2.9], [4.9, 3.0]], "shape_type": "circle"}
    (labels,) = read_annotations(labelme_file(tmp_path / "b" / "a.json", shape), video).values()
    assert np.argwhere(labels).tolist() == [[2, 4]]


def test_what_has_no_area_is_reported(tmp_path, video, caplog):
    points = ";".join(f"{x},{y}" for x, y in SQUARE)
    track = f'<track id="0" label="a"><polygon frame="1" outside="0" points="{points}"/></track>'
    box = '<box frame="{}" outside="{}" xtl="1" ytl="1" xbr="9" ybr="9"/>'
    track += f'<track id="1" label="b">{box.format(2, 0)}{box.format(3, 1)}</track>'
    read_annotations(cvat_file(tmp_path / "a.xml", track), video)
    assert "a.xml: 1 of the kind box have no mask and are left out" in caplog.text
    line = {"label": "b", "points": [[1, 1], [5, 5]], "shape_type": "line"}
    drawn = {"label": "a", "points": SQUARE, "shape_type": "polygon"}
    read_annotations(labelme_file(tmp_path / "c" / "a.json", drawn, line), video)
    assert "a.json: 1 of the kind line have no mask" in caplog.text
    path = coco_file(tmp_path / "b.json", ["frame_0.png"])
    content = json.loads(path.read_text())
    content["annotations"].append({"id": 9, "image_id": 10, "category_id": 1, "bbox": [1, 1, 2, 2]})
    path.write_text(json.dumps(content))
    read_annotations(path, video)
    assert "b.json: 1 of the kind box have no mask" in caplog.text


def test_objects_that_overlap_are_reported(tmp_path, video, cine, caplog):
    shapes = [
        {"label": name, "points": SQUARE, "shape_type": "polygon"} for name in ("a", "b", "b")
    ]
    read_annotations(labelme_file(tmp_path / "c" / "a.json", *shapes), video)
    assert "a.json: objects overlap, first in frame 0: the later one is on top" in caplog.text
    folder = write(tmp_path, cine, "dicom_seg", cine_labels(cine), None)
    dataset = pydicom.dcmread(folder / "masks.dcm")
    for group in dataset.PerFrameFunctionalGroupsSequence:
        origin = group.DerivationImageSequence[0].SourceImageSequence[0]
        origin.ReferencedFrameNumber = 5
    dataset.save_as(tmp_path / "one.dcm")
    pixels = dataset.pixel_array.any(axis=0)
    (labels,) = read_annotations(tmp_path / "one.dcm", cine).values()
    assert "one.dcm: objects overlap" not in caplog.text  # they lie side by side
    np.testing.assert_array_equal(labels > 0, pixels)


# What is refused


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a.json", "{", r"a.json is not valid JSON"),
        ("a.json", "[1]", r"a.json is JSON of an unknown kind: expected our masks.json, COCO"),
        (
            "a.json",
            '{"frames": [{"frame": 0}], "height": 21, "width": 30}',
            r"a.json lacks what its",
        ),
        ("a.json", '{"images": [], "annotations": []}', r"no annotation with a segmentation"),
        ("a.xml", "<a/>", r"a.xml is XML of an unknown kind \(a\): expected CVAT's"),
        ("a.xml", "<annotations/>", r"a.xml has no mask, polygon or ellipse"),
        ("a.xml", "<annotations", r"a.xml is not readable XML"),
        ("a.nrrd", "NRRD0004\n", r"cannot open .*a.nrrd as NRRD"),
    ],
)
def test_files_that_hold_no_masks(tmp_path, video, name, text, message):
    (tmp_path / name).write_text(text)
    with pytest.raises(ValueError, match=message):
        read_annotations(tmp_path / name, video)


def test_run_lengths_that_do_not_fill_the_mask(tmp_path, video):
    runs = {"size": [HEIGHT, WIDTH], "counts": [0, 10**15]}
    frames = [{"frame": 0, "objects": [{"id": 1, "segmentation": runs}]}]
    content = {"video": "a", "height": HEIGHT, "width": WIDTH, "frames": frames}
    (tmp_path / "a.json").write_text(json.dumps(content))
    with pytest.raises(ValueError, match=r"run lengths sum up to 10+, expected 21x30 = 630"):
        read_annotations(tmp_path / "a.json", video)


def test_a_frame_beyond_the_video(tmp_path, video):
    runs = {"size": [HEIGHT, WIDTH], "counts": [0, HEIGHT * WIDTH]}
    frames = [{"frame": 6, "objects": [{"id": 1, "segmentation": runs}]}]
    content = {"video": "a", "height": HEIGHT, "width": WIDTH, "frames": frames}
    (tmp_path / "a.json").write_text(json.dumps(content))
    with pytest.raises(ValueError, match=r"frame 6 of .*a.json: .* has 6 frames, 0 to 5"):
        read_annotations(tmp_path / "a.json", video)
