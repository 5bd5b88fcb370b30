"""Multi-frame DICOM as a video: size, rate and spacing from the header, frames on demand."""

import importlib
import zlib
from collections.abc import Iterator, Sequence
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
from pydicom.filereader import read_dataset, read_file_meta_info
from pydicom.uid import DeflatedExplicitVRLittleEndian

from bundle.io.reading.decode import explained
from bundle.io.reading.headers import known, known_spacing
from bundle.io.reading.limits import check_inflated, check_stored
from bundle.io.reading.volumes import Geometry, VideoSource, source_name

META_BEGINS = 128 + 4  # after the preamble and the prefix
BLOCK_BYTES = 2**20
ULTRASOUND_CM = 3  # the unit code of SequenceOfUltrasoundRegions for cm per pixel

# pydicom 3 has both colour conversions and a lazy reader in one module, 2.4 only the conversions.
dicom_pixels: Any = importlib.import_module(
    "pydicom.pixels" if find_spec("pydicom.pixels") else "pydicom.pixel_data_handlers"
)


def open_dicom(path: Path) -> VideoSource:
    """Open a multi-frame DICOM; frames are decoded as they are asked for.

    Raises:
        ValueError: The file is damaged, declares more than it can hold, or holds no pictures or
            only one.
    """
    with explained(f"cannot open {path} as DICOM"):
        _check_deflated(path)
        header = pydicom.dcmread(path, stop_before_pixels=True)
    if "Rows" not in header:
        raise ValueError(f"{path} is a DICOM file without pictures: expected a multi-frame DICOM")
    with explained(f"cannot read the header of {path}"):
        frame_count = int(header.get("NumberOfFrames") or 1)
        height, width = int(header.Rows), int(header.Columns)
        fps, spacing_mm = _dicom_fps(header), _dicom_spacing(header)
        _check_stored(path, header, frame_count)
    if frame_count < 2:
        raise ValueError(f"{path} is a single image: expected a video or a folder of frames")
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


def _is_deflated(meta: pydicom.Dataset) -> bool:
    return meta.get("TransferSyntaxUID") == DeflatedExplicitVRLittleEndian


def _check_deflated(path: Path) -> None:
    """Unpack a deflated file in small blocks first: pydicom takes memory for all of it at once."""
    with path.open("rb") as file:
        file.seek(META_BEGINS)
        meta = read_dataset(file, False, True, stop_when=lambda tag, vr, length: tag >> 16 != 2)
        if not _is_deflated(meta):
            return
        stream, count = zlib.decompressobj(-zlib.MAX_WBITS), 0
        while packed := stream.unconsumed_tail or file.read(BLOCK_BYTES):
            count += len(stream.decompress(packed, BLOCK_BYTES))
            check_inflated(path, count)


def _check_stored(path: Path, header: pydicom.Dataset, frame_count: int) -> None:
    """Each frame takes its pixels, or if it is compressed the eight bytes of an item's header."""
    frame_bytes = 8
    if not header.file_meta.TransferSyntaxUID.is_encapsulated:
        bits = header.BitsAllocated * header.get("SamplesPerPixel", 1)
        frame_bytes = header.Rows * header.Columns * bits // 8
    check_stored(path, frame_count * frame_bytes, path.stat().st_size)


def _dicom_fps(header: pydicom.Dataset) -> float | None:
    if frame_s := known(float(header.get("FrameTime") or 0) / 1000):
        return 1 / frame_s
    return known(float(header.get("CineRate") or header.get("RecommendedDisplayFrameRate") or 0))


def _dicom_spacing(header: pydicom.Dataset) -> tuple[float, float] | None:
    for region in header.get("SequenceOfUltrasoundRegions") or ():
        units = region.get("PhysicalUnitsXDirection"), region.get("PhysicalUnitsYDirection")
        row_mm = 10 * abs(region.get("PhysicalDeltaY") or 0)
        column_mm = 10 * abs(region.get("PhysicalDeltaX") or 0)
        # A region beyond the frame tells that the picture was shrunk after it was measured.
        fits = (region.get("RegionLocationMaxX1") or 0) < header.Columns and (
            region.get("RegionLocationMaxY1") or 0
        ) < header.Rows
        spacing_mm = known_spacing(row_mm, column_mm)
        if units == (ULTRASOUND_CM, ULTRASOUND_CM) and fits and spacing_mm:
            return spacing_mm
    spacing = [float(mm) for mm in header.get("PixelSpacing") or ()]
    return known_spacing(*spacing) if len(spacing) == 2 else None


def _read_dicom(path: Path, indices: Sequence[int]) -> Iterator[np.ndarray]:
    header = pydicom.dcmread(path, stop_before_pixels=True)
    decode = _decode_dicom if hasattr(dicom_pixels, "iter_pixels") else _decode_dicom_v2
    for pixels in decode(path, indices):
        if header.PhotometricInterpretation == "PALETTE COLOR":
            pixels = dicom_pixels.apply_color_lut(pixels, header)
        # MONOCHROME1 is white at its lowest value.
        yield ~pixels if header.PhotometricInterpretation == "MONOCHROME1" else pixels


def _decode_dicom(path: Path, indices: Sequence[int]) -> Iterator[np.ndarray]:
    # Of a deflated file pydicom finds nothing on disk.
    deflated = _is_deflated(read_file_meta_info(path))
    source = pydicom.dcmread(path) if deflated else path
    for pixels in dicom_pixels.iter_pixels(source, indices=indices):
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
