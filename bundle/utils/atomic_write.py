"""Write files and folders whole or not at all, even if the run is killed.

Everything is written in a folder beside its place, ``.<name>.<random>.partial``, and renamed. A killed
run leaves that folder; the next one that writes the same removes it.
"""

import errno
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType

from bundle.utils.paths import fit_name

try:
    import fcntl
except ImportError:  # Windows: what killed runs leave stays there
    fcntl = None  # type: ignore[assignment]

SUFFIX = ".partial"
LOCK = "lock"
ADDED = len("..12345678.partial")
"""Letters that a folder's name has more than its target's."""
FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
TRIES = 10


class DiskFullError(OSError):
    """There is no room for a file; the message names it and says what to do."""


@contextmanager
def room_for(target: str | Path) -> Iterator[None]:
    """Say of a full disk what could not be written.

    Args:
        target: The file or folder that was to be written.

    Raises:
        DiskFullError: In place of an error that the disk, a quota or a limit of file size gave.
    """
    try:
        yield
    except OSError as error:
        if isinstance(error, DiskFullError) or error.errno not in FULL:
            raise
        raise DiskFullError(
            f"cannot write {target}: {os.strerror(error.errno)}. Nothing half-written is left "
            "there: make room and run the same command again"
        ) from error


class StagingFolder:
    """A folder beside ``target`` to write it in; gone when the with-block ends.

    Args:
        target: The file or folder that is to appear whole. Its folder is made if it does not exist.

    Attributes:
        target: See above.
        folder: ``.<name of target>.<random>.partial``, beside it; a name that would become too
            long is cut, and stands in the file that locks the folder.
        new: In ``folder``: what will take the target's place; to be written by the caller.
    """

    def __init__(self, target: str | Path) -> None:
        self.target = Path(target)

    def __enter__(self) -> "StagingFolder":
        self.target.parent.mkdir(parents=True, exist_ok=True)
        sweep(self.target.parent, self.target.name)
        # Another run's sweep may take it before the lock.
        for _ in range(TRIES):
            self.folder = Path(
                tempfile.mkdtemp(
                    prefix=f".{fit_name(self.target.name, ADDED)}.",
                    suffix=SUFFIX,
                    dir=self.target.parent,
                )
            )
            try:
                self._lock = _lock(self.folder, create=True)
                break
            except (FileNotFoundError, BlockingIOError):
                continue
            except OSError:
                self.folder.rmdir()
                raise
        else:
            raise OSError(f"cannot lock a folder beside {self.target}: is something removing it?")
        if fit_name(self.target.name, ADDED) != self.target.name:
            (self.folder / LOCK).write_bytes(os.fsencode(self.target.name))
        # Its permissions are those of any new file or folder, other than those of ``folder``.
        self.new = self.folder / "new"
        return self

    def move_into_place(self) -> None:
        """Let ``new`` take the target's name, and remove what had it."""
        if not self.target.is_dir():
            self.new.replace(self.target)
            return
        old = self.folder / "old"
        self.target.rename(old)
        try:
            self.new.rename(self.target)
        except BaseException:
            old.rename(self.target)
            raise

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        _remove(self.folder)
        if self._lock is not None:
            os.close(self._lock)


@contextmanager
def written_beside(target: str | Path) -> Iterator[Path]:
    """Give a path to write to; the file takes the name ``target`` when the with-block ends well.

    Args:
        target: Replaced if it is there.

    Raises:
        DiskFullError: There is no room for it.
    """
    with room_for(target), StagingFolder(target) as staging:
        yield staging.new
        staging.move_into_place()


def sweep(parent: Path, name: str | None = None) -> None:
    """Remove what killed runs left in a folder; what another process works in stays.

    Args:
        parent: The folder.
        name: Only what was left of this target.
    """
    start = "." if name is None else f".{fit_name(name, ADDED)}."
    with suppress(OSError):
        for left in os.listdir(parent):
            if left.startswith(start) and left.endswith(SUFFIX):
                _sweep_one(parent / left)


def _sweep_one(folder: Path) -> None:
    try:
        lock = _lock(folder, create=False)
    except FileNotFoundError:  # not ours, unless it was killed before it was locked
        with suppress(OSError):
            folder.rmdir()
        return
    except OSError:  # at work, or on a disk that knows no locks
        return
    if lock is not None:
        _remove(folder)
        os.close(lock)


def _lock(folder: Path, *, create: bool) -> int | None:
    """The open lock file of a staging folder; the system lets go of it when the process ends.

    Not by filelock, which makes the file that it looks at: a folder of another program, which has none,
    would look like ours then, and be removed.

    Returns:
        None where locks are unknown.

    Raises:
        BlockingIOError: Another process has it.
        FileNotFoundError: It is not there.
    """
    file = os.open(folder / LOCK, os.O_RDWR | (os.O_CREAT if create else 0), 0o644)
    try:
        if fcntl is None:
            raise OSError(errno.ENOLCK, "no locks here")
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.stat(folder / LOCK)
    except (BlockingIOError, FileNotFoundError):
        os.close(file)
        raise
    except OSError:
        os.close(file)
        return None
    return file


def _remove(folder: Path) -> None:
    """Remove a staging folder, after putting back what was set aside if nothing took its place."""
    with suppress(OSError):
        name = folder.name[1:].rsplit(".", 2)[0]
        if (folder / LOCK).is_file():
            name = os.fsdecode((folder / LOCK).read_bytes()) or name
        target = folder.with_name(name)
        if (folder / "old").exists() and not target.exists():
            (folder / "old").rename(target)
        # The lock last: without it the next sweep could not tell whose the rest is.
        for path in sorted(folder.iterdir(), key=lambda path: path.name == LOCK):
            path.unlink() if path.is_symlink() or path.is_file() else shutil.rmtree(path)
        folder.rmdir()
