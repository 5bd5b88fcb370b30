"""Open a video of any supported format: ``open_video`` picks the reader.

Frames are (H, W, 3) uint8 RGB. ``VideoSource`` and volumes are in ``bundle.io.reading.volumes``, DICOM
in ``bundle.io.reading.dicom``, single images in ``bundle.io.reading.decode``, masks in
``bundle.io.reading.masks``.
"""

import logging
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import av
import numpy as np
from pydicom.misc import is_dicom

from bundle.io.reading.decode import (
    VOLUME_SUFFIXES,
    check_file,
    explained,
    has_suffix,
    is_tiff_stack,
    read_pixels,
)
from bundle.io.reading.dicom import open_dicom
from bundle.io.reading.dicom_series import find_dicom_files, open_dicom_folder
from bundle.io.reading.frame_folder import list_frames
from bundle.io.reading.limits import MAX_FRAME_PIXELS, DeclaredSizeError
from bundle.io.reading.video_file import read_timing, read_video_file, video_stream
from bundle.io.reading.volumes import (
    Geometry,
    VideoSource,
    is_single_image,
    open_volume,
    source_name,
)

__all__ = ["Geometry", "VideoSource", "open_video"]

logger = logging.getLogger(__name__)

KINDS = (
    "a video file (avi, mp4, mov, wmv, mkv, ts, gif and others), a folder of frames (png, jpg, tif, "
    "bmp), a 2D+t NIfTI (.nii, .nii.gz), MetaImage (.mhd, .mha) or NRRD (.nrrd, .nhdr), a TIFF "
    "stack, a multi-frame DICOM, or a folder with one DICOM file a frame"
)


def open_video(path: str | Path) -> VideoSource:
    """Open a video. Reads only what its size and length need; frames are decoded when they are used.

    Args:
        path: A video file, a folder of frames (sorted naturally: 2 before 10), a 2D+t NIfTI,
            MetaImage or NRRD, a TIFF stack or a folder that holds only that, a multi-frame DICOM
            whatever its suffix, or a folder of DICOM files of one frame each (sorted by time).

    Returns:
        A sequence of RGB frames (H, W, 3) uint8, with ``name``, ``height`` and ``width`` in pixels,
        ``times`` in seconds, and ``spacing_mm``, the (row, column) distance of pixels. ``times`` and
        ``spacing_mm`` are None if the file does not say.

    Raises:
        FileNotFoundError: The file or folder does not exist.
        ValueError: It is not a video, has no frames, is truncated, or has frames that are too large.
        MissingCodecError: Its compression needs a package that is not installed; the message names it.

    Example:
        >>> from tempfile import TemporaryDirectory
        >>> from PIL import Image
        >>> with TemporaryDirectory() as folder:
        ...     for index in range(3):
        ...         Image.new("RGB", (64, 48), "red").save(f"{folder}/{index}.png")
        ...     video = open_video(folder)
        ...     len(video), video.height, video.width, video[0].shape, video.times
        (3, 48, 64, (48, 64, 3), None)
    """
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(f"no such file or folder: {path}; expected {KINDS}")
    if path.is_dir():
        return _open_folder(path)
    check_file(path)
    if is_dicom(path):
        return open_dicom(path)
    if is_single_image(path):
        raise ValueError(f"{path} is a single image: expected a video or a folder of frames")
    if has_suffix(path, VOLUME_SUFFIXES) or is_tiff_stack(path):
        return open_volume(path)
    return _open_video_file(path)


def is_dicom_file(path: Path) -> bool:
    """Whether a path is a DICOM file."""
    return path.is_file() and is_dicom(path)


def holds_video(path: Path) -> bool:
    """Whether FFmpeg finds a video stream in a file, whatever its name."""
    try:
        with video_stream(path) as (container, _):
            kind = container.format.name
            return kind not in ("tty", "image2") and not kind.endswith("_pipe")
    except (OSError, ValueError, av.FFmpegError):
        return False


def _plain_geometry(width: int, height: int, frame_count: int) -> Geometry:
    """Make the geometry of a video without a position in space: the identity in ITK's convention."""
    return Geometry((width, height, frame_count), np.diag([-1.0, -1.0, 1.0, 1.0]))


def _open_folder(path: Path) -> VideoSource:
    if files := find_dicom_files(path):
        return open_dicom_folder(path, files)
    stacks = [file for file in path.iterdir() if is_tiff_stack(file)]
    files = list_frames(path)
    for file in files:
        check_file(file)
    if stacks and len(files) == 1:
        stack = open_volume(stacks[0])
        return replace(stack, path=path, name=source_name(path))
    if stacks:
        raise ValueError(
            f"{path} holds {len(files)} pictures, but {min(stacks).name} is a stack of several: "
            "expected one stack alone, or single pictures only"
        )
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
        raise ValueError(f"{path} is a text file, not a video: expected {KINDS}")
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
