"""Read and check the headers of MetaImage files before ITK opens them.

ITK trusts headers: with too many axes it overwrites memory, and with fewer compressed pixels than
declared it waits forever.
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
    """What a header says.

    Attributes:
        fields: Its lines, key to value, without those of single frames.
        data: The file that holds the pixels; None if they are in several.
        begin: Where they begin in it.
        timestamps: Frame number to seconds, of those frames that have one.
    """

    fields: dict[bytes, bytes]
    data: Path | None
    begin: int
    timestamps: dict[int, float]


def _itk() -> Any:
    """SimpleITK, imported where a file needs it: it takes 90 MiB, and few files do."""
    return importlib.import_module("SimpleITK")


def meta_image_reader(path: Path) -> Reader:
    """A reader that has read the header only.

    Raises:
        RuntimeError, ValueError: The header is damaged.
    """
    read_meta_header(path)
    reader = _itk().ImageFileReader()
    reader.SetFileName(str(path))
    reader.ReadImageInformation()
    return reader


def read_meta_header(path: Path) -> MetaHeader:
    """The header of a ``.mhd`` or ``.mha`` file.

    Raises:
        ValueError: It has no end, or its axes are not as many as it says.
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
    """Of one pixel with all its channels."""
    pixel = _itk().Image([1, 1], reader.GetPixelID(), reader.GetNumberOfComponents())
    return int(_itk().GetArrayViewFromImage(pixel).nbytes)


def extract(reader: Reader) -> np.ndarray:
    """What the reader is set to extract, x last, or channels."""
    return np.asarray(_itk().GetArrayFromImage(reader.Execute()))


def check_unpacked(path: Path, declared_bytes: int) -> None:
    """Unpack compressed pixels once, without keeping them, to find out whether they are all there.

    Raises:
        DeclaredSizeError: They are fewer than declared.
        ValueError: They are in several files.
        zlib.error: They are damaged.
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
