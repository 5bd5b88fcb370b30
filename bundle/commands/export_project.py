"""``tcmn export-project``: the masks of a project as a data set."""

import json
from pathlib import Path
from typing import Literal, cast

from tqdm import tqdm

from bundle.project.export import MANIFEST, export_project
from bundle.project.opening import find_project
from bundle.project.store import Project
from bundle.utils.options import suggest
from bundle.utils.paths import expand_user

FRAMES = ("all", "reviewed")
UNFINISHED = ("refuse", "leave out", "include")


def export_data_set(
    source: Path,
    output: Path,
    layout: str = "video_folder",
    frames: str = "all",
    unfinished: str = "refuse",
    valid_fraction: float = 0.2,
    seed: int = 0,
) -> None:
    """Write a data set and say what is in it.

    Args:
        source: Folder of a project, or the folder or list of videos that it lies beside.
        output: See ``bundle.project.export.export_project``, likewise what follows.

    Raises:
        FileNotFoundError: There is no project.
        ValueError: A choice is unknown, or as ``export_project``.
        FileExistsError, VideoLockedError, DiskFullError: As ``export_project``.
    """
    source, output = expand_user(source), expand_user(output)
    unfinished = unfinished.replace("-", " ").replace("_", " ")
    for name, value, known in (
        ("--frames", frames, FRAMES),
        ("--unfinished", unfinished, UNFINISHED),
    ):
        if value not in known:
            raise ValueError(f"unknown {name} {value}{suggest(value, list(known), prefix='')}")
    project = require_project(source)
    with tqdm(total=100, unit="%", leave=False, disable=None) as bar:

        def show(share: float) -> None:
            bar.update(round(100 * share) - bar.n)

        export_project(
            project,
            output,
            layout,
            frames=cast(Literal["all", "reviewed"], frames),
            unfinished=cast(Literal["refuse", "leave out", "include"], unfinished),
            valid_fraction=valid_fraction,
            seed=seed,
            progress=show,
        )
    print(describe_export(output))


def require_project(source: Path, who: str | None = None) -> Project:
    """The project of a folder or list of videos, or the one whose folder it is.

    Args:
        source: See above.
        who: Who works on it; the user of this process by default.

    Raises:
        FileNotFoundError: There is none.
        ValueError: It is damaged, or of a newer version.
    """
    folder = find_project(source)
    if folder is None:
        raise FileNotFoundError(
            f"no project in {source}: make one with tcmn annotate {source}, a folder of videos"
        )
    return Project(folder, who)


def describe_export(folder: Path) -> str:
    """What a data set holds, by its manifest, in a few lines."""
    manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
    videos, left_out = manifest["videos"], manifest["left_out"]
    masks = sum(len(video["annotated"]) for video in videos)
    parts = [sum(video["part"] == part for video in videos) for part in ("train", "valid")]
    lines = [
        f"{folder}: {len(videos)} videos ({parts[0]} to train, {parts[1]} to validate), {masks} masks"
    ]
    lines += [f"left out {each['name']}: {each['reason']}" for each in left_out]
    return "\n".join(lines)
