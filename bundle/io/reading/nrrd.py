"""Open NRRD files, such as those of 3D Slicer: identify their axes, read frames in blocks.

pynrrd parses the header. Axes are listed fastest first. Pixels are read in blocks, so that memory does
not grow with the length of the video. Format: http://teem.sourceforge.net/nrrd/format.html
"""

import bz2
import io
import math
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import nrrd
import numpy as np
from nrrd.reader import _determine_datatype

from bundle.io.reading.decode import explained
from bundle.io.reading.headers import LEAST, MILLIMETRES, known, known_spacing, settle_times
from bundle.io.reading.limits import DEFLATE_RATIO, check_inflated, check_stored
from bundle.io.reading.pieces import Piece, Pieces
from bundle.io.reading.volumes import BLOCK_BYTES, Geometry, VideoSource, source_name

MAX_HEADER_BYTES = 2**25
"""A sequence of an hour at 30 frames a second, with a transform for each frame."""
MAX_AXES = 16
READ_BYTES = 2**20
BZIP2_RATIO = 50_000
"""bzip2 cannot shrink data further than this."""
GZIP, BZIP2, ASCII, HEX, RAW = (
    ("gzip", "gz"),
    ("bzip2", "bz2"),
    ("ascii", "text", "txt"),
    ("hex",),
    ("raw",),
)
COLOUR_KINDS = ("rgb-color", "rgba-color", "3-color", "4-color", "vector", "3-vector", "4-vector")
TIME_KINDS = ("list", "time")
SPACE_LETTERS = {"left": "L", "right": "R", "anterior": "A", "posterior": "P", "superior": "S"}
LENGTHS = MILLIMETRES | {"um": 1e-3, "µm": 1e-3, "micrometer": 1e-3, "cm": 10.0, "m": 1e3}
DURATIONS = {
    "s": 1.0, "sec": 1.0, "second": 1.0, "seconds": 1.0, "ms": 1e-3, "msec": 1e-3,
    "millisecond": 1e-3, "milliseconds": 1e-3, "us": 1e-6, "µs": 1e-6,
}  # fmt: skip


@dataclass(frozen=True, eq=False)
class NrrdFile:
    """The header of an NRRD file, and the location of its pixels.

    Attributes:
        path: File with the header.
        fields: Header as pynrrd parses it, including ``key:=value`` pairs.
        sizes: Sizes of all axes, the fastest first.
        kinds: Kinds of all axes, in lower case; empty if the header does not say.
        dtype: Type and byte order of the pixels.
        pieces: Parts of files that hold the pixels, which may be compressed.
    """

    path: Path
    fields: dict[str, Any]
    sizes: tuple[int, ...]
    kinds: tuple[str, ...]
    dtype: np.dtype
    pieces: tuple[Piece, ...]

    @property
    def encoding(self) -> str:
        return str(self.fields.get("encoding", "")).lower()

    def slices(self, axis: int, indices: Sequence[int]) -> Iterator[np.ndarray]:
        """Cut the array along one axis.

        Args:
            axis: Number of the axis, in the order of ``sizes``.
            indices: Rising positions on it.

        Yields:
            For each position the array without that axis, the slowest axis first.

        Raises:
            EOFError: There are fewer pixels than declared.
            OSError, ValueError, zlib.error: The data are damaged.
        """
        inner, outer = math.prod(self.sizes[:axis]), math.prod(self.sizes[axis + 1 :])
        shape = (*self.sizes[axis + 1 :][::-1], *self.sizes[:axis][::-1])
        if outer == 1:
            yield from (each.reshape(shape) for each in self._in_a_row(inner, indices))
            return
        # All places of the axis lie side by side: a block of them takes one pass over all pixels.
        block = max(1, BLOCK_BYTES // (inner * outer * self.dtype.itemsize))
        for begin in range(0, len(indices), block):
            yield from self._interleaved(axis, indices[begin : begin + block], shape)

    def _in_a_row(self, inner: int, indices: Sequence[int]) -> Iterator[np.ndarray]:
        size = inner * self.dtype.itemsize
        with self._unpacked() as stream:
            at = 0
            for index in indices:
                _skip(stream, (index - at) * size)
                yield np.frombuffer(_read_exactly(stream, size), self.dtype)
                at = index + 1

    def _interleaved(
        self, axis: int, indices: Sequence[int], shape: tuple[int, ...]
    ) -> Iterator[np.ndarray]:
        inner, count = math.prod(self.sizes[:axis]), self.sizes[axis]
        outer = math.prod(self.sizes[axis + 1 :])
        found = np.empty((len(indices), outer, inner), self.dtype)
        row_bytes = count * inner * self.dtype.itemsize
        check_inflated(self.path, row_bytes)
        rows = max(1, READ_BYTES // row_bytes)
        with self._unpacked() as stream:
            for begin in range(0, outer, rows):
                end = min(begin + rows, outer)
                data = _read_exactly(stream, (end - begin) * row_bytes)
                values = np.frombuffer(data, self.dtype).reshape(end - begin, count, inner)
                found[:, begin:end] = values[:, list(indices)].swapaxes(0, 1)
        for each in found:
            yield each.reshape(shape)

    def _unpacked(self) -> io.BufferedIOBase:
        stored = io.BufferedReader(Pieces(self.pieces))
        if self.encoding in GZIP:
            return io.BufferedReader(_Inflated(stored))
        if self.encoding in BZIP2:
            return bz2.BZ2File(stored)
        if self.encoding in ASCII:
            with stored:
                check_inflated(self.path, stored.seek(0, io.SEEK_END))
                stored.seek(0)
                values = np.array(stored.read().split(), dtype=self.dtype)
            return io.BytesIO(values.tobytes())
        if self.encoding in HEX:
            with stored:
                check_inflated(self.path, stored.seek(0, io.SEEK_END))
                stored.seek(0)
                return io.BytesIO(bytes.fromhex(stored.read().decode("ascii")))
        return stored


class _Inflated(io.RawIOBase):
    """A zlib or gzip stream that is unpacked while it is read."""

    def __init__(self, stored: io.BufferedIOBase) -> None:
        self._stored, self._inflate = stored, zlib.decompressobj(32 + zlib.MAX_WBITS)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        while not self._inflate.eof:
            packed = self._inflate.unconsumed_tail or self._stored.read(READ_BYTES)
            if not packed:
                break
            data = self._inflate.decompress(packed, len(buffer))
            if data:
                buffer[: len(data)] = data
                return len(data)
        return 0

    def close(self) -> None:
        self._stored.close()
        super().close()


def _read_exactly(stream: io.BufferedIOBase, size: int) -> bytes:
    data = stream.read(size)
    if len(data) < size:
        raise EOFError("it has fewer pixels than it declares")
    return data


def _skip(stream: io.BufferedIOBase, size: int) -> None:
    if size and stream.seekable() and not isinstance(stream, bz2.BZ2File):
        stream.seek(size, io.SEEK_CUR)
        return
    while size > 0:
        size -= len(_read_exactly(stream, min(size, READ_BYTES)))


def read_nrrd(path: Path) -> NrrdFile:
    """Read the header of a ``.nrrd`` or ``.nhdr`` file and find its pixels.

    Raises:
        ValueError: The header is damaged, declares more than the file can hold, or names files
            outside its folder.
    """
    with explained(f"cannot open {path} as NRRD"):
        lines, begin = _read_header_lines(path)
        fields = dict(nrrd.read_header(lines))
        sizes = tuple(int(size) for size in fields["sizes"])
        if len(sizes) != fields["dimension"] or len(sizes) > MAX_AXES or min(sizes) < 1:
            raise ValueError(
                f"its header has dimension {fields['dimension']} and sizes {list(sizes)}"
            )
        kinds = [str(kind).lower() for kind in fields.get("kinds", [])]
        if kinds and len(kinds) != len(sizes):
            raise ValueError(f"its header has {len(kinds)} kinds for {len(sizes)} axes")
        dtype = np.dtype(_determine_datatype(fields))
        if dtype.kind not in "iuf":
            raise ValueError(f"its pixels are of type {fields['type']}: expected numbers")
        encoding = str(fields.get("encoding", "")).lower()
        if encoding not in (*RAW, *GZIP, *BZIP2, *ASCII, *HEX):
            raise ValueError(
                f"its encoding is {encoding!r}: expected raw, gzip, bzip2, ascii or hex"
            )
        declared = math.prod(sizes) * dtype.itemsize
        pieces = _find_pieces(path, fields, begin, declared, encoding)
    ratio = BZIP2_RATIO if encoding in BZIP2 else DEFLATE_RATIO
    check_stored(path, declared, sum(piece.size for piece in pieces), ratio)
    return NrrdFile(path, fields, sizes, tuple(kinds or [""] * len(sizes)), dtype, pieces)


def _read_header_lines(path: Path) -> tuple[list[str], int]:
    """Read the lines of the header, without those of single frames, and the position of the pixels."""
    lines: list[str] = []
    with path.open("rb") as file:
        while (line := file.readline(MAX_HEADER_BYTES)).strip():
            text = line.decode("utf-8", "replace").strip()
            if not (text.startswith("axis ") and " item " in text.partition(":=")[0]):
                lines.append(text)
            if file.tell() > MAX_HEADER_BYTES:
                raise ValueError(f"its header has no end within {MAX_HEADER_BYTES} bytes")
            if len(lines) == 1 and not text.startswith("NRRD"):
                raise ValueError("it does not begin with NRRD")
        return lines, file.tell()


def _find_pieces(
    path: Path, fields: dict[str, Any], begin: int, declared: int, encoding: str
) -> tuple[Piece, ...]:
    named = str(fields.get("data file", fields.get("datafile", ""))).strip()
    if not named:
        files = [(path, begin)]
    else:
        files = [(_beside(path, name), 0) for name in _data_names(path, named, fields)]
    skipped_lines = int(fields.get("line skip", fields.get("lineskip", 0)))
    skipped_bytes = int(fields.get("byte skip", fields.get("byteskip", 0)))
    pieces = []
    for file, first in files:
        size = file.stat().st_size
        if skipped_bytes < 0:
            if encoding not in RAW or len(files) > 1:
                raise ValueError("its byte skip is negative: expected that of one raw file only")
            first = max(first, size - declared)
        else:
            with file.open("rb") as opened:
                opened.seek(first)
                for _ in range(max(0, skipped_lines)):
                    if not opened.readline(MAX_HEADER_BYTES):
                        break
                first = opened.tell() + (skipped_bytes if encoding in RAW else 0)
        pieces.append(Piece(file, first, max(0, size - first)))
    return tuple(pieces)


def _data_names(path: Path, named: str, fields: dict[str, Any]) -> list[str]:
    first, *rest = named.split()
    if first == "LIST":
        text = path.read_bytes()[:MAX_HEADER_BYTES].decode("utf-8", "replace")
        lines = text.splitlines()
        at = next(i for i, line in enumerate(lines) if line.lower().startswith("data file"))
        return [line.strip() for line in lines[at + 1 :] if line.strip()]
    if "%" in first and len(rest) >= 3:
        low, high, step = (int(number) for number in rest[:3])
        if not step or abs(high - low) // abs(step) > MAX_HEADER_BYTES // 256:
            raise ValueError(f"its data file is {named!r}: expected a name, or numbers that end")
        return [first % number for number in range(low, high + (1 if step > 0 else -1), step)]
    return [named]


def _beside(path: Path, name: str) -> Path:
    """Find a data file. It must lie in the folder of the header or below, for safety."""
    folder = path.absolute().parent
    file = folder / name
    if Path(name).is_absolute() or ".." in Path(name).parts:
        raise ValueError(f"its pixels are in {name}: expected a file in the folder of the header")
    if not file.is_file():
        raise FileNotFoundError(f"its pixels are in {name}, which is not there: copy it as well")
    return file


@dataclass(frozen=True, eq=False)
class NrrdAxes:
    """Numbers of the axes of an NRRD file.

    Attributes:
        space: Axes in space, in order; the first two are x and y.
        time: Axis of time; None if there is only one image.
        colour: Axis of colours; None without colours.
    """

    space: tuple[int, ...]
    time: int | None
    colour: int | None


def find_axes(file: NrrdFile) -> NrrdAxes:
    """Identify the axes of space, time and colour by their kinds, space directions and sizes.

    Raises:
        ValueError: There is more than one slice over time.
    """
    directions = file.fields.get("space directions")
    space, lists, colour = [], [], None
    for axis, (kind, size) in enumerate(zip(file.kinds, file.sizes, strict=True)):
        none = directions is not None and np.isnan(np.asarray(directions[axis], float)).all()
        if kind in COLOUR_KINDS and colour is None:
            colour = axis
        elif kind in TIME_KINDS or (none and kind in ("", "none", "???")):
            lists.append(axis)
        elif kind == "stub" and size == 1:
            continue
        else:
            space.append(axis)
    if len(lists) == 2 and colour is None and file.sizes[lists[0]] in (3, 4):
        colour = lists.pop(0)
    channels = 1 if colour is None else file.sizes[colour]
    if colour is not None and channels == 1:
        colour = None
    while len(space) > 3 and file.sizes[space[-1]] == 1:
        space.pop()
    if not lists and len(space) == 4 and file.sizes[space[2]] == 1:
        lists.append(space.pop())
    elif not lists and len(space) == 3 and file.sizes[space[2]] > 1:
        lists.append(space[2])
    in_plane = len(space) >= 2 and all(
        file.sizes[axis] == 1 for axis in space[2:] if axis not in lists
    )
    if len(lists) > 1 or not in_plane or channels not in (1, 3, 4):
        raise ValueError(
            f"{file.path} has sizes {list(file.sizes)} of the kinds {list(file.kinds)}: expected "
            "one slice over time, (x, y, t), (x, y, 1, t) or (t, x, y, 1), with 3 or 4 colours"
        )
    return NrrdAxes(tuple(space), lists[0] if lists else None, colour)


def is_single_nrrd(path: Path) -> bool:
    """Whether an NRRD file holds one 2D image."""
    file = read_nrrd(path)
    colours = [
        size for kind, size in zip(file.kinds, file.sizes, strict=True) if kind in COLOUR_KINDS
    ]
    return sum(size > 1 for size in file.sizes) - len(colours) <= 2 and (
        not any(
            kind in TIME_KINDS and size > 1
            for kind, size in zip(file.kinds, file.sizes, strict=True)
        )
    )


def read_nrrd_image(path: Path) -> tuple[tuple[int, ...], partial[np.ndarray]]:
    """Open a file that holds one 2D image.

    Returns:
        Its shape (H, W), and a function that reads it as (H, W) or (H, W, C).

    Raises:
        ValueError: The file holds something else.
    """
    file = read_nrrd(path)
    axes = find_axes(file)
    if axes.time is not None:
        return file.sizes[::-1], partial(_read_whole, file, axes)
    return (file.sizes[axes.space[1]], file.sizes[axes.space[0]]), partial(_read_whole, file, axes)


def _read_whole(file: NrrdFile, axes: NrrdAxes) -> np.ndarray:
    return next(_frames(file, axes, axes.space[-1] if len(axes.space) > 2 else None, [0]))


def open_nrrd(path: Path) -> VideoSource:
    """Open an image over time or a sequence of 3D Slicer as a video.

    Raises:
        ValueError: It cannot be read, is a single 2D image or is not one slice over time.
    """
    file = read_nrrd(path)
    axes = find_axes(file)
    if axes.time is None:
        raise ValueError(
            f"{path} is a single image of shape {file.sizes}: expected a video, (x, y, t)"
        )
    with explained(f"cannot read the header of {path}"):
        affine, spacing_mm = read_axes_place(file, axes)
        fps, times = _times(file, axes.time, axes.time in axes.space)
    width, height = (file.sizes[axis] for axis in axes.space[:2])
    count = file.sizes[axes.time]
    in_space = axes.time in axes.space
    return VideoSource(
        path=path,
        name=source_name(path),
        height=height,
        width=width,
        frame_count=count,
        fps=fps,
        spacing_mm=spacing_mm,
        geometry=Geometry(
            (width, height, count) if in_space else (width, height, 1, count), affine
        ),
        read=partial(_frames, file, axes, axes.time),
        frame_times=times,
    )


def read_place(path: Path) -> tuple[np.ndarray | None, tuple[float, float] | None]:
    """Read the position in space and the pixel spacing of a file.

    Returns:
        (4, 4) affine to RAS in mm, None if there are two axes only; (row, column) spacing in mm.

    Raises:
        ValueError: It cannot be read.
    """
    file = read_nrrd(path)
    axes = find_axes(file)
    affine, spacing_mm = read_axes_place(file, axes)
    return affine if len(axes.space) > 2 else None, spacing_mm


def _frames(
    file: NrrdFile, axes: NrrdAxes, axis: int | None, indices: Sequence[int]
) -> Iterator[np.ndarray]:
    """Read (H, W) or (H, W, C) at some positions of an axis, or the whole array if it is None."""
    left = [each for each in range(len(file.sizes)) if each != axis]
    whole = axis is None
    if axis is None:
        axis = len(file.sizes) - 1
        left = list(range(len(file.sizes)))
        indices = range(file.sizes[axis])
    arrays = file.slices(axis, indices)
    if whole:
        arrays = iter([np.stack(list(arrays))])
    x, y = axes.space[:2]
    for array in arrays:
        order = left[::-1]  # of the array's axes: the slowest first
        wanted = [y, x] + ([] if axes.colour is None else [axes.colour])
        others = [place for place, each in enumerate(order) if each not in wanted]
        array = array.transpose(*others, *(order.index(each) for each in wanted))
        yield array.reshape(array.shape[len(others) :]) if not others else array[(0,) * len(others)]


def read_axes_place(
    file: NrrdFile, axes: NrrdAxes
) -> tuple[np.ndarray, tuple[float, float] | None]:
    """Read the affine to RAS and the (row, column) spacing in mm; None for what is not declared."""
    fields, space = file.fields, str(file.fields.get("space", ""))
    steps = np.eye(3)
    declared = True
    if fields.get("space directions") is not None:
        directions = np.asarray(fields["space directions"], dtype=float)
        units = [str(unit) for unit in fields.get("space units", [])]
        for column, axis in enumerate(axes.space[:3]):
            vector = np.nan_to_num(directions[axis][:3])
            steps[:, column] = np.pad(vector, (0, 3 - len(vector)))
        steps *= LENGTHS.get(units[0] if units else "mm", 1.0)
        if len(axes.space) < 3 or not steps[:, 2].any() or directions.shape[1] < 3:
            normal = np.cross(steps[:, 0], steps[:, 1])
            length = np.linalg.norm(normal)
            steps[:, 2] = normal / length if length else (0, 0, 1)
    elif fields.get("spacings") is not None:
        units = [str(unit) for unit in fields.get("units", [])]
        for column, axis in enumerate(axes.space[:3]):
            step = float(fields["spacings"][axis])
            unit = units[axis] if axis < len(units) and units[axis] else "mm"
            steps[column, column] = step * LENGTHS.get(unit, 1.0) if known(step) else 1.0
    else:
        declared = False
    affine = np.eye(4)
    affine[:3, :3] = steps
    if fields.get("space origin") is not None:
        origin = np.nan_to_num(np.asarray(fields["space origin"], dtype=float)[:3])
        affine[: len(origin), 3] = origin
    affine = np.diag([*_signs(space), 1.0]) @ affine
    if not np.isfinite(affine).all() or abs(np.linalg.det(affine[:3, :3])) < LEAST**3:
        return np.diag([-1.0, -1.0, 1.0, 1.0]), None
    column_mm, row_mm = np.linalg.norm(affine[:3, :2], axis=0)
    return affine, known_spacing(float(row_mm), float(column_mm)) if declared else None


def _signs(space: str) -> tuple[float, float, float]:
    """Signs that convert the file's space to RAS. An unknown space counts as LPS, as in ITK."""
    words = space.lower().removesuffix("-time").split("-")
    letters = "".join(SPACE_LETTERS.get(word, "") for word in words) or space.upper()[:3]
    if len(letters) != 3 or letters[0] not in "LR" or letters[1] not in "AP":
        letters = "LPS"
    return (1.0 if letters[0] == "R" else -1.0, 1.0 if letters[1] == "A" else -1.0, 1.0)


def _times(file: NrrdFile, axis: int, in_space: bool) -> tuple[float | None, np.ndarray | None]:
    """Read the frame rate and, if frames are unevenly spaced, their times in seconds."""
    fields, count = file.fields, file.sizes[axis]
    units = fields.get("units", [])
    unit = str(units[axis]).lower() if axis < len(units) else ""
    scale = DURATIONS.get(unit, 1.0)
    if values := fields.get(f"axis {axis} index values"):
        try:
            seconds = np.array([float(unquote(value)) for value in str(values).split()]) * scale
        except ValueError:  # names of phases
            seconds = np.zeros(0)
        numbered = not unit and np.array_equal(seconds, np.arange(count))
        rising = len(seconds) == count > 1 and (np.diff(seconds) > 0).all()
        if rising and np.isfinite(seconds).all() and not numbered:
            return settle_times(seconds - seconds[0], [], LEAST)
    step = math.nan
    if fields.get("space directions") is not None:
        direction = np.asarray(fields["space directions"], dtype=float)[axis]
        step = float(direction[3]) if len(direction) == 4 else math.nan
    if not known(step) and fields.get("spacings") is not None:
        step = float(fields["spacings"][axis])
    # A third axis is space unless it has a unit of time; 1 is what writers put where nothing is known.
    if not known(step) or ((in_space or step == 1) and unit not in DURATIONS):
        return None, None
    return known(1 / (step * scale)), None
