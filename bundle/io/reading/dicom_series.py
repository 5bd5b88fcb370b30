"""Open a folder of single-frame DICOM files as a video, ordered by time and not by file name."""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pydicom
from pydicom.misc import is_dicom

from bundle.io.reading.decode import explained
from bundle.io.reading.dicom import (
    Values,
    check_codec,
    colour_windows,
    decode_frames,
    is_grey,
    make_geometry,
    open_dicom,
    read_header,
    read_values,
)
from bundle.io.reading.dicom_header import (
    enhanced_getter,
    read_affine,
    read_frame_header,
    read_spacing,
    read_times,
    read_windows,
    sort_frames,
)
from bundle.io.reading.limits import check_size
from bundle.io.reading.volumes import VideoSource, source_name

NO_PICTURES = ("1.2.840.10008.5.1.4.1.1.66.4", "1.2.840.10008.5.1.4.1.1.88")
"""Segmentations and structured reports, which lie beside the files that they are about."""
SHOWN_SERIES = 8


def find_dicom_files(folder: Path) -> list[Path]:
    """List the DICOM files of a folder, without subfolders, ordered by name."""
    return sorted(
        path
        for path in folder.iterdir()
        if not path.name.startswith(".") and path.is_file() and is_dicom(path)
    )


def is_dicom_series(files: Sequence[Path]) -> bool:
    """Whether DICOM files are one video: several, of one series, with one frame each.

    Stops reading headers as soon as one file has several frames.

    Raises:
        ValueError: A file is damaged.
    """
    series: set[str] = set()
    count = 0
    for path in files:
        header = read_header(path, ["SOPClassUID", "SeriesInstanceUID", "Rows", "NumberOfFrames"])
        if "Rows" in header and not str(header.get("SOPClassUID", "")).startswith(NO_PICTURES):
            count += 1
            series.add(str(header.get("SeriesInstanceUID", "")))
            if int(header.get("NumberOfFrames") or 1) > 1 or len(series) > 1:
                return False
    return count > 1


def open_dicom_folder(folder: Path, files: Sequence[Path]) -> VideoSource:
    """Open a series of DICOM files with one frame each, or the one multi-frame file of a folder.

    Raises:
        ValueError: They belong to several series, hold several slices over time, or cannot be read.
        MissingCodecError: Their compression needs a package that is not installed.
    """
    series: dict[str, list[tuple[Path, pydicom.FileDataset]]] = defaultdict(list)
    for path in files:
        header = read_header(path)
        if "Rows" in header and not str(header.get("SOPClassUID", "")).startswith(NO_PICTURES):
            several = int(header.get("NumberOfFrames") or 1) > 1
            key = f"{header.get('SeriesInstanceUID', '')}{path if several else ''}"
            series[key].append((path, header))
    if not series:
        raise ValueError(
            f"{folder} holds DICOM files without pictures: expected a series of images"
        )
    if len(series) > 1:
        raise ValueError(
            f"{folder} holds {len(series)} DICOM series, expected one: put each in a folder of its "
            f"own ({'; '.join(_describe(members) for members in list(series.values())[:SHOWN_SERIES])}"
            f"{'; ...' if len(series) > SHOWN_SERIES else ''})"
        )
    (members,) = series.values()
    if len(members) == 1:
        return replace(open_dicom(members[0][0]), name=source_name(folder))
    return _open_series(folder, members)


def _describe(members: Sequence[tuple[Path, pydicom.FileDataset]]) -> str:
    path, header = members[0]
    about = " ".join(
        str(header.get(keyword))
        for keyword in ("SeriesNumber", "SeriesDescription")
        if header.get(keyword)
    )
    return f"{about or 'series'}: {len(members)} files such as {path.name}"


def _open_series(folder: Path, members: list[tuple[Path, pydicom.FileDataset]]) -> VideoSource:
    first = members[0][1]
    with explained(f"cannot read the headers of {folder}"):
        height, width = int(first.Rows), int(first.Columns)
        for path, header in members:
            check_size(path, int(header.Rows), int(header.Columns))
        frames = [read_frame_header(enhanced_getter(header, 0)) for _, header in members]
    check_codec(members[0][0], first)
    try:
        order, _ = sort_frames(frames)
    except ValueError as error:
        raise ValueError(f"{folder} has {error}") from error
    with explained(f"cannot read the headers of {folder}"):
        head = members[order[0]][1]
        grey = is_grey(head)
        windows = read_windows(head, enhanced_getter(head, 0)) if grey else colour_windows(head)
        values = [
            read_values(header, [frame], windows)
            for (_, header), frame in zip(members, frames, strict=True)
        ]
        fps, times = read_times(head, frames, order)
        affine = read_affine(frames, order)
        spacing_mm = read_spacing(head) or frames[order[0]].spacing
    count = len(members)
    paths = tuple(path for path, _ in members)
    return VideoSource(
        path=folder,
        name=source_name(folder),
        height=height,
        width=width,
        frame_count=count,
        fps=fps,
        spacing_mm=spacing_mm,
        geometry=make_geometry(width, height, count, spacing_mm, affine, frames, order),
        read=partial(_read_series, paths, values, order),
        frame_times=times,
        windows=windows,
        inverted=head.get("PhotometricInterpretation") == "MONOCHROME1",
        stored=order,
        files=paths,
    )


def _read_series(
    paths: Sequence[Path], values: Sequence[Values], order: np.ndarray, indices: Sequence[int]
) -> Iterator[np.ndarray]:
    for index in indices:
        place = int(order[index])
        (pixels,) = decode_frames(paths[place], [0])
        yield values[place].convert(pixels, 0)
