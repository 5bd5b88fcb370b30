"""Multi-frame DICOM as a video: size, rate and spacing from the header, frames on demand."""

import importlib
from collections.abc import Iterator, Sequence
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pydicom

from bundle.data.decode import explained
from bundle.data.volumes import Geometry, VideoSource, source_name

ULTRASOUND_CM = 3  # the unit code of SequenceOfUltrasoundRegions for cm per pixel

# pydicom 3 has both colour conversions and a lazy reader in one module, 2.4 only the conversions.
dicom_pixels: Any = importlib.import_module(
    "pydicom.pixels" if find_spec("pydicom.pixels") else "pydicom.pixel_data_handlers"
)


def open_dicom(path: Path) -> VideoSource:
    """Open a multi-frame DICOM; frames are decoded as they are asked for.

    Raises:
        ValueError: The file is damaged, or holds no pictures or only one.
    """
    with explained(f"cannot open {path} as DICOM"):
        header = pydicom.dcmread(path, stop_before_pixels=True)
    if "Rows" not in header:
        raise ValueError(f"{path} is a DICOM file without pictures: expected a multi-frame DICOM")
    with explained(f"cannot read the header of {path}"):
        frame_count = int(header.get("NumberOfFrames") or 1)
        fps, spacing_mm = _dicom_fps(header), _dicom_spacing(header)
    if frame_count < 2:
        raise ValueError(f"{path} is a single image: expected a video or a folder of frames")
    height, width = int(header.Rows), int(header.Columns)
    row_mm, column_mm = spacing_mm or (1.0, 1.0)
    return VideoSource(
        path=path,
        name=source_name(path),
        height=height,
        width=width,
        frame_count=frame_count,
        fps=fps,
        spacing_mm=spacing_mm,
        # No place in space: ITK's identity, NIfTI's with x and y negated.
        geometry=Geometry((width, height, frame_count), np.diag([-column_mm, -row_mm, 1.0, 1.0])),
        read=partial(_read_dicom, path),
    )


def _dicom_fps(header: pydicom.Dataset) -> float | None:
    if frame_ms := header.get("FrameTime"):
        return 1000 / float(frame_ms)
    rate = header.get("CineRate") or header.get("RecommendedDisplayFrameRate")
    return float(rate) if rate else None


def _dicom_spacing(header: pydicom.Dataset) -> tuple[float, float] | None:
    for region in header.get("SequenceOfUltrasoundRegions") or ():
        units = region.get("PhysicalUnitsXDirection"), region.get("PhysicalUnitsYDirection")
        row_mm = 10 * abs(region.get("PhysicalDeltaY") or 0)
        column_mm = 10 * abs(region.get("PhysicalDeltaX") or 0)
        # A region beyond the frame tells that the picture was shrunk after it was measured.
        fits = (
            region.get("RegionLocationMaxX1", 0) < header.Columns
            and region.get("RegionLocationMaxY1", 0) < header.Rows
        )
        if units == (ULTRASOUND_CM, ULTRASOUND_CM) and fits and row_mm and column_mm:
            return row_mm, column_mm
    spacing = [float(mm) for mm in header.get("PixelSpacing") or ()]
    return (spacing[0], spacing[1]) if len(spacing) == 2 and min(spacing) > 0 else None


def _read_dicom(path: Path, indices: Sequence[int]) -> Iterator[np.ndarray]:
    header = pydicom.dcmread(path, stop_before_pixels=True)
    decode = _decode_dicom if hasattr(dicom_pixels, "iter_pixels") else _decode_dicom_v2
    for pixels in decode(path, indices):
        if header.PhotometricInterpretation == "PALETTE COLOR":
            pixels = dicom_pixels.apply_color_lut(pixels, header)
        # MONOCHROME1 is white at its lowest value.
        yield ~pixels if header.PhotometricInterpretation == "MONOCHROME1" else pixels


def _decode_dicom(path: Path, indices: Sequence[int]) -> Iterator[np.ndarray]:
    for pixels in dicom_pixels.iter_pixels(path, indices=indices):
        yield pixels.copy()  # the decoder may use its buffer again


def _decode_dicom_v2(path: Path, indices: Sequence[int]) -> Iterator[np.ndarray]:
    """pydicom 2.4 can only decode all frames at once."""
    dataset = pydicom.dcmread(path)
    frames = dataset.pixel_array
    for index in indices:
        space = dataset.PhotometricInterpretation
        if space in ("YBR_FULL", "YBR_FULL_422"):
            yield dicom_pixels.convert_color_space(frames[index], space, "RGB")
        else:
            yield frames[index]
