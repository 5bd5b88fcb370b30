"""Paths as users type them."""

from pathlib import Path


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
