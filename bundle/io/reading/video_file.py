"""Read frames of a video file by their numbers, with PyAV (FFmpeg).

The number of a frame is its position when the whole file is decoded. To reach it quickly, the
timestamps of packets are read once without decoding, and decoding starts at a key frame. If the
timestamps of a file turn out to be wrong, it is decoded from its start.
"""

import io
import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple, Protocol, cast, runtime_checkable

import av
import numpy as np
from av.stream import Disposition
from av.video.frame import PictureType

from bundle.io.reading.decode import explained
from bundle.io.reading.headers import known, settle_times
from bundle.io.reading.limits import MAX_FRAME_PIXELS, check_size

logger = logging.getLogger(__name__)

# They name other files or addresses, and one of them is waited for until it ends.
PLAYLISTS = {"concat", "dash", "hls", "imf", "rtsp", "sdp"}
STILL = Disposition.attached_pic | Disposition.timed_thumbnails | Disposition.still_image
OPTIONS = {
    "format_whitelist": ",".join(sorted(av.formats_available - PLAYLISTS)),
    "max_pixels": str(MAX_FRAME_PIXELS),
}


class FrameTimes(NamedTuple):
    """When frames are shown, and where decoding can begin.

    Attributes:
        pts: (F,) rising timestamps of the frames, in the unit of the stream.
        keys: (K,) rising numbers of the frames at which decoding can begin.
        packets: (F, 3) timestamp, position in the file and size of the packets, in stored order.
        is_key: (F,) whether each packet holds a key frame.
    """

    pts: np.ndarray
    keys: np.ndarray
    packets: np.ndarray
    is_key: np.ndarray


@runtime_checkable
class Embedded(Protocol):
    """A video file within another, such as the H.264 stream of a DICOM file."""

    @property
    def path(self) -> Path: ...

    def __hash__(self) -> int: ...

    def open(self) -> io.BufferedReader:
        """Open the embedded video as a file object that can be read and seeked."""
        ...


Media = Path | Embedded


def _path_of(media: Media) -> Path:
    return media if isinstance(media, Path) else media.path


@contextmanager
def video_stream(path: Media) -> Iterator[tuple[av.container.InputContainer, av.VideoStream]]:
    """Open a file and its video stream: not a cover picture, and the default one of several.

    Raises:
        ValueError: It has none, or none that can be decoded, or they are too large.
        av.FFmpegError: FFmpeg cannot open it.
    """
    with _open(path) as container:
        stream = container.streams.video[_pick_stream(path, container)]
        if stream.codec_context is None:
            raise ValueError("FFmpeg cannot decode its pictures")
        if stream.width and stream.height:  # else only decoding tells
            check_size(_path_of(path), stream.height, stream.width)
        stream.codec_context.options = {"max_pixels": OPTIONS["max_pixels"]}
        yield container, stream


class Timing(NamedTuple):
    """How many frames a file holds and when they are shown.

    Attributes:
        frame_count: Number of frames.
        fps: Frames per second, on average; None if unknown.
        times: (F,) rising seconds from 0 on; None if they follow from ``fps`` or are unknown.
    """

    frame_count: int
    fps: float | None
    times: np.ndarray | None


@contextmanager
def _open(path: Media) -> Iterator[av.container.InputContainer]:
    if isinstance(path, Path):
        # An absolute path: FFmpeg takes "a:b.avi" for a protocol.
        with av.open(str(path.absolute()), "r", options=OPTIONS) as container:
            yield container
        return
    with path.open() as file, av.open(file, "r", options=OPTIONS) as container:
        yield container


def _pick_stream(path: Media, container: av.container.InputContainer) -> int:
    """Choose the video stream among the streams of pictures. Returns its number.

    Raises:
        ValueError: There is none.
    """
    streams = container.streams.video
    moving = [i for i, stream in enumerate(streams) if not stream.disposition & STILL]
    if not moving:
        raise ValueError("it has only a cover picture" if streams else "it has no pictures")
    if len(moving) > 1:
        # Covers are not always marked as such; one picture beside a longer stream is a cover.
        state = _path_of(path).stat()
        counts = _count_packets(path, (state.st_mtime_ns, state.st_size))
        moving = [i for i in moving if counts[i] > 1] or moving
    chosen = [i for i in moving if streams[i].disposition & Disposition.default] or moving
    return chosen[0]


@lru_cache(maxsize=64)
def _count_packets(path: Media, state: tuple[int, int]) -> tuple[int, ...]:
    """Count the packets of each stream of pictures, up to two: a cover picture has one."""
    with _open(path) as container:
        streams = list(container.streams.video)
        counts = dict.fromkeys((stream.index for stream in streams), 0)
        try:
            for packet in container.demux(streams):
                counts[packet.stream.index] += bool(packet.size)
                if min(counts.values()) > 1:
                    break
        except av.FFmpegError:  # whoever decodes it will say so
            pass
        return tuple(counts[stream.index] for stream in streams)


def decode(path: Media) -> Iterator[av.VideoFrame]:
    """Decode all frames in order. A truncated packet raises an error; FFmpeg alone would conceal it.

    Raises:
        EOFError, av.FFmpegError: A frame is damaged.
    """
    with video_stream(path) as (container, stream):
        for packet in container.demux(stream):
            if packet.is_corrupt:
                yield from stream.decode(None)  # what the decoder still holds back is sound
                raise EOFError("the last frame is cut short")
            yield from packet.decode()


def read_video_file(path: Media, frame_count: int, indices: Sequence[int]) -> Iterator[np.ndarray]:
    """Read frames by their numbers: (H, W, 3) uint8 RGB each; fewer if the file ends early.

    Args:
        path: Video file.
        frame_count: Number of its frames, from ``read_timing``.
        indices: Rising numbers of frames.

    Raises:
        EOFError, av.FFmpegError: A frame is damaged.
    """
    found = 0
    if indices and indices[-1] >= len(indices):  # else it is the first frames, one after another
        for sought in _seek(path, frame_count, indices):
            yield _to_pixels(sought, path, indices[found])
            found += 1
    rest = indices[found:]
    decoded = enumerate(decode(path))
    for wanted in rest:
        frame = next((frame for index, frame in decoded if index == wanted), None)
        if frame is None:
            return
        yield _to_pixels(frame, path, wanted)


def _to_pixels(frame: av.VideoFrame, path: Media, index: int) -> np.ndarray:
    if frame.is_corrupt:
        logger.warning(
            "frame %d of %s is damaged, and filled in from others", index, _path_of(path)
        )
    return _as_displayed(frame.to_ndarray(format="rgb24"), frame)


def _as_displayed(pixels: np.ndarray, frame: av.VideoFrame) -> np.ndarray:
    """Rotate and mirror pixels (H, W, 3) as the display matrix of the file says.

    The matrix maps a pixel (x, y) to (a x + c y, b x + d y). Angles are rounded to 90 degrees.
    """
    matrix = frame.side_data.get("DISPLAYMATRIX")
    if matrix is None:
        return pixels
    a, b, _, c, d = np.frombuffer(bytes(cast(bytes, matrix)), dtype="=i4")[:5].astype(np.int64)
    if abs(b) + abs(c) > abs(a) + abs(d):
        pixels = pixels.swapaxes(0, 1)
        a, d = c, b
    return pixels[:: -1 if d < 0 else 1, :: -1 if a < 0 else 1]


def _seek(path: Media, frame_count: int, indices: Sequence[int]) -> Iterator[av.VideoFrame]:
    """Read frames by their timestamps. Ends at the first frame that is not where it should be."""
    with suppress(av.FFmpegError, EOFError), video_stream(path) as (container, stream):
        state = _path_of(path).stat()
        media = path.absolute() if isinstance(path, Path) else path
        times = _read_times(media, (state.st_mtime_ns, state.st_size), frame_count)
        if times is None:
            return
        frames: Iterator[av.VideoFrame] = iter(())
        following = -1
        for wanted in indices:
            place = int(np.searchsorted(times.keys, wanted, side="right")) - 1
            if place < 0:
                return
            if following < 0 or times.keys[place] > following:
                frames = _decode_from(container, stream, times, place)
            moment = int(times.pts[wanted])
            frame = next((one for one in frames if one.pts is None or one.pts >= moment), None)
            if frame is None or frame.pts != moment:
                return
            following = wanted + 1
            yield frame


def _decode_from(
    container: av.container.InputContainer, stream: av.VideoStream, times: FrameTimes, place: int
) -> Iterator[av.VideoFrame]:
    """Decode frames from a key frame on, or from an earlier one. None if seeking fails.

    Ends where packets differ from those read in order: timestamps that FFmpeg computes itself may be
    different after seeking.
    """
    goal = int(times.pts[times.keys[place]])
    container.seek(goal, stream=stream)
    row, begin = -1, None
    for packet in container.demux(stream):
        if packet.size and not packet.is_discard:
            if packet.pts is None:
                return
            if row < 0:
                row, begin = int((times.packets[:, 0] == packet.pts).argmax()), packet.pts
                if not times.is_key[row] or begin > goal:
                    return
            if row == len(times.packets) or (times.packets[row] != _describe(packet)).any():
                return
            row += 1
        for frame in packet.decode():
            if frame.is_corrupt:
                return  # filled in from frames before, which are not at hand
            if begin is not None and frame.pts is not None and frame.pts >= begin:
                if frame.pict_type != PictureType.I:
                    return  # refreshed bit by bit, of which the pixels keep traces
                begin = None
            yield frame


def _describe(packet: av.Packet) -> tuple[int | None, int, int]:
    return packet.pts, -1 if packet.pos is None else packet.pos, packet.size


@lru_cache(maxsize=16)
def _read_times(path: Media, state: tuple[int, int], frame_count: int) -> FrameTimes | None:
    """Read the timestamps of a file; None if two frames have the same one.

    Args:
        path: Video file.
        state: Anything that changes when the file does, so that the cache is not used.
        frame_count: Number of frames.
    """
    packets, dts, is_key = [], [], []  # as stored, which is the order of decoding
    with video_stream(path) as (container, stream):
        for packet in container.demux(stream):
            if not packet.size or packet.is_discard:
                continue
            if packet.is_corrupt or packet.pts is None:
                return None
            packets.append(_describe(packet))
            dts.append(packet.pts if packet.dts is None else packet.dts)
            is_key.append(packet.is_keyframe)
        guessed = container.format.name == "avi"  # it has none; FFmpeg goes by the order of storing
    if len(packets) != frame_count:
        return None
    stored = np.array(packets, dtype=np.int64)
    order = np.argsort(stored[:, 0], kind="stable")
    pts = stored[order, 0]
    if (np.diff(pts) <= 0).any() or (guessed and (stored[:, 0] != dts).any()):
        return None
    # Some decoders leave out the first frames of a file that begins in the middle of a video.
    first = next(decode(path), None)
    if first is None or first.pts != pts[0]:
        return None
    # A frame that is shown after a key frame must not be decoded before it.
    earliest_of_later = np.minimum.accumulate(order[::-1])[::-1]
    keys = np.flatnonzero((earliest_of_later == order) & np.array(is_key)[order])
    return FrameTimes(pts, keys, stored, np.array(is_key))


def read_timing(path: Media) -> Timing:
    """Count the frames of a file, and read when each is shown.

    The file is decoded only if the header and the packets disagree about the number of frames.

    Raises:
        ValueError: The file is truncated.
    """
    where = _path_of(path)
    with explained(f"cannot read {where}"), video_stream(path) as (container, stream):
        pts, declared = [], stream.frames
        for packet in container.demux(stream):
            if packet.size and not (packet.is_discard or packet.is_corrupt):
                pts.append(packet.pts)
        rates = [float(rate or 0) for rate in (stream.average_rate, stream.guessed_rate)]
        unit = float(stream.time_base or 0)
    if len(pts) != declared:
        # Headers may be silent or wrong, and packets hold no frame or two: only decoding tells.
        pts = []
        try:
            for frame in decode(path):
                pts.append(frame.pts)
        except (av.FFmpegError, EOFError) as error:
            raise ValueError(
                f"{where} breaks off at frame {len(pts)} ({error}): "
                "the file is truncated or damaged, copy or export it again"
            ) from error
        if len(pts) < declared:
            logger.warning(
                "%s declares %d frames but holds %d: is it whole?", where, declared, len(pts)
            )
    seconds = _to_seconds(pts, unit)
    if seconds is None:
        return Timing(len(pts), next((rate for rate in rates if known(rate)), None), None)
    return Timing(len(pts), *settle_times(seconds, rates, unit))


def _to_seconds(pts: Sequence[int | None], unit: float) -> np.ndarray | None:
    """Convert timestamps to seconds from the first frame, (F,); None if two are the same."""
    if None in pts or len(pts) < 2 or not unit:
        return None
    ticks = np.sort(np.array(pts, dtype=np.int64))
    return (ticks - ticks[0]) * unit if (np.diff(ticks) > 0).all() else None
