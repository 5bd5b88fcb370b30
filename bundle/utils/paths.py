"""Expand ``~`` in paths, and shorten names that file systems would reject."""

import hashlib
from pathlib import Path

MAX_NAME_BYTES = 255
"""Largest length in bytes of a file's or folder's name, on common file systems."""


def expand_user(path: str | Path) -> Path:
    """Replace ``~`` and ``~NAME`` by the home folder, if the shell has not done so.

    If there is no user NAME, the path is not changed, since a file may have such a name.

    Example:
        >>> expand_user("~nobody.here/video.mp4").as_posix()
        '~nobody.here/video.mp4'
    """
    try:
        return Path(path).expanduser()
    except RuntimeError:
        return Path(path)


def fit_name(name: str, more: int = 0) -> str:
    """Shorten a name that is too long for a file system; the end is replaced by a digest.

    Args:
        name: Name of a file or folder, such as a video's.
        more: Number of bytes that will be added, for suffixes and prefixes.

    Returns:
        The name itself if it fits; otherwise a shorter name that is the same for the same name.

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
