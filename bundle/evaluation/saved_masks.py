"""Write and read the masks of an evaluation, a folder of palette PNGs for each video.

The same layout serves the network's masks and those of other methods: ``DIR/<video>/<frame>.png`` with
names from ``folder_names``; pixel values are the data set's ids. T frames of H x W.
"""

import os
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Integer, UInt8
from PIL import Image, UnidentifiedImageError

from bundle.datasets.records import Video
from bundle.io.writing.nifti_header import save_label_volume
from bundle.utils.atomic_write import StagingFolder, room_for
from bundle.visualization.overlay import PALETTE

MAX_NAME = 60


def file_name(name: str, taken: Collection[str]) -> str:
    """A name that is valid on every file system and not yet taken.

    Example:
        >>> file_name("CAMUS/patient 1 (4CH)", ["CAMUS_patient_1_4CH_"])
        'CAMUS_patient_1_4CH__2'
    """
    safe = re.sub(r"[^\w.-]+", "_", name)[:MAX_NAME].lstrip(".") or "video"
    others = {other.casefold() for other in taken}  # some file systems ignore letter case
    number, found = 1, safe
    while found.casefold() in others:
        number += 1
        found = f"{safe}_{number}"
    return found


def folder_names(videos: Iterable[Video]) -> dict[str, str]:
    """Id of each video -> name of its folder; the same videos in the same order give the same names."""
    names: dict[str, str] = {}
    for video in videos:
        names[video.id] = file_name(video.id, names.values())
    return names


def parts(item: Mapping[str, Any]) -> tuple[list[str], list[int], list[str]]:
    """Class names and ids of the objects 1..N of a ``VideoDataset`` item, and its frame names."""
    ids = [int(i) for i in item["ids"].split("|")]
    return item["classes"].split("|"), ids, item["frame_names"].split("|")


def save_png(path: Path, labels: UInt8[np.ndarray, "H W"]) -> None:
    """Write ids as a palette PNG in the colours of DAVIS."""
    picture = Image.fromarray(labels)
    picture.putpalette(PALETTE.tobytes())
    picture.save(path, format="PNG")


def save_masks(
    folder: Path,
    name: str,
    item: Mapping[str, Any],
    labels: Integer[np.ndarray, "H W T"],
    *,
    volume: bool = True,
) -> None:
    """Write a video's masks as ``folder/name/*.png`` and ``folder/name.nii.gz``.

    Files appear under these names when they are complete; earlier ones are replaced.

    Args:
        folder: Made if it does not exist.
        name: Name of the video's folder, see ``folder_names``.
        item: Item of ``VideoDataset``; its ids are written.
        labels: Labels 1..N, 0 for background.
        volume: Whether to write the label volume (x, y, t) too.

    Raises:
        DiskFullError: The disk is full.
    """
    _, ids, frames = parts(item)
    original = np.array([0, *ids], np.uint8)[labels]
    with room_for(folder / name), StagingFolder(folder / name) as staging:
        staging.new.mkdir()
        for t, frame in enumerate(frames):
            save_png(staging.new / f"{frame}.png", original[..., t])
        if volume:
            path = staging.folder / f"{name}.nii.gz"
            save_label_volume(path, original.swapaxes(0, 1), spacing_of(item))
            path.replace(folder / path.name)
        staging.move_into_place()


def load_masks(
    folder: Path, name: str, item: Mapping[str, Any], frames: Sequence[int]
) -> Integer[np.ndarray, "H W chosen"]:
    """Read masks of some frames of a video, with labels 1..N.

    Args:
        folder: Folder with a subfolder for each video.
        name: Name of the video's folder, see ``folder_names``.
        item: Item of ``VideoDataset`` for the video.
        frames: Indices of the frames within the item.

    Raises:
        FileNotFoundError: A folder or file is missing.
        ValueError: A file is not a grey or palette picture, has another size than the frame, or holds
            an id that is none of the video's.
    """
    _, ids, names = parts(item)
    height, width = item["label"].shape[1:3]
    video = item["name"]
    if not (folder / name).is_dir():
        raise FileNotFoundError(
            f"no folder {folder / name} with masks of video {video}: expected a folder for each "
            "video, named as scripts/dev/export_protocol.py names them"
        )
    numbers = np.zeros(256, np.uint8)
    numbers[ids] = range(1, len(ids) + 1)
    found = []
    for t in frames:
        path = folder / name / f"{names[t]}.png"
        pixels = _read(path, video)
        if pixels.shape != (height, width):
            raise ValueError(
                f"{path} is {pixels.shape[1]}x{pixels.shape[0]} but the frames of video {video} are "
                f"{width}x{height}: save masks at the frames' size"
            )
        present = set(np.unique(pixels).tolist()) - {0}
        if present == {255} and len(ids) == 1:
            pixels = np.where(pixels == 255, ids[0], 0)
        elif present - set(ids):
            raise ValueError(
                f"{path} holds id {min(present - set(ids))} but the objects of video {video} are "
                f"{', '.join(map(str, ids))}: save the ids of the masks that were given"
            )
        found.append(numbers[pixels])
    return np.stack(found, axis=-1)


def _read(path: Path, video: str) -> Integer[np.ndarray, "H W"]:
    if not path.is_file():
        raise FileNotFoundError(f"no mask {path}, a scored frame of video {video}")
    try:
        with Image.open(path) as picture:
            if picture.mode not in ("P", "L", "1"):
                raise ValueError(
                    f"{path} has mode {picture.mode}: expected a palette or grey PNG of object ids"
                )
            return np.asarray(picture.convert("L") if picture.mode == "1" else picture)
    except UnidentifiedImageError as error:
        raise ValueError(f"{path} is not a picture: expected a PNG of object ids") from error


def check_predictions(folder: Path, names: Mapping[str, str]) -> None:
    """Check before a long run that every video has a folder of masks.

    Raises:
        FileNotFoundError: The folder of a video is missing.
    """
    for video, name in names.items():
        if not (folder / name).is_dir():
            there = sorted(os.listdir(folder))[:3] if folder.is_dir() else []
            raise FileNotFoundError(
                f"--predictions: no folder {folder / name} for video {video}"
                + (f"; there are {', '.join(there)} and so on" if there else "")
            )


def spacing_of(item: Mapping[str, Any]) -> tuple[float, float] | None:
    """(row, column) spacing of an item of ``VideoDataset`` in mm; None where it is unknown."""
    row, column = (float(value) for value in item["spacing_mm"])
    return None if row != row else (row, column)
