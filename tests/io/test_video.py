"""Every kind of video against the pixels it was made of, and one test per error message."""

import gzip
import itertools
import logging
import pickle
import struct

import av
import nibabel as nib
import numpy as np
import pydicom
import pytest
import SimpleITK as sitk
from PIL import Image
from pydicom.data import get_testdata_file
from pydicom.dataset import Dataset

from bundle.io.reading import dicom as dicom_module
from bundle.io.reading import video as video_module
from bundle.io.reading import video_file
from bundle.io.reading.decode import natural_key
from bundle.io.reading.masks import read_annotations
from bundle.io.reading.video import open_video
from tests.dicom_files import new_cine, put_pixels

COUNT, HEIGHT, WIDTH = 12, 24, 40


@pytest.fixture
def colour():
    """(T, H, W, 3) uint8, no symmetry anywhere."""
    return np.random.default_rng(0).integers(0, 256, (COUNT, HEIGHT, WIDTH, 3), dtype=np.uint8)


@pytest.fixture
def grey(colour):
    """(T, H, W) uint8."""
    return colour[..., 0]


@pytest.fixture
def folder(tmp_path, colour):
    """The colour video as a folder of frames, each ``<number>.png`` without leading zeros."""
    path = tmp_path / "frames"
    path.mkdir()
    for index, frame in enumerate(colour):
        Image.fromarray(frame).save(path / f"{index}.png")
    return path


@pytest.fixture(scope="module")
def echo():
    """A real cine of the pydicom wheel: 30 frames of 240x320, JPEG, 33.3 ms a frame."""
    path = get_testdata_file("examples_ybr_color.dcm", download=False)
    if path is None:
        pytest.skip("this pydicom ships no examples_ybr_color.dcm")
    return path


def write_video(path, frames, codec, pixel_format, container_options=None):
    lossless = {"qp": "0"} if codec == "libx264rgb" else {}
    with av.open(str(path), "w", options=container_options or {}) as container:
        stream = container.add_stream(codec, rate=25, options=lossless)
        stream.height, stream.width = frames.shape[1:3]
        stream.pix_fmt = pixel_format
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode())
    return path


def write_nifti(path, array_xyt, zooms=(), units=(None, None), affine=None):
    image = nib.Nifti1Image(array_xyt, affine)
    if zooms:
        image.header.set_zooms(zooms)
    image.header.set_xyzt_units(*units)
    nib.save(image, path)
    return path


def write_meta(path, array_tyx, is_vector=False, compress=False):
    sitk.WriteImage(sitk.GetImageFromArray(array_tyx, isVector=is_vector), str(path), compress)
    return path


def write_dicom(path, frames, photometric="MONOCHROME2", count=None, **elements):
    """Frames (T, H, W[, 3]), uncompressed; elements by keyword."""
    dataset = new_cine((count or len(frames), *frames.shape[1:]), 8 * frames.dtype.itemsize)
    dataset.PhotometricInterpretation = photometric
    for name, value in elements.items():
        setattr(dataset, name, value)
    put_pixels(dataset, frames)
    dataset.save_as(path)
    return path


def ultrasound_region(x1, y1, delta=0.05, units=3):
    region = Dataset()
    region.RegionLocationMinX0 = region.RegionLocationMinY0 = 0
    region.RegionLocationMaxX1, region.RegionLocationMaxY1 = x1, y1
    region.PhysicalUnitsXDirection = region.PhysicalUnitsYDirection = units
    region.PhysicalDeltaX, region.PhysicalDeltaY = delta, 2 * delta
    return [region]


def as_rgb(grey):
    return np.repeat(grey[..., None], 3, axis=-1)


def assert_is(path, expected):
    """The video at ``path`` holds exactly these (T, H, W, 3) frames, on each pass."""
    video = open_video(path)
    assert (video.frame_count, video.height, video.width, 3) == expected.shape
    for _ in range(2):
        frames = list(video)
        assert all(frame.dtype == np.uint8 for frame in frames)
        np.testing.assert_array_equal(frames, expected)
    np.testing.assert_array_equal(list(video.frames([1, 4, 5])), expected[[1, 4, 5]])


# Video files


@pytest.mark.parametrize(
    ("name", "codec", "pixel_format"),
    [
        ("a.avi", "ffv1", "bgr0"),
        ("a.avi", "rawvideo", "bgr24"),
        ("a.mkv", "ffv1", "bgr0"),
        ("a.MOV", "png", "rgb24"),
        ("a.mp4", "libx264rgb", "rgb24"),
    ],
)
def test_lossless_video_files(tmp_path, colour, name, codec, pixel_format):
    if codec not in av.codecs_available:
        pytest.skip(f"this FFmpeg has no {codec}")
    assert_is(write_video(tmp_path / name, colour, codec, pixel_format), colour)
    video = open_video(tmp_path / name)
    assert (video.name, video.fps, video.spacing_mm) == ("a", pytest.approx(25), None)


def test_gif(tmp_path):
    flat = np.zeros((COUNT, HEIGHT, WIDTH, 3), np.uint8)
    for index in range(COUNT):
        flat[index, index:, 3:] = (255, 0, 0)
    first, *others = [Image.fromarray(frame).quantize(2) for frame in flat]
    first.save(tmp_path / "a.gif", save_all=True, append_images=others, duration=100)
    assert_is(tmp_path / "a.gif", flat)
    assert open_video(tmp_path / "a.gif").fps == pytest.approx(10)


@pytest.mark.parametrize(
    ("name", "codec"), [("a.wmv", "wmv2"), ("a.mp4", "mpeg4"), ("a.avi", "mjpeg")]
)
def test_lossy_video_files(tmp_path, name, codec):
    smooth = np.zeros((COUNT, 48, 64, 3), np.uint8)
    smooth[...] = np.linspace(40, 200, 64)[None, None, :, None]
    smooth[:, :20] //= 2
    pixel_format = "yuvj420p" if codec == "mjpeg" else "yuv420p"
    video = open_video(write_video(tmp_path / name, smooth, codec, pixel_format))
    assert video.frame_count == COUNT
    assert np.abs(np.array(list(video)).astype(int) - smooth).mean() < 6


def test_a_rotation_in_the_container_is_honoured(tmp_path, colour):
    path = write_video(tmp_path / "phone.mov", colour, "png", "rgb24")
    data = bytearray(path.read_bytes())
    matrix = data.index(b"tkhd") + 4 + 40
    clockwise = struct.pack(">9i", 0, 1 << 16, 0, -(1 << 16), 0, 0, 0, 0, 1 << 30)
    data[matrix : matrix + 36] = clockwise
    path.write_bytes(data)
    assert_is(path, np.rot90(colour, -1, axes=(1, 2)))


def test_a_name_that_looks_like_a_protocol(tmp_path, colour, monkeypatch):
    write_video(tmp_path / "a.avi", colour, "ffv1", "bgr0").rename(tmp_path / "2:b.avi")
    monkeypatch.chdir(tmp_path)
    assert open_video("2:b.avi").name == "2:b"


def test_video_files_decode_no_further_than_asked(tmp_path, colour, monkeypatch):
    video = open_video(write_video(tmp_path / "a.avi", colour, "ffv1", "bgr0"))
    decoded = []
    decode = video_file.decode

    def counting(path):
        for frame in decode(path):
            decoded.append(frame)
            yield frame

    monkeypatch.setattr(video_file, "decode", counting)
    assert len(list(itertools.islice(video, 3))) == 3
    assert len(decoded) == 3


# Folders


def test_folder_in_natural_order_without_foreign_files(folder, colour):
    (folder / ".hidden.png").write_bytes(b"")
    (folder / "notes.txt").write_text("")
    (folder / "3.png").rename(folder / "3.PNG")
    assert_is(folder, colour)
    video = open_video(str(folder))
    assert (video.name, video.fps, video.spacing_mm) == ("frames", None, None)


def test_folder_reads_only_what_is_asked_for(folder, monkeypatch):
    opened = []
    read = video_module.read_pixels
    monkeypatch.setattr(video_module, "read_pixels", lambda path: opened.append(path) or read(path))
    video = open_video(folder)
    next(iter(video))
    assert {path.name for path in opened} == {"0.png"}


def test_sixteen_bit_frames_share_one_scale(tmp_path):
    for index, level in enumerate((0, 1000, 2000)):
        Image.fromarray(np.full((8, 9), level, np.uint16)).save(tmp_path / f"{index}.png")
    assert [int(frame.max()) for frame in open_video(tmp_path)] == [0, 128, 255]


def test_natural_key_orders_numbers_by_value():
    names = ["b1", "a10", "A2", "a2b10", "a2b9", "007", "7"]
    assert sorted(names, key=natural_key) == ["007", "7", "A2", "a2b9", "a2b10", "a10", "b1"]


# NIfTI and MetaImage


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
@pytest.mark.parametrize("slab", [False, True])
def test_nifti_grey(tmp_path, grey, suffix, slab):
    array = grey.T[:, :, None] if slab else grey.T
    path = write_nifti(tmp_path / f"patient.1{suffix}", array)
    assert_is(path, as_rgb(grey))
    video = open_video(path)
    assert video.name == "patient.1"
    assert video.geometry.shape == array.shape


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
@pytest.mark.parametrize("layout", ["xytc", "xy1tc", "xyt1c", "rgb24", "rgb24 slab"])
def test_nifti_colour(tmp_path, colour, suffix, layout):
    planes = colour.transpose(2, 1, 0, 3)
    voxel = np.dtype([("R", "u1"), ("G", "u1"), ("B", "u1")])
    packed = np.ascontiguousarray(planes).view(voxel)[..., 0]
    array, shape = {
        "xytc": (planes, (WIDTH, HEIGHT, COUNT)),
        "xy1tc": (planes[:, :, None], (WIDTH, HEIGHT, 1, COUNT)),
        "xyt1c": (planes[:, :, :, None], (WIDTH, HEIGHT, COUNT)),
        "rgb24": (packed, (WIDTH, HEIGHT, COUNT)),
        "rgb24 slab": (packed[:, :, None], (WIDTH, HEIGHT, 1, COUNT)),
    }[layout]
    path = write_nifti(tmp_path / f"a{suffix}", array)
    assert_is(path, colour)
    assert open_video(path).geometry.shape == shape


def test_gzipped_nifti_is_unpacked_once_per_pass(tmp_path, colour, monkeypatch):
    path = write_nifti(tmp_path / "a.nii.gz", colour.transpose(2, 1, 0, 3))
    video = open_video(path)
    back = []
    rewind = gzip._GzipReader._rewind
    monkeypatch.setattr(gzip._GzipReader, "_rewind", lambda self: back.append(1) or rewind(self))
    assert len(list(video)) == COUNT
    assert len(back) <= 3  # at most once per colour plane, however many frames


@pytest.mark.parametrize("suffix", [".mha", ".mhd"])
@pytest.mark.parametrize("compress", [False, True])
def test_metaimage_grey(tmp_path, grey, suffix, compress, monkeypatch):
    monkeypatch.setattr("bundle.io.reading.volumes.BLOCK_BYTES", 5 * HEIGHT * WIDTH)
    assert_is(write_meta(tmp_path / f"a{suffix}", grey, compress=compress), as_rgb(grey))


def test_metaimage_slab_and_colour(tmp_path, grey, colour, monkeypatch):
    monkeypatch.setattr("bundle.io.reading.volumes.BLOCK_BYTES", 5 * HEIGHT * WIDTH * 3)
    slab = write_meta(tmp_path / "a.mha", grey[:, None])
    assert_is(slab, as_rgb(grey))
    assert open_video(slab).geometry.shape == (WIDTH, HEIGHT, 1, COUNT)
    assert_is(write_meta(tmp_path / "b.mha", colour, is_vector=True), colour)
    slab = write_meta(tmp_path / "c.mha", colour[:, None], is_vector=True)
    assert_is(slab, colour)
    assert open_video(slab).geometry.shape == (WIDTH, HEIGHT, 1, COUNT)


def test_metaimage_reads_one_block_at_a_time(tmp_path, grey, monkeypatch):
    monkeypatch.setattr("bundle.io.reading.volumes.BLOCK_BYTES", 5 * HEIGHT * WIDTH)
    video = open_video(write_meta(tmp_path / "a.mha", grey))
    sizes = []
    convert = sitk.GetArrayFromImage
    monkeypatch.setattr(
        sitk, "GetArrayFromImage", lambda image: sizes.append(image.GetSize()[2]) or convert(image)
    )
    next(iter(video))
    assert sizes == [5]
    list(video)
    assert sizes == [5, 5, 5, 2]


def test_one_file_through_nibabel_and_simpleitk_is_one_video(tmp_path, grey):
    nifti = write_nifti(tmp_path / "a.nii", grey.T, affine=np.diag([-0.5, -0.25, 2, 1]))
    image = sitk.ReadImage(str(nifti))
    sitk.WriteImage(image, str(tmp_path / "a.mha"))
    first, second = open_video(nifti), open_video(tmp_path / "a.mha")
    np.testing.assert_array_equal(list(first), list(second))
    np.testing.assert_allclose(first.geometry.affine, second.geometry.affine)


def test_wide_values_are_scaled_once_for_the_whole_video(tmp_path):
    # 31 frames of one level each; the sampled ones hold both ends.
    levels = np.linspace(-300, 3000, 31)
    array = np.broadcast_to(levels, (4, 5, 31)).astype(np.float32)
    video = open_video(write_nifti(tmp_path / "a.nii", array))
    expected = np.rint((levels + 300) * 255 / 3300)
    np.testing.assert_array_equal([frame.max() for frame in video], expected)


def test_only_some_frames_are_sampled_for_the_scale(tmp_path):
    array = np.zeros((2, 2, 101), np.int16)
    array[..., -1] = 1000
    array[..., 1] = 5000  # lies between the 16 samples: clipped
    video = open_video(write_nifti(tmp_path / "a.nii", array))
    assert [int(frame.max()) for frame in video.frames([0, 1, 100])] == [0, 255, 255]


def test_nan_becomes_black_without_a_warning(tmp_path):
    array = np.full((4, 5, 3), np.nan, np.float32)
    array[..., 1:] = [300.0, 600.0]
    assert [f.max() for f in open_video(write_nifti(tmp_path / "a.nii", array))] == [0, 0, 255]


# DICOM


def test_the_real_echo(echo):
    video = open_video(echo)
    assert (video.frame_count, video.height, video.width) == (30, 240, 320)
    assert video.fps == pytest.approx(30, abs=0.01)
    assert video.spacing_mm is None  # its region belongs to a larger picture
    frames = list(video)
    assert len(frames) == 30
    assert frames[0].shape == (240, 320, 3)
    np.testing.assert_array_equal(frames[7], pydicom.dcmread(echo).pixel_array[7])
    np.testing.assert_array_equal(next(video.frames([7])), frames[7])
    assert video.geometry.shape == (320, 240, 30)


def test_dicom_is_known_by_its_content(tmp_path, grey, colour):
    assert_is(write_dicom(tmp_path / "1.2.840", grey), as_rgb(grey))
    assert open_video(tmp_path / "1.2.840").name == "1.2.840"
    assert_is(write_dicom(tmp_path / "a.avi", colour, "RGB"), colour)


@pytest.mark.parametrize("lazy", [True, False])
def test_dicom_with_either_pydicom(tmp_path, grey, colour, lazy, monkeypatch):
    if not lazy:
        monkeypatch.delattr(dicom_module.dicom_pixels, "iter_pixels", raising=False)
    assert_is(write_dicom(tmp_path / "rgb", colour, "RGB"), colour)
    assert_is(write_dicom(tmp_path / "inverted", grey, "MONOCHROME1"), as_rgb(255 - grey))


def test_dicom_of_more_than_8_bits_is_scaled_by_its_range(tmp_path):
    frames = np.array([[[100, 1100]], [[2100, 100]]], np.uint16)
    video = open_video(write_dicom(tmp_path / "a.dcm", frames))
    np.testing.assert_array_equal([frame[..., 0] for frame in video], [[[0, 128]], [[255, 0]]])
    inverted = open_video(write_dicom(tmp_path / "b.dcm", frames, "MONOCHROME1"))
    np.testing.assert_array_equal([f[..., 0] for f in inverted], [[[255, 128]], [[0, 255]]])


def test_dicom_palette_becomes_colours(tmp_path):
    indices = np.array([[[0, 1, 2, 3]], [[3, 2, 1, 0]]], np.uint8)
    table = {"Red": [0, 10, 255, 1], "Green": [5, 20, 0, 1], "Blue": [9, 30, 7, 2]}
    elements = {}
    for name, values in table.items():
        elements[f"{name}PaletteColorLookupTableDescriptor"] = [4, 0, 8]
        elements[f"{name}PaletteColorLookupTableData"] = bytes(values)
    path = write_dicom(tmp_path / "a.dcm", indices, "PALETTE COLOR", **elements)
    colours = np.array([[0, 5, 9], [10, 20, 30], [255, 0, 7], [1, 1, 2]])
    np.testing.assert_array_equal(list(open_video(path)), colours[indices])


def test_dicom_decodes_frame_by_frame(echo, monkeypatch):
    decoded = []
    iter_pixels = dicom_module.dicom_pixels.iter_pixels

    def counting(*args, **kwargs):
        for pixels in iter_pixels(*args, **kwargs):
            decoded.append(1)
            yield pixels

    monkeypatch.setattr(dicom_module.dicom_pixels, "iter_pixels", counting)
    next(iter(open_video(echo)))
    assert len(decoded) == 1


@pytest.mark.parametrize(
    ("elements", "fps"),
    [
        ({"FrameTime": 40, "CineRate": 10}, 25),
        ({"CineRate": 10}, 10),
        ({"RecommendedDisplayFrameRate": 15}, 15),
        ({"FrameTime": 0}, None),
    ],
)
def test_dicom_frame_rate(tmp_path, grey, elements, fps):
    assert open_video(write_dicom(tmp_path / "a.dcm", grey, **elements)).fps == fps


# Spacing and geometry


@pytest.mark.parametrize(
    ("elements", "spacing"),
    [
        ({"SequenceOfUltrasoundRegions": ultrasound_region(39, 23)}, (1.0, 0.5)),
        ({"SequenceOfUltrasoundRegions": ultrasound_region(40, 23)}, None),
        ({"SequenceOfUltrasoundRegions": ultrasound_region(39, 24)}, None),
        ({"SequenceOfUltrasoundRegions": ultrasound_region(39, 23, units=4)}, None),
        (
            {"SequenceOfUltrasoundRegions": ultrasound_region(40, 23), "PixelSpacing": [2, 3]},
            (2, 3),
        ),
        ({"PixelSpacing": [2, 3]}, (2, 3)),
        ({}, None),
    ],
)
def test_dicom_spacing(tmp_path, grey, elements, spacing):
    video = open_video(write_dicom(tmp_path / "a.dcm", grey, **elements))
    assert video.spacing_mm == (pytest.approx(spacing) if spacing else None)
    row, column = spacing or (1, 1)
    np.testing.assert_allclose(video.geometry.affine, np.diag([-column, -row, 1, 1]))


@pytest.mark.parametrize(
    ("units", "spacing"),
    [
        (("mm", "sec"), (0.25, 0.5)),
        (("micron", None), (0.25e-3, 0.5e-3)),
        (("meter", None), (250, 500)),
        ((None, "sec"), None),
    ],
)
def test_nifti_spacing(tmp_path, grey, units, spacing):
    path = write_nifti(tmp_path / "a.nii", grey.T, (0.5, 0.25, 1), units)
    video = open_video(path)
    assert video.spacing_mm == (pytest.approx(spacing) if spacing else None)
    assert video.fps is None  # a third axis is space to NIfTI


@pytest.mark.parametrize(
    ("units", "zoom", "fps"),
    [("sec", 0.04, 25), ("msec", 40, 25), (None, 0.04, None), ("sec", 0, None), ("hz", 2, None)],
)
def test_nifti_frame_rate(tmp_path, grey, units, zoom, fps):
    path = write_nifti(tmp_path / "a.nii", grey.T[:, :, None], (1, 1, 1, zoom), ("mm", units))
    assert open_video(path).fps == (pytest.approx(fps) if fps else None)


def test_nifti_geometry_is_the_sources_own(tmp_path, grey):
    affine = np.array([[0, -0.5, 0, 3], [0.25, 0, 0, 4], [0, 0, 2, 5], [0, 0, 0, 1.0]])
    path = write_nifti(tmp_path / "a.nii", grey.T, units=("mm", "sec"), affine=affine)
    geometry = open_video(path).geometry
    np.testing.assert_allclose(geometry.affine, affine)
    assert geometry.header["sform_code"] == nib.load(path).header["sform_code"]
    assert geometry.header.get_xyzt_units() == ("mm", "sec")


def test_metaimage_geometry_and_spacing(tmp_path, grey):
    image = sitk.GetImageFromArray(grey)
    image.SetSpacing((0.5, 0.25, 2))
    image.SetOrigin((3, 4, 5))
    image.SetDirection((0, 1, 0, -1, 0, 0, 0, 0, 1))
    sitk.WriteImage(image, str(tmp_path / "a.mha"))
    sitk.WriteImage(image, str(tmp_path / "a.nii"))
    video = open_video(tmp_path / "a.mha")
    assert video.spacing_mm == (0.25, 0.5)
    affine = nib.load(tmp_path / "a.nii").affine  # ITK's own way from LPS to RAS
    np.testing.assert_allclose(video.geometry.affine, affine, atol=1e-6)


def test_metaimage_without_declared_spacing(tmp_path, grey):
    path = write_meta(tmp_path / "a.mhd", grey)
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join(line for line in lines if not line.startswith("ElementSpacing")))
    assert open_video(path).spacing_mm is None
    assert_is(path, as_rgb(grey))


def test_geometry_of_a_video_file(tmp_path, colour):
    geometry = open_video(write_video(tmp_path / "a.avi", colour, "ffv1", "bgr0")).geometry
    assert geometry.shape == (WIDTH, HEIGHT, COUNT)
    np.testing.assert_array_equal(geometry.affine, np.diag([-1, -1, 1, 1]))
    assert geometry.header is None


def test_a_source_can_be_sent_to_a_worker(tmp_path, folder, grey, colour):
    paths = [
        folder,
        write_nifti(tmp_path / "a.nii.gz", grey.T),
        write_meta(tmp_path / "a.mha", grey),
        write_dicom(tmp_path / "a.dcm", grey),
        write_video(tmp_path / "a.avi", colour, "ffv1", "bgr0"),
    ]
    for path in paths:
        copy = pickle.loads(pickle.dumps(open_video(path)))
        np.testing.assert_array_equal(next(iter(copy)), next(iter(open_video(path))))


# Annotations


def square(*labels):
    """(H, W) with one 5x5 square per label."""
    mask = np.zeros((HEIGHT, WIDTH), np.uint8)
    for place, label in enumerate(labels):
        mask[3:8, 8 * place + 2 : 8 * place + 7] = label
    return mask


@pytest.fixture
def video(folder):
    return open_video(folder)


@pytest.mark.parametrize("name", ["mask.png", "mask.nii.gz", "mask.mha", "slab.nii"])
def test_one_mask_annotates_the_first_frame(tmp_path, video, name):
    path = tmp_path / name
    labels = square(1, 2)
    if name.endswith(".png"):
        Image.fromarray(labels).save(path)
    elif name.endswith(".mha"):
        write_meta(path, labels)
    else:
        write_nifti(path, labels.T[:, :, None] if name == "slab.nii" else labels.T)
    annotations = read_annotations(str(path), video)
    assert list(annotations) == [0]
    np.testing.assert_array_equal(annotations[0], labels)


@pytest.mark.parametrize("name", ["a.nii", "slab.nii.gz", "a.mha", "folder"])
def test_non_empty_frames_of_a_volume_are_annotations(tmp_path, video, name):
    volume = np.zeros((COUNT, HEIGHT, WIDTH), np.uint8)
    volume[2], volume[10] = square(255), square(3, 7)
    path = tmp_path / name
    if name == "folder":
        path.mkdir()
        for index, labels in enumerate(volume):
            Image.fromarray(labels).save(path / f"{index}.png")
    elif name == "a.mha":
        write_meta(path, volume)
    else:
        write_nifti(path, volume.T[:, :, None] if "slab" in name else volume.T)
    annotations = read_annotations(path, video)
    assert list(annotations) == [2, 10]
    np.testing.assert_array_equal(annotations[2], square(255))  # as another frame has other ids
    np.testing.assert_array_equal(annotations[10], square(3, 7))


def test_float_volumes_keep_their_ids(tmp_path, video):
    volume = np.stack([square(3, 9)] * COUNT).astype(np.float64)
    annotations = read_annotations(write_nifti(tmp_path / "a.nii", volume.T), video)
    np.testing.assert_array_equal(annotations[5], square(3, 9))


# What is refused


def test_missing_video(tmp_path):
    with pytest.raises(
        FileNotFoundError, match=r"no such file or folder: .*gone.avi; expected a v"
    ):
        open_video(tmp_path / "gone.avi")


@pytest.mark.parametrize("content", [b"", bytes(range(256)) * 9])
def test_no_video(tmp_path, content):
    (tmp_path / "a.avi").write_bytes(content)
    with pytest.raises(
        ValueError, match=r"cannot open .*a.avi as a video \(.*\): expected a video f"
    ):
        open_video(tmp_path / "a.avi")


def test_a_text_is_not_a_video(tmp_path):
    (tmp_path / "notes.txt").write_text("hello\n" * 99)
    with pytest.raises(
        ValueError, match=r"notes.txt is a text file, not a video: expected a video f"
    ):
        open_video(tmp_path / "notes.txt")


def test_audio_only(tmp_path):
    with av.open(str(tmp_path / "a.wav"), "w") as container:
        stream = container.add_stream("pcm_s16le", rate=8000, layout="mono")
        sound = av.AudioFrame.from_ndarray(np.zeros((1, 800), np.int16), "s16", "mono")
        sound.sample_rate = 8000
        container.mux(stream.encode(sound))
    with pytest.raises(ValueError, match=r"a.wav as a video \(it has no pictures\)"):
        open_video(tmp_path / "a.wav")


def test_empty_folder(tmp_path):
    with pytest.raises(ValueError, match=r"holds no frames: expected .png, "):
        open_video(tmp_path)


@pytest.mark.parametrize("name", ["a.png", "a.webp", "a.nii", "a.mha", "a.dcm"])
def test_a_still_image_is_not_a_video(tmp_path, grey, name):
    path = tmp_path / name
    if name == "a.nii":
        write_nifti(path, grey[0].T)
    elif name == "a.mha":
        write_meta(path, grey[0])
    elif name == "a.dcm":
        write_dicom(path, grey[:1])
    else:
        Image.fromarray(grey[0]).save(path)
    with pytest.raises(ValueError, match="is a single image: expected a video or a folder"):
        open_video(path)


def test_a_video_without_frames(tmp_path):
    with av.open(str(tmp_path / "a.avi"), "w") as container:
        stream = container.add_stream("ffv1", rate=25)
        stream.height, stream.width, stream.pix_fmt = HEIGHT, WIDTH, "bgr0"
        container.start_encoding()
    with pytest.raises(ValueError, match=r"a.avi holds no frames: the file is empty or truncated"):
        open_video(tmp_path / "a.avi")


def test_dicom_without_pictures(tmp_path, grey):
    path = write_dicom(tmp_path / "a.dcm", grey)
    dataset = pydicom.dcmread(path)
    del dataset.Rows, dataset.Columns, dataset.PixelData
    dataset.save_as(path)
    with pytest.raises(ValueError, match=r"a.dcm is a DICOM file without pictures"):
        open_video(path)


@pytest.mark.parametrize("name", ["a.nii", "a.mha"])
def test_a_stack_of_slices_over_time_is_not_a_video(tmp_path, name):
    array = np.zeros((4, 5, 6, 7), np.uint8)
    write = write_nifti if name == "a.nii" else write_meta
    with pytest.raises(ValueError, match=r"has shape \(\d, \d, \d, \d\): expected one slice"):
        open_video(write(tmp_path / name, array))


def test_metaimage_of_two_channels(tmp_path, colour):
    path = write_meta(tmp_path / "a.mha", colour[..., :2], is_vector=True)
    with pytest.raises(ValueError, match="has 2 channels: expected 1"):
        open_video(path)


@pytest.mark.parametrize("name", ["a.nii", "a.nii.gz", "a.mha"])
def test_a_file_of_another_kind_under_a_known_suffix(tmp_path, name):
    (tmp_path / name).write_bytes(b"no header at all" * 100)
    with pytest.raises(ValueError, match=f"cannot open .*{name}[^\n]*$"):
        open_video(tmp_path / name)


def test_frames_of_two_sizes(folder):
    Image.fromarray(np.zeros((7, 9), np.uint8)).save(folder / "4.png")
    with pytest.raises(ValueError, match=r"frame 4 of .*frames is 9x7 but the first is 40x24"):
        list(open_video(folder))


@pytest.mark.parametrize("indices", [[3, 2], [1, 1], [-1], [COUNT]])
def test_indices_must_rise(video, indices):
    with pytest.raises(ValueError, match=r"must rise within 0..11, got \["):
        list(video.frames(indices))


@pytest.mark.parametrize(
    ("name", "codec", "pixel_format"),
    [("a.avi", "ffv1", "bgr0"), ("a.avi", "mjpeg", "yuvj420p"), ("a.mp4", "libx264", "yuv420p")],
)
def test_a_truncated_video_file_names_the_frame_reached(
    tmp_path, colour, name, codec, pixel_format
):
    if codec not in av.codecs_available:
        pytest.skip(f"this FFmpeg has no {codec}")
    front = {"movflags": "faststart"} if name.endswith("mp4") else {}  # the index comes first
    path = write_video(tmp_path / name, colour, codec, pixel_format, front)
    data = path.read_bytes()
    path.write_bytes(data[: len(data) * 6 // 10])
    with pytest.raises(ValueError, match=rf"{name} breaks off at frame [1-9].*truncated"):
        open_video(path)


def test_a_header_that_promises_too_much_is_logged(tmp_path, colour, caplog):
    path = write_video(tmp_path / "a.avi", colour, "ffv1", "bgr0")
    data = bytearray(path.read_bytes())
    length = data.index(b"strh") + 8 + 32
    assert struct.unpack_from("<I", data, length) == (COUNT,)
    struct.pack_into("<I", data, length, COUNT + 3)
    path.write_bytes(data)
    with caplog.at_level(logging.WARNING):
        assert open_video(path).frame_count == COUNT
    assert "declares 15 frames but holds 12" in caplog.text


@pytest.mark.parametrize("kind", ["nii", "nii.gz", "mha", "dcm", "png"])
def test_other_truncated_sources_name_the_frame_reached(tmp_path, folder, grey, kind, monkeypatch):
    monkeypatch.setattr("bundle.io.reading.volumes.BLOCK_BYTES", 1)
    path = tmp_path / f"a.{kind}"
    if kind.startswith("nii"):
        write_nifti(path, grey.T)
    elif kind == "mha":
        write_meta(path, grey)
    elif kind == "dcm":
        write_dicom(path, grey)
    victim = folder / "6.png" if kind == "png" else path
    data = victim.read_bytes()
    victim.write_bytes(data[: len(data) * 6 // 10])
    video = open_video(folder if kind == "png" else path)
    with pytest.raises(ValueError, match=r"cannot read frame [67] of 12 of [^\n]*truncated[^\n]*$"):
        list(video)


def test_a_reader_that_ends_early_names_the_frame(video):
    short = video_module.VideoSource(
        **{**video.__dict__, "read": lambda indices: iter([np.zeros((HEIGHT, WIDTH), np.uint8)])}
    )
    with pytest.raises(ValueError, match="frames ends at frame 1 of 12: the file is truncated"):
        list(short)


def test_missing_mask(tmp_path, video):
    with pytest.raises(FileNotFoundError, match=r"no such mask: .*mask.png"):
        read_annotations(tmp_path / "mask.png", video)


def test_mask_of_another_size(tmp_path, video):
    Image.fromarray(np.ones((9, 7), np.uint8)).save(tmp_path / "mask.png")
    with pytest.raises(
        ValueError, match=r"mask.png is 7x9 but .*frames is 40x24: export the mask at the video's"
    ):
        read_annotations(tmp_path / "mask.png", video)


def test_empty_mask(tmp_path, video):
    Image.fromarray(square(0)).save(tmp_path / "mask.png")
    with pytest.raises(ValueError, match=r"mask.png is empty: expected the object painted"):
        read_annotations(tmp_path / "mask.png", video)


def test_mask_volume_with_another_number_of_frames(tmp_path, video):
    path = write_nifti(tmp_path / "mask.nii", np.stack([square(1)] * 5).T)
    with pytest.raises(ValueError, match=r"mask.nii holds 5 masks but .* has 12 frames: expected"):
        read_annotations(path, video)


def mask_folder(folder, *names):
    folder.mkdir()
    for label, name in enumerate(names, start=1):
        Image.fromarray(square(label)).save(folder / f"{name}.png")
    return folder


def test_masks_of_a_folder_belong_to_the_frames_of_their_names(tmp_path, video):
    found = read_annotations(mask_folder(tmp_path / "masks", "10", "2"), video)
    assert {index: labels.max() for index, labels in found.items()} == {10: 1, 2: 2}


def test_masks_of_a_video_file_are_numbered_from_0(tmp_path, colour):
    file = open_video(write_video(tmp_path / "a.avi", colour, "ffv1", "bgr0"))
    found = read_annotations(mask_folder(tmp_path / "masks", "mask_000", "mask_007"), file)
    assert {index: labels.max() for index, labels in found.items()} == {0: 1, 7: 2}


def test_a_mask_of_a_folder_that_fits_no_frame(tmp_path, video):
    with pytest.raises(ValueError, match=r"30.png belongs to no frame: .*masks holds 2 masks and"):
        read_annotations(mask_folder(tmp_path / "masks", "3", "30"), video)


def test_colour_volume_is_not_a_mask(tmp_path, video, colour):
    path = write_meta(tmp_path / "mask.mha", colour, is_vector=True)
    with pytest.raises(ValueError, match=r"mask.mha holds colours: expected label numbers"):
        read_annotations(path, video)
