"""An annotation in one file, to go on with it later: a zip of JSON and PNGs, without the video.

``session.json`` says which video, objects and frames; ``prompts/00000.png`` ... are the masks that
were given, ``carried/`` those of them that were carried last where they differ, ``results/`` what was
found. Pixel values are object ids.
"""

import json
import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from bundle.apps.annotate.marks import MarkedObject
from bundle.apps.annotate.work import Work
from bundle.inference.results import FrameResult
from bundle.io.reading.video import VideoSource, open_video
from bundle.io.writing.mask_png import REST, decode_mask, encode_mask
from bundle.segmenter import VideoSegmenter
from bundle.types import LabelMap
from bundle.utils.atomic_write import written_beside

SUFFIX = ".tcmn.zip"
HEAD = "session.json"
VERSION = 1
TOO_LARGE = 64 * 2**20
"""Bytes of ``session.json`` that no session has."""


def is_session(path: Path) -> bool:
    """Whether a path is a file that ``save_session`` could have written."""
    return path.is_file() and path.suffix.lower() == ".zip" and zipfile.is_zipfile(path)


def save_session(work: Work, path: Path) -> None:
    """Write a session; the file appears whole or not at all.

    Raises:
        FileExistsError: There is a file already that is no session.
        OSError: It cannot be written.
    """
    if path.exists() and not _is_own(path):
        raise FileExistsError(f"{path} exists and is no session of this page: choose another name")
    revision = work.revision
    with written_beside(path) as beside, zipfile.ZipFile(beside, "w") as archive:
        _write(work, archive)
    work.saved = revision


def _is_own(path: Path) -> bool:
    if not is_session(path):
        return False
    with zipfile.ZipFile(path) as archive:
        return HEAD in archive.namelist()


def _write(work: Work, archive: zipfile.ZipFile) -> None:
    prompts = dict(work.prompts)
    carried = {} if work.carried is None else dict(work.carried.prompts)
    confidence: dict[int, Mapping[int, float]] = {}
    for index, labels in prompts.items():
        archive.writestr(f"prompts/{index:05d}.png", encode_mask(labels))
    other = {i: m for i, m in carried.items() if i not in prompts or (m != prompts[i]).any()}
    for index, labels in other.items():
        archive.writestr(f"carried/{index:05d}.png", encode_mask(labels))
    for result in work.results():
        archive.writestr(f"results/{result.frame:05d}.png", encode_mask(result.labels))
        confidence[result.frame] = result.confidence
    video = work.video
    head = {
        "version": VERSION,
        "video": {
            "path": str(video.path.absolute()),
            "frame_count": video.frame_count,
            "height": video.height,
            "width": video.width,
        },
        "objects": {i: asdict(each) for i, each in work.objects.items()},
        "place": work.place,
        "direction": work.direction,
        "prompts": sorted(prompts),
        "carried": sorted(carried),
        "carried_otherwise": sorted(other),
        "confidence": confidence,
    }
    archive.writestr(HEAD, json.dumps(head), zipfile.ZIP_DEFLATED)


def open_session(path: Path, model: VideoSegmenter, current: VideoSource | None = None) -> Work:
    """Go on with a session.

    Args:
        path: The file.
        model: What carries masks.
        current: A video that is open; taken if the one that the session names is not there.

    Raises:
        FileNotFoundError: Its video is not where it was, nor beside the session, nor open.
        ValueError: The file is damaged or no session, or the video is another one.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            head = _read_head(archive)
            work = Work(_find_video(path, head, current), model)
            _fill(work, head, archive)
    except (zipfile.BadZipFile, KeyError, TypeError, AttributeError) as error:
        raise ValueError(
            f"{path} is no session of this page, or damaged ({type(error).__name__}: {error}): "
            "open one that was saved here"
        ) from error
    work.saved = work.revision
    return work


def _read_head(archive: zipfile.ZipFile) -> dict[str, Any]:
    if archive.getinfo(HEAD).file_size > TOO_LARGE:
        raise TypeError(f"{HEAD} is too large")
    try:
        head: dict[str, Any] = json.loads(archive.read(HEAD))
    except ValueError as error:
        raise TypeError(f"{HEAD} is no JSON") from error
    if head["version"] != VERSION:
        raise ValueError(
            f"the session is of version {head['version']}, this program reads {VERSION}: update it"
        )
    return head


def _find_video(path: Path, head: Mapping[str, Any], current: VideoSource | None) -> VideoSource:
    expected = head["video"]
    stored = Path(expected["path"])
    places = [place for place in (stored, path.parent / stored.name) if place.exists()]
    if places:
        video = open_video(places[0])
    elif current is not None:
        video = current
    else:
        raise FileNotFoundError(
            f"the session's video is not at {stored} any more: put it beside the session, or open it "
            "first and then the session"
        )
    found = {name: getattr(video, name) for name in ("frame_count", "height", "width")}
    if any(found[name] != expected[name] for name in found):
        raise ValueError(
            f"the session is of a video of {expected['frame_count']} frames of "
            f"{expected['width']}x{expected['height']}, but {video.path} has {video.frame_count} of "
            f"{video.width}x{video.height}: open the video that it was made with"
        )
    return video


def _fill(work: Work, head: Mapping[str, Any], archive: zipfile.ZipFile) -> None:
    work.objects = {int(i): MarkedObject(**each) for i, each in head["objects"].items()}
    work.place, work.direction = int(head["place"]), str(head["direction"])
    size = work.video.height, work.video.width
    prompts = {i: _read_png(archive, f"prompts/{i:05d}.png", size) for i in head["prompts"]}
    work.restore_prompts(prompts)
    if not head["carried"]:
        return
    others = set(head["carried_otherwise"])
    carried = {
        i: _read_png(archive, f"carried/{i:05d}.png", size) if i in others else prompts[i]
        for i in head["carried"]
    }
    work.restore_results(carried, _read_results(archive, head["confidence"], size))


def _read_results(
    archive: zipfile.ZipFile, confidence: Mapping[str, Mapping[str, float]], size: tuple[int, int]
) -> Iterator[FrameResult]:
    for index, each in confidence.items():
        labels = _read_png(archive, f"results/{int(index):05d}.png", size)
        trust = {int(i): float(value) for i, value in each.items()}
        yield FrameResult(int(index), labels, trust, False)


def _read_png(archive: zipfile.ZipFile, name: str, size: tuple[int, int]) -> LabelMap:
    if archive.getinfo(name).file_size > 2 * size[0] * size[1] + REST:
        raise TypeError(f"{name} is too large")
    try:
        return decode_mask(archive.read(name), size)
    except ValueError as error:
        raise TypeError(f"{name} {str(error).removeprefix('it ')}") from error
