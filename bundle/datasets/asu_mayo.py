"""ASU-Mayo: colonoscopy videos with polyps, one mask picture a frame."""

import re
from collections.abc import Iterator
from pathlib import Path

from bundle.datasets.records import Report, Video, stop
from bundle.datasets.roots import check_root
from bundle.io.reading.decode import has_suffix, natural_key
from bundle.io.reading.frame_refs import FrameOf, FrameRef
from bundle.io.reading.video import open_video

# Letter case varies within the official files. "wp" is with polyp; "np", without, has no masks.
_FOLDER = "*_[Ww][Pp]_*/*.[Ww][Mm][Vv]"
MARKERS = (_FOLDER, f"[Tt]raining[Ss]et_[Nn]ew[Gg][Tt]*/{_FOLDER}")
LABELS = {1: "polyp"}


def asu_mayo(root: str | Path, report: Report = stop) -> list[Video]:
    """Read ``ShortVD_wp_66/ShortVD_wp_66.wmv`` with ``GT/ShortVD_wp_66_frame_1_GT.tiff``.

    Masks are empty where no polyp is visible, so the first mask may show no object. This reader decodes
    no pixels; see ``bundle.datasets.whole_videos.first_shown`` to find the first mask that shows one.
    Only the length and frame rate of a video are read.

    Args:
        root: ``TrainingSet_NewGT``, or the folder that holds it or its parts.
        report: Called with each problem; the video or mask concerned is left out.

    Returns:
        One record for each video with a polyp, in natural order. Each counts as its own patient.

    Raises:
        FileNotFoundError: The root is another folder, or a video or its masks are missing.
        ValueError: A video cannot be read or is shorter than its masks say, a mask's name has no frame
            number from 1, or two files or folders have the same name.
    """
    root = check_root(root, MARKERS, "ASU-Mayo")
    parts = [path for path in _folders(root) if path.name.lower().startswith("trainingset_newgt")]
    folders = [path for part in (root, *parts) for path in _folders(part)]
    videos: dict[str, Video] = {}
    for folder in sorted(folders, key=lambda path: natural_key(path.name)):
        name = folder.name.lower()
        if "_wp_" not in name:
            continue
        if name in videos:
            report(ValueError(f"{folder} is the second folder of that name: remove one"))
            continue
        video = _record(folder, report)
        if video is not None:
            videos[name] = video
    return list(videos.values())


def _record(folder: Path, report: Report) -> Video | None:
    recording = _recording(folder, report)
    masks = _masks(folder, report)
    if recording is None or not masks:
        return None
    try:
        source = open_video(recording)
    except ValueError as problem:
        report(problem)
        return None
    last = max(masks)
    if last >= source.frame_count:
        report(
            ValueError(
                f"{masks[last]} is a mask of frame {last + 1} but {recording} has "
                f"{source.frame_count} frames: is the video cut short, or the mask another's?"
            )
        )
    within: dict[int, FrameRef] = {i: masks[i] for i in masks if i < source.frame_count}
    if not within:
        return None
    return Video(
        id=folder.name,
        frames=tuple(FrameOf(recording, i) for i in range(source.frame_count)),
        masks=within,
        labels=LABELS,
        patient=folder.name,
        binary=True,
        fps=source.fps,
    )


def _recording(folder: Path, report: Report) -> Path | None:
    files = [path for path in _visible(folder) if has_suffix(path, (".wmv",))]
    if len(files) == 1:
        return files[0]
    if files:
        report(ValueError(f"{folder} holds both {files[0].name} and {files[1].name}: remove one"))
    else:
        report(
            FileNotFoundError(f"no {folder / folder.name}.wmv: expected it beside its GT folder")
        )
    return None


def _masks(folder: Path, report: Report) -> dict[int, Path]:
    """Index of the frame, from 0, to its mask."""
    example = f"{folder.name}_frame_1_GT.tiff"
    truth = next((path for path in _folders(folder) if path.name.lower() == "gt"), None)
    if truth is None:
        report(FileNotFoundError(f"no folder {folder / 'GT'}: expected masks like {example} in it"))
        return {}
    files = [path for path in _visible(truth) if has_suffix(path, (".tif", ".tiff"))]
    if not files:
        report(FileNotFoundError(f"no mask in {truth}: expected files like {example}"))
    masks: dict[int, Path] = {}
    for path in files:
        found = re.search(r"frame_?([0-9]+)", path.stem, re.IGNORECASE)
        number = int(found[1]) if found else 0
        if number < 1:
            report(ValueError(f"{path} names no frame from 1 on: expected a name like {example}"))
        elif number - 1 in masks:
            report(ValueError(f"{path} and {masks[number - 1]} are of one frame: remove one"))
        else:
            masks[number - 1] = path
    return masks


def _folders(folder: Path) -> list[Path]:
    return [path for path in _visible(folder) if path.is_dir()]


def _visible(folder: Path) -> Iterator[Path]:
    """The entries of a folder in natural order, without hidden ones."""
    files = (path for path in folder.iterdir() if not path.name.startswith("."))
    yield from sorted(files, key=lambda path: natural_key(path.name))
