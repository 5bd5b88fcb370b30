"""Lock a video so that only one person at a time has it open, on any machine that sees the folder.

The lock is a file that its holder renews, so that it works on network folders without locks
(``filelock.SoftFileLease``). A lock that a killed process left is taken over at once on the same
machine, and by other machines when it has not been renewed for ``LEASE_S`` seconds.
"""

import getpass
import json
import logging
import os
import socket
from contextlib import suppress
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path

from filelock import SoftFileLease, Timeout

logger = logging.getLogger(__name__)

LEASE_S = 60.0


class VideoLockedError(OSError):
    """Somebody else has a video open; the message says who."""


@dataclass(frozen=True)
class Holder:
    """Who has a video open.

    Attributes:
        who: The person.
        host: Their machine.
        pid: The process.
        since: Local time, ISO 8601.
    """

    who: str
    host: str
    pid: int
    since: str

    def __str__(self) -> str:
        return f"{self.who} on {self.host} since {self.since.replace('T', ' ')}"


def current_user() -> str:
    """The name of whoever runs this process."""
    try:
        return getpass.getuser()
    except (OSError, KeyError):  # a container without a user list
        return "somebody"


class VideoLock:
    """The lock of one video's folder.

    Args:
        folder: The folder; it must exist.
        who: The person who opens the video.
        lease_s: Without renewal for so long a lock of another machine counts as left behind.

    Attributes:
        left_by: Who held it before and ended without closing, once it is acquired.
    """

    def __init__(self, folder: Path, who: str, lease_s: float = LEASE_S) -> None:
        self._who, self._lease_s = who, lease_s
        self._file, self._holder_file = folder / "open.lock", folder / "open.json"
        self._lease = SoftFileLease(self._file, lease_duration=lease_s, thread_local=False)
        self.left_by: Holder | None = None

    @property
    def holder(self) -> Holder | None:
        """Who has it now, as far as can be told without taking it."""
        holder = self._read_holder() if self._file.exists() else None
        return None if holder is not None and _has_ended(holder) else holder

    def acquire(self, name: str) -> None:
        """Take it.

        Args:
            name: Name of the video, for the message.

        Raises:
            VideoLockedError: Somebody has it.
        """
        if self._lease.is_locked:  # which would let this process have it twice
            raise VideoLockedError(f"{name} is open in this program already: close it there first")
        try:
            self._lease.acquire(timeout=0)
        except Timeout as error:
            raise VideoLockedError(
                f"{name} is open by {self._read_holder() or 'somebody'}: open another video, or wait "
                f"until it is closed (within {self._lease_s:.0f} seconds after that machine fails, "
                "try again)"
            ) from error
        self.left_by = self._read_holder()
        if self.left_by is not None:
            logger.warning(
                "%s was left open by %s, who ended without closing it; what was saved is there",
                name,
                self.left_by,
            )
        now = datetime.now().isoformat(timespec="seconds")
        holder = Holder(self._who, socket.gethostname(), os.getpid(), now)
        self._holder_file.write_text(json.dumps(asdict(holder)), encoding="utf-8")

    def check(self, name: str) -> None:
        """Check before writing that the lock is still ours.

        Raises:
            VideoLockedError: Another machine took it over, after this one slept or lost the network.
        """
        if self._lease.token is None or self._lease.compromise is not None:
            raise VideoLockedError(
                f"{name} was taken over by {self._read_holder() or 'somebody'} while this machine did "
                "not answer: nothing of theirs was overwritten, save a session file to keep yours"
            )

    def release(self) -> None:
        """Let go of it; a second call does nothing."""
        if self._lease.is_locked:
            if self._lease.compromise is None:
                self._holder_file.unlink(missing_ok=True)
            with suppress(OSError):
                self._lease.release()

    def _read_holder(self) -> Holder | None:
        try:
            return Holder(**json.loads(self._holder_file.read_text(encoding="utf-8")))
        except (OSError, ValueError, TypeError):
            return None


def _has_ended(holder: Holder) -> bool:
    """Whether the process of a lock is known to be no more, which only its own machine can tell."""
    if holder.host != socket.gethostname() or os.name == "nt":  # where asking ends the process
        return False
    try:
        os.kill(holder.pid, 0)
    except ProcessLookupError:
        return True
    except OSError:  # somebody else's
        pass
    return False
