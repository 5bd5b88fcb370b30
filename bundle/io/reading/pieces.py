"""Present parts of one or several files as a single file object, without copying them."""

import io
from bisect import bisect_right
from collections.abc import Sequence
from itertools import accumulate
from pathlib import Path
from typing import Any, NamedTuple


class Piece(NamedTuple):
    """A part of a file: ``size`` bytes from ``begin`` on."""

    path: Path
    begin: int
    size: int


class Pieces(io.RawIOBase):
    """A read-only file object that joins parts of files.

    Example:
        >>> from tempfile import NamedTemporaryFile
        >>> with NamedTemporaryFile() as file:
        ...     _ = file.write(b"..abc..de")
        ...     file.flush()
        ...     path = Path(file.name)
        ...     Pieces([Piece(path, 2, 3), Piece(path, 7, 2)]).read()
        b'abcde'
    """

    def __init__(self, pieces: Sequence[Piece]) -> None:
        self._pieces = [piece for piece in pieces if piece.size > 0]
        self._ends = list(accumulate(piece.size for piece in self._pieces))
        self._at = 0
        self._open: tuple[Path, io.BufferedReader] | None = None

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        start = {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self.size}[whence]
        if start + offset < 0:
            raise ValueError(f"cannot go to byte {start + offset}")
        self._at = start + offset
        return self._at

    @property
    def size(self) -> int:
        """Size of all parts together, in bytes."""
        return self._ends[-1] if self._ends else 0

    def readinto(self, buffer: Any) -> int:
        place = bisect_right(self._ends, self._at)
        if place == len(self._pieces):
            return 0
        piece, left = self._pieces[place], self._ends[place] - self._at
        file = self._file(piece.path)
        file.seek(piece.begin + piece.size - left)
        data = file.read(min(len(buffer), left))
        buffer[: len(data)] = data
        self._at += len(data)
        return len(data)

    def _file(self, path: Path) -> io.BufferedReader:
        if self._open is None or self._open[0] != path:
            self._close_file()
            self._open = (path, path.open("rb"))
        return self._open[1]

    def _close_file(self) -> None:
        if self._open is not None:
            self._open[1].close()
            self._open = None

    def close(self) -> None:
        self._close_file()
        super().close()
