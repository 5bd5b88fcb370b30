"""The command ``tcmn config``; find configs by name."""

from pathlib import Path
from typing import Annotated

import typer

from bundle.utils.bundle_files import bundle_root
from bundle.utils.options import suggest


def config(
    name: Annotated[
        str | None, typer.Argument(help="Name of a config. Without it, all names are listed.")
    ] = None,
) -> None:
    """Print the path of a config file, to use in python -m monai.bundle run --config_file."""
    if name is not None:
        print(config_path(name, files=False))
        return
    for path in _config_files():
        print(path.relative_to(bundle_root() / "configs").with_suffix("").as_posix())


def _config_files() -> list[Path]:
    return sorted((bundle_root() / "configs").rglob("*.yaml"))


def config_path(name: str, *, files: bool = True) -> Path:
    """Find a config file.

    Args:
        name: Name as ``tcmn config`` lists it; or, with ``files``, path of a file.
        files: Whether a path is allowed.

    Raises:
        ValueError: There is no config of this name.
    """
    if files and name.endswith((".yaml", ".yml", ".json")):
        return Path(name)
    root = bundle_root() / "configs"
    known = {path.relative_to(root).with_suffix("").as_posix(): path for path in _config_files()}
    stem = name.removesuffix(".yaml")
    if stem not in known:
        raise ValueError(f"unknown config {name}{suggest(stem, list(known), prefix='')}")
    return known[stem]
