"""Write and check the manifest of a results folder, so that overwriting never loses a user's files.

``manifest.json`` lists the files that this program wrote, with sizes and checksums. Other files, and
those that were changed later, are kept when results are overwritten.
"""

import hashlib
import json
import logging
import os
import shutil
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from bundle.utils.bundle_files import program_version

logger = logging.getLogger(__name__)

MANIFEST = "manifest.json"
VERSION = 1
MAX_BYTES = 2**28
KEPT = "kept"
"""Where a user's files go whose names the new results have."""
TABLE_HEAD = "frame,time_s,object,area_px"


def write_manifest(folder: Path, video: str) -> None:
    """Write the manifest of a folder of new results, with every file in it.

    Args:
        folder: Folder of the results; gets ``manifest.json``.
        video: Name of the video.
    """
    files = {
        name: {"bytes": (folder / name).stat().st_size, "sha256": _checksum(folder / name)}
        for name in sorted(_walk(folder))
    }
    program = f"tcmn {program_version()}"
    content = {"manifest": VERSION, "program": program, "video": video, "files": files}
    (folder / MANIFEST).write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


def read_manifest(folder: Path) -> Mapping[str, Mapping[str, Any]] | None:
    """Read a manifest: path in the folder, with slashes, to size and checksum.

    Returns:
        None if there is no valid manifest.
    """
    path = folder / MANIFEST
    try:
        if path.is_symlink() or path.stat().st_size > MAX_BYTES:
            return None
        content = json.loads(path.read_text(encoding="utf-8"))
        files = content["files"]
        if content["manifest"] > VERSION or not all(_is_inside(name) for name in files):
            return None
        return {name: {**entry} for name, entry in files.items()}
    except (OSError, ValueError, KeyError, TypeError):
        return None


def holds_results(folder: Path, known: Collection[str]) -> bool:
    """Whether a folder holds results that this program wrote.

    It does if it has a manifest, or, for results of older versions, a table with the columns of
    ``frames.csv`` and other known files.

    Args:
        folder: Folder to check.
        known: Names of result files, for folders without manifest.
    """
    if not folder.is_dir() or folder.is_symlink():
        return False
    if read_manifest(folder) is not None:
        return True
    table, runs = folder / "frames.csv", folder / "masks.json"
    return (table.name in known and _begins(table, TABLE_HEAD)) or (
        runs.name in known and _begins(runs, '{"video": ')
    )


class Keeper:
    """Keeps the user's files of an old results folder when a new one replaces it.

    Files are linked into the new folder before it replaces the old one, so that a crash loses none. A
    file whose name the new results use, or a result that was changed later, goes to the folder
    ``kept``.

    Args:
        old: Folder that will be replaced.
        new: Folder of the new results, complete.
        known: Names of result files and folders, for old folders without manifest. Their results are
            kept as well, since they may have been changed.
    """

    def __init__(self, old: Path, new: Path, known: Collection[str]) -> None:
        self.old, self.new, self.known = old, new, known
        self._listed = read_manifest(old)

    def link(self) -> None:
        """Link the files to keep into the new folder, or copy them if links are not possible.

        Raises:
            OSError: Neither is possible.
        """
        ours = self._unchanged(self.old)
        aside = []
        for name in sorted(_walk(self.old, folders=True)):
            source = self.old / name
            if name in ours or name == MANIFEST:
                continue
            if source.is_dir() and not source.is_symlink():
                if not any(source.iterdir()) and self._is_free(name):
                    (self.new / name).mkdir(parents=True, exist_ok=True)
                continue
            target = self.new / name
            if not self._is_free(name) or self._was_ours(name):
                target = self._aside() / name
                aside.append(name)
            target.parent.mkdir(parents=True, exist_ok=True)
            _link(source, target)
        if aside:
            logger.warning(
                "%s: %d files that may have been changed by hand are kept in %s, such as %s",
                self.old,
                len(aside),
                self._aside().name,
                aside[0],
            )

    def move_late(self, replaced: Path) -> None:
        """Move files that were added to the old folder after ``link``.

        Args:
            replaced: Old folder, under its new name.
        """
        ours = self._unchanged(replaced)
        for name in sorted(_walk(replaced)):
            if name in ours or name == MANIFEST or self._was_ours(name):
                continue
            target = self.old / name
            if not os.path.lexists(target) and _all_folders(target.parent, self.old):
                target.parent.mkdir(parents=True, exist_ok=True)
                (replaced / name).rename(target)

    def _unchanged(self, folder: Path) -> set[str]:
        listed = self._listed or {}
        return {name for name, entry in listed.items() if _is_as_written(folder / name, entry)}

    def _was_ours(self, name: str) -> bool:
        """Whether a file is a result of this program, by the manifest, or by its name without one."""
        if self._listed is not None:
            return name in self._listed
        top, *rest = PurePosixPath(name).parts
        if top not in self.known:
            return False
        return not rest or rest[-1].removesuffix(".png").isdigit()

    def _is_free(self, name: str) -> bool:
        target = self.new / name
        return not os.path.lexists(target) and _all_folders(target.parent, self.new)

    def _aside(self) -> Path:
        number = 1
        while (self.old / _numbered(number)).exists():
            number += 1
        return self.new / _numbered(number)


def _numbered(number: int) -> str:
    return KEPT if number == 1 else f"{KEPT}_{number}"


def _all_folders(path: Path, root: Path) -> bool:
    """Whether all parents of a path up to the root are real folders."""
    between = [path, *path.parents]
    between = between[: between.index(root)]
    return all(
        not os.path.lexists(each) or (each.is_dir() and not each.is_symlink()) for each in between
    )


def _walk(folder: Path, folders: bool = False) -> Iterator[str]:
    """List all files below a folder as paths with slashes. Links are not followed."""
    for place, below, files in os.walk(folder):
        inside = Path(place).relative_to(folder)
        linked = [name for name in below if (Path(place) / name).is_symlink()]
        for name in [*files, *(below if folders else linked)]:
            yield (inside / name).as_posix()


def _is_inside(name: str) -> bool:
    path = PurePosixPath(name)
    return (
        bool(path.parts) and not path.is_absolute() and ".." not in path.parts and "\\" not in name
    )


def _is_as_written(path: Path, entry: Mapping[str, Any]) -> bool:
    try:
        if path.is_symlink() or path.stat().st_size != entry["bytes"]:
            return False
        return _checksum(path) == entry["sha256"]
    except (OSError, KeyError):
        return False


def _checksum(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _link(source: Path, target: Path) -> None:
    if source.is_symlink():
        os.symlink(os.readlink(source), target)
        return
    try:
        os.link(source, target)
    except OSError:  # a file system without hard links
        shutil.copy2(source, target)


def _begins(path: Path, text: str) -> bool:
    try:
        with path.open(encoding="utf-8") as file:
            return file.read(len(text)) == text
    except (OSError, UnicodeDecodeError):
        return False
