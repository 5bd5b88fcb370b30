"""Any frame of a video file is the one that decoding from the start gives, and gets there sooner."""

import os
import struct
from fractions import Fraction

import av
import numpy as np
import pytest
from PIL import Image

from bundle.io.reading import video_file
from bundle.io.reading.headers import settle_times
from bundle.io.reading.video import open_video

COUNT, HEIGHT, WIDTH, GOP = 40, 48, 64, 12
B_FRAMES = {"bf": "3", "b-pyramid": "normal", "g": str(GOP)}


def write_video(path, codec, pixel_format="yuv420p", options=None, times_ms=None, rate=25):
    """Noise that moves, in some codec; GOP frames from key frame to key frame."""
    if codec not in av.codecs_available:
        pytest.skip(f"this FFmpeg has no {codec}")
    noise = np.random.default_rng(len(path.name)).integers(0, 256, (99, 120, 3), np.uint8)
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=rate, options=options or {})
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, pixel_format
        stream.gop_size = int((options or {}).get("g", GOP))
        if times_ms:
            stream.codec_context.time_base = Fraction(1, 1000)
        for index in range(COUNT):
            part = noise[index : index + HEIGHT, index : index + WIDTH].copy()
            frame = av.VideoFrame.from_ndarray(part, format="rgb24")
            if times_ms:
                frame.pts, frame.time_base = times_ms(index), Fraction(1, 1000)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


def write_gif(path):
    """Each picture only draws over those before it."""
    picture = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
    pictures = []
    for index in range(COUNT):
        picture[index : index + 4, index : index + 6] = (255, 5 * index, 0)
        pictures.append(Image.fromarray(picture).quantize(64))
    pictures[0].save(path, save_all=True, append_images=pictures[1:], duration=100)
    return path


KINDS = {
    "b_frames.mp4": lambda path: write_video(path, "libx264", options=B_FRAMES),
    "mpeg4.avi": lambda path: write_video(path, "mpeg4"),
    "canvas.gif": write_gif,
    "variable_rate.mp4": lambda path: write_video(
        path, "libx264", options=B_FRAMES, times_ms=lambda i: 40 * i + 7 * i * i % 31
    ),
    "late_start.mp4": lambda path: write_video(
        path, "libx264", options=B_FRAMES, times_ms=lambda i: 40 * i + 5000
    ),
    "intra_only.avi": lambda path: write_video(path, "mjpeg", "yuvj420p"),
    "open_gop.mkv": lambda path: write_video(
        path, "libx264", options=B_FRAMES | {"x264-params": "open-gop=1"}
    ),
    "refreshed.mp4": lambda path: write_video(
        path, "libx264", options={"g": str(GOP), "x264-params": "intra-refresh=1"}
    ),
    "wmv2.wmv": lambda path: write_video(path, "wmv2"),
    # Timestamps that are guessed, sparse, missing, or not unique.
    "b_frames.avi": lambda path: write_video(path, "libx264", options=B_FRAMES),
    "b_frames.mpg": lambda path: write_video(path, "mpeg2video", options={"bf": "2"}),
    "raw.h264": lambda path: write_video(path, "libx264", options={"g": str(GOP)}),
    "too_fast.mkv": lambda path: write_video(path, "ffv1", "bgr0", rate=2500),
}
SEEKABLE = ["b_frames.mp4", "variable_rate.mp4", "late_start.mp4", "intra_only.avi", "mpeg4.avi"]


@pytest.fixture(params=KINDS, scope="module")
def path(request, tmp_path_factory):
    return KINDS[request.param](tmp_path_factory.mktemp("videos") / request.param)


def times_of(path, count=COUNT):
    state = path.stat()
    return video_file._read_times(path, (state.st_mtime_ns, state.st_size), count)


def forbid_start(monkeypatch):
    def decode(path):
        raise AssertionError("decoded from the start")
        yield

    monkeypatch.setattr(video_file, "decode", decode)


def test_every_frame_is_that_of_a_pass_from_the_start(path):
    video = open_video(path)
    whole = list(video)
    assert len(whole) == COUNT
    for index in range(COUNT):
        np.testing.assert_array_equal(next(video.frames([index])), whole[index])


@pytest.mark.parametrize(
    "indices", [range(30, COUNT), [0, 1, 38], [3, 4, 13, 14, 30, 39], range(0, COUNT, 7)], ids=str
)
def test_frames_with_gaps_are_those_of_a_pass_from_the_start(path, indices):
    video = open_video(path)
    whole = list(video)
    for index, frame in zip(indices, video.frames(indices), strict=True):
        np.testing.assert_array_equal(frame, whole[index])


@pytest.mark.parametrize("name", SEEKABLE)
def test_no_more_is_decoded_than_from_the_key_frame_before(tmp_path, monkeypatch, name):
    path = KINDS[name](tmp_path / name)
    video = open_video(path)
    keys = times_of(path).keys
    assert len(keys) >= COUNT // GOP
    forbid_start(monkeypatch)
    decoded = []
    decode_from = video_file._decode_from

    def counting(*arguments):
        for frame in decode_from(*arguments):
            decoded.append(frame.pts)
            yield frame

    monkeypatch.setattr(video_file, "_decode_from", counting)
    for index in range(1, COUNT):
        decoded.clear()
        next(video.frames([index]))
        # Where times are uneven, FFmpeg goes to the key frame before that sometimes.
        extra = GOP if name == "variable_rate.mp4" else 0
        assert len(decoded) <= index - max(key for key in keys if key <= index) + 1 + extra
    decoded.clear()
    assert len(list(video.frames([1, COUNT - 1]))) == 2
    assert len(decoded) < COUNT // 2  # what lies between is leapt over


@pytest.mark.parametrize("name", ["b_frames.avi", "raw.h264", "too_fast.mkv"])
def test_timestamps_that_do_not_tell_frames_apart_are_not_used(tmp_path, name):
    assert times_of(KINDS[name](tmp_path / name)) is None


def test_timestamps_of_another_number_of_frames_are_not_used(tmp_path):
    assert times_of(KINDS["b_frames.mp4"](tmp_path / "a.mp4"), COUNT - 1) is None


@pytest.mark.parametrize("field", ["pts", "packets"])
@pytest.mark.parametrize("off", [1, -1])
def test_a_frame_that_is_not_where_it_should_be_is_decoded_from_the_start(
    tmp_path, monkeypatch, field, off
):
    video = open_video(KINDS["b_frames.mp4"](tmp_path / "a.mp4"))
    whole = list(video)
    times = times_of(tmp_path / "a.mp4")
    wrong = getattr(times, field).copy()
    if field == "pts":
        wrong[33] += off
    else:
        wrong[:, 1] += off  # every packet lies elsewhere
    monkeypatch.setattr(
        video_file, "_read_times", lambda *arguments: times._replace(**{field: wrong})
    )
    for index, frame in zip(range(31, 36), video.frames(range(31, 36)), strict=True):
        np.testing.assert_array_equal(frame, whole[index])


def test_a_file_that_cannot_seek_is_decoded_from_the_start(tmp_path, monkeypatch):
    video = open_video(KINDS["b_frames.mp4"](tmp_path / "a.mp4"))
    whole = list(video)

    def fail(*arguments):
        raise av.error.PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(video_file, "_decode_from", fail)
    np.testing.assert_array_equal(next(video.frames([20])), whole[20])


def test_timestamps_are_read_once_for_each_state_of_a_file(tmp_path, monkeypatch):
    path = KINDS["b_frames.mp4"](tmp_path / "a.mp4")
    video = open_video(path)
    before = next(video.frames([20]))
    forbid_start(monkeypatch)  # reading them looks at the first frame
    np.testing.assert_array_equal(next(video.frames([20])), before)
    monkeypatch.undo()
    KINDS["b_frames.mp4"](tmp_path / "another.mp4").replace(path)
    os.utime(path, ns=(1, 1))
    after = next(video.frames([20]))
    assert (after != before).any()
    np.testing.assert_array_equal(after, list(open_video(path))[20])


# When frames are shown, which stream is the video, and which way up it is


def write_at(path, ticks, time_base=Fraction(1, 1000), codec="ffv1"):
    """A video of grey frames that are shown at the given ticks."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=25)
        stream.height, stream.width, stream.pix_fmt = 32, 48, "yuv420p"
        stream.codec_context.time_base = time_base
        for level, tick in enumerate(ticks):
            grey = np.full((32, 48, 3), 9 * level % 256, np.uint8)
            frame = av.VideoFrame.from_ndarray(grey, format="rgb24")
            frame.pts, frame.time_base = tick, time_base
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


@pytest.mark.parametrize("codec", ["ffv1", "mpeg4"])
def test_uneven_frames_have_their_true_times(tmp_path, codec):
    ticks = [0, 40, 80, 500, 540, 2000, 2040, 2080]
    video = open_video(write_at(tmp_path / "a.mkv", ticks, codec=codec))
    np.testing.assert_allclose(video.times, np.array(ticks) / 1000)
    assert video.fps == pytest.approx(7 / 2.08)


def test_times_count_from_the_first_frame(tmp_path):
    video = open_video(write_at(tmp_path / "a.mkv", [1000, 1040, 1080, 1120]))
    assert (video.fps, video.frame_times) == (25, None)
    np.testing.assert_allclose(video.times, [0, 0.04, 0.08, 0.12])


def test_a_rounded_rate_is_no_uneven_one(tmp_path):
    ticks = [round(1000 * i * 1001 / 30000) for i in range(40)]
    video = open_video(write_at(tmp_path / "a.mkv", ticks))
    assert video.frame_times is None
    assert video.fps == pytest.approx(29.97, abs=0.03)


def test_a_declared_rate_that_timestamps_contradict_is_left():
    seconds = np.arange(10) / 25
    fps, times = settle_times(seconds, [60000.0, 25.0], 1 / 60000)
    assert (fps, times) == (25, None)
    fps, times = settle_times(seconds, [60000.0], 1 / 60000)
    assert (fps, times) == (pytest.approx(25), None)


def corners():
    """(H, W, 3), another in each of its eight poses."""
    picture = np.zeros((32, 48, 3), np.uint8)
    picture[:16, :24], picture[:16, 24:], picture[16:, :24] = 240, 160, 80
    return picture


# The display matrix's a, b, c, d and what it does to a picture.
POSES = {
    (1, 0, 0, 1): lambda p: p,
    (-1, 0, 0, 1): np.fliplr,
    (1, 0, 0, -1): np.flipud,
    (-1, 0, 0, -1): lambda p: np.rot90(p, 2),
    (0, 1, -1, 0): lambda p: np.rot90(p, -1),
    (0, -1, 1, 0): lambda p: np.rot90(p, 1),
    (0, 1, 1, 0): lambda p: p.swapaxes(0, 1),
    (0, -1, -1, 0): lambda p: np.rot90(p, 2).swapaxes(0, 1),
}


@pytest.mark.parametrize("pose", POSES)
def test_all_eight_display_matrices(tmp_path, pose):
    with av.open(str(tmp_path / "a.mp4"), "w") as container:
        stream = container.add_stream("mpeg4", rate=25)
        stream.height, stream.width, stream.pix_fmt = 32, 48, "yuv420p"
        for _ in range(3):
            picture = av.VideoFrame.from_ndarray(corners(), format="rgb24")
            container.mux(stream.encode(picture))
        container.mux(stream.encode())
    data = bytearray((tmp_path / "a.mp4").read_bytes())
    # The track's header ends in its matrix and two sizes; an edit of the bytes, for all eight.
    at = data.index(b"tkhd") + 4 + 40
    a, b, c, d = (value << 16 for value in pose)
    struct.pack_into(">9i", data, at, a, b, 0, c, d, 0, 0, 0, 1 << 30)
    (tmp_path / "a.mp4").write_bytes(data)
    expected = POSES[pose](corners())
    for frame in open_video(tmp_path / "a.mp4"):
        assert frame.shape == expected.shape
        assert np.abs(frame.astype(int) - expected).mean() < 12


@pytest.mark.parametrize("default", [0, 1])
def test_a_cover_is_not_the_video(tmp_path, default):
    with av.open(str(tmp_path / "a.mkv"), "w") as container:
        cover = container.add_stream("mjpeg", rate=25)
        cover.height, cover.width, cover.pix_fmt = 64, 64, "yuvj420p"
        video = container.add_stream("ffv1", rate=25)
        video.height, video.width, video.pix_fmt = 32, 48, "yuv420p"
        if default:
            cover.disposition = av.stream.Disposition.default
        red = np.zeros((64, 64, 3), np.uint8)
        container.mux(cover.encode(av.VideoFrame.from_ndarray(red, format="rgb24")))
        container.mux(cover.encode())
        for _ in range(5):
            container.mux(video.encode(av.VideoFrame.from_ndarray(corners(), format="rgb24")))
        container.mux(video.encode())
    source = open_video(tmp_path / "a.mkv")
    assert (source.frame_count, source.height, source.width) == (5, 32, 48)


# A video is a sequence


def test_a_video_is_a_sequence(tmp_path):
    video = open_video(write_at(tmp_path / "a.mkv", [0, 40, 80]))
    assert len(video) == 3
    np.testing.assert_array_equal(video[-1], list(video)[2])
    with pytest.raises(IndexError, match=r"a.mkv has 3 frames: no frame 3"):
        video[3]
