"""Check that a folder is the root of a data set; if not, suggest the right one nearby."""

from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path

LOOKED_AT = 500


def check_root(root: str | Path, markers: Sequence[str], name: str) -> Path:
    """Check that ``root`` is the root folder of a data set.

    Args:
        root: The folder that the user gave.
        markers: Relative glob patterns, at least one of which must match below the root.
        name: Name of the data set, for the message.

    Raises:
        FileNotFoundError: No pattern matches. The message names a folder up to two levels above or
            below for which one does, if there is one.
    """
    root = Path(root)
    if _fits(root, markers):
        return root
    if not root.is_dir():
        raise FileNotFoundError(f"no folder {root}: expected the root of {name}")
    parents = list(root.resolve().parents)[:2]
    hint = next((folder for folder in [*_below(root), *parents] if _fits(folder, markers)), None)
    raise FileNotFoundError(
        f"no {' or '.join(markers)} in {root}: expected the root of {name}"
        + (f"; did you mean {hint}?" if hint else "")
    )


def _fits(folder: Path, markers: Sequence[str]) -> bool:
    return folder.is_dir() and any(any(folder.glob(marker)) for marker in markers)


def _below(root: Path) -> Iterator[Path]:
    for pattern in ("*", "*/*"):
        folders = (path for path in root.glob(pattern) if path.is_dir())
        yield from islice(folders, LOOKED_AT)
