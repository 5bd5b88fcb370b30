"""Find the bundle's own files (``configs``, ``models``, demo data) and its version."""

import json
from pathlib import Path

INSIDE = "_bundle"
"""Folder inside the package where a wheel has them; see ``pyproject.toml``."""


PACKAGE = Path(__file__).resolve().parents[1]


def bundle_root(package: Path = PACKAGE) -> Path:
    """Find the folder that holds ``configs`` and ``models``.

    In a clone it is the repository, in an installed wheel a folder inside the package. Nothing is
    written there: results go to the working directory.

    Args:
        package: The package's folder.

    Raises:
        FileNotFoundError: The package came without its configs.

    Example:
        >>> (bundle_root() / "configs" / "inference.yaml").is_file()
        True
    """
    installed = package / INSIDE
    root = installed if installed.is_dir() else package.parent
    if not (root / "configs" / "metadata.json").is_file():
        raise FileNotFoundError(
            f"{root / 'configs'} has no metadata.json: the package bundle in {package} came without "
            "its configs and weights; install the wheel of tcmn, or take the package from a clone"
        )
    return root


def program_version() -> str:
    """The version of the program, from ``configs/metadata.json``.

    Example:
        >>> len(program_version().split("."))
        3
    """
    text = (bundle_root() / "configs" / "metadata.json").read_text(encoding="utf-8")
    return str(json.loads(text)["version"])
