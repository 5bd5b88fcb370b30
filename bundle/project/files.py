"""How the files of a project are read and written: JSON with a version, and masks."""

import json
import os
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

from bundle.io.writing.mask_png import decode_mask
from bundle.project.state import VERSION, VideoState
from bundle.types import LabelMap
from bundle.utils.atomic_write import written_beside

STATE = "state.json"


def read_mask(folder: Path, state: VideoState, index: int) -> LabelMap:
    """The mask of a frame of a video.

    Args:
        folder: The video's, in the project.
        state: Its state.
        index: The frame.

    Raises:
        KeyError: The frame has no mask.
        ValueError: Its file is damaged.
    """
    mask = state.masks[index]
    assert state.source is not None
    size = state.source.height, state.source.width
    return read_mask_file(folder / "masks" / mask.file, index, size)


def read_mask_file(path: Path, index: int, size: tuple[int, int]) -> LabelMap:
    """A mask (H, W) from its file; ``index`` is the frame, for the message.

    Raises:
        ValueError: The file is missing or damaged, or of another size.
    """
    try:
        return decode_mask(path.read_bytes(), size)
    except (OSError, ValueError) as error:
        raise ValueError(
            f"{path}, the mask of frame {index}, cannot be read ({error}): put back a copy of it, or "
            "paint the frame anew"
        ) from error


def read_state(folder: Path) -> VideoState:
    """The state of the video whose folder in the project this is.

    Raises:
        ValueError: It is damaged, or of a newer version.
    """
    path = folder / STATE
    if not path.exists():
        return VideoState()
    content = read_json(path, "state")
    try:
        return VideoState.from_json(content)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise ValueError(
            f"{path} is damaged ({error!r}): put back a copy of it; the masks beside it are untouched"
        ) from error


def read_json(path: Path, what: str) -> dict[str, Any]:
    """Read what ``write_json`` wrote; ``what`` it is stands in messages.

    Raises:
        ValueError: It is damaged, or of a newer version of this program.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        version = content["version"]
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(
            f"{path} is damaged ({error!r}): put back a copy of it; the masks are untouched"
        ) from error
    if version != VERSION:
        raise ValueError(
            f"{path} is a {what} of version {version}, this program reads {VERSION}: update it; "
            "nothing was changed"
        )
    return dict(content)


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Write JSON that appears whole or not at all, and is on the disk when this returns."""
    with written_beside(path) as beside, beside.open("w", encoding="utf-8") as file:
        json.dump(content, file, indent=1, ensure_ascii=False)
        file.write("\n")
        file.flush()
        os.fsync(file.fileno())


def local_time() -> str:
    """Now, in local time, ISO 8601 without fractions."""
    return datetime.now().isoformat(timespec="seconds")
