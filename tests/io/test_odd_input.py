"""Odd files, sound and not: what is in them comes out, or one line says why not, in bounded memory."""

import os
import pathlib
import struct
import tempfile
import time
import zlib
from contextlib import contextmanager

import av
import nibabel as nib
import numpy as np
import pydicom
import pytest
import SimpleITK as sitk
import tifffile
from ignite.engine import Engine
from PIL import Image, features
from pydicom.data import get_testdata_file
from pydicom.encaps import encapsulate
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRLittleEndian,
    JPEG2000Lossless,
)

from bundle.inference.inputs import PromptedVideo, list_inputs
from bundle.inference.result_saver import ResultSaver
from bundle.inference.results import FrameResult
from bundle.io.reading import limits
from bundle.io.reading.decode import read_image
from bundle.io.reading.masks import read_annotations
from bundle.io.reading.video import open_video
from bundle.io.writing import ResultWriter
from tests.dicom_files import new_cine, put_pixels

COUNT, HEIGHT, WIDTH = 4, 6, 9


@pytest.fixture
def colour():
    """(T, H, W, 3) uint8, no symmetry anywhere."""
    return np.random.default_rng(0).integers(0, 256, (COUNT, HEIGHT, WIDTH, 3), np.uint8)


@pytest.fixture
def grey(colour):
    return colour[..., 0]


def as_rgb(grey):
    return np.repeat(grey[..., None], 3, axis=-1)


def assert_is(path, expected):
    video = open_video(path)
    assert (video.frame_count, video.height, video.width, 3) == expected.shape
    np.testing.assert_array_equal(list(video), expected)


def write_folder(path, frames, suffix="png", **options):
    path.mkdir()
    for index, frame in enumerate(frames):
        Image.fromarray(frame).save(path / f"{index}.{suffix}", **options)
    return path


def write_video(path, frames, codec="ffv1", pixel_format="bgr0", times=None, **options):
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=25, options=options)
        stream.height, stream.width = frames.shape[1:3]
        stream.pix_fmt = pixel_format
        for index, frame in enumerate(frames):
            picture = av.VideoFrame.from_ndarray(frame, format="rgb24")
            if times is not None:
                picture.pts = times[index]
            container.mux(stream.encode(picture))
        container.mux(stream.encode())
    return path


def write_nifti(path, array_xyt, affine=None):
    nib.save(nib.Nifti1Image(array_xyt, affine), path)
    return path


def write_meta(path, array_tyx):
    sitk.WriteImage(sitk.GetImageFromArray(array_tyx), str(path))
    return path


def make_dicom(frames, photometric="MONOCHROME2", syntax=ExplicitVRLittleEndian):
    dataset = new_cine(frames.shape, 8 * frames.dtype.itemsize, syntax)
    dataset.StudyInstanceUID, dataset.SeriesInstanceUID = "1.2.4", "1.2.5"
    dataset.PhotometricInterpretation = photometric
    dataset.PixelRepresentation = int(frames.dtype.kind == "i")
    dataset.FrameTime = 40
    put_pixels(dataset, frames)
    return dataset


def write_dicom(path, frames, *arguments, **elements):
    dataset = make_dicom(frames, *arguments)
    for name, value in elements.items():
        setattr(dataset, name, value)
    dataset.save_as(path)
    return path


WRITERS = {
    "a": write_folder,
    "a.avi": write_video,
    "a.mkv": write_video,
    "a.nii": lambda path, frames: write_nifti(path, frames.transpose(2, 1, 0, 3)),
    "a.nii.gz": lambda path, frames: write_nifti(path, frames.transpose(2, 1, 0, 3)),
    "a.mha": lambda path, frames: sitk.WriteImage(
        sitk.GetImageFromArray(frames, isVector=True), str(path)
    ),
    "a.dcm": lambda path, frames: write_dicom(path, frames, "RGB"),
}


# Sizes


@pytest.mark.parametrize("size", [(1, 1), (1, 7), (5, 2), (3, 5)])
@pytest.mark.parametrize("name", WRITERS)
def test_frames_of_few_pixels(tmp_path, name, size):
    frames = np.random.default_rng(1).integers(0, 256, (3, *size, 3), np.uint8)
    WRITERS[name](tmp_path / name, frames)
    assert_is(tmp_path / name, frames)


@pytest.mark.parametrize("name", ["a", "a.avi", "a.mkv"])
def test_a_video_of_one_frame(tmp_path, colour, name):
    WRITERS[name](tmp_path / name, colour[:1])
    assert_is(tmp_path / name, colour[:1])


@pytest.mark.parametrize("name", ["a.avi", "ü b.mkv", "Größe 1.nii.gz", "a\nb.mha", "Ω.dcm", "é f"])
def test_names_with_blanks_umlauts_and_line_breaks(tmp_path, colour, name):
    kind = "a" + "".join(pathlib.Path(name).suffixes)
    WRITERS[kind](tmp_path / name, colour)
    assert_is(tmp_path / name, colour)
    video = open_video(tmp_path / name)
    with ResultWriter(tmp_path / "out", video, formats="nifti,png,overlay,csv,summary") as writer:
        for frame in video:
            writer.write(frame, (frame[..., 0] > 128).astype(np.uint8))
    assert len(list((tmp_path / "out" / video.name).iterdir())) == 6


# Pictures


def test_transparency_is_dropped_from_a_palette(tmp_path, grey):
    picture = Image.fromarray(grey[0] // 64)
    palette = np.random.default_rng(2).integers(0, 256, (256, 3), np.uint8)
    picture.putpalette(palette.tobytes())
    for name, transparency in (("index", 2), ("bytes", bytes([0, 128, 255, 7]))):
        picture.save(tmp_path / f"{name}.png", transparency=transparency)
        found = read_image(tmp_path / f"{name}.png")
        np.testing.assert_array_equal(found, palette[grey[0] // 64], err_msg=name)


def test_cmyk_jpegs_are_close(tmp_path):
    frame = np.full((16, 16, 3), (200, 120, 40), np.uint8)
    Image.fromarray(frame).convert("CMYK").save(tmp_path / "a.jpg", quality=95)
    assert Image.open(tmp_path / "a.jpg").mode == "CMYK"
    assert np.abs(read_image(tmp_path / "a.jpg").astype(int) - frame).max() < 12


@pytest.mark.parametrize("suffix", ["png", "tif"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_pictures_are_upright_as_viewers_show_them(tmp_path, colour, orientation, suffix):
    """Exif 2.3, 4.6.4.A: the side at which the stored first row and first column are shown."""
    row, column = {
        1: "TL", 2: "TR", 3: "BR", 4: "BL", 5: "LT", 6: "RT", 7: "RB", 8: "LB"
    }[orientation]  # fmt: skip
    stored = colour[0]
    shown = stored if row in "TB" else stored.swapaxes(0, 1)
    shown = shown[::-1] if "B" in (row, column) else shown
    shown = shown[:, ::-1] if "R" in (row, column) else shown
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(stored).save(tmp_path / f"a.{suffix}", exif=exif)
    np.testing.assert_array_equal(read_image(tmp_path / f"a.{suffix}"), shown)


@pytest.mark.parametrize("kind", ["tif", "nii", "double.nii"])
def test_values_that_are_no_numbers(tmp_path, kind):
    values = np.array([[np.nan, np.inf, -np.inf], [0, 500, 1000]])
    if kind == "tif":
        path = tmp_path / "frames"
        path.mkdir()
        for index in range(2):
            tifffile.imwrite(path / f"{index}.tif", values.astype(np.float32))
    else:
        values = values if kind == "double.nii" else values.astype(np.float32)
        path = write_nifti(tmp_path / f"a.{kind}", np.stack([values] * 2).T)
    assert_is(path, as_rgb(np.array([[[0, 255, 0], [0, 128, 255]]] * 2, np.uint8)))


def test_values_beyond_single_precision(tmp_path):
    path = write_nifti(tmp_path / "a.nii", np.array([[[-1e300, 0]], [[1e300, 1e300]]]))
    assert_is(path, as_rgb(np.array([[[0, 255]], [[128, 255]]], np.uint8)))


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_video_without_any_number(tmp_path, value):
    path = write_nifti(tmp_path / "a.nii", np.full((4, 3, 5), value, np.float32))
    with pytest.raises(ValueError, match=r"cannot scale the pixels of .*a.nii: none of its values"):
        list(open_video(path))


def test_a_tiff_of_many_channels(tmp_path):
    many = np.zeros((6, 9, 7), np.float64)
    tifffile.imwrite(tmp_path / "a.tif", many, planarconfig="contig", photometric="minisblack")
    with pytest.raises(ValueError, match=r"a.tif as an image: found a TIFF of shape \(6, 9, 7\)"):
        read_image(tmp_path / "a.tif")


# Video files


def test_a_variable_frame_rate_loses_no_frame(tmp_path, colour):
    path = write_video(tmp_path / "a.mkv", colour, times=[0, 1, 50, 51])
    assert_is(path, colour)


@pytest.mark.parametrize(("name", "codec"), [("a.mpg", "mpeg2video"), ("a.mp4", "mpeg4")])
def test_a_damaged_frame_is_reported_and_the_same_from_any_start(tmp_path, name, codec, caplog):
    frames = np.random.default_rng(0).integers(0, 256, (COUNT, 18, 26, 3), np.uint8)
    path = write_video(tmp_path / name, frames, codec, "yuv420p")
    data = path.read_bytes()
    if name == "a.mpg":  # it has no index: what is left is read
        data = data[: len(data) // 2]
    else:
        with av.open(str(path)) as container:
            place, size = [(p.pos, p.size) for p in container.demux(video=0) if p.size][2]
        hole = place + size // 2
        data = data[:hole] + bytes(40) + data[hole + 40 :]
    path.write_bytes(data)
    video = open_video(path)
    whole = list(video)
    assert f" of {path} is damaged, and filled in from others" in caplog.text
    for index, frame in enumerate(whole):
        np.testing.assert_array_equal(next(video.frames([index])), frame)


@pytest.mark.parametrize(
    ("name", "codec"), [("a.webm", "libvpx"), ("a.webm", "libvpx-vp9"), ("a.mpg", "mpeg2video")]
)
def test_webm_and_interlaced_frames_are_close(tmp_path, name, codec):
    if codec not in av.codecs_available:
        pytest.skip(f"this FFmpeg has no {codec}")
    smooth = np.zeros((COUNT, 48, 64, 3), np.uint8)
    smooth[...] = np.linspace(40, 200, 64)[None, None, :, None]
    smooth[:, :20] //= 2
    interlaced = {"flags": "+ildct+ilme"} if codec == "mpeg2video" else {}
    path = write_video(tmp_path / name, smooth, codec, "yuv420p", b="4M", **interlaced)
    video = open_video(path)
    assert video.frame_count == COUNT
    assert np.abs(np.array(list(video)).astype(int) - smooth).mean() < 6


def test_animated_pictures_are_videos_where_ffmpeg_reads_them(tmp_path, colour):
    first, *others = [Image.fromarray(frame) for frame in colour]
    options = {"save_all": True, "append_images": others, "duration": 40}
    first.save(tmp_path / "a.apng", format="PNG", **options)
    assert_is(tmp_path / "a.apng", colour)
    first.save(tmp_path / "a.webp", lossless=True, **options)
    if int(av.__version__.split(".")[0]) >= 19:
        assert_is(tmp_path / "a.webp", colour)
    else:
        with pytest.raises(ValueError, match=r"a.webp is a single image: expected a video"):
            open_video(tmp_path / "a.webp")


@pytest.mark.parametrize(
    "text",
    [
        "#EXTM3U\n#EXT-X-TARGETDURATION:60\n#EXTINF:60,\na.ts\n",  # goes on, it seems
        "#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\na.ts\n#EXT-X-ENDLIST\n",
        "ffconcat version 1.0\nfile a.ts\n",
        "v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nt=0 0\nm=video 5004 RTP/AVP 96\n",
    ],
    ids=["live", "m3u8", "concat", "sdp"],
)
@pytest.mark.parametrize("name", ["a.m3u8", "a.mp4", "a.sdp"])
def test_a_list_of_other_files_is_not_a_video_and_not_waited_for(tmp_path, colour, text, name):
    frames = np.repeat(np.repeat(colour, 4, axis=1), 4, axis=2)
    write_video(tmp_path / "a.ts", frames, "mpeg2video", "yuv420p")
    (tmp_path / name).write_text(text)
    begin = time.monotonic()
    with pytest.raises(ValueError, match=f"{name}.*expected a video file"):
        open_video(tmp_path / name)
    assert time.monotonic() - begin < 5


# NIfTI


def test_slope_and_intercept_are_applied(tmp_path, grey):
    image = nib.Nifti1Image(grey.T.astype(np.int16), None)
    image.header.set_slope_inter(2.5, -10)
    nib.save(image, tmp_path / "a.nii")
    scaled = 2.5 * grey.astype(float) - 10
    low, high = scaled.min(), scaled.max()
    expected = np.rint((scaled - low) * 255 / (high - low)).astype(np.uint8)
    found = np.array(list(open_video(tmp_path / "a.nii")))[..., 0]
    assert np.abs(found.astype(int) - expected).max() <= 1  # halves


def test_the_other_byte_order(tmp_path, grey):
    image = nib.Nifti1Image(grey.T.astype(np.int16), None)
    header = nib.Nifti1Header(endianness=">")
    header.set_data_dtype(np.int16)
    nib.Nifti1Image(image.get_fdata(), None, header).to_filename(tmp_path / "a.nii")
    assert (tmp_path / "a.nii").read_bytes()[:4] == struct.pack(">i", 348)
    assert_is(tmp_path / "a.nii", as_rgb(grey))


def test_a_sheared_affine_is_kept(tmp_path, grey):
    affine = np.array([[0.5, 0.1, 0, 3], [0, 0.4, 0.2, 4], [0, 0, 2, 5], [0, 0, 0, 1]])
    path = write_nifti(tmp_path / "a.nii", grey.T, affine)
    video = open_video(path)
    with ResultWriter(tmp_path / "out", video, formats="nifti") as writer:
        for frame in video:
            writer.write(frame, np.zeros((HEIGHT, WIDTH), np.uint8))
    written = nib.load(tmp_path / "out" / "a" / "masks.nii.gz")
    np.testing.assert_allclose(written.affine, affine, atol=1e-6)


@pytest.mark.parametrize("code", [7, 0b111111, 255])
def test_units_that_mean_nothing_are_unknown(tmp_path, grey, code):
    image = nib.Nifti1Image(grey.T[:, :, None], None)
    image.header["xyzt_units"] = code
    nib.save(image, tmp_path / "a.nii")
    video = open_video(tmp_path / "a.nii")
    assert (video.spacing_mm, video.fps) == (None, None)
    assert_is(tmp_path / "a.nii", as_rgb(grey))


@pytest.mark.parametrize("zoom", [np.nan, np.inf, 1e-30, 1e30])
def test_zooms_that_cannot_be_are_unknown(tmp_path, grey, zoom):
    image = nib.Nifti1Image(grey.T[:, :, None], None)
    image.header["pixdim"][1:5] = 1, zoom, 1, zoom
    image.header.set_xyzt_units("mm", "sec")
    nib.save(image, tmp_path / "a.nii")
    video = open_video(tmp_path / "a.nii")
    assert (video.spacing_mm, video.fps) == (None, None)


@pytest.mark.parametrize("shape", [(4, 5, 6, 7), (4, 5, 1, 6, 7), (4, 5, 6, 7, 3)])
def test_a_volume_over_time_is_refused(tmp_path, shape):
    path = write_nifti(tmp_path / "a.nii", np.zeros(shape, np.uint8))
    with pytest.raises(ValueError, match=r"a.nii has shape .*: expected one slice over time"):
        open_video(path)


def test_complex_numbers_are_refused(tmp_path):
    path = write_nifti(tmp_path / "a.nii", np.zeros((4, 5, 3), np.complex64))
    with pytest.raises(ValueError, match=r"frame 0 of 3 of .*a.nii: found .*type complex64: exp"):
        list(open_video(path))


def test_a_single_picture_in_colour_is_not_a_mask(tmp_path, colour):
    video = open_video(write_folder(tmp_path / "frames", colour))
    voxel = np.dtype([("R", "u1"), ("G", "u1"), ("B", "u1")])
    packed = np.ascontiguousarray(colour[0].swapaxes(0, 1)).view(voxel)[..., 0]
    write_nifti(tmp_path / "a.nii", packed)
    with pytest.raises(ValueError, match=r"a.nii as an image: found pixels of .*type \[\('R'"):
        read_annotations(tmp_path / "a.nii", video)
    sitk.WriteImage(sitk.GetImageFromArray(colour[0], isVector=True), str(tmp_path / "a.mha"))
    with pytest.raises(ValueError, match=r"a.mha holds colours: expected label numbers"):
        read_annotations(tmp_path / "a.mha", video)


# MetaImage


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (b"NDims = 3", b"NDims = 93", "has NDims = 93 and 3 numbers in DimSize: expected as many"),
        (b"NDims = 3", b"NDims = 2", "has NDims = 2 and 3 numbers in DimSize"),
        (b"NDims = 3", b"NDims = 3\nNDims = 93", "has two lines NDims: expected one"),
        (b"DimSize", b"DimSiz", "has NDims = 3 and 0 numbers in DimSize"),
        (b"ElementDataFile", b"ElementDataFail", "does not end in ElementDataFile"),
        (b"9 6 4", b"9 6 5", "declares 270 bytes of pixels, but 216 were found: the file is trunc"),
        (b"9 6 4", b"9 6 900000", "declares 48600000 bytes of pixels, but its [0-9]+ bytes hold"),
        (b"= LOCAL", b"= LIST", "its compressed pixels are not in one file"),
    ],
    ids=str,
)
def test_headers_that_itk_would_believe(tmp_path, grey, old, new, message):
    """It would wait for pixels without end, or write where it must not."""
    path = tmp_path / "a.mha"
    sitk.WriteImage(sitk.GetImageFromArray(grey), str(path), True)
    data = path.read_bytes()
    assert old in data
    path.write_bytes(data.replace(old, new, 1))
    with pytest.raises(ValueError, match=rf"a.mha.*{message}"):
        open_video(path)


@pytest.mark.parametrize("size", [limits.DEFLATE_RATIO, 2**20, 2**20 + 1, 2**21 - 1])
@pytest.mark.parametrize("name", ["a.mha", "a.mhd"])
def test_compressed_pixels_are_counted_to_the_last(tmp_path, name, size):
    frames = np.zeros((2, 1, size), np.uint8)
    frames[:, :, -1] = 7
    sitk.WriteImage(sitk.GetImageFromArray(frames), str(tmp_path / name), True)
    assert_is(tmp_path / name, as_rgb(frames))


# DICOM


@pytest.fixture(scope="module")
def wheel():
    """The test files that come with pydicom."""
    path = get_testdata_file("CT_small.dcm", download=False)
    if path is None:
        pytest.skip("this pydicom ships no test files")
    return pathlib.Path(path).parent


def test_every_file_of_pydicom_is_read_or_refused(wheel):
    """As many frames and the same pixels as ``pixel_array``; a refusal is one line with the name."""
    read, refused = [], []
    for path in sorted(wheel.glob("*.dcm")):
        try:
            frames = np.array(list(open_video(path)))
        except ValueError as error:
            refused.append(path.name)
            lines = str(error).splitlines()
        else:
            read.append(path.name)
            lines = [path.name]
            dataset = pydicom.dcmread(path)
            expected = dataset.pixel_array
            assert len(frames) == len(expected) == dataset.NumberOfFrames
            if expected.dtype == np.uint8 and "YBR" not in dataset.PhotometricInterpretation:
                np.testing.assert_array_equal(frames, expected)
        assert len(lines) == 1
        assert path.name in lines[0]
    assert {"SC_rgb_rle_2frame.dcm", "examples_ybr_color.dcm", "rtdose_rle.dcm"} <= set(read)
    assert {"image_dfl.dcm", "reportsi.dcm", "JPEGLSNearLossless_08.dcm"} <= set(refused)


def test_jpeg_2000(tmp_path, colour):
    if not features.check("jpg_2000"):
        pytest.skip("this Pillow has no JPEG 2000")
    dataset = make_dicom(colour, "RGB", JPEG2000Lossless)
    parts = []
    for frame in colour:
        Image.fromarray(frame).save(tmp_path / "a.j2k", irreversible=False, mct=0)
        parts.append((tmp_path / "a.j2k").read_bytes())
    dataset.PixelData = encapsulate(parts)
    dataset["PixelData"].is_undefined_length = True
    dataset.save_as(tmp_path / "a.dcm")
    assert_is(tmp_path / "a.dcm", colour)


def test_a_deflated_file(tmp_path, grey, monkeypatch):
    path = tmp_path / "a.dcm"
    write_dicom(path, grey, "MONOCHROME2", DeflatedExplicitVRLittleEndian)
    assert_is(path, as_rgb(grey))
    monkeypatch.setattr(limits, "MAX_INFLATED_BYTES", 200)
    with pytest.raises(ValueError, match=r"a.dcm unpacks to more than 200 bytes.*: save it in ano"):
        open_video(path)


REQUIRED = [
    "Rows", "Columns", "BitsAllocated", "BitsStored", "HighBit", "PixelRepresentation",
    "SamplesPerPixel", "PhotometricInterpretation", "NumberOfFrames", "PixelData",
]  # fmt: skip


@pytest.mark.filterwarnings("ignore")  # of pydicom, about the values
@pytest.mark.parametrize("keyword", REQUIRED)
@pytest.mark.parametrize("state", ["missing", "empty"])
def test_a_dicom_without_what_it_needs(tmp_path, grey, keyword, state):
    dataset = make_dicom(grey)
    if state == "missing":
        delattr(dataset, keyword)
    else:
        setattr(dataset, keyword, b"" if keyword == "PixelData" else None)
    dataset.save_as(tmp_path / "a.dcm")
    if keyword in ("HighBit",):  # follows from the others
        assert_is(tmp_path / "a.dcm", as_rgb(grey))
        return
    with pytest.raises(ValueError, match=r"^[^\n]*a.dcm[^\n]*$"):
        list(open_video(tmp_path / "a.dcm"))


@pytest.mark.parametrize(
    "elements",
    [
        {"FrameTime": None},
        {"FrameTime": "1e-20"},
        {"FrameTime": None, "CineRate": -5},
        {"PixelSpacing": None},
        {"PixelSpacing": ["0", "1"]},
        {"PixelSpacing": ["1e-30", "1"]},
    ],
    ids=str,
)
def test_rates_and_spacings_that_cannot_be_are_unknown(tmp_path, grey, elements):
    video = open_video(write_dicom(tmp_path / "a.dcm", grey, **elements))
    assert video.spacing_mm is None
    assert video.fps is None or "FrameTime" not in elements


def test_signed_dicom_values_are_scaled(tmp_path):
    frames = np.array([[[-1000, 0]], [[1000, 0]]], np.int16)
    assert_is(
        write_dicom(tmp_path / "a.dcm", frames), as_rgb(np.array([[[0, 128]], [[255, 128]]], "u1"))
    )
    inverted = write_dicom(tmp_path / "b.dcm", frames, "MONOCHROME1")
    assert_is(inverted, as_rgb(np.array([[[255, 128]], [[0, 128]]], "u1")))


def test_nothing_of_the_patient_but_in_the_segmentation(tmp_path, colour):
    """Nor does anything in the file become the name of a result."""
    secrets = {
        "PatientName": "Doe^Jane", "PatientID": "../../escape", "PatientBirthDate": "19010203",
        "AccessionNumber": "AC-4711", "InstitutionName": "St. Elsewhere", "StudyID": "/tmp/study",
        "StudyDescription": "../Secret", "SeriesDescription": "Very secret",
    }  # fmt: skip
    path = write_dicom(tmp_path / "case.dcm", colour, "RGB", **secrets)
    mask = tmp_path / "mask.png"
    labels = np.pad(np.ones((HEIGHT - 2, WIDTH - 2), np.uint8), 1)
    Image.fromarray(labels).save(mask)
    prompted = PromptedVideo(path, mask)

    def segment(engine, batch):
        pred = (
            (frame, FrameResult(index, labels, {1: 0.9}, False))
            for index, frame in enumerate(prompted.source)
        )
        return {"image": prompted, "pred": pred}

    engine = Engine(segment)
    before = set(tmp_path.rglob("*"))
    ResultSaver(tmp_path / "out", progress=False, formats="auto,rle,mha").attach(engine)
    engine.run([0])
    made = {str(p.relative_to(tmp_path)) for p in set(tmp_path.rglob("*")) - before}
    numbered = {f"out/case/masks/{index:05d}.png" for index in range(COUNT)}
    files = ["nii.gz", "mha", "dcm", "json"]
    assert made == numbered | {"out", "out/case", "out/case/masks"} | {
        f"out/case/{name}"
        for name in (
            *[f"masks.{kind}" for kind in files],
            "overlay.mp4",
            "frames.csv",
            "summary.png",
            "manifest.json",
        )
    }
    segmentation = tmp_path / "out" / "case" / "masks.dcm"
    assert pydicom.dcmread(segmentation).PatientName == "Doe^Jane"
    for file in (tmp_path / "out").rglob("*.*"):
        data = file.read_bytes()
        data += unpacked(file, data)
        for value in secrets.values():
            assert file == segmentation or value.encode() not in data, (file, value)


def unpacked(file, data):
    if file.suffix == ".gz":
        return zlib.decompress(data, 31)
    if file.suffix == ".png":
        return repr(Image.open(file).info).encode()
    return b""


# Files and links


def test_links_are_followed_wherever_they_lead(tmp_path, colour):
    outside = write_folder(tmp_path / "outside", colour)
    (tmp_path / "frames").mkdir()
    for file in outside.iterdir():
        (tmp_path / "frames" / file.name).symlink_to(file)
    assert_is(tmp_path / "frames", colour)


def test_a_link_that_leads_nowhere(tmp_path, colour):
    folder = write_folder(tmp_path / "frames", colour)
    (folder / "2.png").unlink()
    (folder / "2.png").symlink_to(tmp_path / "gone.png")
    with pytest.raises(FileNotFoundError, match=r"no such file: .*frames/2.png"):
        open_video(folder)
    (tmp_path / "loop.avi").symlink_to(tmp_path / "loop.avi")
    with pytest.raises(FileNotFoundError, match=r"no such file or folder: .*loop.avi"):
        open_video(tmp_path / "loop.avi")


def test_a_pipe_is_not_waited_for(tmp_path, colour):
    os.mkfifo(tmp_path / "a.png")
    with pytest.raises(ValueError, match=r"a.png is not a file: expected one"):
        open_video(tmp_path / "a.png")
    video = open_video(write_folder(tmp_path / "frames", colour))
    with pytest.raises(ValueError, match=r"a.png is not a file: expected one"):
        read_annotations(tmp_path / "a.png", video)
    os.mkfifo(tmp_path / "frames" / "9.png")
    with pytest.raises(ValueError, match=r"9.png is not a file: expected one"):
        open_video(tmp_path / "frames")
    Image.fromarray(colour[0]).save(tmp_path / "frames_mask.png")
    (tmp_path / "frames" / "9.png").unlink()
    (tmp_path / "a.png").unlink()
    os.mkfifo(tmp_path / "pipe")
    (item,) = list_inputs(None, None, str(tmp_path))
    assert item["image"] == tmp_path / "frames"


@pytest.mark.parametrize("name", ["a.avi", "a.nii", "a.mha", "a.dcm", "a"])
def test_what_may_not_be_read(colour, name):
    with tempfile.TemporaryDirectory() as folder, as_anybody(folder):
        path = pathlib.Path(folder, name)
        WRITERS[name](path, colour)
        victim = path / "2.png" if name == "a" else path
        victim.chmod(0)
        with pytest.raises((ValueError, PermissionError), match="Permission denied") as caught:
            list(open_video(path))
        assert str(victim) in str(caught.value)


@contextmanager
def as_anybody(folder):
    """To root, nothing is unreadable."""
    user = os.geteuid()
    if user == 0:
        os.chown(folder, 65534, -1)
        os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(user)


def test_a_damaged_picture_in_the_middle_is_named_once(tmp_path, colour):
    folder = write_folder(tmp_path / "frames", colour)
    (folder / "2.png").write_bytes((folder / "2.png").read_bytes()[:60])
    with pytest.raises(
        ValueError,
        match=r"^cannot read frame 2 of 4 of .*frames: cannot read .*/2.png as an image: "
        r"[^()]*\(a truncated or damaged file\?\)$",
    ):
        list(open_video(folder))


@pytest.mark.parametrize("cell", ["x" * 200_000, '"' + "\n" * 140_000], ids=["long", "open"])
def test_a_list_that_is_no_table(tmp_path, cell):
    (tmp_path / "list.csv").write_text(f"video,mask\n{cell},b\n")
    with pytest.raises(ValueError, match=r"list.csv is not a table in UTF-8 \(field larger"):
        list_inputs(None, None, str(tmp_path / "list.csv"))
