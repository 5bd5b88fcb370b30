"""Paths as users type them, and names that file systems take."""

import hashlib
from pathlib import Path

MAX_NAME_BYTES = 255
"""Of a file or folder, on all file systems in use."""


def expand_user(path: str | Path) -> Path:
    """Put the home folder in for ``~`` and ``~NAME``, where a shell has not done so.

    A NAME that is nobody's stays as it is: files may be called so.

    Example:
        >>> expand_user("~nobody.here/video.mp4").as_posix()
        '~nobody.here/video.mp4'
    """
    try:
        return Path(path).expanduser()
    except RuntimeError:
        return Path(path)


def fit_name(name: str, more: int = 0) -> str:
    """A name that leaves room for what is added to it; a long one is cut and ends in a digest.

    Args:
        name: Name of a file or folder, such as a video's.
        more: Bytes that will be added, suffixes and prefixes.

    Returns:
        The name itself wherever it fits; equal for equal names, different for others.

    Example:
        >>> fit_name("cine", 18)
        'cine'
        >>> len(fit_name(250 * "a", 18)), fit_name(250 * "a", 18)[-13:]
        (237, 'aaaa-3f3e35e0')
    """
    encoded = name.encode(errors="surrogateescape")
    room = MAX_NAME_BYTES - more
    if len(encoded) <= room:
        return name
    digest = hashlib.sha256(encoded).hexdigest()[:8]
    return encoded[: room - len(digest) - 1].decode(errors="ignore") + f"-{digest}"
