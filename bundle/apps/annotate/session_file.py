"""Save an annotation to one file, and open it again: a zip of JSON and PNGs, without the video.

``session.json`` names the video, objects and frames. ``prompts/00000.png`` ... are the given masks,
``carried/`` those of the last propagation if they differ, ``results/`` the propagated masks, and
``proposal.png`` an open proposal. Pixel values are object ids.
"""

import json
import zipfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

from bundle.apps.annotate.annotation import NEVER, Annotation
from bundle.apps.annotate.given_masks import MarkedObject, unpack
from bundle.apps.annotate.proposals import describe_prompts, read_prompts
from bundle.inference.results import FrameResult
from bundle.io.reading.video import VideoSource, open_video
from bundle.io.writing.mask_png import REST, decode_mask, encode_mask
from bundle.segmenter import VideoSegmenter
from bundle.types import LabelMap
from bundle.utils.atomic_write import written_beside

SUFFIX = ".tcmn.zip"
HEAD = "session.json"
PROPOSAL = "proposal.png"
VERSION = 1
TOO_LARGE = 64 * 2**20
"""Size of ``session.json`` in bytes above which a file is rejected."""


def is_session(path: Path) -> bool:
    """Whether a path is a file that ``save_session`` could have written."""
    return path.is_file() and path.suffix.lower() == ".zip" and zipfile.is_zipfile(path)


def save_session(annotation: Annotation, path: Path) -> None:
    """Write a session; the file appears whole or not at all.

    Raises:
        FileExistsError: The file exists and is not a session.
        OSError: It cannot be written.
    """
    if path.exists() and not _is_own(path):
        raise FileExistsError(
            f"{path} exists and is not a session of this page: choose another name"
        )
    annotation.saved = write_session(annotation, path)


class EncodedMasks:
    """PNGs of the masks that were written last, so that only what has changed is encoded anew."""

    def __init__(self) -> None:
        self._kept: dict[str, tuple[object, bytes]] = {}
        self._used: dict[str, tuple[object, bytes]] = {}

    def get(self, name: str, source: object, labels: Callable[[], LabelMap | None]) -> bytes | None:
        """The PNG of a mask.

        Args:
            name: Name of its file.
            source: What is another object if the mask is another one.
            labels: Gives the mask, if it is needed; None if there is none any more.
        """
        kept, data = self._kept.get(name, (None, b""))
        if kept is not source:
            found = labels()
            if found is None:
                return None
            data = encode_mask(found)
        self._used[name] = source, data
        return data

    def forget_unused(self) -> None:
        """Forget what was not asked for since the last time."""
        self._kept, self._used = self._used, {}


def write_session(annotation: Annotation, path: Path, encoded: EncodedMasks | None = None) -> int:
    """Write a session in place of any file; it appears whole or not at all.

    Args:
        annotation: What is annotated.
        path: The file.
        encoded: PNGs of the same annotation, written before.

    Returns:
        The revision that was written.

    Raises:
        OSError: It cannot be written.
    """
    encoded = EncodedMasks() if encoded is None else encoded
    with written_beside(path) as beside, zipfile.ZipFile(beside, "w") as archive:
        revision = _write(annotation, archive, encoded)
    encoded.forget_unused()
    return revision


def _is_own(path: Path) -> bool:
    if not is_session(path):
        return False
    with zipfile.ZipFile(path) as archive:
        return HEAD in archive.namelist()


def _write(annotation: Annotation, archive: zipfile.ZipFile, encoded: EncodedMasks) -> int:
    state = annotation.snapshot()
    other = {
        i: labels
        for i, labels in state.propagated.items()
        if i not in state.prompts
        or (labels is not state.prompts[i] and (labels != state.prompts[i]).any())
    }
    for folder, masks in {"prompts": state.prompts, "carried": other}.items():
        for index, labels in masks.items():
            name = f"{folder}/{index:05d}.png"
            data = encoded.get(name, labels, partial(_same, labels))
            assert data is not None
            archive.writestr(name, data)
    proposal: dict[str, object] = {}
    if state.proposal is not None:
        hints = describe_prompts(state.proposal.prompts)
        proposal = {"proposal": {"frame": state.proposal.frame, "hints": hints}}
        archive.writestr(PROPOSAL, encode_mask(unpack(state.proposal.packed, annotation.size)))
    confidence: dict[int, Mapping[int, float]] = {}
    for index, summary in state.found.items():
        name = f"results/{index:05d}.png"
        data = encoded.get(name, summary, partial(annotation.found_labels, index, summary))
        if data is not None:
            archive.writestr(name, data)
            confidence[index] = summary.confidence
    video = annotation.video
    head = {
        "version": VERSION,
        "video": {
            "path": str(video.path.absolute()),
            "frame_count": video.frame_count,
            "height": video.height,
            "width": video.width,
        },
        "objects": {i: asdict(each) for i, each in state.objects.items()},
        "place": annotation.place,
        "direction": state.direction,
        "prompts": sorted(state.prompts),
        "carried": sorted(state.propagated),
        "carried_otherwise": sorted(other),
        "confidence": confidence,
        **proposal,
    }
    archive.writestr(HEAD, json.dumps(head), zipfile.ZIP_DEFLATED)
    return state.revision


def _same(labels: LabelMap) -> LabelMap:
    return labels


def open_session(
    path: Path, model: VideoSegmenter, current: VideoSource | None = None
) -> Annotation:
    """Go on with a session.

    Args:
        path: The file.
        model: What propagates masks.
        current: A video that is open; taken if the one that the session names is not there.

    Raises:
        FileNotFoundError: Its video is not where it was, nor beside the session, nor open.
        ValueError: The file is damaged or no session, or the video is another one.
    """
    annotation = _read(path, model, lambda head: _find_video(path, head, current))
    annotation.saved = annotation.revision
    return annotation


def resume_session(path: Path, model: VideoSegmenter, video: VideoSource) -> Annotation:
    """Go on with a session that was kept and not saved, wherever its video lay then.

    Raises:
        ValueError: The file is damaged or no session, or the video is another one.
    """
    annotation = _read(path, model, lambda head: _check_video(video, head))
    annotation.saved = NEVER
    return annotation


def _read(
    path: Path, model: VideoSegmenter, find_video: Callable[[Mapping[str, Any]], VideoSource]
) -> Annotation:
    try:
        with zipfile.ZipFile(path) as archive:
            head = _read_head(archive)
            annotation = Annotation(find_video(head), model)
            _fill(annotation, head, archive)
    except (zipfile.BadZipFile, KeyError, TypeError, AttributeError) as error:
        raise ValueError(
            f"{path} is not a session of this page, or is damaged ({type(error).__name__}: {error}): "
            "open one that was saved here"
        ) from error
    return annotation


def _read_head(archive: zipfile.ZipFile) -> dict[str, Any]:
    if archive.getinfo(HEAD).file_size > TOO_LARGE:
        raise TypeError(f"{HEAD} is too large")
    try:
        head: dict[str, Any] = json.loads(archive.read(HEAD))
    except ValueError as error:
        raise TypeError(f"{HEAD} is not valid JSON") from error
    if head["version"] != VERSION:
        raise ValueError(
            f"the session is of version {head['version']}, this program reads {VERSION}: update it"
        )
    return head


def _find_video(path: Path, head: Mapping[str, Any], current: VideoSource | None) -> VideoSource:
    stored = Path(head["video"]["path"])
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
    return _check_video(video, head)


def _check_video(video: VideoSource, head: Mapping[str, Any]) -> VideoSource:
    """The video, if it can be the session's."""
    expected = head["video"]
    found = {name: getattr(video, name) for name in ("frame_count", "height", "width")}
    if any(found[name] != expected[name] for name in found):
        raise ValueError(
            f"the session is of a video of {expected['frame_count']} frames of "
            f"{expected['width']}x{expected['height']}, but {video.path} has {video.frame_count} of "
            f"{video.width}x{video.height}: open the video that it was made with"
        )
    return video


def _fill(annotation: Annotation, head: Mapping[str, Any], archive: zipfile.ZipFile) -> None:
    annotation.objects = {int(i): MarkedObject(**each) for i, each in head["objects"].items()}
    annotation.place, annotation.direction = int(head["place"]), str(head["direction"])
    size = annotation.video.height, annotation.video.width
    prompts = {i: _read_png(archive, f"prompts/{i:05d}.png", size) for i in head["prompts"]}
    annotation.restore_prompts(prompts)
    if "proposal" in head:
        hints = read_prompts(head["proposal"]["hints"])
        labels = _read_png(archive, PROPOSAL, size)
        annotation.restore_proposal(int(head["proposal"]["frame"]), hints, labels)
    if not head["carried"]:
        return
    others = set(head["carried_otherwise"])
    propagated = {
        i: _read_png(archive, f"carried/{i:05d}.png", size) if i in others else prompts[i]
        for i in head["carried"]
    }
    annotation.restore_results(propagated, _read_results(archive, head["confidence"], size))


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
