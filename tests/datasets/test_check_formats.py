"""What ``tcmn check-data`` says of files of all formats: each kind of fault is found."""

import json
import re

import av
import nibabel as nib
import nrrd
import numpy as np
import pydicom
import pytest
import tifffile
from PIL import Image
from pydicom.encaps import encapsulate
from pydicom.uid import UID, generate_uid

from bundle.datasets.check import check_videos
from bundle.datasets.frames import read_masks
from bundle.datasets.video_folder import video_folder
from bundle.io.reading.masks import read_annotations
from bundle.io.reading.video import open_video
from bundle.io.writing import ResultWriter
from tests.dicom_files import new_cine, put_pixels

COUNT, HEIGHT, WIDTH = 6, 48, 64
FRAMES = np.random.default_rng(0).integers(0, 200, (COUNT, HEIGHT, WIDTH), np.uint8)
PLACE = np.diag([-0.5, -0.25, 2, 1.0])


def make_labels(*ids):
    """(T, H, W): blocks side by side."""
    labels = np.zeros((COUNT, HEIGHT, WIDTH), np.uint8)
    for place, label in enumerate(ids or (1,)):
        labels[:, 10:30, 5 + 20 * place : 20 + 20 * place] = label
    return labels


def nifti(path, values, affine=PLACE, slope=None):
    image = nib.Nifti1Image(values.T, affine)
    if slope:
        image.header.set_slope_inter(slope, 0)
    nib.save(image, path)


def video_file(path, count=COUNT):
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=25)
        stream.height, stream.width, stream.pix_fmt = HEIGHT, WIDTH, "yuv420p"
        for frame in FRAMES[:count]:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="gray")))
        container.mux(stream.encode())


def picture(path, values, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(values).save(path, **options)


def video(root):
    nifti(root / "a.nii.gz", FRAMES)


def mask(root, labels=None):
    nifti(root / "a_mask.nii.gz", make_labels() if labels is None else labels)


def cine(path, **elements):
    dataset = new_cine(FRAMES.shape)
    put_pixels(dataset, FRAMES)
    dataset.SOPInstanceUID, dataset.StudyInstanceUID = generate_uid(), generate_uid()
    dataset.SeriesInstanceUID = generate_uid()
    for keyword, value in elements.items():
        setattr(dataset, keyword, value)
    dataset.save_as(path)


def series(root, **changes):
    """Of six files; ``changes`` are lists, a value for each."""
    (root / "a").mkdir()
    shared = {"StudyInstanceUID": generate_uid(), "SeriesInstanceUID": generate_uid()}
    for index, frame in enumerate(FRAMES):
        dataset = new_cine(frame[None].shape)
        dataset.InstanceNumber, dataset.SOPInstanceUID = index + 1, generate_uid()
        own = {keyword: values[index] for keyword, values in changes.items()}
        for keyword, value in (shared | own).items():
            setattr(dataset, keyword, value)
        put_pixels(dataset, frame)
        dataset.save_as(root / "a" / f"{index}.dcm")
    picture(root / "a_mask.png", make_labels()[0])


# Item by item: what makes the data set, and what is said of it.


def fractional(root):
    video(root)
    nifti(root / "a_mask.nii.gz", make_labels().astype(np.float32) * 0.5)


def too_large(root):
    video(root)
    nifti(root / "a_mask.nii.gz", make_labels().astype(np.int16) * 300)


def too_many(root):
    video(root)
    labels = np.zeros((HEIGHT, WIDTH), np.uint8)
    labels[::4] = np.arange(WIDTH)
    indexed = Image.fromarray(labels)
    indexed.putpalette(list(range(256)) * 3)
    indexed.save(root / "a_mask.png")


def lossy_colours(root):
    video(root)
    colours = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
    colours[10:30, 10:30] = 255, 0, 0
    picture(root / "a_mask.jpg", colours)


def lossy_grey(root):
    video(root)
    picture(root / "a_mask.jpg", make_labels(100, 200)[0], quality=80)


def colours(root):
    video(root)
    values = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
    values[10:30, 10:30], values[10:30, 40:60] = (9, 80, 10), (200, 17, 3)
    picture(root / "a_mask.png", values)


def unlisted_colour(root):
    colours(root)
    (root / "palette.csv").write_text("id,colour\n1,#09500a\n")


def turned(root):
    video(root)
    affine = PLACE.copy()
    affine[0] = 0.5, 0, 0, -0.5 * (WIDTH - 1)
    nifti(root / "a_mask.nii.gz", make_labels()[..., ::-1], affine)


def empty(root):
    video(root)
    mask(root, 0 * make_labels())


def damaged_dicom(root):
    cine(root / "a.dcm")
    data = (root / "a.dcm").read_bytes()
    (root / "a.dcm").write_bytes(data[: len(data) // 2])
    picture(root / "a_mask.png", make_labels()[0])


def unknown_codec(root):
    cine(root / "a.dcm")
    dataset = pydicom.dcmread(root / "a.dcm")
    dataset.file_meta.TransferSyntaxUID = UID("1.2.840.10008.1.2.4.92")
    dataset.PixelData = encapsulate([bytes(100)] * COUNT)
    dataset["PixelData"].is_undefined_length = True
    dataset.save_as(root / "a.dcm")
    picture(root / "a_mask.png", make_labels()[0])


def blind_window(root):
    cine(root / "a.dcm", WindowCenter=5000, WindowWidth=10)
    picture(root / "a_mask.png", make_labels()[0])


def two_series(root):
    series(root, SeriesInstanceUID=["1.2.3"] * 5 + ["1.2.4"])


def slices_over_time(root):
    series(
        root,
        ImagePositionPatient=[[0, 0, index % 2] for index in range(COUNT)],
        ImageOrientationPatient=[[1, 0, 0, 0, 1, 0]] * COUNT,
    )


def nrrd_slices(root):
    nrrd.write(str(root / "a.nrrd"), np.zeros((WIDTH, HEIGHT, 2, COUNT), np.uint8), {})
    picture(root / "a_mask.png", make_labels()[0])


def cut_nrrd(root):
    nrrd.write(str(root / "a.nrrd"), FRAMES.T, {"encoding": "raw"})
    data = (root / "a.nrrd").read_bytes()
    (root / "a.nrrd").write_bytes(data[:-100])
    picture(root / "a_mask.png", make_labels()[0])


def stack_among_frames(root):
    tifffile.imwrite(root / "b.tif", FRAMES, photometric="minisblack")
    for index in range(COUNT):
        picture(root / "a" / f"{index}.png", FRAMES[index])
    (root / "b.tif").rename(root / "a" / "9.tif")
    picture(root / "a_mask.png", make_labels()[0])


def masks_among_frames(root):
    for index in range(COUNT):
        picture(root / "a" / f"{index}.png", FRAMES[index])
        picture(root / "a" / f"{index}_mask.png", make_labels()[0])
    picture(root / "a_mask.png", make_labels()[0])


def twins(root):
    for index in range(COUNT):
        picture(root / "a" / f"{index}.png", FRAMES[index])
        picture(root / "a" / f"{index}.bmp", FRAMES[index])
    picture(root / "a_mask.png", make_labels()[0])


def numbers_from_one(root):
    video_file(root / "a.mp4")
    for index in (1, 3):
        picture(root / "a_mask" / f"{index:05d}.png", make_labels()[0])


def number_beyond(root):
    video_file(root / "a.mp4")
    picture(root / "a_mask" / "00006.png", make_labels()[0])


def two_few_masks(root):
    video_file(root / "a.mp4")
    tifffile.imwrite(root / "a_mask.tif", make_labels()[:-1], photometric="minisblack")


def other_times(root):
    video_file(root / "a.mp4")
    header = {
        "kinds": ["domain"] * 3 + ["list"],
        "units": ["", "", "", "s"],
        "axis 3 index values": "0 1 2 3 4 6",
    }
    nrrd.write(str(root / "a_mask.seq.nrrd"), make_labels().T[:, :, None], header)


def other_size(root):
    video(root)
    picture(root / "a_mask.png", make_labels()[0, ::2, ::2])


def no_json(root):
    video(root)
    (root / "a_mask.json").write_text("{")


def too_late_json(root):
    video(root)
    runs = {"size": [HEIGHT, WIDTH], "counts": [0, HEIGHT * WIDTH]}
    frames = [{"frame": COUNT, "objects": [{"id": 1, "segmentation": runs}]}]
    content = {"video": "a", "height": HEIGHT, "width": WIDTH, "frames": frames}
    (root / "a_mask.json").write_text(json.dumps(content))


def boxes_alone(root):
    video(root)
    box = '<box frame="0" outside="0" xtl="1" ytl="1" xbr="9" ybr="9"/>'
    xml = f'<annotations><track id="0" label="a">{box}</track></annotations>'
    (root / "a_mask.xml").write_text(xml)


def another_series(root):
    """A segmentation of whose source files one is not there."""
    series(root)
    (root / "a_mask.png").unlink()
    source = open_video(root / "a")
    with ResultWriter(root / "out", source, formats="dicom_seg") as writer:
        for frame, labels in zip(source, make_labels(), strict=True):
            writer.write(frame, labels)
    (writer.folder / "masks.dcm").rename(root / "a_mask.dcm")
    (root / "a" / "0.dcm").unlink()


PROBLEMS = {
    # Labels are what the file says
    fractional: "frame [0-9] of .*a_mask.nii.gz holds fractional values: expected whole",
    too_large: "frame [0-9] of .*a_mask.nii.gz holds values from 0 to 300: expected labels 0 to 255",
    too_many: "a_mask.png holds 63 different labels: expected at most 32 objects",
    lossy_colours: "a_mask.jpg is a colour picture that lost its exact colours",
    unlisted_colour: "has the colour #c81103, which the list of colours beside it lacks",
    turned: "a_mask.nii.gz has other axes, or lies elsewhere in space, than .*a.nii.gz",
    empty: "a_mask.nii.gz is empty: paint the structure on one frame at least",
    # DICOM
    damaged_dicom: "a.dcm.* (truncated|damaged)",
    unknown_codec: r'which no installed package decodes: pip install "tcmn\[dicom\]"',
    two_series: "a holds 2 DICOM series, expected one",
    slices_over_time: "6 frames at 2 positions in space: expected one slice over time",
    # Other files
    nrrd_slices: "a.nrrd has sizes .* expected one slice over time",
    cut_nrrd: "frame 5: cannot read frame 5 of 6 of .*a.nrrd: it has fewer pixels",
    stack_among_frames: "a holds 7 pictures, but 9.tif is a stack of several: expected one",
    twins: "a holds 0.bmp and 0.png: which is the frame cannot be told",
    number_beyond: "00006.png belongs to no frame",
    two_few_masks: "a_mask.tif holds 5 masks but .*a.mp4 has 6 frames",
    other_size: "a_mask.png is 32x24 but its frame is 64x48: export the mask at the frame's size",
    # Masks of other tools
    no_json: "a_mask.json is not valid JSON",
    too_late_json: "frame 6 of .*a_mask.json: .*a.nii.gz has 6 frames, 0 to 5",
    boxes_alone: "a_mask.xml has no mask, polygon or ellipse",
    another_series: "it refers to 6 images, of which 1 are not in .*a: expected",
}
WARNINGS = {
    lossy_grey: r"a_mask.jpg was compressed with loss: .* the labels \[\d+, \d+\]",
    colours: "a_mask.png is a colour picture, read in the order of red, green and blue",
    blind_window: "a.dcm: the window that the file declares shows nothing",
    masks_among_frames: "a holds 6 masks among its frames, such as 0_mask.png",
    numbers_from_one: "a: 00001.png is taken as the mask of frame 1, the first being 0",
    other_times: "a_mask.seq.nrrd spans 6 s and .*a.mp4 0.2 s: taken frame by frame",
}


def check(root):
    return check_videos(lambda report: video_folder(root, report), "made up")


@pytest.mark.parametrize("make", PROBLEMS, ids=lambda make: make.__name__)
def test_a_problem_is_found(make, tmp_path):
    make(tmp_path)
    survey = check(tmp_path)
    told = [line for line in survey.problems if "no video could be made" not in line]
    assert told  # a line for each frame where they differ
    assert all(re.search(PROBLEMS[make], line) for line in told), told


@pytest.mark.parametrize("make", WARNINGS, ids=lambda make: make.__name__)
def test_what_was_repaired_is_reported(make, tmp_path):
    make(tmp_path)
    survey = check(tmp_path)
    assert survey.problems == []
    (line,) = survey.warnings
    assert re.search(WARNINGS[make], line), line


@pytest.mark.parametrize("ids", [(1,), (1, 3), (255,), (2, 255)])
def test_sound_labels_are_no_problem(ids, tmp_path):
    video(tmp_path)
    mask(tmp_path, make_labels(*ids))
    survey = check(tmp_path)
    assert survey.problems == survey.warnings == []
    assert survey.annotated == COUNT


@pytest.mark.parametrize(
    ("name", "file"),
    [("rle", "masks.json"), ("coco", "coco.json"), ("cvat", "annotations.xml"),
     ("dicom_seg", "masks.dcm"), ("seg_nrrd", "masks.seg.nrrd"), ("nrrd", "masks.nrrd")],
)  # fmt: skip
def test_masks_in_formats_of_other_tools_are_read(name, file, tmp_path):
    root = tmp_path / "set"
    root.mkdir()
    series(root)
    (root / "a_mask.png").unlink()
    source, labels = open_video(root / "a"), make_labels(2, 5)
    labels[:3] = 0
    with ResultWriter(tmp_path / "out", source, formats=name) as writer:
        for frame, each in zip(source, labels, strict=True):
            writer.write(frame, each)
    taken = root / f"a_mask.{file.partition('.')[2]}"
    (writer.folder / file).rename(taken)
    (found,) = video_folder(root)
    assert sorted(found.masks) == [3, 4, 5]
    np.testing.assert_array_equal(np.stack(read_masks(found, [3, 5])), labels[[3, 5]])
    np.testing.assert_array_equal(read_annotations(taken, source)[3], labels[3])
    survey = check(root)
    assert (survey.problems, survey.annotated) == ([], 3)
