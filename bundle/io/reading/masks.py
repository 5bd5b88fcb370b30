"""Read the masks of some frames of a video from any supported file or folder."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from bundle.io.reading.decode import (
    NRRD_SUFFIXES,
    STILL_SUFFIXES,
    VOLUME_SUFFIXES,
    check_file,
    has_suffix,
    is_picture,
    is_tiff_stack,
)
from bundle.io.reading.frame_folder import list_frames
from bundle.io.reading.frame_refs import FrameOf, FrameRef
from bundle.io.reading.labels import StoredMask, settle_labels
from bundle.io.reading.mask_dicom import is_segmentation, read_segmentation
from bundle.io.reading.mask_folder import frame_of_mask, match_masks
from bundle.io.reading.mask_json import read_json, read_labelme
from bundle.io.reading.mask_nrrd import open_labels
from bundle.io.reading.mask_pictures import read_mask_picture
from bundle.io.reading.mask_volumes import Masks, read_single, read_volume
from bundle.io.reading.mask_xml import read_cvat
from bundle.io.reading.video import open_video
from bundle.io.reading.volumes import VideoSource, is_single_image
from bundle.types import LabelMap

SHAPE_SUFFIXES = (".json", ".xml", ".zip")
"""Of outlines and run lengths."""


class PartialLabels(NamedTuple):
    """A mask of which only a part is known.

    Attributes:
        labels: (H, W) uint8 object ids; 0 for background and where unknown.
        unknown: (H, W) bool, True where unknown.
    """

    labels: LabelMap
    unknown: npt.NDArray[np.bool_]


def read_annotations(
    path: str | Path, video: VideoSource, mask_frame: int | None = None
) -> dict[int, LabelMap]:
    """Read the masks of some frames of a video; ``bundle.read_masks`` is this function.

    Args:
        path: One mask (a picture, or a 2D NIfTI, MetaImage or NRRD), for the first frame unless its
            name or ``mask_frame`` says otherwise; a volume or TIFF stack of the video's size,
            (x, y, t) or (x, y, 1, t), also in NRRD (.seg.nrrd, .seq.nrrd); a folder of pictures, which
            ``bundle.io.reading.mask_folder`` matches with frames; a DICOM segmentation;
            ``masks.json`` of this program; COCO (.json); CVAT for video 1.1 (.xml, or the zip archive
            with it); labelme (.json, or a folder of them). Empty masks count as not annotated.
        video: Video that the masks belong to, from ``open_video``.
        mask_frame: Frame that a single mask belongs to, from 0. For a folder of numbered masks, the
            frame of the lowest number.

    Returns:
        Frame index -> label map (H, W) uint8, 0 for background and 1 to 255 for objects. How pixel
        values become object ids: ``bundle.io.reading.labels.find_meaning``.

    Raises:
        FileNotFoundError: There is no such file or folder, or nothing in it.
        ValueError: The masks are empty, hold no labels, or differ from the video in size or number;
            or a number in a name may mean one frame or another.

    Example:
        >>> from tempfile import TemporaryDirectory
        >>> from PIL import Image
        >>> from bundle import open_video, read_masks
        >>> with TemporaryDirectory() as folder:
        ...     Path(folder, "video").mkdir()
        ...     for index in range(3):
        ...         Image.new("RGB", (64, 48), "red").save(f"{folder}/video/{index}.png")
        ...     mask = Image.new("L", (64, 48))
        ...     mask.paste(255, (20, 10, 40, 30))  # left, top, right, bottom
        ...     mask.save(f"{folder}/mask.png")
        ...     masks = read_masks(f"{folder}/mask.png", open_video(f"{folder}/video"))
        >>> {index: (labels.shape, int(labels.sum())) for index, labels in masks.items()}
        {0: ((48, 64), 400)}
    """
    found = read_stored(Path(path), video, mask_frame)
    labels = dict(zip(found, settle_labels(list(found.values())), strict=True))
    annotations = {index: each for index, each in labels.items() if each.any()}
    if not annotations:
        raise _empty(path)
    return annotations


def read_partial_annotations(
    path: str | Path, video: VideoSource, unknown: int, mask_frame: int | None = None
) -> dict[int, PartialLabels]:
    """Read masks in which one value marks unknown pixels.

    Args:
        path: As in ``read_annotations``.
        video: Video that the masks belong to.
        unknown: Value of unknown pixels, such as 255.
        mask_frame: As in ``read_annotations``.

    Returns:
        Frame index to mask.

    Raises:
        FileNotFoundError: As in ``read_annotations``.
        ValueError: As in ``read_annotations``; or the masks are in colour or compressed with loss, so
            that values are not exact.
    """
    found = read_stored(Path(path), video, mask_frame)
    for mask in found.values():
        if mask.kind not in ("exact", "grey"):
            raise ValueError(
                f"{mask.source} is in colour or compressed with loss, so no pixel surely has the value "
                f"{unknown}, the value for unknown: save the mask as a grey PNG"
            )
    open_pixels = [mask.values == unknown for mask in found.values()]
    known = [
        replace(mask, values=np.where(pixels, 0, mask.values).astype(mask.values.dtype))
        for mask, pixels in zip(found.values(), open_pixels, strict=True)
    ]
    settled = zip(found, settle_labels(known), open_pixels, strict=True)
    parts = {i: PartialLabels(labels, pixels) for i, labels, pixels in settled if labels.any()}
    if not parts:
        raise _empty(path)
    return parts


def _empty(path: str | Path) -> ValueError:
    return ValueError(f"{path} is empty: expected the object painted on at least one frame")


def read_stored(
    path: Path, video: VideoSource, mask_frame: int | None = None
) -> dict[int, StoredMask]:
    """Read the stored values of masks by frame, before ids are decided; see ``read_annotations``."""
    if not path.exists():
        raise FileNotFoundError(f"no such mask: {path}: check the path")
    if not path.is_dir():
        check_file(path)
    found = {}
    for index, mask in _read_masks(path, video, mask_frame):
        if not 0 <= index < video.frame_count:
            raise ValueError(
                f"{mask.source}: {video.path} has {video.frame_count} frames, 0 to "
                f"{video.frame_count - 1}"
            )
        height, width = mask.values.shape[:2]
        if (height, width) != (video.height, video.width):
            raise ValueError(
                f"{mask.source} is {width}x{height} but {video.path} is "
                f"{video.width}x{video.height}: export the mask at the video's size"
            )
        found[index] = mask
    return found


def holds_shapes(path: Path) -> bool:
    """Whether a path holds outlines, run lengths or DICOM segments, which are read all at once."""
    return path.is_dir() or has_suffix(path, SHAPE_SUFFIXES) or is_segmentation(path)


def open_label_volume(path: Path) -> VideoSource:
    """Open a label volume: NIfTI, MetaImage, NRRD or a TIFF stack.

    Raises:
        ValueError: The file is of another kind, or damaged.
    """
    return open_labels(path) if has_suffix(path, NRRD_SUFFIXES) else open_video(path)


def list_frame_refs(video: VideoSource) -> Sequence[FrameRef]:
    """List the frames of a video: pictures of a folder, or members of its file."""
    if video.path.is_dir() and not video.files and any(map(is_picture, video.path.iterdir())):
        frames = list_frames(video.path)
        if len(frames) == video.frame_count:
            return frames
    return [FrameOf(video.path, index) for index in range(video.frame_count)]


def _read_masks(path: Path, video: VideoSource, mask_frame: int | None) -> Masks:
    if path.is_dir():
        frames = list_frame_refs(video)
        outlines = [] if any(map(is_picture, path.iterdir())) else sorted(path.glob("*.json"))
        if outlines:
            yield from read_labelme(outlines, video, frames, mask_frame)
            return
        matched = match_masks(path, video.path, frames, first_frame=mask_frame, ask=True)
        for index, file in matched.items():
            yield index, read_mask_picture(file)
    elif is_single_image(path):
        index = frame_of_mask(path, video.path, list_frame_refs(video), mask_frame)
        still = has_suffix(path, STILL_SUFFIXES)
        yield index, read_mask_picture(path) if still else read_single(path, video)
    elif has_suffix(path, VOLUME_SUFFIXES) or is_tiff_stack(path):
        yield from read_volume(open_label_volume(path), video, mask_frame)
    elif has_suffix(path, (".json",)):
        yield from read_json(path, video, list_frame_refs(video), mask_frame)
    elif has_suffix(path, (".xml", ".zip")):
        yield from read_cvat(path, video, list_frame_refs(video), mask_frame)
    elif is_segmentation(path):
        yield from read_segmentation(path, video)
    else:
        index = frame_of_mask(path, video.path, list_frame_refs(video), mask_frame)
        yield index, read_mask_picture(path)
