"""Folders of this user's own, where the system has such; environment variables name others."""

import os
from pathlib import Path

import platformdirs

CACHE = "TCMN_CACHE_DIR"
STATE = "TCMN_STATE_DIR"


def cache_folder() -> Path:
    """Where files go that can be made again; see ``CACHE``.

    Example:
        >>> cache_folder().is_absolute()
        True
    """
    return _folder(CACHE, platformdirs.user_cache_path("tcmn", appauthor=False))


def state_folder() -> Path:
    """Where sessions are kept that were not saved; see ``STATE``.

    Example:
        >>> state_folder() != cache_folder()
        True
    """
    return _folder(STATE, platformdirs.user_state_path("tcmn", appauthor=False))


def _folder(variable: str, default: Path) -> Path:
    return Path(os.environ.get(variable) or default)
