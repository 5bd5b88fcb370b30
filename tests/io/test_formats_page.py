"""The tables of docs/formats.md: made of what comes of a file of each format.

``python -m tests.io.test_formats_page`` prints the first table anew.
"""

import json
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import av
import nibabel as nib
import nrrd
import numpy as np
import pydicom
import pytest
import SimpleITK as sitk
import tifffile
from PIL import Image
from pydicom.uid import generate_uid

from bundle.io.reading.mask_nrrd import open_labels
from bundle.io.reading.masks import read_annotations
from bundle.io.reading.video import open_video
from bundle.io.writing import ResultWriter
from bundle.io.writing.formats import FORMATS
from tests.dicom_files import new_cine, put_pixels

PAGE = Path(__file__).resolve().parents[2] / "docs" / "formats.md"
COUNT, HEIGHT, WIDTH = 4, 32, 48
FRAMES = np.random.default_rng(0).integers(0, 256, (COUNT, HEIGHT, WIDTH), np.uint8)
LABELS = np.zeros_like(FRAMES)
LABELS[:, 5:20, 10:30] = 1
PLACED = {
    "space": "left-posterior-superior",
    "space directions": [[0.5, 0, 0], [0, 0.25, 0], [0, 0, 2], [np.nan] * 3],
    "space origin": [0, 0, 0],
    "kinds": ["domain"] * 3 + ["list"],
}


def video_file(path, frames):
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=25)
        stream.height, stream.width, stream.pix_fmt = HEIGHT, WIDTH, "yuv420p"
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="gray")))
        container.mux(stream.encode())


def picture_folder(path, frames):
    path.mkdir()
    for index, frame in enumerate(frames):
        Image.fromarray(frame).save(path / f"{index}.png")


def nifti(path, frames):
    image = nib.Nifti1Image(frames.T[:, :, None], np.diag([-0.5, -0.25, 2, 1]))
    image.header["pixdim"][4] = 0.04
    image.header.set_xyzt_units("mm", "sec")
    nib.save(image, path)


def meta_image(path, frames):
    image = sitk.JoinSeries([sitk.GetImageFromArray(frame[None]) for frame in frames], 0, 0.04)
    image.SetSpacing((0.5, 0.25, 2, 0.04))
    sitk.WriteImage(image, str(path))


def sequence(path, frames):
    times = {"units": ["mm", "mm", "mm", "s"], "axis 3 index values": "0 0.04 0.08 0.12"}
    nrrd.write(str(path), frames.T[:, :, None], PLACED | times)


def stack(path, frames):
    about = {"axes": "TYX", "finterval": 0.04, "unit": "mm"}
    tifffile.imwrite(path, frames, imagej=True, metadata=about, resolution=(2, 4))


def cine(path, frames):
    dataset = new_cine(frames.shape)
    dataset.FrameTime, dataset.PixelSpacing = 40, [0.25, 0.5]
    put_pixels(dataset, frames)
    dataset.save_as(path)


def series(path, frames):
    path.mkdir()
    study, series, reference = generate_uid(), generate_uid(), generate_uid()
    for index, frame in enumerate(frames):
        dataset = new_cine(frame[None].shape)
        dataset.SOPInstanceUID, dataset.StudyInstanceUID = generate_uid(), study
        dataset.SeriesInstanceUID, dataset.FrameOfReferenceUID = series, reference
        dataset.TriggerTime, dataset.PixelSpacing = 40 * index, [0.25, 0.5]
        dataset.ImagePositionPatient = [0, 0, 0]
        dataset.ImageOrientationPatient = [1, 0, 0, 0, 1, 0]
        put_pixels(dataset, frame)
        dataset.save_as(path / f"{COUNT - index}")


def labelme(path, frames):
    path.mkdir()
    corners = [[10, 5], [30, 5], [30, 20], [10, 20]]
    shape = {"label": "a", "points": corners, "shape_type": "polygon"}
    content = {"shapes": [shape], "imageHeight": HEIGHT, "imageWidth": WIDTH}
    for index in range(COUNT):
        (path / f"{index}.json").write_text(json.dumps(content))


@dataclass(frozen=True)
class Row:
    """A line of the table.

    Attributes:
        name: Of the file that is tried.
        files: What to look for in names.
        limits: What is refused.
        make: Writes frames or labels in the format; None if the program does.
        writes: The name in ``--formats``.
    """

    name: str
    files: str
    limits: str = ""
    make: Callable | None = None
    writes: str | None = None


ONE_SLICE = "one slice over time"
ROWS = {
    "video file": Row(
        "a.mkv",
        "avi, mp4, mov, wmv, mkv, webm, ts, mxf, dv, gif and whatever else FFmpeg opens",
        "8 bits a colour; no covers",
        video_file,
        "overlay",
    ),
    "folder of pictures": Row(
        "a", "png, jpg, tif, bmp", "all of one size", picture_folder, "png"
    ),
    "NIfTI": Row("a.nii.gz", ".nii, .nii.gz", ONE_SLICE, nifti, "nifti"),
    "MetaImage": Row(
        "a.mha", ".mha, .mhd", f"{ONE_SLICE}; header to 64 MiB", meta_image, "mha"
    ),
    "NRRD": Row(
        "a.seq.nrrd", ".nrrd, .seq.nrrd, .nhdr", f"{ONE_SLICE}; header to 32 MiB", sequence, "nrrd"
    ),
    "TIFF stack": Row(
        "a.tif",
        ".tif, also ImageJ, OME, BigTIFF",
        "one axis besides rows and columns",
        stack,
    ),
    "DICOM cine (enhanced MR and US also have a place)": Row(
        "a.dcm",
        "any name; pictures, MPEG-2, H.264, HEVC; more codecs with `tcmn[dicom]`",
        ONE_SLICE,
        cine,
    ),
    "DICOM series": Row(
        "a", "a folder of single-frame files", f"one series, {ONE_SLICE}", series
    ),
    "DICOM segmentation": Row(
        "masks.dcm", "any name", "of DICOM sources", writes="dicom_seg"
    ),
    "3D Slicer's segmentation": Row("masks.seg.nrrd", ".seg.nrrd", writes="seg_nrrd"),
    "run lengths": Row("masks.json", "masks.json", "file to 256 MiB", writes="rle"),
    "COCO": Row("coco.json", ".json", "file to 256 MiB", writes="coco"),
    "CVAT for video 1.1": Row(
        "annotations.xml", ".xml, .zip", "file to 256 MiB; no boxes", writes="cvat"
    ),
    "labelme": Row("masks", ".json, or a folder of them", "no lines, no points", labelme),
    "YOLO": Row("yolo", "yolo/labels", "outlines without holes", writes="yolo"),
    "MOTS": Row("mots", "mots/gt, mots/instances", writes="mots"),
}  # fmt: skip


def opened(path):
    """A video, if it is one: not frames that are masks at heart."""
    try:
        video = open_video(path)
        assert len(list(video)) == COUNT
    except (ValueError, OSError, AssertionError):
        return None
    return video


def taken_as_masks(path, video):
    """Whether the labels come out of a file as they went in."""
    try:
        found = read_annotations(path, video)
    except (ValueError, OSError):
        return "no"
    np.testing.assert_array_equal(np.stack([found[i] for i in range(COUNT)]), LABELS)
    return "yes"


def geometry(path):
    """Whether a file tells the spacing, the place in space and the time of its frames."""
    try:
        video = open_video(path)
    except (ValueError, OSError):
        return "no", "no", "no"
    affine = video.geometry.affine
    spacing = None if video.spacing_mm is None else np.round(video.spacing_mm, 6).tolist()
    assert spacing in (None, [0.25, 0.5])
    if spacing:
        np.testing.assert_allclose(np.linalg.norm(affine[:3, :2], axis=0), [0.5, 0.25], atol=1e-6)
    if video.times is not None:
        np.testing.assert_allclose(video.times, [0, 0.04, 0.08, 0.12], atol=1e-3)
    told = spacing, len(video.geometry.shape) == 4, video.times is not None
    return tuple("yes" if each else "no" for each in told)


def of_segmentation(path):
    """The same of a DICOM segmentation, which points at the frames of its source."""
    dataset = pydicom.dcmread(path)
    shared = dataset.SharedFunctionalGroupsSequence[0]
    group = dataset.PerFrameFunctionalGroupsSequence[-1]
    assert group.PlanePositionSequence[0].ImagePositionPatient == [0, 0, 0]
    assert shared.PixelMeasuresSequence[0].PixelSpacing == [0.25, 0.5]
    assert group.FrameContentSequence[0].TemporalPositionIndex == COUNT
    assert "SourceImageSequence" in group.DerivationImageSequence[0]
    return "yes", "yes", "as its source"


def of_slicer(path, video):
    """The same of a segmentation of 3D Slicer, whose slices are frames."""
    labels = open_labels(path)
    assert labels.frame_count == COUNT
    np.testing.assert_allclose(labels.geometry.affine, video.geometry.affine, atol=1e-6)
    return "yes", "yes", "frame numbers"


def make_row(kind, results, folder):
    """A line of the table, by writing a file of the format and reading it."""
    row = ROWS[kind]
    written = None if row.writes is None else results.folder / FORMATS[row.writes].file
    files = {"video": written, "masks": written}
    if row.make is not None:
        for content, frames in (("video", FRAMES), ("masks", LABELS)):
            files[content] = folder / content / row.name
            files[content].parent.mkdir(parents=True)
            row.make(files[content], frames)
    as_video = row.make not in (None, labelme) and opened(files["video"]) is not None
    found = [
        taken_as_masks(path, results.video)
        for path in {files["masks"], written}
        if path is not None
    ]
    assert len(set(found)) == 1
    if kind == "DICOM segmentation":
        told = of_segmentation(written)
    elif kind == "3D Slicer's segmentation":
        told = of_slicer(written, results.video)
    elif as_video:
        told = geometry(files["video"])
        # What is written says all that what is read of this kind can say.
        assert written is None or geometry(written) == told
    else:
        told = *geometry(files["masks"])[:2], "frame numbers"
    cells = [
        kind,
        row.files,
        "yes" if as_video else "no",
        found[0],
        f"`{row.writes}`" if row.writes else "no",
        *told,
        row.limits,
    ]
    return f"| {' | '.join(cells)} |"


@dataclass(frozen=True)
class Results:
    """All formats of one video, a DICOM series, which has spacing, place and time."""

    folder: Path
    video: object


def write_results(folder):
    series(folder / "a", FRAMES)
    video = open_video(folder / "a")
    with ResultWriter(folder / "out", video, formats=list(FORMATS)) as writer:
        for frame, labels in zip(video, LABELS, strict=True):
            writer.write(frame, labels)
    return Results(writer.folder, video)


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    return write_results(tmp_path_factory.mktemp("results"))


def lines(title):
    """Those of a table of the page below its head."""
    part = PAGE.read_text(encoding="utf-8").split(f"\n## {title}\n")[1].split("\n## ")[0]
    return [line for line in part.splitlines() if line.startswith("| ")][1:]


@pytest.mark.parametrize("kind", ROWS)
def test_the_page_says_what_comes_of_a_file(kind, results, tmp_path):
    assert make_row(kind, results, tmp_path) in lines("All formats")


def test_the_page_has_no_other_rows():
    assert len(lines("All formats")) == len(ROWS)


def test_every_format_that_is_written_is_in_both_tables():
    assert {row.writes for row in ROWS.values()} - {None} == FORMATS.keys() - {"csv", "summary"}
    told = "\n".join(lines("Results"))
    for name, kind in FORMATS.items():
        assert f"`{kind.file}" in told, name


# Limits


def two_slices(name):
    def make(path):
        pixels = np.zeros((COUNT, 2, HEIGHT, WIDTH), np.uint8)
        if name == "TIFF stack":
            tifffile.imwrite(path, pixels, imagej=True, metadata={"axes": "TZYX"})
        elif name == "NIfTI":
            nib.save(nib.Nifti1Image(pixels.T, np.eye(4)), path)
        elif name == "NRRD":
            nrrd.write(str(path), pixels.T, PLACED)
        else:
            sitk.WriteImage(
                sitk.JoinSeries([sitk.GetImageFromArray(each) for each in pixels]), str(path)
            )

    return make


def two_places(path):
    """Two slices, each at two times."""
    series(path, FRAMES)
    for index, file in enumerate(sorted(path.iterdir())):
        dataset = pydicom.dcmread(file)
        dataset.ImagePositionPatient = [0, 0, index % 2]
        dataset.save_as(file)


def two_series(path):
    series(path, FRAMES)
    file = path / "1"
    dataset = pydicom.dcmread(file)
    dataset.SeriesInstanceUID = generate_uid()
    dataset.save_as(file)


def two_sizes(path):
    picture_folder(path, FRAMES)
    Image.fromarray(FRAMES[0, 1:]).save(path / "1.png")


@pytest.mark.parametrize(
    ("kind", "make", "message"),
    [
        *((kind, two_slices(kind), "expected (one slice|pictures) over")
          for kind in ("NIfTI", "MetaImage", "NRRD", "TIFF stack")),
        ("DICOM series", two_places, "2 positions in space: expected one slice over time"),
        ("DICOM series", two_series, "holds 2 DICOM series, expected one"),
        ("folder of pictures", two_sizes, "all frames of a video must be of one size"),
    ],
)  # fmt: skip
def test_limits_are_those_of_the_page(kind, make, message, tmp_path):
    make(tmp_path / ROWS[kind].name)
    with pytest.raises(ValueError, match=message):
        list(open_video(tmp_path / ROWS[kind].name))


def print_table():
    print(
        "| format | files | read as video | read as masks | `--formats` | mm per pixel "
        "| place in space | time | limits |\n|---|---|---|---|---|---|---|---|---|"
    )
    with tempfile.TemporaryDirectory() as place:
        results = write_results(Path(place))
        for number, kind in enumerate(ROWS):
            print(make_row(kind, results, Path(place) / f"row{number}"))


if __name__ == "__main__":
    print_table()
