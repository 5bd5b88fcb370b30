"""Files of every kind with bytes cut off or changed: frames come out, or one line that names the file.

TCMN_FUZZ_EXAMPLES sets how many damaged copies there are of each file (the same ones in each run).
"""

import io
import os
import tempfile
import warnings
import zlib
from collections import Counter
from functools import cache
from pathlib import Path

import av
import nibabel as nib
import nrrd
import numpy as np
import pytest
import SimpleITK as sitk
import tifffile
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image
from pydicom.encaps import encapsulate
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRLittleEndian,
    JPEGBaseline8Bit,
    RLELossless,
)

from bundle.io.reading.masks import read_annotations
from bundle.io.reading.video import open_video
from tests.dicom_files import new_cine, put_pixels

# In use a library's warning is printed, so here it must not become the error that is looked for.
pytestmark = [pytest.mark.heavy, pytest.mark.filterwarnings("default")]

EXAMPLES = int(os.environ.get("TCMN_FUZZ_EXAMPLES", "60"))
COUNT, HEIGHT, WIDTH = 4, 18, 26
# One object that fills most of the frame.
LABELS = np.pad(np.ones((HEIGHT - 6, WIDTH - 6), np.uint8), 3)


def colour():
    """(T, H, W, 3) uint8."""
    return np.random.default_rng(0).integers(0, 256, (COUNT, HEIGHT, WIDTH, 3), np.uint8)


def write_video(path, codec, pixel_format):
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=25)
        stream.height, stream.width, stream.pix_fmt = HEIGHT, WIDTH, pixel_format
        for frame in colour():
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode())


def write_gif(path):
    first, *others = [Image.fromarray(frame).quantize(16) for frame in colour()]
    first.save(path, save_all=True, append_images=others, duration=40)


def write_nifti(path, dtype=np.uint8):
    nib.save(nib.Nifti1Image(colour()[..., 0].T.astype(dtype), np.eye(4)), path)


def write_meta(path, compress=False):
    sitk.WriteImage(sitk.GetImageFromArray(colour()[..., 0]), str(path), compress)


def write_dicom(path, syntax=ExplicitVRLittleEndian):
    frames = colour()
    dataset = new_cine(frames.shape, syntax=syntax)
    dataset.FrameTime = 40
    if syntax == JPEGBaseline8Bit:
        dataset.PhotometricInterpretation = "YBR_FULL"
        dataset.PixelData = encapsulate([still(frame, "jpeg") for frame in frames])
        dataset["PixelData"].VR = "OB"
    else:
        put_pixels(dataset, frames)
    if syntax == RLELossless:
        dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
        dataset.compress(RLELossless, generate_instance_uid=False)
    dataset.save_as(path)


def write_nrrd(path, encoding="raw", list_first=False):
    frames = colour()[..., 0]
    pixels, kinds = frames.T[:, :, None, :], ["domain", "domain", "domain", "list"]
    if list_first:
        pixels, kinds = np.moveaxis(pixels, 3, 0), kinds[::-1]
    nrrd.write(str(path), pixels, {"encoding": encoding, "kinds": kinds})


def write_tiff(path, **options):
    tifffile.imwrite(path, colour()[..., 0], photometric="minisblack", **options)


def write_stream(path):
    """H.264 in DICOM."""
    write_video(path.with_suffix(".mp4"), "libx264", "yuv420p")
    data = path.with_suffix(".mp4").read_bytes()
    dataset = new_cine(colour().shape, syntax="1.2.840.10008.1.2.4.102")
    dataset.PixelData = encapsulate([data[:500], data[500:] + b"\0" * (len(data) % 2)])
    dataset["PixelData"].VR = "OB"
    dataset.save_as(path)


def still(frame, kind):
    stream = io.BytesIO()
    Image.fromarray(frame).save(stream, kind)
    return stream.getvalue()


SEEDS = {
    "ffv1.avi": lambda path: write_video(path, "ffv1", "bgr0"),
    "mjpeg.avi": lambda path: write_video(path, "mjpeg", "yuvj420p"),
    "ffv1.mkv": lambda path: write_video(path, "ffv1", "bgr0"),
    "mpeg4.mp4": lambda path: write_video(path, "mpeg4", "yuv420p"),
    "png.mov": lambda path: write_video(path, "png", "rgb24"),
    "wmv2.wmv": lambda path: write_video(path, "wmv2", "yuv420p"),
    "a.mpg": lambda path: write_video(path, "mpeg2video", "yuv420p"),
    "a.gif": write_gif,
    "a.nii": write_nifti,
    "float.nii": lambda path: write_nifti(path, np.float32),
    "a.nii.gz": write_nifti,
    "a.mha": write_meta,
    "compressed.mha": lambda path: write_meta(path, compress=True),
    "a.mhd": write_meta,
    "a.dcm": write_dicom,
    "rle.dcm": lambda path: write_dicom(path, RLELossless),
    "jpeg.dcm": lambda path: write_dicom(path, JPEGBaseline8Bit),
    "a.nrrd": write_nrrd,
    "gzip.seq.nrrd": lambda path: write_nrrd(path, "gzip", list_first=True),
    "bzip2.nrrd": lambda path: write_nrrd(path, "bzip2"),
    "ascii.nrrd": lambda path: write_nrrd(path, "ascii"),
    "a.tif": write_tiff,
    "zlib.tif": lambda path: write_tiff(path, compression="zlib"),
    "imagej.tif": lambda path: write_tiff(path, imagej=True),
    "stream.dcm": write_stream,
    "deflated.dcm": lambda path: write_dicom(path, DeflatedExplicitVRLittleEndian),
}
STILLS = {"png": "png", "jpg": "jpeg", "tif": "tiff", "bmp": "bmp"}


@cache
def seed(name, folder):
    """A sound file as bytes."""
    SEEDS[name](folder / name)
    return (folder / name).read_bytes()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Where sound files lie, and one folder for each damaged copy."""
    return tmp_path_factory.mktemp("fuzz")


damage = st.fixed_dictionaries(
    {
        "keep": st.one_of(st.just(1.0), st.floats(0, 1)),
        # Headers are where it hurts: half of the changes go there.
        "changes": st.lists(
            st.tuples(
                st.one_of(st.integers(0, 400), st.integers(0, 2**16)),
                st.integers(0, 7).map(lambda bit: 1 << bit) | st.integers(1, 255),
            ),
            max_size=4,
        ),
    }
)
fuzz = settings(
    max_examples=EXAMPLES,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=list(HealthCheck),
)


def damaged(data, keep, changes):
    changed = bytearray(data)
    for place, mask in changes:
        changed[place % len(changed)] ^= mask
    return bytes(changed[: round(keep * len(changed))])


def outcome(path, read):
    """What ``read`` gives, or its error's message once that is found to be fit for the command line."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            return read(path)
        except (ValueError, OSError) as refusal:
            error = refusal
    assert type(error).__module__ in ("builtins", "bundle.io.reading.limits"), repr(error)
    message = str(error)
    assert path.name in message
    assert "\n" not in message
    assert message.count("truncated or damaged file?") <= 1
    return message


def report(name, tally):
    """Shown by pytest -rP."""
    refused = tally[str]
    print(
        f"{name}: {tally.total()} damaged copies, {tally.total() - refused} read, {refused} refused"
    )
    assert 0 < refused < tally.total()


def read_all(path):
    """All frames in order, and the last again by its number."""
    video = open_video(path)
    frames = np.stack(list(video))
    assert frames.shape == (video.frame_count, video.height, video.width, 3)
    assert frames.dtype == np.uint8
    assert video.fps is None or 0 < video.fps < np.inf
    assert video.spacing_mm is None or all(0 < mm < np.inf for mm in video.spacing_mm)
    (last,) = video.frames([video.frame_count - 1])
    # Not the same pixels: what FFmpeg fills a hole with depends on where decoding began.
    assert last.shape == frames[-1].shape
    return frames


@pytest.mark.parametrize("name", SEEDS)
def test_the_sound_file_is_read(name, folder):
    seed(name, folder)
    assert outcome(folder / name, read_all).shape == (COUNT, HEIGHT, WIDTH, 3)


@pytest.mark.parametrize("name", SEEDS)
def test_a_damaged_video(name, folder):
    data, tally = seed(name, folder), Counter()

    @fuzz
    @given(damage)
    def check(done):
        place = Path(tempfile.mkdtemp(dir=folder))
        if name == "a.mhd":
            (place / "a.raw").symlink_to(folder / "a.raw")
        (place / name).write_bytes(damaged(data, **done))
        tally[type(outcome(place / name, read_all))] += 1

    check()
    report(name, tally)


@pytest.mark.parametrize("kind", STILLS)
def test_a_damaged_picture_in_the_middle(kind, folder):
    frames, tally = [still(frame, STILLS[kind]) for frame in colour()], Counter()

    @fuzz
    @given(damage)
    def check(done):
        place = Path(tempfile.mkdtemp(dir=folder))
        for index, data in enumerate(frames):
            (place / f"{index}.{kind}").write_bytes(damaged(data, **done) if index == 2 else data)
        tally[type(outcome(place, read_all))] += 1

    check()
    report(kind, tally)


MASKS = {
    "mask.png": lambda path: Image.fromarray(LABELS).save(path),
    "mask.tif": lambda path: Image.fromarray(LABELS).save(path),
    "mask.jpg": lambda path: Image.fromarray(LABELS * 255).save(path),
    "mask.nii.gz": lambda path: nib.save(nib.Nifti1Image(LABELS.T, None), path),
    "mask.mha": lambda path: sitk.WriteImage(sitk.GetImageFromArray(LABELS), str(path)),
    "volume.nii": lambda path: nib.save(
        nib.Nifti1Image(np.stack([LABELS] * COUNT).T.astype(np.float64), None), path
    ),
}


@pytest.mark.parametrize("name", MASKS)
def test_a_damaged_mask(name, folder):
    seed("a.nii", folder)
    video, tally = open_video(folder / "a.nii"), Counter()
    MASKS[name](folder / name)
    data = (folder / name).read_bytes()

    def read(path):
        annotations = read_annotations(path, video)
        assert annotations
        for index, labels in annotations.items():
            assert 0 <= index < COUNT
            assert (labels.shape, labels.dtype) == ((HEIGHT, WIDTH), np.uint8)
            assert labels.any()
        return annotations

    np.testing.assert_array_equal(outcome(folder / name, read)[0], LABELS)

    @fuzz
    @given(damage)
    def check(done):
        place = Path(tempfile.mkdtemp(dir=folder))
        (place / name).write_bytes(damaged(data, **done))
        tally[type(outcome(place / name, read))] += 1

    check()
    report(name, tally)


@pytest.mark.parametrize("length", [0, 1, 3, 17, 131, 132, 133, 352, 353, 1000])
@pytest.mark.parametrize("name", SEEDS)
def test_a_video_cut_at_the_edges_of_its_headers(name, length, folder):
    place = folder / f"{name}-cut-{length}"
    place.mkdir()
    (place / name).write_bytes(seed(name, folder)[:length])
    outcome(place / name, read_all)


@pytest.mark.parametrize("suffix", ["avi", "mp4", "nii", "nii.gz", "mha", "mhd", "dcm", "gif", ""])
@pytest.mark.parametrize("name", SEEDS)
def test_a_video_under_another_suffix(name, suffix, folder):
    """What the content tells is read; what goes by its suffix is refused; never anything else."""
    place = folder / f"{name}-as-{suffix}"
    place.mkdir()
    (place / f"b.{suffix}").write_bytes(seed(name, folder))
    outcome(place / f"b.{suffix}", read_all)


@pytest.mark.parametrize("content", ["zeros", "noise", "text", "deflated"])
@pytest.mark.parametrize("suffix", ["avi", "mp4", "nii", "nii.gz", "mha", "mhd", "dcm", "gif", ""])
def test_a_file_of_something_else(content, suffix, tmp_path):
    noise = np.random.default_rng(1).bytes(5000)
    data = {
        "zeros": bytes(5000),
        "noise": noise,
        "text": "ein Text, größer als nichts\n".encode() * 200,
        "deflated": zlib.compress(noise),
    }[content]
    (tmp_path / f"a.{suffix}").write_bytes(data)
    assert isinstance(outcome(tmp_path / f"a.{suffix}", open_video), str)
