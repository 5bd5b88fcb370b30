"""DICOM beyond plain cines: series, enhanced files, streams, windows, palettes, codecs."""

import io
from pathlib import Path

import av
import numpy as np
import pydicom
import pytest
from pydicom.dataset import Dataset
from pydicom.encaps import encapsulate
from pydicom.uid import (
    EnhancedMRImageStorage,
    JPEGLosslessSV1,
    MRImageStorage,
)

from bundle.io.reading import dicom as dicom_module
from bundle.io.reading.video import open_video
from tests.dicom_files import new_cine, put_pixels

COUNT, HEIGHT, WIDTH = 6, 24, 40


@pytest.fixture
def grey():
    """(T, H, W) uint8, each frame brighter than the one before."""
    noise = np.random.default_rng(0).integers(0, 40, (COUNT, HEIGHT, WIDTH))
    return (noise + 30 * np.arange(COUNT)[:, None, None]).astype(np.uint8)


def item(**elements):
    found = Dataset()
    for keyword, value in elements.items():
        setattr(found, keyword, value)
    return found


def save(path, frames, bits=8, stored=None, **elements):
    """A cine with further elements; ``stored`` are its bytes if they are not those of the frames."""
    cine = new_cine(frames.shape, bits)
    for keyword, value in elements.items():
        setattr(cine, keyword, value)
    put_pixels(cine, frames if stored is None else stored)
    cine.save_as(path)
    return path


def shown(video):
    return np.stack([frame[..., 0] for frame in video])


# A series of files


def save_series(folder, grey, keys, uid="1.2.9", names=None):
    """One file a frame, named against the order of time."""
    folder.mkdir(exist_ok=True)
    for index, frame in enumerate(grey):
        single = new_cine(frame[None].shape, storage=MRImageStorage)
        del single.NumberOfFrames
        single.SeriesInstanceUID = uid
        single.PixelSpacing = [1.5, 0.75]
        for keyword, value in keys(index).items():
            setattr(single, keyword, value)
        put_pixels(single, frame)
        single.save_as(folder / f"IM{len(grey) - index:04d}{uid[-1]}")
    return folder


@pytest.mark.parametrize(
    "keys",
    [
        lambda i: {"TemporalPositionIdentifier": i + 1, "InstanceNumber": 99 - i},
        lambda i: {"TriggerTime": 40 * i, "InstanceNumber": 99 - i},
        lambda i: {"AcquisitionTime": f"12000{i}.5", "InstanceNumber": 1},
        lambda i: {"ContentDate": f"2020010{i + 1}", "ContentTime": f"{23 - i}0000"},
        lambda i: {"InstanceNumber": i + 1, "TriggerTime": 0},
        lambda i: {
            "ImagePositionPatient": [0, 0, 5 * i],
            "ImageOrientationPatient": [1, 0, 0, 0, 1, 0],
        },
    ],
)
def test_a_series_goes_by_time_not_by_name(tmp_path, grey, keys):
    video = open_video(save_series(tmp_path / "series", grey, keys))
    np.testing.assert_array_equal(shown(video), grey)
    assert (video.name, video.spacing_mm) == ("series", (1.5, 0.75))
    np.testing.assert_array_equal(video[2][..., 0], grey[2])


def test_the_times_and_the_place_of_a_series(tmp_path, grey):
    triggers = [0, 40, 80, 200, 240, 280]
    folder = save_series(
        tmp_path / "series",
        grey,
        lambda i: {
            "TriggerTime": triggers[i],
            "ImagePositionPatient": [10, 20, 30],
            "ImageOrientationPatient": [0, 1, 0, 0, 0, -1],
            "SliceThickness": 8,
        },
    )
    video = open_video(folder)
    np.testing.assert_allclose(video.times, np.array(triggers) / 1000)
    lps = [[0, 0, -8, 10], [0.75, 0, 0, 20], [0, -1.5, 0, 30], [0, 0, 0, 1]]
    np.testing.assert_allclose(video.geometry.affine, np.diag([-1, -1, 1, 1]) @ lps)
    assert video.geometry.shape == (WIDTH, HEIGHT, 1, COUNT)


def test_several_series_are_listed(tmp_path, grey):
    save_series(tmp_path / "s", grey, lambda i: {"SeriesDescription": "cine"}, "1.2.1")
    save_series(tmp_path / "s", grey[:2], lambda i: {"SeriesDescription": "scout"}, "1.2.2")
    with pytest.raises(
        ValueError, match=r"holds 2 DICOM series, expected one.*(cine|scout).*files"
    ):
        open_video(tmp_path / "s")


def test_slices_over_time_are_refused(tmp_path, grey):
    folder = save_series(
        tmp_path / "s",
        grey,
        lambda i: {
            "TriggerTime": 40 * (i // 2),
            "ImagePositionPatient": [0, 0, i % 2 * 5],
            "ImageOrientationPatient": [1, 0, 0, 0, 1, 0],
        },
    )
    with pytest.raises(ValueError, match=r"s has 6 frames at 2 positions in space: expected one"):
        open_video(folder)


def test_a_folder_with_one_multi_frame_file(tmp_path, grey):
    (tmp_path / "s").mkdir()
    save(tmp_path / "s" / "a", grey)
    (tmp_path / "s" / "notes.txt").write_text("x")
    assert open_video(tmp_path / "s").name == "s"
    np.testing.assert_array_equal(shown(open_video(tmp_path / "s")), grey)


# Enhanced files


def save_enhanced(path, grey, order, frame_groups=lambda place: {}):
    """Frames stored in another order than they were taken."""
    frames = []
    for place in order:
        content = item(TemporalPositionIndex=place + 1, StackID="1", InStackPositionNumber=1)
        position = item(ImagePositionPatient=[10.0, 20.0, 30.0])
        groups = item(FrameContentSequence=[content], PlanePositionSequence=[position])
        for keyword, value in frame_groups(place).items():
            setattr(groups, keyword, [value])
        frames.append(groups)
    shared = item(
        PixelMeasuresSequence=[item(PixelSpacing=[1.5, 0.75], SliceThickness=8)],
        PlaneOrientationSequence=[item(ImageOrientationPatient=[0, 1, 0, 0, 0, -1])],
    )
    return save(
        path,
        grey[list(order)],
        SOPClassUID=EnhancedMRImageStorage,
        SharedFunctionalGroupsSequence=[shared],
        PerFrameFunctionalGroupsSequence=frames,
    )


def test_an_enhanced_file_in_its_order_and_place(tmp_path, grey):
    order = [5, 0, 3, 1, 4, 2]

    def delay(place):
        return {"CardiacSynchronizationSequence": item(NominalCardiacTriggerDelayTime=place * 50.0)}

    video = open_video(save_enhanced(tmp_path / "a.dcm", grey, order, delay))
    np.testing.assert_array_equal(shown(video), grey)
    assert (video.spacing_mm, video.fps) == ((1.5, 0.75), pytest.approx(20))
    assert video.geometry.shape == (WIDTH, HEIGHT, 1, COUNT)
    lps = [[0, 0, -8, 10], [0.75, 0, 0, 20], [0, -1.5, 0, 30], [0, 0, 0, 1]]
    np.testing.assert_allclose(video.geometry.affine, np.diag([-1, -1, 1, 1]) @ lps)
    assert [video.stored_index(i) for i in range(COUNT)] == [order.index(i) for i in range(COUNT)]


# When frames are shown


def test_frame_time_vector(tmp_path, grey):
    path = save(tmp_path / "a.dcm", grey, FrameTimeVector=[0, 40, 40, 200, 40, 40])
    np.testing.assert_allclose(open_video(path).times, [0, 0.04, 0.08, 0.28, 0.32, 0.36])
    path = save(tmp_path / "b.dcm", grey, FrameTimeVector=[0, 40, 40, 40, 40, 40])
    assert (open_video(path).fps, open_video(path).frame_times) == (pytest.approx(25), None)


# What is black and what is white


def wide(seed=0):
    """(T, H, W) uint16 from 1000 to 2000."""
    return (
        np.random.default_rng(seed).integers(1000, 2001, (COUNT, HEIGHT, WIDTH)).astype(np.uint16)
    )


def test_a_window_is_shown(tmp_path):
    frames = wide()
    frames[:, :6, :12] = 32000
    path = save(tmp_path / "a.dcm", frames, 16, WindowCenter=1500, WindowWidth=1001)
    found = shown(open_video(path)).astype(int)
    expected = pydicom.pixels.apply_voi_lut(frames, pydicom.dcmread(path)) / 65535 * 255
    assert np.abs(found - expected).max() <= 1


def test_the_window_is_of_rescaled_values(tmp_path):
    frames = wide()
    options = {"RescaleSlope": 2, "RescaleIntercept": -2000}
    path = save(tmp_path / "a.dcm", frames, 16, WindowCenter=1000, WindowWidth=2001, **options)
    expected = (frames.astype(float) - 1000) / 1000 * 255
    assert np.abs(shown(open_video(path)) - expected).max() <= 1


def test_the_first_window_that_shows_something(tmp_path, caplog):
    frames = wide()
    path = save(tmp_path / "a.dcm", frames, 16, WindowCenter=[60000, 1500], WindowWidth=[10, 1000])
    assert shown(open_video(path)).std() > 60
    path = save(tmp_path / "b.dcm", frames, 16, WindowCenter=60000, WindowWidth=10)
    assert shown(open_video(path)).std() > 60
    assert "b.dcm: the window that the file declares shows nothing" in caplog.text


def test_a_table_of_grey_levels(tmp_path, grey):
    table = item(LUTDescriptor=[256, 0, 8], LUTData=list(range(255, -1, -1)))
    table["LUTDescriptor"].VR = table["LUTData"].VR = "US"
    path = save(tmp_path / "a.dcm", grey, VOILUTSequence=[table])
    np.testing.assert_array_equal(shown(open_video(path)), 255 - grey)


def test_padding_is_black_and_counts_for_nothing(tmp_path):
    frames = wide().astype(np.int16)
    frames[:, :, :10] = -2000
    options = {"PixelRepresentation": 1, "PixelPaddingValue": -2000}
    for space in ("MONOCHROME2", "MONOCHROME1"):
        path = save(tmp_path / space, frames, 16, PhotometricInterpretation=space, **options)
        found = shown(open_video(path))
        assert (found[:, :, :10] == 0).all()
        assert 110 < found[:, :, 10:].mean() < 145


@pytest.mark.parametrize(("top", "expected"), [(25500, 99), (65535, 255), (255, 255)])
def test_a_palette_of_16_bits_is_as_bright_as_declared(tmp_path, grey, top, expected):
    path = save(tmp_path / "a.dcm", grey, PhotometricInterpretation="PALETTE COLOR")
    cine = pydicom.dcmread(path)
    table = np.linspace(0, top, 256).round().astype("<u2")
    for name in ("Red", "Green", "Blue"):
        descriptor = f"{name}PaletteColorLookupTableDescriptor"
        setattr(cine, descriptor, [256, 0, 16])
        cine[descriptor].VR = "US"
        setattr(cine, f"{name}PaletteColorLookupTableData", table.tobytes())
    cine.save_as(path)
    level = int(grey.max())
    found = open_video(path)[-1].max()
    assert abs(int(found) - expected * level / 255) <= 1


def test_native_ybr_full_422(tmp_path):
    y = np.random.default_rng(0).integers(0, 256, (COUNT, HEIGHT, WIDTH // 2, 2), np.uint8)
    cb, cr = np.random.default_rng(1).integers(90, 160, (2, COUNT, HEIGHT, WIDTH // 2), np.uint8)
    stored = np.concatenate([y, cb[..., None], cr[..., None]], axis=-1)
    shape = np.zeros((COUNT, HEIGHT, WIDTH, 3), np.uint8)
    path = save(tmp_path / "a.dcm", shape, 8, stored, PhotometricInterpretation="YBR_FULL_422")
    video = open_video(path)
    alone = [video[i] for i in range(COUNT)]
    np.testing.assert_array_equal(np.stack(list(video)), alone)
    wide_cr = np.repeat(cr, 2, axis=-1).astype(float) - 128
    red = np.clip(y.reshape(COUNT, HEIGHT, WIDTH) + 1.402 * wide_cr, 0, 255)
    assert np.abs(np.stack(alone)[..., 0] - red).max() <= 1


# Streams and codecs


@pytest.mark.parametrize(
    ("codec", "kind", "syntax"),
    [
        ("libx264", "mp4", "1.2.840.10008.1.2.4.102"),
        ("libx264", "h264", "1.2.840.10008.1.2.4.102"),
        ("libx264", "mpegts", "1.2.840.10008.1.2.4.104.1"),
        ("mpeg2video", "mpeg", "1.2.840.10008.1.2.4.100"),
        ("libx265", "hevc", "1.2.840.10008.1.2.4.107"),
    ],
)
@pytest.mark.parametrize("pieces", [1, 5])
def test_a_stream_in_dicom(tmp_path, codec, kind, syntax, pieces):
    buffer = io.BytesIO()
    with av.open(buffer, "w", format=kind) as container:
        stream = container.add_stream(codec, rate=25)
        stream.height, stream.width, stream.pix_fmt = 64, 96, "yuv420p"
        for level in range(COUNT):
            frame = np.full((64, 96, 3), 40 * level, np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode())
    data = buffer.getvalue()
    size = -(-len(data) // pieces)
    size += size % 2
    cine = new_cine((COUNT, 64, 96, 3), syntax=syntax)
    cine.PhotometricInterpretation, cine.FrameTime = "YBR_PARTIAL_420", 40
    cine.PixelData = encapsulate([data[i : i + size] for i in range(0, len(data), size)])
    cine["PixelData"].VR = "OB"
    cine.save_as(tmp_path / "a.dcm")
    video = open_video(tmp_path / "a.dcm")
    assert (video.frame_count, video.height, video.width) == (COUNT, 64, 96)
    assert video.fps == 25
    levels = [frame.mean() for frame in video]
    assert np.abs(np.array(levels) - 40 * np.arange(COUNT)).max() < 6
    assert abs(video[4].mean() - 160) < 6


def test_a_missing_codec_is_named_and_not_called_damage(tmp_path, grey, monkeypatch):
    path = save(tmp_path / "a.dcm", grey)
    cine = pydicom.dcmread(path)
    cine.file_meta.TransferSyntaxUID = JPEGLosslessSV1
    cine.PixelData = encapsulate([b"\xff\xd8\xff\xd9"] * COUNT)
    cine["PixelData"].VR = "OB"
    cine.save_as(path)

    class Decoder:
        is_available = False

    monkeypatch.setattr(dicom_module.dicom_pixels, "get_decoder", lambda syntax: Decoder)
    with pytest.raises(ValueError, match=r"JPEG Lossless.*pip install \"tcmn\[dicom\]\"") as caught:
        open_video(path)
    assert "damaged" not in str(caught.value)


def test_high_throughput_jpeg_2000(tmp_path, grey):
    openjpeg = pytest.importorskip("openjpeg", reason="needs the extra dicom")
    grey = np.tile(grey, (1, 4, 4))
    frames = [bytes(openjpeg.encode(frame)) for frame in grey]
    cine = new_cine(grey.shape, syntax="1.2.840.10008.1.2.4.201")
    cine.PixelData = encapsulate(frames)
    cine["PixelData"].VR = "OB"
    cine.save_as(tmp_path / "a.dcm")
    np.testing.assert_array_equal(shown(open_video(Path(tmp_path / "a.dcm"))), grey)
