"""The formats for other programs: chosen by the source, and read back by what others read them with."""

import json
import tracemalloc
from pathlib import Path

import nibabel as nib
import numpy as np
import pydicom
import pytest
import SimpleITK as sitk
from pydicom.data import get_testdata_file
from pydicom.dataset import Dataset

from bundle.io.reading.video import Geometry, VideoSource, open_video
from bundle.io.writing import ResultWriter
from bundle.io.writing.formats import FORMATS, choose_formats, parse_formats
from bundle.io.writing.rle import run_lengths

ALWAYS = ("nifti", "png", "overlay", "csv", "summary")
QUICK = {"mha": "masks.mha", "dicom_seg": "masks.dcm", "rle": "masks.json"}


def make_labels(video):
    """Object 7 in all frames but the third; object 2 from the fourth on; sizes change."""
    for index in range(video.frame_count):
        labels = np.zeros((video.height, video.width), dtype=np.uint8)
        if index != 2:
            labels[1 : 6 + index % 4, 2:9] = 7
        if index >= 3:
            labels[9:12, index % 5 : 11] = 2
        yield labels


def write(output_dir, video, formats="auto", labels=None):
    frame = np.zeros((video.height, video.width, 3), dtype=np.uint8)
    with ResultWriter(output_dir, video, formats=formats) as writer:
        for each in labels or make_labels(video):
            writer.write(frame, each)
    return writer.folder


def make_source(path="cine.avi", **changes):
    """A video on no disk."""
    size = {"height": 17, "width": 13, "frame_count": 6} | changes
    shape = (size["width"], size["height"], size["frame_count"])
    options = {
        "path": Path(path),
        "name": "cine",
        "fps": 30.0,
        "spacing_mm": (0.5, 0.25),
        "geometry": Geometry(shape, np.diag([-0.25, -0.5, 1.0, 1.0])),
        "read": lambda indices: iter(()),
    }
    return VideoSource(**options | size)


def stacked(video):
    return np.stack(list(make_labels(video)))


@pytest.fixture(scope="module")
def cine():
    path = get_testdata_file("examples_ybr_color.dcm", download=False)
    if path is None:
        pytest.skip("this pydicom ships no examples_ybr_color.dcm")
    return open_video(path)


# The choice


def test_auto_takes_what_suits_the_source(tmp_path, cine):
    assert choose_formats("auto", make_source()) == ALWAYS
    assert choose_formats("auto", make_source("cine.mhd")) == (*ALWAYS, "mha")
    assert choose_formats("auto", cine) == (*ALWAYS, "dicom_seg")
    assert choose_formats(["auto", "rle"], make_source()) == (*ALWAYS, "rle")


@pytest.mark.parametrize(
    "text", ["rle,nifti", "[rle, nifti]", "['rle', 'nifti']", ["rle", "nifti"], ("rle", "nifti")]
)
def test_a_choice_in_all_the_ways_a_command_line_hands_it_over(text):
    assert parse_formats(text) == ("rle", "nifti")


def test_only_what_was_asked_for_is_written(tmp_path):
    folder = write(tmp_path, make_source(), "rle")
    assert sorted(path.name for path in folder.iterdir()) == ["manifest.json", "masks.json"]


@pytest.mark.parametrize("formats", ["gif", "nifti,gif", [], ""])
def test_an_unknown_format(formats):
    found = "'gif'" if "gif" in formats else "''"
    message = rf"unknown format {found} in --formats: there are auto, nifti, .*, dicom_seg, rle"
    with pytest.raises(ValueError, match=message):
        parse_formats(formats)


@pytest.mark.parametrize("formats", ["rle", "png,csv"])
def test_results_without_a_label_volume_are_replaced_too(tmp_path, formats):
    folder = write(tmp_path, make_source(), formats)
    with pytest.raises(FileExistsError, match="already holds results"):
        ResultWriter(tmp_path, make_source())
    assert ResultWriter(tmp_path, make_source(), overwrite=True).folder == folder


@pytest.mark.parametrize("name", QUICK)
def test_an_exception_leaves_nothing(tmp_path, cine, name):
    with pytest.raises(KeyboardInterrupt), ResultWriter(tmp_path, cine, formats=name) as writer:  # noqa: PT012
        writer.write(np.zeros((240, 320, 3), np.uint8), next(make_labels(cine)))
        raise KeyboardInterrupt
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", QUICK)
def test_memory_while_writing_does_not_grow_with_the_video(tmp_path, cine, name):
    def peak(frame_count):
        video = make_source(cine.path, height=256, width=256, frame_count=frame_count)
        with ResultWriter(tmp_path / str(frame_count), video, formats=name) as writer:
            frame = np.zeros((256, 256, 3), dtype=np.uint8)
            tracemalloc.start()
            for labels in make_labels(video):
                writer.write(frame, labels)
            held = tracemalloc.get_traced_memory()[1]
            tracemalloc.stop()
        return held

    # 90 more frames are 5.9 MB of labels.
    assert peak(100) - peak(10) < 100_000


def test_a_dicom_header_costs_less_than_the_frames_it_describes(tmp_path, cine):
    def peak(frame_count):
        video = make_source(cine.path, height=640, width=480, frame_count=frame_count)
        tracemalloc.start()
        write(tmp_path / str(frame_count), video, "dicom_seg")
        held = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return held

    growth = (peak(60) - peak(20)) / 40
    assert growth < 2 * 640 * 480 / 8  # two objects, one bit a pixel


# MetaImage


@pytest.mark.parametrize("size", [(13, 17, 6), (13, 17, 1, 6)])
@pytest.mark.parametrize("suffix", ["mhd", "mha"])
def test_a_meta_image_lies_where_its_source_lies(tmp_path, size, suffix):
    image = sitk.Image(size, sitk.sitkInt16)
    turn = np.eye(len(size))
    turn[:3, :3] = [[0, 0.6, -0.8], [1, 0, 0], [0, -0.8, -0.6]]
    image.SetDirection(turn.ravel().tolist())
    image.SetSpacing([0.3, 0.1, 2.5, 1 / 30][: len(size)])
    image.SetOrigin([5.5, -7.25, 1e-3, 4][: len(size)])
    sitk.WriteImage(image, str(tmp_path / f"cine.{suffix}"))
    video = open_video(tmp_path / f"cine.{suffix}")
    folder = write(tmp_path / "out", video, "nifti,mha")
    masks = sitk.ReadImage(str(folder / "masks.mha"))
    source = sitk.ReadImage(str(tmp_path / f"cine.{suffix}"))
    assert masks.GetPixelID() == sitk.sitkUInt8
    for what in ("GetSize", "GetSpacing", "GetOrigin", "GetDirection"):
        assert getattr(masks, what)() == getattr(source, what)()
    values = sitk.GetArrayFromImage(masks).reshape(6, 17, 13)
    np.testing.assert_array_equal(values, stacked(video))
    volume = nib.load(folder / "masks.nii.gz")
    np.testing.assert_array_equal(np.asarray(volume.dataobj).reshape(13, 17, 6).T, values)
    for voxel in ((0, 0, 0), (12, 16, 5 if len(size) == 3 else 0)):
        rest = (0,) * (len(size) - 3)
        lps = np.array(masks.TransformIndexToPhysicalPoint(voxel + rest))[:3]
        ras = volume.affine @ [*voxel, 1]
        np.testing.assert_allclose(lps * [-1, -1, 1], ras[:3], atol=1e-5)


def test_a_meta_image_of_another_source_lies_where_its_nifti_lies(tmp_path):
    folder = write(tmp_path, make_source(), "nifti,mha")
    masks = sitk.ReadImage(str(folder / "masks.mha"))
    assert masks.GetSize() == (13, 17, 6)
    assert masks.GetSpacing() == (0.25, 0.5, 1.0)
    assert masks.GetDirection() == (1, 0, 0, 0, 1, 0, 0, 0, 1)


def test_a_meta_image_of_unknown_spacing_declares_none(tmp_path):
    folder = write(tmp_path, make_source(spacing_mm=None), "mha")
    assert open_video(folder / "masks.mha").spacing_mm is None
    np.testing.assert_array_equal(
        np.stack(list(open_video(folder / "masks.mha").pixels(range(6)))), stacked(make_source())
    )


# Run lengths


@pytest.mark.filterwarnings("ignore:__array__ implementation doesn't:DeprecationWarning")  # its own
@pytest.mark.parametrize("seed", range(4))
def test_run_lengths_as_pycocotools_reads_them(seed):
    coco = pytest.importorskip("pycocotools.mask")
    mask = np.random.default_rng(seed).random((7, 5)) < [0.5, 0.9, 0.0, 1.0][seed]
    decoded = coco.decode(coco.frPyObjects(run_lengths(mask), 7, 5))
    np.testing.assert_array_equal(decoded, mask)


def test_run_lengths_of_a_video(tmp_path):
    video = make_source()
    content = json.loads((write(tmp_path, video, "rle") / "masks.json").read_text())
    assert (content["video"], content["height"], content["width"]) == ("cine", 17, 13)
    assert [frame["frame"] for frame in content["frames"]] == list(range(6))
    for frame, labels in zip(content["frames"], make_labels(video), strict=True):
        decoded = np.zeros_like(labels)
        for entry in frame["objects"]:
            counts = entry["segmentation"]["counts"]
            runs = np.repeat(np.arange(len(counts)) % 2, counts)
            decoded.T.flat[runs == 1] = entry["id"]
        np.testing.assert_array_equal(decoded, labels)
    assert content["frames"][2]["objects"] == []


# DICOM segmentations


def label_frames(dataset, frame_count):
    """Each frame of each segment put back to its place, by nothing but pydicom."""
    names = {
        segment.SegmentNumber: int(segment.SegmentLabel.removeprefix("object "))
        for segment in dataset.SegmentSequence
    }
    labels = np.zeros((frame_count, dataset.Rows, dataset.Columns), dtype=np.uint8)
    pixels = dataset.pixel_array.reshape(-1, dataset.Rows, dataset.Columns)
    for frame, groups in zip(pixels, dataset.PerFrameFunctionalGroupsSequence, strict=True):
        origin = groups.DerivationImageSequence[0].SourceImageSequence[0]
        number = groups.SegmentIdentificationSequence[0].ReferencedSegmentNumber
        labels[origin.ReferencedFrameNumber - 1][frame == 1] = names[number]
    return labels


@pytest.fixture(scope="module")
def segmentation(cine, tmp_path_factory):
    return write(tmp_path_factory.mktemp("dicom"), cine, "dicom_seg") / "masks.dcm"


def test_a_dicom_segmentation_holds_each_object_in_each_frame_that_shows_it(cine, segmentation):
    dataset = pydicom.dcmread(segmentation)
    np.testing.assert_array_equal(label_frames(dataset, cine.frame_count), stacked(cine))
    assert dataset.NumberOfFrames == 29 + 27
    assert [segment.SegmentLabel for segment in dataset.SegmentSequence] == ["object 2", "object 7"]
    assert "FrameOfReferenceUID" not in dataset  # as in the source


def test_a_dicom_segmentation_as_highdicom_reads_it(cine, segmentation):
    highdicom = pytest.importorskip("highdicom")
    read = highdicom.seg.segread(segmentation)
    source = pydicom.dcmread(cine.path, stop_before_pixels=True)
    study, series, instance = read.get_source_image_uids()[0]
    assert study == source.StudyInstanceUID
    assert (series, instance) == (source.SeriesInstanceUID, source.SOPInstanceUID)
    labels = read.get_pixels_by_source_frame(
        source_sop_instance_uid=instance,
        source_frame_numbers=list(range(1, 31)),
        combine_segments=True,
        assert_missing_frames_are_empty=True,
    )
    np.testing.assert_array_equal(np.array([0, 2, 7])[labels], stacked(cine))
    algorithm = read.get_segment_description(1).SegmentationAlgorithmIdentificationSequence[0]
    assert algorithm.AlgorithmName == "TCMN"


def test_a_dicom_segmentation_carries_no_more_of_the_patient_than_it_must(cine, segmentation):
    dataset, source = (pydicom.dcmread(path) for path in (segmentation, cine.path))
    patient = {element.keyword for element in dataset if element.tag.group == 0x0010}
    assert patient == {"PatientName", "PatientID", "PatientBirthDate", "PatientSex"}
    assert dataset.PatientID == source.PatientID
    assert not any(element.tag.is_private for element in dataset.iterall())
    assert not {"InstitutionName", "StationName", "OperatorsName"} & set(dataset.dir())
    assert dataset.SeriesInstanceUID != source.SeriesInstanceUID


@pytest.mark.parametrize("size", [(5, 5), (3, 7)])  # 25 and 21 pixels: frames start within bytes
def test_frames_that_fill_no_whole_bytes(tmp_path, cine, size):
    video = make_source(cine.path, height=size[0], width=size[1], frame_count=3)
    draw = np.random.default_rng(0)
    labels = [draw.integers(0, 3, size).astype(np.uint8) for _ in range(3)]
    dataset = pydicom.dcmread(write(tmp_path, video, "dicom_seg", labels) / "masks.dcm")
    np.testing.assert_array_equal(label_frames(dataset, 3), np.stack(labels))


def test_a_source_with_a_place_in_space_passes_it_on(tmp_path, cine):
    source = pydicom.dcmread(cine.path)
    source.FrameOfReferenceUID = "1.2.3"
    shared, orientation, measures = Dataset(), Dataset(), Dataset()
    measures.PixelSpacing, measures.SliceThickness = [0.5, 0.25], 2
    shared.PixelMeasuresSequence = [measures]
    orientation.ImageOrientationPatient = [1, 0, 0, 0, 1, 0]
    shared.PlaneOrientationSequence = [orientation]
    source.SharedFunctionalGroupsSequence, source.PerFrameFunctionalGroupsSequence = [shared], []
    for index in range(cine.frame_count):
        groups, position = Dataset(), Dataset()
        position.ImagePositionPatient = [0, 0, 2 * index]
        groups.PlanePositionSequence = [position]
        source.PerFrameFunctionalGroupsSequence.append(groups)
    source.save_as(tmp_path / "cine.dcm")
    video = open_video(tmp_path / "cine.dcm")
    file = write(tmp_path / "out", video, "dicom_seg") / "masks.dcm"
    dataset = pydicom.dcmread(file)
    assert dataset.FrameOfReferenceUID == "1.2.3"
    assert dataset.SharedFunctionalGroupsSequence[0] == shared
    for groups in dataset.PerFrameFunctionalGroupsSequence:
        index = groups.DerivationImageSequence[0].SourceImageSequence[0].ReferencedFrameNumber - 1
        origin = source.PerFrameFunctionalGroupsSequence[index]
        assert groups.PlanePositionSequence == origin.PlanePositionSequence
    highdicom = pytest.importorskip("highdicom")
    assert highdicom.seg.segread(file).number_of_segments == 2


def test_a_video_without_objects_has_no_dicom_segmentation(tmp_path, cine, caplog):
    nothing = [np.zeros((240, 320), dtype=np.uint8)] * cine.frame_count
    folder = write(tmp_path, cine, "csv,dicom_seg", nothing)
    assert sorted(path.name for path in folder.iterdir()) == ["frames.csv", "manifest.json"]
    assert "no masks.dcm: examples_ybr_color shows no object" in caplog.text


def test_a_dicom_segmentation_of_another_source():
    with pytest.raises(ValueError, match=r"cine\.avi is none: leave it out of --formats"):
        choose_formats("dicom_seg", make_source())


def test_a_dicom_source_that_cannot_be_referred_to(tmp_path, cine, caplog):
    dataset = pydicom.dcmread(cine.path)
    del dataset.SeriesInstanceUID, dataset.StudyInstanceUID
    dataset.save_as(tmp_path / "cine.dcm")
    video = open_video(tmp_path / "cine.dcm")
    message = r"cine\.dcm has no StudyInstanceUID, SeriesInstanceUID, which dicom_seg needs"
    with pytest.raises(ValueError, match=message):
        choose_formats("nifti,dicom_seg", video)
    assert choose_formats("auto", video) == ALWAYS  # it goes on without
    assert "no masks.dcm: " in caplog.text


def test_every_format_writes_the_file_it_names(tmp_path, cine):
    for name, kind in FORMATS.items():
        folder = write(tmp_path / name, cine, name)
        names = {path.name for path in folder.iterdir()}
        assert names == {kind.file, "manifest.json"}
