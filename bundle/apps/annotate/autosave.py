"""Save an annotation to disk while somebody works on it, so that a crash loses nothing.

Each open video has its own session file in the state folder, and a lock that the system releases when
the process ends in any way. A file whose lock nobody holds is work that was not saved.
"""

import hashlib
import json
import logging
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from datetime import datetime
from pathlib import Path

from filelock import FileLock, Timeout

from bundle.apps.annotate.annotation import Annotation
from bundle.apps.annotate.session_file import SUFFIX, EncodedMasks, write_session
from bundle.io.reading.video import VideoSource

logger = logging.getLogger(__name__)

DELAY_S = 1.0
"""Seconds between two saves, if saving is quick."""
SHARE = 0.1
"""Largest share of the time to spend on saving: long videos are saved less often."""


class Slot:
    """A session file in the state folder that belongs to this process until it is released.

    Attributes:
        path: The file; it may not exist yet.
    """

    def __init__(self, path: Path, lock: FileLock) -> None:
        self.path, self._lock = path, lock

    @property
    def time(self) -> datetime | None:
        """When it was written last, in local time; None if it was not."""
        try:
            return datetime.fromtimestamp(self.path.stat().st_mtime)
        except OSError:
            return None

    def release(self, keep: bool) -> None:
        """Give it up, for another process to find, or delete it."""
        if not keep:
            with suppress(OSError):
                self.path.unlink(missing_ok=True)
        with suppress(OSError):  # where a file that is open cannot be deleted
            Path(self._lock.lock_file).unlink(missing_ok=True)
        self._lock.release()


class StateFolder:
    """The session files of all processes of this user.

    Args:
        folder: Made when it is needed, for this user's eyes only.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder / "annotate"

    def find_left(self, video: VideoSource) -> Slot | None:
        """The latest session of a video whose process has ended; None if there is none.

        The video is known by its first frame, size, length and name, so that it may have moved.
        """
        found = []
        for path in self.folder.glob(f"{_fingerprint(video)}-*{SUFFIX}"):
            with suppress(OSError):
                found.append((path.stat().st_mtime, path))
        for _, path in sorted(found, reverse=True):
            slot = self._take(path)
            if slot is not None and path.exists():
                return slot
            if slot is not None:  # another process has just deleted it
                slot.release(keep=False)
        return None

    def new_slot(self, video: VideoSource) -> Slot:
        """A file of its own for a video that is opened.

        Raises:
            OSError: The folder cannot be written to.
        """
        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        name = _fingerprint(video)
        for number in range(1, 1000):
            path = self.folder / f"{name}-{number}{SUFFIX}"
            slot = None if path.exists() else self._take(path)
            if slot is not None and not path.exists():
                return slot
            if slot is not None:  # another process has left it in between
                slot.release(keep=True)
        raise OSError(f"{self.folder} is full of sessions that were not saved: delete some of them")

    def _take(self, path: Path) -> Slot | None:
        lock = FileLock(path.with_name(path.name + ".lock"), thread_local=False)
        try:
            lock.acquire(blocking=False)
        except (Timeout, OSError):
            return None
        return Slot(path, lock)


def _fingerprint(video: VideoSource) -> str:
    known = json.dumps([video.name, video.frame_count, video.height, video.width]).encode()
    with suppress(ValueError, OSError):  # a first frame that is damaged
        known += next(iter(video.frames([0]))).tobytes()
    return hashlib.sha256(known).hexdigest()[:24]


class Autosave:
    """Writes an annotation to its slot after each change, in its own thread.

    After the user has saved, the copy is deleted until the next change.

    Args:
        annotation: The annotation.
        slot: The session file to write.

    Attributes:
        problem: The error of the last write; None if it succeeded.
    """

    def __init__(self, annotation: Annotation, slot: Slot) -> None:
        self.annotation, self.slot = annotation, slot
        self.problem: Exception | None = None
        self._written = annotation.revision  # an opened annotation is already on disk
        self._encoded = EncodedMasks()
        self._pause = DELAY_S
        self._end, self._lock = threading.Event(), threading.Lock()
        self._thread = threading.Thread(target=self._run, name="autosave", daemon=True)
        self._thread.start()

    def write(self) -> None:
        """Write what has changed, at once."""
        with self._lock:
            try:
                if not self.annotation.unsaved:
                    self.slot.path.unlink(missing_ok=True)
                    self._written = self.annotation.revision
                elif self.annotation.revision != self._written:
                    begin = time.monotonic()
                    self._written = write_session(self.annotation, self.slot.path, self._encoded)
                    self._pause = max(DELAY_S, (time.monotonic() - begin) / SHARE)
                self.problem = None
            except Exception as error:  # shown on the page, whatever it was
                if self.problem is None:
                    logger.warning("the annotation cannot be kept on disk: %s", error)
                self.problem = error

    @property
    def time(self) -> datetime | None:
        """When the file was written last; None if there is nothing to keep."""
        return self.slot.time

    def close(self) -> Slot | None:
        """Write what is left to write, and end.

        Returns:
            The slot, still held, if work was not saved; else it is deleted.
        """
        self._end.set()
        self._thread.join()
        self.write()
        if self.annotation.unsaved and self.slot.path.exists():
            return self.slot
        self.slot.release(keep=False)
        return None

    def _run(self) -> None:
        while not self._end.wait(self._pause):
            self.write()


def begin_autosave(annotation: Annotation, take: Callable[[], Slot]) -> Autosave | None:
    """Keep an annotation on disk from now on; None, with a warning, where nothing can be written."""
    try:
        return Autosave(annotation, take())
    except OSError as error:
        logger.warning("annotations are not kept on disk until they are saved: %s", error)
        return None
