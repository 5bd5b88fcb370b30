"""Read masks from DICOM segmentations: binary, fractional or label maps."""

import logging
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
from pydicom.dataset import Dataset
from pydicom.misc import is_dicom

from bundle.io.reading.decode import explained
from bundle.io.reading.labels import StoredMask
from bundle.io.reading.limits import check_inflated, check_size, check_stored
from bundle.io.reading.mask_volumes import Masks
from bundle.io.reading.shapes import tell_overlap
from bundle.io.reading.volumes import VideoSource

logger = logging.getLogger(__name__)

SEGMENTATIONS = ("1.2.840.10008.5.1.4.1.1.66.4", "1.2.840.10008.5.1.4.1.1.66.7")
NATIVE = ("1.2.840.10008.1.2", "1.2.840.10008.1.2.1")


def is_segmentation(path: Path) -> bool:
    """Whether a file is a DICOM segmentation."""
    if not is_dicom(path):
        return False
    with explained(f"cannot open {path} as DICOM"):
        return _head(path).get("SOPClassUID") in SEGMENTATIONS


def read_segmentation(path: Path, video: VideoSource) -> Masks:
    """Read the masks of a DICOM segmentation and match them with the frames of a video.

    A mask is matched by its reference to the source frame; without one, by its time; without that, by
    its order, if there are as many masks as frames. A warning is logged if the references are to other
    files, as when the video is a copy. Ids are segment numbers, or, in files that this program wrote,
    the ids of the masks.

    Raises:
        ValueError: The file is damaged, its frames cannot be matched, or only some belong to the video.
    """
    with explained(f"cannot open {path} as DICOM"):
        dataset = pydicom.dcmread(path)
        height, width = int(dataset.Rows), int(dataset.Columns)
        count = int(dataset.get("NumberOfFrames") or 1)
        bits = int(dataset.BitsAllocated)
    check_size(path, height, width, count)
    declared = -(-count * height * width * bits // 8)
    check_stored(path, declared, path.stat().st_size)
    with explained(f"cannot read the frames of {path}"):
        places = _places(dataset, video, count)
        ids = _ids(dataset)
        kind = str(dataset.get("SegmentationType", "BINARY"))
        found: dict[int, np.ndarray] = {}
        overlaps = []
        for number, (frame, segment) in enumerate(places):
            values = found.setdefault(frame, np.zeros((height, width), np.uint8))
            pixels = _pixels(path, dataset, number, (height, width), bits)
            if kind == "LABELMAP":
                for value in np.unique(pixels[pixels > 0]).tolist():
                    values[pixels == value] = ids.get(value, value)
                continue
            least = 0
            if kind == "FRACTIONAL":
                least = int(dataset.get("MaximumFractionalValue", 255)) // 2
            shown = pixels > least
            if np.isin(values[shown], (0, ids[segment]), invert=True).any():
                overlaps.append(frame)
            values[shown] = ids[segment]
    if overlaps:
        tell_overlap(min(overlaps), str(path))
    for frame, values in sorted(found.items()):
        if values.any():
            yield frame, StoredMask(values, "exact", f"frame {frame} of {path}")


def _head(path: Path) -> Dataset:
    return pydicom.dcmread(path, stop_before_pixels=True, specific_tags=["SOPClassUID"])


def _ids(dataset: Dataset) -> dict[int, int]:
    ids = {}
    for item in dataset.get("SegmentSequence", ()):
        number = int(item.SegmentNumber)
        own = re.fullmatch(
            "object ([0-9]+)", str(item.get("TrackingID", item.get("SegmentLabel", "")))
        )
        ids[number] = int(own[1]) if own and dataset.get("Manufacturer") == "TCMN" else number
    if any(not 0 <= value <= 255 for value in ids.values()):
        raise ValueError(f"it has the segment {max(ids.values())}: expected numbers up to 255")
    return ids


def _places(dataset: Dataset, video: VideoSource, count: int) -> list[tuple[int, int]]:
    """Find the frame of the video and the segment for each frame of the segmentation."""
    groups = list(dataset.get("PerFrameFunctionalGroupsSequence", ()))
    shared = next(iter(dataset.get("SharedFunctionalGroupsSequence", ())), Dataset())
    if len(groups) != count:
        raise ValueError(f"it describes {len(groups)} of its {count} frames")
    segments = [_segment(group, shared) for group in groups]
    instances = _instances(video)
    sources = [_source(group) for group in groups]
    _check_instances(sources, instances, video)
    stored = [_source_frame(source, instances, bool(video.files)) for source in sources]
    # Segmentations count frames as they are stored, the video as they were taken.
    shown = {video.stored_index(index): index for index in range(video.frame_count)}
    frames = [None if place is None else shown.get(place, place) for place in stored]
    if any(frame is None for frame in frames):
        frames = [_time_index(group) for group in groups]
    if any(frame is None for frame in frames):
        if count % video.frame_count:
            raise ValueError(
                f"its {count} frames do not say which of the {video.frame_count} frames of "
                f"{video.path} they belong to"
            )
        seen: dict[int, int] = {}
        frames = []
        for segment in segments:
            frames.append(seen.get(segment, 0))
            seen[segment] = seen.get(segment, 0) + 1
    for frame in frames:
        if frame is None or not 0 <= frame < video.frame_count:
            raise ValueError(
                f"it has a mask for frame {frame}, {video.path} has {video.frame_count}"
            )
    return [(int(frame or 0), segment) for frame, segment in zip(frames, segments, strict=True)]


def _segment(group: Dataset, shared: Dataset) -> int:
    for place in (group, shared):
        for item in place.get("SegmentIdentificationSequence", ()):
            return int(item.ReferencedSegmentNumber)
    return 1


def _source(group: Dataset) -> Dataset:
    """Read the reference to the image that a frame was derived from; empty if there is none."""
    for derivation in group.get("DerivationImageSequence", ()):
        for source in derivation.get("SourceImageSequence", ()):
            return source
    return Dataset()


def _check_instances(
    sources: Sequence[Dataset], instances: Mapping[str, int], video: VideoSource
) -> None:
    """Check the references: log it if all are to other files, raise ValueError if only some are."""
    referred = {str(source.get("ReferencedSOPInstanceUID", "")) for source in sources} - {""}
    foreign = referred - instances.keys()
    if not foreign or not instances:
        return
    if len(foreign) < len(referred):
        raise ValueError(
            f"it refers to {len(referred)} images, of which {len(foreign)} are not in {video.path}: "
            "expected the masks of this video, or all files of its series"
        )
    logger.warning(
        "the masks refer to other images than %s: taken by their numbers and their order in time",
        video.path,
    )


def _source_frame(source: Dataset, instances: Mapping[str, int], is_series: bool) -> int | None:
    if "ReferencedFrameNumber" in source and not is_series:
        number: Any = source.ReferencedFrameNumber
        return int(number if isinstance(number, (int, str)) else number[0]) - 1
    return instances.get(str(source.get("ReferencedSOPInstanceUID", ""))) if is_series else None


def _time_index(group: Dataset) -> int | None:
    for content in group.get("FrameContentSequence", ()):
        if content.get("TemporalPositionIndex"):
            return int(content.TemporalPositionIndex) - 1
    return None


def _instances(video: VideoSource) -> dict[str, int]:
    """Map the DICOM instances of a video to their positions; empty for videos of other formats."""
    files = video.files or ((video.path,) if video.path.is_file() and is_dicom(video.path) else ())
    found = {}
    for index, file in enumerate(files):
        head = pydicom.dcmread(file, stop_before_pixels=True, specific_tags=["SOPInstanceUID"])
        found[str(head.get("SOPInstanceUID", ""))] = index
    return found


def _pixels(
    path: Path, dataset: Dataset, number: int, size: tuple[int, int], bits: int
) -> np.ndarray:
    area = size[0] * size[1]
    if bits == 1 and dataset.file_meta.TransferSyntaxUID in NATIVE:
        begin = number * area
        data = memoryview(dataset.PixelData)[begin // 8 : -(-(begin + area) // 8)]
        values = np.unpackbits(np.frombuffer(data, np.uint8), bitorder="little")
        return values[begin % 8 :][:area].reshape(size)
    frames = int(dataset.get("NumberOfFrames") or 1)
    check_inflated(path, frames * area * max(1, bits // 8))
    return np.asarray(dataset.pixel_array).reshape(frames, *size)[number]
