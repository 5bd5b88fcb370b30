"""List the frames and the masks in a folder of pictures that may hold both."""

import logging
import re
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

from bundle.io.reading.decode import STILL_SUFFIXES, is_picture, natural_key
from bundle.io.reading.mask_pictures import looks_like_mask

logger = logging.getLogger(__name__)

MASK_WORD = re.compile(
    r"(?:^|[^a-z])(?:mask|seg|segmentation|label|labels|gt|annotation|annotations)s?(?:[^a-z]|$)"
)
MAX_GROUPS = 8


def list_frames(folder: Path) -> list[Path]:
    """List the frames of a folder in natural order, without masks in the same folder.

    Raises:
        ValueError: There are no pictures, or frames and masks cannot be told apart.
    """
    frames, masks = split_folder(folder)
    if masks:
        logger.warning(
            "%s holds %d masks among its frames, such as %s: they are not taken as frames, give "
            "them with --mask",
            folder,
            len(masks),
            masks[0].name,
        )
    return frames


def list_masks(folder: Path) -> list[Path]:
    """List the masks of a folder in natural order, without frames in the same folder.

    Raises:
        FileNotFoundError: There are no pictures.
        ValueError: Frames and masks cannot be told apart.
    """
    if not any(is_picture(path) for path in folder.iterdir()):
        raise FileNotFoundError(f"no pictures ({', '.join(STILL_SUFFIXES)}) in {folder}")
    frames, masks = split_folder(folder)
    return masks or frames


def split_folder(folder: Path) -> tuple[list[Path], list[Path]]:
    """Split the pictures of a folder into frames and masks.

    Pictures are grouped by suffix and by name without numbers. A group is masks if its names have a
    word such as ``mask``, or if its pictures have few values where those of other groups have many.

    Returns:
        Frames, then masks.

    Raises:
        ValueError: There are no pictures, or two have the same name and neither looks like a mask.
    """
    files = [path for path in folder.iterdir() if is_picture(path) and not path.is_dir()]
    files.sort(key=lambda path: natural_key(path.name))
    if not files:
        raise ValueError(f"{folder} holds no frames: expected {', '.join(STILL_SUFFIXES)} files")
    groups = _group(files)
    if len(groups) == 1:
        return files, []
    masks = {key for key in groups if MASK_WORD.search(key[1])}
    if not masks or len(masks) == len(groups):
        masks = {key for key, members in groups.items() if _look_like_masks(members)}
    if len(masks) == len(groups):
        masks = set()
    frames = [path for key, members in groups.items() if key not in masks for path in members]
    frames.sort(key=lambda path: natural_key(path.name))
    _refuse_twins(folder, frames)
    chosen = set(frames)
    return frames, [path for path in files if path not in chosen]


def _group(files: Sequence[Path]) -> dict[tuple[str, str], list[Path]]:
    groups: dict[tuple[str, str], list[Path]] = defaultdict(list)
    for path in files:
        suffix = path.suffix.lower().replace("jpeg", "jpg").replace("tiff", "tif")
        groups[suffix, re.sub("[0-9]+", "#", path.stem.lower())].append(path)
    if len(groups) <= MAX_GROUPS:
        return groups
    # Names of all kinds: only words for masks, and suffixes, tell.
    merged: dict[tuple[str, str], list[Path]] = defaultdict(list)
    for (suffix, pattern), members in groups.items():
        merged[suffix, "mask" if MASK_WORD.search(pattern) else ""] += members
    return merged


def _look_like_masks(files: Sequence[Path]) -> bool:
    return all(looks_like_mask(files[i]) for i in {0, len(files) // 2, len(files) - 1})


def _refuse_twins(folder: Path, frames: Sequence[Path]) -> None:
    seen: dict[str, Path] = {}
    for path in frames:
        twin = seen.setdefault(path.stem, path)
        if twin is not path:
            raise ValueError(
                f"{folder} holds {twin.name} and {path.name}: which is the frame cannot be told, "
                "keep frames and masks in two folders"
            )
