"""The table of docs/formats.md: made of what opening one file of each kind gives.

``python -m tests.io.test_formats_page`` prints the table anew.
"""

import tempfile
from pathlib import Path

import av
import nibabel as nib
import nrrd
import numpy as np
import pytest
import SimpleITK as sitk
import tifffile
from PIL import Image

from bundle.io.reading.video import open_video
from tests.dicom_files import new_cine, put_pixels

PAGE = Path(__file__).resolve().parents[2] / "docs" / "formats.md"
COUNT, HEIGHT, WIDTH = 4, 32, 48
FRAMES = np.random.default_rng(0).integers(0, 256, (COUNT, HEIGHT, WIDTH), np.uint8)


def video_file(path):
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=25)
        stream.height, stream.width, stream.pix_fmt = HEIGHT, WIDTH, "yuv420p"
        for frame in FRAMES:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="gray")))
        container.mux(stream.encode())


def picture_folder(path):
    path.mkdir()
    for index, frame in enumerate(FRAMES):
        Image.fromarray(frame).save(path / f"{index}.png")


def nifti(path):
    image = nib.Nifti1Image(FRAMES.T[:, :, None], np.diag([0.5, 0.25, 2, 1]))
    image.header["pixdim"][4] = 0.04
    image.header.set_xyzt_units("mm", "sec")
    nib.save(image, path)


def meta_image(path):
    image = sitk.JoinSeries([sitk.GetImageFromArray(frame[None]) for frame in FRAMES], 0, 0.04)
    image.SetSpacing((0.5, 0.25, 2, 0.04))
    sitk.WriteImage(image, str(path))


def sequence(path):
    header = {
        "space": "left-posterior-superior",
        "space directions": [[0.5, 0, 0], [0, 0.25, 0], [0, 0, 2], [np.nan] * 3],
        "space origin": [1, 2, 3],
        "kinds": ["domain"] * 3 + ["list"],
        "units": ["mm", "mm", "mm", "s"],
        "axis 3 index values": "0 0.04 0.08 0.12",
    }
    nrrd.write(str(path), FRAMES.T[:, :, None], header)


def stack(path):
    about = {"axes": "TYX", "finterval": 0.04, "unit": "mm"}
    tifffile.imwrite(path, FRAMES, imagej=True, metadata=about, resolution=(2, 4))


def cine(path):
    dataset = new_cine(FRAMES.shape)
    dataset.FrameTime, dataset.PixelSpacing = 40, [0.25, 0.5]
    put_pixels(dataset, FRAMES)
    dataset.save_as(path)


def series(path):
    path.mkdir()
    for index, frame in enumerate(FRAMES):
        dataset = new_cine(frame[None].shape)
        dataset.TriggerTime, dataset.PixelSpacing = 40 * index, [0.25, 0.5]
        dataset.ImagePositionPatient = [1, 2, 3]
        dataset.ImageOrientationPatient = [1, 0, 0, 0, 1, 0]
        put_pixels(dataset, frame)
        dataset.save_as(path / f"{COUNT - index}")


ROWS = {
    "video file": (
        "a.mkv",
        video_file,
        "avi, mp4, mov, wmv, mkv, webm, ts, mxf, dv, gif and whatever else FFmpeg opens",
        "8 bits a colour; no covers",
    ),
    "folder of pictures": ("a", picture_folder, "png, jpg, tif, bmp", "all of one size"),
    "NIfTI": ("a.nii.gz", nifti, ".nii, .nii.gz", "one slice over time"),
    "MetaImage": ("a.mha", meta_image, ".mha, .mhd", "one slice over time; header to 64 MiB"),
    "NRRD": (
        "a.seq.nrrd",
        sequence,
        ".nrrd, .seq.nrrd, .nhdr",
        "one slice over time; header to 32 MiB",
    ),
    "TIFF stack": (
        "a.tif",
        stack,
        ".tif, also ImageJ, OME, BigTIFF",
        "one axis besides rows and columns",
    ),
    "DICOM cine (enhanced MR and US also have a place)": (
        "a.dcm",
        cine,
        "any name; pictures, MPEG-2, H.264, HEVC; more codecs with `tcmn[dicom]`",
        "one slice over time",
    ),
    "DICOM series": (
        "a",
        series,
        "a folder of single-frame files",
        "one series, one slice over time",
    ),
}


def make_row(kind, folder):
    """A line of the table, by opening a file of the kind."""
    name, write, names, limits = ROWS[kind]
    write(folder / name)
    video = open_video(folder / name)
    assert len(list(video)) == COUNT
    spacing = "yes" if video.spacing_mm else "no"
    placed = "yes" if len(video.geometry.shape) == 4 else "no"
    time = "no" if video.times is None else "yes"
    return f"| {kind} | {names} | {spacing} | {placed} | {time} | {limits} |"


@pytest.mark.parametrize("kind", ROWS)
def test_the_page_says_what_opening_gives(kind, tmp_path):
    assert make_row(kind, tmp_path) in PAGE.read_text(encoding="utf-8").splitlines()


def test_the_page_has_no_other_rows():
    lines = PAGE.read_text(encoding="utf-8").split("## Reading videos")[1].split("\n## ")[0]
    assert sum(line.startswith("| ") for line in lines.splitlines()) == len(ROWS) + 1


if __name__ == "__main__":
    for each in ROWS:
        with tempfile.TemporaryDirectory() as place:
            print(make_row(each, Path(place)))
