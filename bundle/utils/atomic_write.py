"""Write files and folders completely or not at all, even if the run is killed.

Everything is written to a folder beside the target, ``.<name>.<random>.partial``, and then renamed. A
killed run leaves that folder; the next run that writes the same target removes it.
"""

import errno
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from bundle.utils.paths import fit_name

try:
    import fcntl
except ImportError:  # Windows: folders of killed runs are not removed
    fcntl = None  # type: ignore[assignment]

SUFFIX = ".partial"
LOCK = "lock"
ADDED = len("..12345678.partial")
"""Number of characters that the folder's name adds to its target's."""
FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
TRIES = 10


class DiskFullError(OSError):
    """The disk is full; the message names the file and says what to do."""


@contextmanager
def room_for(target: str | Path) -> Iterator[None]:
    """Turn errors of a full disk inside the with-block into ``DiskFullError``.

    Args:
        target: The file or folder that is written.

    Raises:
        DiskFullError: The disk is full, or a quota or a limit on file size is reached.
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
    """A temporary folder beside ``target`` to write it in; removed when the with-block ends.

    Args:
        target: The file or folder to write. Its parent folder is made if it does not exist.

    Attributes:
        target: See above.
        folder: ``.<name of target>.<random>.partial``, beside the target. If that would be too long,
            the name is cut, and the lock file inside holds the whole name.
        new: Path in ``folder`` where the caller writes the new file or folder.
    """

    def __init__(self, target: str | Path) -> None:
        self.target = Path(target)

    def __enter__(self) -> "StagingFolder":
        self.target.parent.mkdir(parents=True, exist_ok=True)
        sweep(self.target.parent, self.target.name)
        # Another run's sweep may remove the folder before it is locked.
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
        # Unlike ``folder``, which is private, the new file gets the usual permissions.
        self.new = self.folder / "new"
        return self

    def move_into_place(self) -> None:
        """Rename ``new`` to the target, and remove the old target."""
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

    def __exit__(self, *exception: object) -> None:
        _remove(self.folder)
        if self._lock is not None:
            os.close(self._lock)


@contextmanager
def written_beside(target: str | Path) -> Iterator[Path]:
    """Give a path to write to, which is renamed to ``target`` when the with-block ends without error.

    Args:
        target: The file or folder; an existing one is replaced.

    Raises:
        DiskFullError: The disk is full.

    Example:
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     with written_beside(Path(folder) / "a.txt") as beside:
        ...         _ = beside.write_text("whole")
        ...     os.listdir(folder)
        ['a.txt']
    """
    with room_for(target), StagingFolder(target) as staging:
        yield staging.new
        staging.move_into_place()


def sweep(parent: Path, name: str | None = None) -> None:
    """Remove the temporary folders of killed runs; those that another process uses are kept.

    Args:
        parent: The folder to clean.
        name: Remove only temporary folders of this target.
    """
    start = "." if name is None else f".{fit_name(name, ADDED)}."
    with suppress(OSError):
        for left in os.listdir(parent):
            if left.startswith(start) and left.endswith(SUFFIX):
                _sweep_one(parent / left)


def _sweep_one(folder: Path) -> None:
    try:
        lock = _lock(folder, create=False)
    except FileNotFoundError:  # of another program, or of a run that was killed before it locked it
        with suppress(OSError):
            folder.rmdir()
        return
    except OSError:  # in use, or on a disk without locks
        return
    if lock is not None:
        _remove(folder)
        os.close(lock)


def _lock(folder: Path, *, create: bool) -> int | None:
    """Lock a temporary folder; the system releases the lock when the process ends.

    The package filelock is not used: it creates the file to lock, so that a folder of another program
    would look like one of ours and be removed.

    Returns:
        The open lock file; None if the file system has no locks.

    Raises:
        BlockingIOError: Another process has the lock.
        FileNotFoundError: There is no lock file.
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
    """Remove a temporary folder, after putting back the old target if the new one is missing."""
    with suppress(OSError):
        name = folder.name[1:].rsplit(".", 2)[0]
        if (folder / LOCK).is_file():
            name = os.fsdecode((folder / LOCK).read_bytes()) or name
        target = folder.with_name(name)
        if (folder / "old").exists() and not target.exists():
            (folder / "old").rename(target)
        # The lock file goes last: without it, the next sweep would not recognise the folder.
        for path in sorted(folder.iterdir(), key=lambda path: path.name == LOCK):
            path.unlink() if path.is_symlink() or path.is_file() else shutil.rmtree(path)
        folder.rmdir()
