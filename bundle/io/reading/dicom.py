"""Open a multi-frame DICOM file as a video: header values at once, frames decoded on demand."""

import importlib
import io
import struct
import warnings
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
from pydicom.filereader import read_dataset, read_file_meta_info
from pydicom.uid import UID, DeflatedExplicitVRLittleEndian

from bundle.io.reading.decode import explained
from bundle.io.reading.dicom_header import (
    FrameHeader,
    enhanced_getter,
    frame_rate,
    read_affine,
    read_frame_header,
    read_spacing,
    read_times,
    read_windows,
    sort_frames,
)
from bundle.io.reading.limits import (
    MissingCodecError,
    check_inflated,
    check_size,
    check_stored,
)
from bundle.io.reading.pieces import Piece, Pieces
from bundle.io.reading.scaling import Window
from bundle.io.reading.video_file import read_timing, read_video_file
from bundle.io.reading.volumes import Geometry, VideoSource, source_name

META_BEGINS = 128 + 4  # after the preamble and the prefix
BLOCK_BYTES = 2**20
VIDEO_SYNTAXES = tuple(f"1.2.840.10008.1.2.4.{number}" for number in range(100, 109))
"""MPEG-2, H.264 and HEVC, of which each has a second form with ``.1`` for streams in pieces."""
ITEM = b"\xfe\xff\x00\xe0"

# pydicom 3 has both colour conversions and a lazy reader in one module, 2.4 only the conversions.
dicom_pixels: Any = importlib.import_module(
    "pydicom.pixels" if find_spec("pydicom.pixels") else "pydicom.pixel_data_handlers"
)


@dataclass(frozen=True)
class DicomStream:
    """The MPEG-2, H.264 or HEVC stream inside a DICOM file, to be read like a video file."""

    path: Path
    pieces: tuple[Piece, ...]

    def open(self) -> io.BufferedReader:
        """Open the stream. Its bytes are not copied."""
        return io.BufferedReader(Pieces(self.pieces))


@dataclass(frozen=True, eq=False)
class Values:
    """Conversion of the stored values of grey frames: ``slope * stored + intercept``.

    Attributes:
        slopes: (F,) slope of each stored frame, or (1,) for all frames.
        intercepts: (F,) or (1,), likewise.
        padding: Lowest and highest stored value of the padding around the picture; None without one.
        keep_bytes: Whether values of 8 bits are not converted.
    """

    slopes: np.ndarray
    intercepts: np.ndarray
    padding: tuple[float, float] | None
    keep_bytes: bool

    def convert(self, stored: np.ndarray, index: int) -> np.ndarray:
        """Convert one frame. Padding becomes NaN. Returns the same array if nothing changes."""
        if stored.ndim != 2 or (stored.dtype == np.uint8 and self.keep_bytes):
            return stored
        slope = float(self.slopes[min(index, len(self.slopes) - 1)])
        intercept = float(self.intercepts[min(index, len(self.intercepts) - 1)])
        if (slope, intercept) == (1, 0) and self.padding is None:
            return stored
        values = stored.astype(np.float32)
        values *= slope
        values += intercept
        if self.padding is not None:
            values[(stored >= self.padding[0]) & (stored <= self.padding[1])] = np.nan
        return values


def open_dicom(path: Path) -> VideoSource:
    """Open a multi-frame DICOM. Frames are ordered by time, and decoded when they are needed.

    Raises:
        ValueError: The file is damaged, declares more than it can hold, has fewer than two pictures,
            or holds several slices over time.
        MissingCodecError: Its compression needs a package that is not installed.
    """
    header = read_header(path)
    if "Rows" not in header:
        raise ValueError(f"{path} is a DICOM file without pictures: expected a multi-frame DICOM")
    if is_video_syntax(header.file_meta.TransferSyntaxUID):
        return _open_stream(path, header)
    with explained(f"cannot read the header of {path}"):
        frame_count = int(header.get("NumberOfFrames") or 1)
        height, width = int(header.Rows), int(header.Columns)
        _check_stored(path, header, frame_count)
        check_size(path, height, width, frame_count)
    check_codec(path, header)
    if frame_count < 2:
        raise ValueError(f"{path} is a single image: expected a video or a folder of frames")
    with explained(f"cannot read the header of {path}"):
        groups = len(header.get("PerFrameFunctionalGroupsSequence") or ())
        frames = [read_frame_header(enhanced_getter(header, index)) for index in range(groups or 1)]
        getter = enhanced_getter(header, 0)
        windows = read_windows(header, getter) if is_grey(header) else colour_windows(header)
        values = read_values(header, frames, windows)
    try:
        order = np.arange(frame_count)
        if groups == frame_count:
            order, _ = sort_frames(frames)
    except ValueError as error:
        raise ValueError(f"{path} has {error}") from error
    with explained(f"cannot read the header of {path}"):
        fps, times = read_times(header, frames if groups == frame_count else [], order)
        affine = read_affine(frames, order) if groups == frame_count else None
        spacing_mm = read_spacing(header) or frames[0].spacing
    return VideoSource(
        path=path,
        name=source_name(path),
        height=height,
        width=width,
        frame_count=frame_count,
        fps=fps,
        spacing_mm=spacing_mm,
        geometry=make_geometry(width, height, frame_count, spacing_mm, affine, frames, order),
        read=partial(_read_dicom, path, values, order),
        frame_times=times,
        windows=windows,
        inverted=header.get("PhotometricInterpretation") == "MONOCHROME1",
        stored=None if (order == np.arange(frame_count)).all() else order,
    )


def read_header(path: Path, tags: Sequence[str] | None = None) -> pydicom.FileDataset:
    """Read the header of a DICOM file, without pixels: all elements, or some tags.

    Raises:
        ValueError: The file is damaged.
    """
    with explained(f"cannot open {path} as DICOM"):
        _check_deflated(path)
        return pydicom.dcmread(
            path, stop_before_pixels=True, specific_tags=list(tags or []) or None
        )


def make_geometry(
    width: int,
    height: int,
    count: int,
    spacing_mm: tuple[float, float] | None,
    affine: np.ndarray | None,
    frames: Sequence[FrameHeader],
    order: np.ndarray,
) -> Geometry:
    """Make the geometry of a label volume.

    It is (x, y, 1, t), or (x, y, t) if the position in space is unknown or the frames are slices.
    """
    if affine is None:
        # No place in space: ITK's identity, NIfTI's with x and y negated.
        row_mm, column_mm = spacing_mm or (1.0, 1.0)
        return Geometry((width, height, count), np.diag([-column_mm, -row_mm, 1.0, 1.0]))
    first, last = frames[order[0]].position, frames[order[-1]].position
    moves = first is not None and last is not None and not np.allclose(first, last, atol=0.01)
    return Geometry((width, height, count) if moves else (width, height, 1, count), affine)


def is_grey(header: pydicom.Dataset) -> bool:
    """Whether the pixels are grey values, to which a window applies."""
    return str(header.get("PhotometricInterpretation", "")).startswith("MONOCHROME")


def colour_windows(header: pydicom.Dataset) -> tuple[Window, ...]:
    """Make the window of colours of more than 8 bits: the full range of their declared bits."""
    bits = int(header.get("BitsStored") or 8)
    return (
        (Window(0, 2**bits - 1),) if bits > 8 and int(header.get("SamplesPerPixel", 1)) > 1 else ()
    )


def read_values(
    header: pydicom.Dataset, frames: Sequence[FrameHeader], windows: tuple[Window, ...]
) -> Values:
    """Read the slopes, intercepts and padding of the frames from the header."""
    padding = header.get("PixelPaddingValue")
    limits = None
    if padding is not None and is_grey(header):
        other = header.get("PixelPaddingRangeLimit")
        ends = [
            _as_stored(value, header) for value in (padding, padding if other is None else other)
        ]
        limits = min(ends), max(ends)
    return Values(
        np.array([frame.slope for frame in frames]),
        np.array([frame.intercept for frame in frames]),
        limits,
        keep_bytes=not windows,
    )


def _as_stored(value: Any, header: pydicom.Dataset) -> float:
    """Correct a padding value that was written with the wrong sign."""
    number, bits = int(value), int(header.get("BitsAllocated") or 16)
    if header.get("PixelRepresentation") and number >= 2 ** (bits - 1):
        return float(number - 2**bits)
    return float(
        number + 2**bits if number < 0 and not header.get("PixelRepresentation") else number
    )


def is_video_syntax(syntax: str) -> bool:
    """Whether the pixels are a video stream (MPEG-2, H.264 or HEVC), which FFmpeg decodes."""
    return syntax.removesuffix(".1") in VIDEO_SYNTAXES or syntax in VIDEO_SYNTAXES


def check_codec(path: Path, header: pydicom.FileDataset) -> None:
    """Check that the compression of a DICOM file can be decoded, before any frame is read.

    Raises:
        MissingCodecError: It needs a package that is not installed.
    """
    syntax = header.file_meta.TransferSyntaxUID
    if not syntax.is_encapsulated or not hasattr(dicom_pixels, "get_decoder"):
        return
    try:
        available = dicom_pixels.get_decoder(syntax).is_available
    except NotImplementedError:
        available = False
    if not available:
        raise _missing_codec(path, syntax)


def _missing_codec(path: Path, syntax: UID) -> MissingCodecError:
    return MissingCodecError(
        f"{path} is compressed as {syntax.name} ({syntax}), which no installed package decodes: "
        'pip install "tcmn[dicom]", or save it in another transfer syntax, such as Explicit VR '
        "Little Endian"
    )


def _open_stream(path: Path, header: pydicom.FileDataset) -> VideoSource:
    with explained(f"cannot read the header of {path}"):
        stream = DicomStream(path, _find_fragments(path))
        rate = frame_rate(header)
        spacing_mm = read_spacing(header)
    timing = read_timing(stream)
    if timing.frame_count == 0:
        raise ValueError(f"{path} holds no frames: the file is empty or truncated, export it again")
    with explained(f"cannot read the first frame of {path}"):
        height, width = next(read_video_file(stream, timing.frame_count, [0])).shape[:2]
    count = timing.frame_count
    return VideoSource(
        path=path,
        name=source_name(path),
        height=height,
        width=width,
        frame_count=count,
        fps=timing.fps if timing.times is not None else rate or timing.fps,
        spacing_mm=spacing_mm,
        geometry=make_geometry(width, height, count, spacing_mm, None, [], np.arange(count)),
        read=partial(read_video_file, stream, count),
        frame_times=timing.times,
    )


def _find_fragments(path: Path) -> tuple[Piece, ...]:
    """Find the fragments of encapsulated pixels: all items but the first, the offset table."""
    pieces = []
    with path.open("rb") as file:
        pydicom.dcmread(file, stop_before_pixels=True)
        if file.read(4) != b"\xe0\x7f\x10\x00":
            raise ValueError("it has no pixels")
        file.seek(8, io.SEEK_CUR)  # their kind, and an unknown length
        end = path.stat().st_size
        while (head := file.read(8))[:4] == ITEM and len(head) == 8:
            (size,) = struct.unpack("<I", head[4:])
            begin = file.tell()
            pieces.append(Piece(path, begin, min(size, end - begin)))
            file.seek(begin + size)
    return tuple(pieces[1:])


def _is_deflated(meta: pydicom.Dataset) -> bool:
    return meta.get("TransferSyntaxUID") == DeflatedExplicitVRLittleEndian


def _check_deflated(path: Path) -> None:
    """Check the unpacked size of a deflated file in blocks, since pydicom unpacks it all at once."""
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
    """Check that the file is large enough: a frame takes its pixels, or 8 bytes if compressed."""
    frame_bytes = 8
    if not header.file_meta.TransferSyntaxUID.is_encapsulated:
        bits = header.BitsAllocated * header.get("SamplesPerPixel", 1)
        frame_bytes = header.Rows * header.Columns * bits // 8
    check_stored(path, frame_count * frame_bytes, path.stat().st_size)


def _read_dicom(
    path: Path, values: Values, order: np.ndarray, indices: Sequence[int]
) -> Iterator[np.ndarray]:
    stored = [int(order[index]) for index in indices]
    for index, pixels in zip(stored, decode_frames(path, stored), strict=False):
        yield values.convert(pixels, index)


def decode_frames(path: Path, indices: Sequence[int]) -> Iterator[np.ndarray]:
    """Decode frames by their position in the file: (H, W) as stored, or (H, W, 3) RGB.

    Raises:
        MissingCodecError: A package that decodes them is not installed.
    """
    header = pydicom.dcmread(path, stop_before_pixels=True)
    decode = _decode_dicom if hasattr(dicom_pixels, "iter_pixels") else _decode_dicom_v2
    frames = decode(path, indices)
    while True:
        try:
            with warnings.catch_warnings():
                warnings.filterwarnings("ignore", message="The value length")
                pixels = next(frames, None)
        except (RuntimeError, NotImplementedError) as error:
            if "missing dependencies" in str(error) or (
                "12-bit" in str(error) and find_spec("libjpeg") is None
            ):
                raise _missing_codec(path, header.file_meta.TransferSyntaxUID) from error
            raise
        if pixels is None:
            return
        if header.PhotometricInterpretation == "PALETTE COLOR":
            pixels = _apply_palette(pixels, header)
        yield pixels


def _apply_palette(pixels: np.ndarray, header: pydicom.Dataset) -> np.ndarray:
    """Apply a colour palette: (H, W, 3) uint8. 16-bit entries are scaled by their full range."""
    colours = dicom_pixels.apply_color_lut(pixels, header)
    if colours.dtype == np.uint8:
        return colours
    bits = int(header.RedPaletteColorLookupTableDescriptor[2])
    tables = [
        header.get(f"{name}PaletteColorLookupTableData") or b"" for name in ("Red", "Green", "Blue")
    ]
    # Some writers keep levels of 8 bits in entries of 16.
    if bits == 8 or all(not any(table[1::2]) for table in tables if table):
        return np.minimum(colours, 255).astype(np.uint8)
    return (colours >> (bits - 8)).astype(np.uint8)


def _decode_dicom(path: Path, indices: Sequence[int]) -> Iterator[np.ndarray]:
    # Of a deflated file pydicom finds nothing on disk.
    meta = read_file_meta_info(path)
    deflated = _is_deflated(meta)
    source = pydicom.dcmread(path) if deflated else path
    if not deflated and not meta.TransferSyntaxUID.is_encapsulated:
        # pydicom's iterator takes the second frame of native YBR_FULL_422 for YBR_FULL.
        space = pydicom.dcmread(path, specific_tags=["PhotometricInterpretation"])
        if space.get("PhotometricInterpretation") == "YBR_FULL_422":
            for index in indices:
                yield dicom_pixels.pixel_array(path, index=index)
            return
    for pixels in dicom_pixels.iter_pixels(source, indices=indices):
        yield pixels.copy()  # the decoder may use its buffer again


def _decode_dicom_v2(path: Path, indices: Sequence[int]) -> Iterator[np.ndarray]:
    """Decode with pydicom 2.4, which can only decode all frames at once."""
    dataset = pydicom.dcmread(path)
    frames = dataset.pixel_array
    if int(dataset.get("NumberOfFrames") or 1) == 1:
        frames = frames[None]
    for index in indices:
        space = dataset.PhotometricInterpretation
        if space in ("YBR_FULL", "YBR_FULL_422"):
            yield dicom_pixels.convert_color_space(frames[index], space, "RGB")
        else:
            yield frames[index]
