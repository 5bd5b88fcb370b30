"""Read and check the headers of MetaImage files before ITK opens them.

ITK does not check headers. With too many axes it overwrites memory; with fewer compressed pixels than
declared it never returns.
"""

import importlib
import os
import re
import zlib
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from bundle.io.reading.limits import DeclaredSizeError

Reader = Any
"""``SimpleITK.ImageFileReader``."""
MAX_AXES = 5  # as many as SimpleITK has types for
MAX_HEADER_BYTES, MAX_LINE_BYTES = 2**26, 2**16
"""Of a tracked ultrasound recording of an hour, whose header has ten lines for each frame."""
FRAME_FIELD = b"Seq_Frame"
TIMESTAMP = re.compile(rb"Seq_Frame([0-9]{1,9})_Timestamp")
BLOCK_BYTES = 2**20


class MetaHeader(NamedTuple):
    """The header of a MetaImage.

    Attributes:
        fields: Key to value, without the lines of single frames.
        data: File that holds the pixels; None if there are several.
        begin: Position of the first pixel in that file, in bytes.
        timestamps: Frame number to seconds, for frames that have a timestamp.
    """

    fields: dict[bytes, bytes]
    data: Path | None
    begin: int
    timestamps: dict[int, float]


def _itk() -> Any:
    """Import SimpleITK only when a file needs it: it takes 90 MiB of memory."""
    return importlib.import_module("SimpleITK")


def meta_image_reader(path: Path) -> Reader:
    """Make an ITK reader that has read the header only.

    Raises:
        RuntimeError, ValueError: The header is damaged.
    """
    read_meta_header(path)
    reader = _itk().ImageFileReader()
    reader.SetFileName(str(path))
    reader.ReadImageInformation()
    return reader


def read_meta_header(path: Path) -> MetaHeader:
    """Read the header of a ``.mhd`` or ``.mha`` file.

    Raises:
        ValueError: The header has no end, or its number of axes is wrong.
    """
    fields: dict[bytes, bytes] = {}
    timestamps: dict[int, float] = {}
    with path.open("rb") as file:
        while (line := file.readline(MAX_LINE_BYTES)) and file.tell() <= MAX_HEADER_BYTES:
            if line.startswith(FRAME_FIELD):
                _keep_timestamp(line, timestamps)
                continue
            key, *value = (part.strip() for part in re.split(b"[=:]", line, maxsplit=1))
            if key in (b"NDims", b"DimSize") and key in fields:
                raise ValueError(f"its header has two lines {key.decode()}: expected one")
            fields[key] = value[0] if value else b""
            if key == b"ElementDataFile":  # the last; pixels may follow
                break
        else:
            raise ValueError("its header does not end in ElementDataFile: is it a MetaImage?")
        begin = file.tell()
    axes, sizes = int(fields.get(b"NDims", b"0")), fields.get(b"DimSize", b"").split()
    if not 1 <= axes <= MAX_AXES or len(sizes) != axes:
        raise ValueError(
            f"its header has NDims = {axes} and {len(sizes)} numbers in DimSize: expected as many, "
            f"up to {MAX_AXES}"
        )
    name = fields[b"ElementDataFile"]
    if name.upper() == b"LOCAL":
        return MetaHeader(fields, path, begin, timestamps)
    data = path.parent / os.fsdecode(name)
    skipped = max(0, int(fields.get(b"HeaderSize", b"0")))
    return MetaHeader(fields, data if data.is_file() else None, skipped, timestamps)


def _keep_timestamp(line: bytes, timestamps: dict[int, float]) -> None:
    key, _, value = line.partition(b"=")
    if match := TIMESTAMP.fullmatch(key.strip()):
        with suppress(ValueError):
            timestamps[int(match[1])] = float(value)


def voxel_bytes(reader: Reader) -> int:
    """Size of one pixel with all its channels, in bytes."""
    pixel = _itk().Image([1, 1], reader.GetPixelID(), reader.GetNumberOfComponents())
    return int(_itk().GetArrayViewFromImage(pixel).nbytes)


def extract(reader: Reader) -> np.ndarray:
    """Read what the reader is set to extract, with x as the last axis, or channels after it."""
    return np.asarray(_itk().GetArrayFromImage(reader.Execute()))


def check_unpacked(path: Path, declared_bytes: int) -> None:
    """Check that compressed pixels are complete, by unpacking them once without keeping them.

    Raises:
        DeclaredSizeError: There are fewer pixels than declared.
        ValueError: The pixels are in several files.
        zlib.error: The data are damaged.
    """
    header = read_meta_header(path)
    if header.fields.get(b"CompressedData", b"")[:1] not in (b"T", b"t", b"1"):
        return
    if header.data is None:
        raise ValueError("its compressed pixels are not in one file: expected LOCAL or a file name")
    left = max(0, int(header.fields.get(b"CompressedDataSize", header.data.stat().st_size)))
    stream, count = zlib.decompressobj(32 + zlib.MAX_WBITS), 0  # with a head of zlib or of gzip
    with header.data.open("rb") as file:
        file.seek(header.begin)
        while count < declared_bytes and not stream.eof:
            packed = stream.unconsumed_tail
            if not packed:
                packed = file.read(min(left, BLOCK_BYTES))
                left -= len(packed)
                if not packed:
                    count += len(stream.flush())
                    break
            count += len(stream.decompress(packed, BLOCK_BYTES))
    if count < declared_bytes:
        raise DeclaredSizeError(
            f"{path} declares {declared_bytes} bytes of pixels, but {count} were found: the file is "
            "truncated or damaged, copy or export it again"
        )
