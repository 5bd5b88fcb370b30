"""Export a project as a data set, split by patient, with a manifest of files and checksums."""

import hashlib
import platform
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Literal

from bundle.datasets.records import Video
from bundle.datasets.splits import split_videos
from bundle.io.reading.frame_refs import FrameOf
from bundle.io.structures import (
    Structure,
    Structures,
    default_colour,
    make_structures,
    structures_to_json,
)
from bundle.project.files import write_json
from bundle.project.layouts import LAYOUTS, ExportedVideo
from bundle.project.listing import folder_name
from bundle.project.state import VideoState
from bundle.project.store import Project
from bundle.utils.atomic_write import StagingFolder, room_for
from bundle.utils.bundle_files import program_version

VERSION = 1
MANIFEST = "manifest.json"
SPLIT = "split_by_patient.json"
PACKAGES = ("numpy", "torch", "monai", "pydicom", "nibabel", "SimpleITK", "pillow")


def export_project(
    project: Project,
    target: str | Path,
    layout: str = "video_folder",
    *,
    frames: Literal["all", "reviewed"] = "all",
    unfinished: Literal["refuse", "leave out", "include"] = "refuse",
    valid_fraction: float = 0.2,
    seed: int = 0,
    parts: Mapping[str, str] | None = None,
    progress: Callable[[float], None] = lambda share: None,
) -> Path:
    """Write a data set; its folder appears whole or not at all.

    ``manifest.json`` in it lists every file with its SHA-256, the versions of the programs, the weights
    that propagated, the structures, and what was left out and why.

    Args:
        project: What to export.
        target: The folder; it must not exist.
        layout: ``video_folder``, ``davis``, ``coco``, ``yolo``, ``cvat``, ``nnunet_2d``,
            ``nnunet_3d`` or ``dicom_seg``; see ``bundle.project.layouts``.
        frames: ``reviewed``: only masks that somebody gave or accepted.
        unfinished: What becomes of videos that nobody signed as done.
        valid_fraction: Share of the patients that validate, all videos of a patient on one side;
            0 for none.
        seed: Seed of the draw.
        parts: Write these videos alone: name to ``train`` or ``valid``, in place of a draw.
        progress: Called with the share that is done.

    Returns:
        The folder.

    Raises:
        ValueError: The layout is unknown, videos are not done, nothing is left, or patients are too
            few to split; or a video has changed.
        FileExistsError: The folder exists.
        FileNotFoundError: A video is not there any more.
        VideoLockedError: Somebody has a video open.
        DiskFullError: There is no room.
    """
    target = Path(target)
    if layout not in LAYOUTS:
        raise ValueError(f"unknown layout {layout!r}: there are {', '.join(LAYOUTS)}")
    if target.exists():
        raise FileExistsError(f"{target} exists: choose another folder for the data set")
    if parts is None:
        names, left_out = _choose(project, frames, unfinished)
    else:
        names, left_out = list(parts), []
    with room_for(target), StagingFolder(target) as staging:
        staging.new.mkdir()
        folder = staging.new
        if parts is None:
            parts = _split(project, names, folder / SPLIT, valid_fraction, seed)
        structures = _structures(project, names)
        # Named like the folder that it will be, which nnU-Net's layout takes up.
        work = staging.folder / target.name if target.name != "new" else folder
        if work != folder:
            folder.rename(work)
        writer = LAYOUTS[layout](work, structures)
        videos = []
        for place, name in enumerate(names):
            with project.open(name) as opened:
                state = opened.state
                chosen = _chosen(state, frames)
                masks = {i: partial(opened.labels, i) for i in chosen}
                item = ExportedVideo(folder_name(name), opened.source, masks, parts[name])
                reason = writer.add(item)
                if reason is not None:
                    left_out.append({"name": name, "reason": reason})
                else:
                    videos.append(_describe(project, name, state, chosen, parts[name]))
            progress((place + 1) / len(names))
        if not videos:
            raise ValueError(
                f"no video can be written as {layout}: of {left_out[0]['name']}, "
                f"{left_out[0]['reason']}; choose another layout"
            )
        writer.finish()
        manifest = {
            "format": "tcmn-dataset", "layout": layout,
            "options": {
                "frames": frames, "unfinished": unfinished, "valid_fraction": valid_fraction,
                "seed": seed,
            },
            "versions": _versions(), "structures": structures_to_json(structures)["structures"],
            "videos": videos,
            "left_out": left_out, "files": dict(_checksums(work)),
        }  # fmt: skip
        write_json(work / MANIFEST, {**manifest, "version": VERSION})
        if work != folder:
            work.rename(folder)
        staging.move_into_place()
    return target


def _choose(
    project: Project, frames: str, unfinished: str
) -> tuple[list[str], list[dict[str, str]]]:
    """Names of the videos to write, and what is left out."""
    names, left_out, open_ones = [], [], []
    for name in project.videos:
        state = project.state(name)
        stage = state.stage(project.limits)
        if stage != "done":
            open_ones.append((name, stage))
        if stage != "done" and unfinished == "leave out":
            left_out.append({"name": name, "reason": f"it is not done: {stage}"})
        elif not _chosen(state, frames):
            left_out.append({"name": name, "reason": f"it has no mask to export: {stage}"})
        else:
            names.append(name)
    if open_ones and unfinished == "refuse":
        raise ValueError(
            f"{len(open_ones)} of {len(project.videos)} videos are not done, the first is "
            f"{open_ones[0][0]} ({open_ones[0][1]}): finish them, or choose to leave them out or to "
            "include them as they are"
        )
    if not names:
        raise ValueError(
            f"no video of {project.folder} has a mask to export: paint and propagate first, or "
            "choose other frames"
        )
    return names, left_out


def _chosen(state: VideoState, frames: str) -> list[int]:
    trusted = state.reviewed
    return [i for i in state.masks if frames == "all" or i in trusted]


def _split(
    project: Project, names: Sequence[str], path: Path, valid_fraction: float, seed: int
) -> dict[str, str]:
    """Name to part."""
    if valid_fraction == 0:
        return dict.fromkeys(names, "train")
    patients = {project.videos[name].patient for name in names}
    if len(patients) < 2:
        raise ValueError(
            f"the videos are of {len(patients)} patient: a split needs 2, so choose no validation "
            "(valid_fraction 0), or name patients in a list of videos"
        )
    videos = []
    for name in names:
        place = FrameOf(project.videos[name].path, 0)
        labels = {1: "object"}
        videos.append(Video(name, (place,), {0: place}, labels, project.videos[name].patient))
    train = split_videos(videos, "train", path, 1 - valid_fraction, seed)
    return dict.fromkeys(names, "valid") | {video.id: "train" for video in train}


def _structures(project: Project, names: Sequence[str]) -> Structures:
    """Those of the project, and what masks show besides."""
    shown = {
        i for name in names for mask in project.state(name).masks.values() for i in mask.facts.areas
    }
    unlisted = [
        Structure(i, f"object {i}", default_colour(i)) for i in shown - set(project.structures)
    ]
    return make_structures([*project.structures.values(), *unlisted], "the project")


def _describe(
    project: Project, name: str, state: VideoState, chosen: Sequence[int], part: str
) -> dict[str, Any]:
    source = state.source
    return {
        "name": folder_name(name), "patient": project.videos[name].patient, "part": part,
        "source": project.videos[name].path.name,
        "fingerprint": source.fingerprint if source else None,
        "frames": source.frame_count if source else None, "annotated": list(chosen),
        "given": sorted(state.given), "reviewed": sorted(state.reviewed & set(chosen)),
        "signed_by": state.signed_by, "minutes": round(state.seconds / 60, 2),
        "weights": dict(state.weights),
    }  # fmt: skip


def _versions() -> dict[str, str]:
    versions = {"python": platform.python_version(), "tcmn": program_version()}
    for name in PACKAGES:
        with suppress(PackageNotFoundError):  # run from its folder
            versions[name] = version(name)
    return versions


def _checksums(folder: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    for path in sorted(folder.rglob("*")):
        if path.is_file() and path != folder / MANIFEST:
            with path.open("rb") as file:
                digest = hashlib.file_digest(file, "sha256").hexdigest()
            yield (
                path.relative_to(folder).as_posix(),
                {"sha256": digest, "bytes": path.stat().st_size},
            )
