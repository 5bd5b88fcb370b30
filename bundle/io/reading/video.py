"""Opening a whole video, whatever holds it, and the masks that annotate some of its frames.

Frames are (H, W, 3) uint8 RGB, masks (H, W) uint8 label maps. The record that is returned and the
array files are in ``bundle.io.reading.volumes``, DICOM in ``bundle.io.reading.dicom``, single
pictures in ``bundle.io.reading.decode``.
"""

import logging
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path

import av
import numpy as np
from pydicom.misc import is_dicom

from bundle.io.reading.decode import (
    META_SUFFIXES,
    NIFTI_SUFFIXES,
    STILL_SUFFIXES,
    check_file,
    explained,
    has_suffix,
    natural_key,
    read_labels,
    read_pixels,
    snap_labels,
)
from bundle.io.reading.dicom import open_dicom
from bundle.io.reading.frame_refs import FrameOf, FrameRef
from bundle.io.reading.limits import MAX_FRAME_PIXELS, DeclaredSizeError
from bundle.io.reading.mask_folder import match_masks
from bundle.io.reading.video_file import read_timing, read_video_file, video_stream
from bundle.io.reading.volumes import (
    Geometry,
    VideoSource,
    is_single_image,
    open_volume,
    source_name,
)
from bundle.types import LabelMap

__all__ = ["Geometry", "VideoSource", "open_video", "read_annotations"]

logger = logging.getLogger(__name__)

KINDS = (
    "a video file (avi, mp4, mov, wmv, mkv, gif), a folder of frames (png, jpg, tif, bmp), "
    "a 2D+t NIfTI (.nii, .nii.gz) or MetaImage (.mhd, .mha), or a multi-frame DICOM"
)


def open_video(path: str | Path) -> VideoSource:
    """Open a video without decoding more of it than its size and length need.

    Args:
        path: A video file, a folder of frames (sorted naturally: 2 before 10), a 2D+t NIfTI or
            MetaImage, or a multi-frame DICOM whatever its suffix.

    Raises:
        FileNotFoundError: There is no such file or folder.
        ValueError: It is no video, holds no frames, or is truncated.
    """
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(f"no such file or folder: {path}; expected {KINDS}")
    if path.is_dir():
        return _open_folder(path)
    check_file(path)
    if is_dicom(path):
        return open_dicom(path)
    if has_suffix(path, STILL_SUFFIXES) or is_single_image(path):
        raise ValueError(f"{path} is a single image: expected a video or a folder of frames")
    if has_suffix(path, NIFTI_SUFFIXES + META_SUFFIXES):
        return open_volume(path)
    return _open_video_file(path)


def read_annotations(path: str | Path, video: VideoSource) -> dict[int, LabelMap]:
    """Read the masks of a video.

    Args:
        path: One mask for the first frame (a picture, or a 2D NIfTI or MetaImage); or a volume of
            the video's size, (x, y, t) or (x, y, 1, t); or a folder of pictures, which
            ``bundle.io.reading.mask_folder`` matches with frames. Empty masks count as not annotated.
        video: What the masks belong to.

    Returns:
        Frame index -> (H, W) uint8 labels; see ``bundle.io.reading.decode.snap_labels``.

    Raises:
        FileNotFoundError: There is no such file or folder, or nothing in it.
        ValueError: The masks are empty, hold no labels, or differ from the video in size or number.
    """
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(f"no such mask: {path}")
    if not path.is_dir():
        check_file(path)
    annotations = {}
    for index, source, labels in _read_masks(path, video):
        height, width = labels.shape
        if (height, width) != (video.height, video.width):
            raise ValueError(
                f"{source} is {width}x{height} but {video.path} is {video.width}x{video.height}: "
                "export the mask at the video's size"
            )
        if labels.any():
            annotations[index] = labels
    if not annotations:
        raise ValueError(f"{path} is empty: expected the object painted on at least one frame")
    return annotations


def _read_masks(path: Path, video: VideoSource) -> Iterator[tuple[int, str, LabelMap]]:
    """Frame index, what to call the mask in messages, and its labels."""
    if path.is_dir():
        frames: list[FrameRef] = [FrameOf(video.path, i) for i in range(video.frame_count)]
        if video.path.is_dir():
            frames = list(_list_frames(video.path))
        for index, file in match_masks(path, video.path, frames).items():
            yield index, str(file), read_labels(file)
    elif not has_suffix(path, NIFTI_SUFFIXES + META_SUFFIXES) or is_single_image(path):
        yield 0, str(path), read_labels(path)
    else:
        volume = open_volume(path)
        _check_count(path, volume.frame_count, video)
        for index, values in enumerate(volume.pixels(range(volume.frame_count))):
            if values.ndim != 2:
                raise ValueError(f"{path} holds colours: expected label numbers, 0 for background")
            yield index, str(path), snap_labels(values, f"frame {index} of {path}")


def _check_count(path: Path, count: int, video: VideoSource) -> None:
    if count != video.frame_count:
        raise ValueError(
            f"{path} holds {count} masks but {video.path} has {video.frame_count} frames: expected "
            "one mask for the first frame, or as many as frames (empty where not annotated)"
        )


def _plain_geometry(width: int, height: int, frame_count: int) -> Geometry:
    """Of sources without a place in space: ITK's identity, NIfTI's with x and y negated."""
    return Geometry((width, height, frame_count), np.diag([-1.0, -1.0, 1.0, 1.0]))


def _list_frames(folder: Path) -> list[Path]:
    """In natural order; links are followed, wherever they lead.

    Raises:
        FileNotFoundError: A link leads nowhere: without its frame the others would move up.
        ValueError: There are none.
    """
    files = [
        file
        for file in folder.iterdir()
        if has_suffix(file, STILL_SUFFIXES) and not file.name.startswith(".") and not file.is_dir()
    ]
    for file in files:
        check_file(file)
    if not files:
        raise ValueError(f"{folder} holds no frames: expected {', '.join(STILL_SUFFIXES)} files")
    return sorted(files, key=lambda file: natural_key(file.name))


def _open_folder(path: Path) -> VideoSource:
    files = _list_frames(path)
    height, width = read_pixels(files[0]).shape[:2]
    return VideoSource(
        path=path,
        name=source_name(path),
        height=height,
        width=width,
        frame_count=len(files),
        fps=None,
        spacing_mm=None,
        geometry=_plain_geometry(width, height, len(files)),
        read=partial(_read_folder, files),
    )


def _read_folder(files: list[Path], indices: Sequence[int]) -> Iterator[np.ndarray]:
    for index in indices:
        yield read_pixels(files[index])


def _open_video_file(path: Path) -> VideoSource:
    try:
        with video_stream(path) as (container, _):
            kind = container.format.name
    except DeclaredSizeError:
        raise
    except (OSError, ValueError, av.FFmpegError) as error:
        raise ValueError(f"cannot open {path} as a video ({error}): expected {KINDS}") from error
    if kind == "tty":  # FFmpeg would draw the text
        raise ValueError(f"{path} is a text file, no video: expected {KINDS}")
    if kind.endswith("_pipe") or kind == "image2":
        raise ValueError(f"{path} is a single image: expected a video or a folder of frames")
    timing = read_timing(path)
    frame_count = timing.frame_count
    if frame_count == 0:
        raise ValueError(f"{path} holds no frames: the file is empty or truncated, export it again")
    # FFmpeg does not say that it is the limit.
    limit = f"which may have {MAX_FRAME_PIXELS} pixels at most"
    with explained(f"cannot read the first frame of {path}, {limit}"):
        height, width = next(read_video_file(path, frame_count, [0])).shape[:2]
    return VideoSource(
        path=path,
        name=source_name(path),
        height=height,
        width=width,
        frame_count=frame_count,
        fps=timing.fps,
        spacing_mm=None,
        geometry=_plain_geometry(width, height, frame_count),
        read=partial(read_video_file, path, frame_count),
        frame_times=timing.times,
    )
