"""Frames of a video file by their number, through PyAV (FFmpeg).

A frame's number is its place in what decoding the whole file gives. To reach one without all before
it, the packets' timestamps are read once, which decodes nothing, and decoding begins at a key frame.
Where a file does not bear its timestamps out it is decoded from its start.
"""

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import av
import numpy as np
from av.video.frame import PictureType

from bundle.io.reading.limits import MAX_FRAME_PIXELS, check_size

logger = logging.getLogger(__name__)

# They name other files or addresses, and one of them is waited for until it ends.
PLAYLISTS = {"concat", "dash", "hls", "imf", "rtsp", "sdp"}
OPTIONS = {
    "format_whitelist": ",".join(sorted(av.formats_available - PLAYLISTS)),
    "max_pixels": str(MAX_FRAME_PIXELS),
}


class FrameTimes(NamedTuple):
    """When frames are shown, and where decoding can begin.

    Attributes:
        pts: (F,) Rising timestamps of the frames, in the stream's unit.
        keys: (K,) Rising numbers of those frames from which all later ones can be decoded.
        packets: (F, 3) Timestamp, place in the file and size of the frames as they are stored.
        is_key: (F,) Which of the packets hold key frames.
    """

    pts: np.ndarray
    keys: np.ndarray
    packets: np.ndarray
    is_key: np.ndarray


@contextmanager
def video_stream(path: Path) -> Iterator[tuple[av.container.InputContainer, av.VideoStream]]:
    """Open a file and its first stream of pictures.

    Raises:
        ValueError: It has none, or none that can be decoded, or they are too large.
        av.FFmpegError: FFmpeg cannot open it.
    """
    # An absolute path: FFmpeg takes "a:b.avi" for a protocol.
    with av.open(str(path.absolute()), options=OPTIONS) as container:
        if not container.streams.video:
            raise ValueError("it has no pictures")
        stream = container.streams.video[0]
        if stream.codec_context is None:
            raise ValueError("FFmpeg cannot decode its pictures")
        if stream.width and stream.height:  # else only decoding tells
            check_size(path, stream.height, stream.width)
        stream.codec_context.options = {"max_pixels": OPTIONS["max_pixels"]}
        yield container, stream


def decode(path: Path) -> Iterator[av.VideoFrame]:
    """All frames in order; a packet that is cut short raises, where FFmpeg would patch it up.

    Raises:
        EOFError, av.FFmpegError: A frame is damaged.
    """
    with video_stream(path) as (container, stream):
        for packet in container.demux(stream):
            if packet.is_corrupt:
                yield from stream.decode(None)  # what the decoder still holds back is sound
                raise EOFError("the last frame is cut short")
            yield from packet.decode()


def read_video_file(path: Path, frame_count: int, indices: Sequence[int]) -> Iterator[np.ndarray]:
    """Frames by their numbers, which rise, (H, W, 3) uint8 RGB; fewer if the file ends early.

    Args:
        path: The file.
        frame_count: How many it holds, by decoding or by a header that agrees with its packets.
        indices: The numbers.

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


def _to_pixels(frame: av.VideoFrame, path: Path, index: int) -> np.ndarray:
    if frame.is_corrupt:
        logger.warning("frame %d of %s is damaged, and filled in from others", index, path)
    # Both count quarter turns counter-clockwise.
    return np.rot90(frame.to_ndarray(format="rgb24"), round(frame.rotation / 90))


def _seek(path: Path, frame_count: int, indices: Sequence[int]) -> Iterator[av.VideoFrame]:
    """Frames as long as each is found where the timestamps say: the first that is not ends it."""
    with suppress(av.FFmpegError, EOFError), video_stream(path) as (container, stream):
        state = path.stat()
        times = _read_times(path.absolute(), (state.st_mtime_ns, state.st_size), frame_count)
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
    """Frames from a key frame on or from one before it; none if the file cannot go there.

    Nor any from where packets are not those that were read in order: timestamps that FFmpeg works
    out itself can come out otherwise after a leap.
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
def _read_times(path: Path, state: tuple[int, int], frame_count: int) -> FrameTimes | None:
    """The timestamps of a file, or None if they do not tell its frames apart.

    Args:
        path: The file.
        state: Differs when the file has changed.
        frame_count: How many frames it holds.
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
