"""A project on disk: one folder beside its videos.

::

    tcmn-project/
      project.json                which videos, which structures
      videos/<name>/state.json    what is known of a video; see ``bundle.project.state``
      videos/<name>/masks/*.png   its masks, pixel values are object ids
      videos/<name>/open.lock     while somebody has it open; see ``bundle.project.locks``

The files of a video are written only by the person who has it open, so two people who work on two
videos of a network folder never write the same file. A SQLite file must not be shared over a network,
so JSON is used.
"""

import json
import os
import secrets
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from types import TracebackType
from typing import Any

from filelock import SoftFileLease, Timeout

from bundle.inference.results import FrameResult
from bundle.io.reading.video import VideoSource, open_video
from bundle.io.structures import (
    Structures,
    make_structures,
    structures_from_json,
    structures_to_json,
)
from bundle.io.writing.mask_png import decode_mask, encode_mask
from bundle.project.listing import (
    FOLDER,
    ListedVideo,
    check_names,
    fingerprint,
    folder_name,
    list_videos,
)
from bundle.project.locks import Holder, VideoLock, current_user
from bundle.project.review import Limits, Progress, estimate_rest, measure_frame
from bundle.project.state import STAGES, VERSION, SavedMask, Source, Stage, VideoState
from bundle.types import LabelMap
from bundle.utils.atomic_write import room_for, written_beside

HEAD = "project.json"
STATE = "state.json"
IDLE_S = 60.0
"""Longest time in seconds that counts as work between two actions."""


@dataclass(frozen=True)
class Overview:
    """One line of the list of videos.

    Attributes:
        video: Name, path and patient.
        stage: How far it is.
        worst_confidence: Worst confidence of frames that nobody reviewed.
        length_s: None if unknown.
        who: Worked on it last.
        when: Likewise.
        progress: How far its review is.
        open_by: Who has it open now.
        problem: Why it cannot be opened; everything else is empty if its state cannot be read.
        frame_count: None if unknown.
    """

    video: ListedVideo
    stage: Stage
    worst_confidence: float | None = None
    length_s: float | None = None
    who: str | None = None
    when: str | None = None
    progress: Progress = Progress(0, 0, 0.0, None)  # noqa: RUF009
    open_by: Holder | None = None
    problem: str | None = None
    frame_count: int | None = None


class Project:
    """The videos that one data set is made of.

    Args:
        folder: Folder of the project, as ``create_project`` made it.
        who: Who works on it; the user of this process by default.
        limits: What counts as suspicious.

    Attributes:
        videos: By name.
        structures: What ids stand for, in all videos; empty until there is one.
        source: The folder or list that it was made from; it may have gone. None if unknown.

    Raises:
        FileNotFoundError: There is no project in the folder.
        ValueError: It is damaged, or of a newer version of this program.
    """

    def __init__(
        self, folder: str | Path, who: str | None = None, limits: Limits | None = None
    ) -> None:
        self.folder, self.who = Path(folder), who or current_user()
        self.limits = limits or Limits()
        if not (self.folder / HEAD).is_file():
            raise FileNotFoundError(f"no project in {self.folder}: expected a file {HEAD} there")
        self.structures: Structures = {}
        self.videos: dict[str, ListedVideo] = {}
        self.source: Path | None = None
        self._locks: dict[str, VideoLock] = {}
        self.reload()

    def reload(self) -> None:
        """Read what others have changed of the list of videos and of structures."""
        path = self.folder / HEAD
        head = _read_json(path, "project")
        try:
            self._secret = str(head["secret"])
            self.videos = {
                each["name"]: ListedVideo(
                    each["name"], _absolute(self.folder, each["path"]), each["patient"]
                )
                for each in head["videos"]
            }
            source, listed = head.get("source"), head["structures"]
            self.source = _absolute(self.folder, source) if source else None
            self.structures = structures_from_json(listed, str(path)) if listed else {}
        except (KeyError, TypeError) as error:
            raise ValueError(
                f"{path} is damaged ({error!r}): put back a copy of it, the masks in {self.folder} "
                "are untouched"
            ) from error

    def set_structures(self, structures: Structures) -> None:
        """Replace the list of structures.

        Raises:
            ValueError: A structure is missing whose id masks show.
        """
        for name in self.videos:
            used = {i for mask in self.state(name).masks.values() for i in mask.facts.areas}
            missing = sorted(used - set(structures))
            if missing:
                raise ValueError(
                    f"the new list has no structure with the id {missing[0]}, which {name} shows: "
                    "keep it, or remove the object from the masks first"
                )
        self._change(structures=structures_to_json(structures))

    def merge_structures(self, changed: Structures, known: Structures) -> None:
        """Take over what somebody added, renamed or recoloured, beside what others did meanwhile.

        Args:
            changed: The structures that are new or otherwise; the others stay.
            known: Those that whoever changed them knew.

        Raises:
            ValueError: Somebody else gave one of the new ids to another structure meanwhile, or a
                name would be there twice.
        """

        def merge(head: dict[str, Any]) -> dict[str, Any]:
            source = str(self.folder / HEAD)
            listed = head["structures"]
            now = dict(structures_from_json(listed, source)) if listed else {}
            for i, each in changed.items():
                if i not in known and i in now and now[i].name != each.name:
                    raise ValueError(
                        f"the id {i} was given to {now[i].name!r} by somebody else meanwhile, and to "
                        f"{each.name!r} here: rename one of them, or remove it and add it anew"
                    )
                now[i] = replace(now[i], name=each.name, colour=each.colour) if i in now else each
            return {"structures": structures_to_json(make_structures(now.values(), "the project"))}

        self._change(merge)

    def add_videos(self, source: str | Path) -> list[str]:
        """Take in videos of a folder or list that are not there yet; their names.

        Raises:
            ValueError: One would have the name of another.
        """
        known = {video.path.resolve() for video in self.videos.values()}
        new = [
            each for each in list_videos(source, self._secret) if each.path.resolve() not in known
        ]
        check_names([*self.videos.values(), *new])
        if new:
            listed = [_record(self.folder, each) for each in [*self.videos.values(), *new]]
            self._change(videos=listed)
        return [each.name for each in new]

    def state(self, name: str) -> VideoState:
        """What is known of a video; may be read while somebody works on it.

        Raises:
            KeyError: There is no such video.
            ValueError: Its state is damaged, or of a newer version.
        """
        return _read_state(self._video_folder(name))

    def open(self, name: str) -> "OpenVideo":
        """Open a video to work on it; nobody else can until it is closed.

        Raises:
            KeyError: There is no such video.
            VideoLockedError: Somebody else has it open.
            FileNotFoundError: The video is not there any more.
            ValueError: It is another one than it was, or unreadable; its masks stay.
        """
        folder = self._video_folder(name)
        folder.mkdir(parents=True, exist_ok=True)
        lock = self._locks.setdefault(name, VideoLock(folder, self.who))
        lock.acquire(name)
        try:
            return OpenVideo(self.videos[name], folder, lock, self.who, self.limits)
        except BaseException:
            lock.release()
            raise

    def read_mask(self, name: str, index: int) -> LabelMap:
        """The saved mask of a frame.

        Raises:
            KeyError: There is no such video, or no mask of the frame.
            ValueError: Its file is damaged.
        """
        return _read_mask(self._video_folder(name), self.state(name), index)

    def overview(self) -> list[Overview]:
        """All videos, in the order in which they should be worked on."""
        lines = [self._line(video) for video in self.videos.values()]

        def order(line: Overview) -> tuple[int, float, str]:
            worst = line.worst_confidence
            return STAGES.index(line.stage), 1.0 if worst is None else worst, line.video.name

        return sorted(lines, key=order)

    def progress(self) -> Progress:
        """How far the whole project is."""
        states = [self.state(name) for name in self.videos]
        stages = [state.stage(self.limits) for state in states]
        waiting = sum(len(state.queue(self.limits)) for state in states)
        pairs = list(zip(states, stages, strict=True))
        rest = estimate_rest(
            waiting,
            sum(state.review_s for state in states),
            sum(state.review_count for state in states),
            sum(stage in ("new", "begun") for stage in stages),
            [state.seconds / 60 for state, stage in pairs if stage == "done"],
        )
        reviewed = sum(len(state.reviewed) for state in states)
        return Progress(reviewed, waiting, sum(state.seconds for state in states) / 60, rest)

    def _line(self, video: ListedVideo) -> Overview:
        lock = self._locks.get(video.name) or VideoLock(self._video_folder(video.name), self.who)
        try:
            state = self.state(video.name)
        except ValueError as error:
            return Overview(video, "needs a look", problem=str(error), open_by=lock.holder)
        missing = None
        if not video.path.exists():
            missing = f"{video.path} is not there any more: put it back, its masks are kept"
        source, waiting = state.source, len(state.queue(self.limits))
        rest = estimate_rest(waiting, state.review_s, state.review_count)
        return Overview(
            video,
            state.stage(self.limits),
            state.worst_confidence,
            source.frame_count / source.fps if source and source.fps else None,
            state.who,
            state.when,
            Progress(len(state.reviewed), waiting, state.seconds / 60, rest),
            lock.holder,
            missing,
            None if source is None else source.frame_count,
        )

    def _video_folder(self, name: str) -> Path:
        if name not in self.videos:
            raise KeyError(f"the project has no video {name!r}")
        return self.folder / "videos" / folder_name(name)

    def _change(
        self, change: Callable[[dict[str, Any]], dict[str, Any]] | None = None, **values: Any
    ) -> None:
        """Change the head, unless somebody else is just doing that."""
        lock = SoftFileLease(self.folder / "project.lock", thread_local=False)
        try:
            with lock.acquire(timeout=10):
                head = _read_json(self.folder / HEAD, "project")
                if change is not None:
                    values = change(head)
                write_json(self.folder / HEAD, {**head, **values})
        except Timeout as error:
            raise OSError(
                f"{self.folder / HEAD} is being changed by somebody else: try again in a minute"
            ) from error
        self.reload()


def create_project(
    source: str | Path, folder: str | Path | None = None, structures: Structures | None = None
) -> Path:
    """Make a project of the videos of a folder, or of a list.

    Args:
        source: See ``bundle.project.listing.list_videos``.
        folder: Folder of the project; ``tcmn-project`` beside the videos by default.
        structures: What ids stand for, if that is known.

    Returns:
        The folder.

    Raises:
        FileExistsError: There is a project already.
        FileNotFoundError, ValueError: As ``list_videos``.
    """
    source = Path(source)
    beside = source if source.is_dir() else source.parent
    folder = Path(folder) if folder is not None else beside / FOLDER
    if (folder / HEAD).exists():
        raise FileExistsError(f"{folder} is a project already: open it")
    secret = secrets.token_hex(16)
    videos = list_videos(source, secret)
    head = {
        "version": VERSION,
        "created": _now(),
        "source": _relative(folder, source),
        "secret": secret,
        "structures": structures_to_json(structures) if structures else None,
        "videos": [_record(folder, video) for video in videos],
    }
    write_json(folder / HEAD, head)
    return folder


class OpenVideo:
    """A video that somebody works on; close it when done, or use it in a with-block.

    Each method that changes something has written it when it returns. When writing fails, the state
    is the one before, on disk and here, and the call may be made again.

    Attributes:
        source: The video.
        state: What is known of it.
        left_by: Who had it open before and ended without closing it.
    """

    def __init__(
        self, video: ListedVideo, folder: Path, lock: VideoLock, who: str, limits: Limits
    ) -> None:
        self.name, self.left_by = video.name, lock.left_by
        self._folder, self._lock, self._who, self._limits = folder, lock, who, limits
        self._clock: Callable[[], float] = time.monotonic
        self._last = self._clock()
        self.state = _read_state(folder)
        self.source = self._open_source(video)
        self._sweep()

    def __enter__(self) -> "OpenVideo":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Let others open it."""
        self._lock.release()

    def labels(self, index: int) -> LabelMap:
        """The mask of a frame.

        Raises:
            KeyError: It has none.
            ValueError: Its file is damaged.
        """
        return _read_mask(self._folder, self.state, index)

    def given_masks(self) -> dict[int, LabelMap]:
        """Frame index to the mask that somebody gave.

        Raises:
            ValueError: A file is damaged.
        """
        return {i: self._read(i, mask.file) for i, mask in self.state.given.items()}

    def propagated_masks(self) -> dict[int, LabelMap]:
        """Frame index to the mask that was given when masks were last propagated.

        Raises:
            ValueError: A file is damaged.
        """
        return {i: self._read(i, file) for i, file in self.state.propagated_from.items()}

    def found_results(self) -> Iterator[FrameResult]:
        """What was propagated, frame by frame; likewise under masks that were given since.

        Raises:
            ValueError: A file is damaged.
        """
        limit = self._limits.confidence
        for i, mask in sorted(self.state.found.items()):
            trust = dict(mask.facts.confidence)
            low = any(value < limit for value in trust.values())
            yield FrameResult(i, self._read(i, mask.file), trust, low)

    def give(self, masks: Mapping[int, LabelMap | None]) -> None:
        """Save masks that somebody painted, corrected or confirmed; None takes one back."""
        waiting = {i for item in self.state.queue(self._limits) for i in item.frames}
        given, state = dict(self.state.given), self.state
        for index, labels in masks.items():
            given.pop(index, None)
            if labels is not None:
                state, file = self._write_mask(state, index, labels, flush=True)
                facts = measure_frame(labels)
                given[index] = SavedMask(
                    file, replace(facts, confidence=dict.fromkeys(facts.areas, 1.0))
                )
        self._save(state.changed(given=given), reviews=len(waiting & set(masks)))

    def find(
        self,
        results: Iterable[FrameResult],
        propagated_from: Collection[int] | None = None,
        weights: Mapping[str, str] | None = None,
        direction: str = "both",
    ) -> None:
        """Save masks that were propagated.

        Args:
            results: Results of some frames; those of others stay.
            propagated_from: At the beginning of a propagation, the frames whose given masks it
                starts from.
            weights: What propagates: file name and SHA-256.
            direction: In which it goes.
        """
        found, state = dict(self.state.found), self.state
        for result in results:
            state, file = self._write_mask(state, result.frame, result.labels, flush=False)
            facts = measure_frame(result.labels, result.confidence)
            found[result.frame] = SavedMask(file, facts)
        values: dict[str, Any] = {"found": found}
        if propagated_from is not None:
            values["propagated_from"] = {i: state.given[i].file for i in propagated_from}
            values["direction"] = direction
        if weights is not None:
            values["weights"] = dict(weights)
        self._save(state.changed(**values), by_hand=False)

    def forget(self, frames: Collection[int]) -> None:
        """Drop masks that were propagated, since what they came from has changed."""
        found = {i: mask for i, mask in self.state.found.items() if i not in frames}
        self._save(self.state.changed(found=found), by_hand=False)

    def accept(self, frames: Collection[int]) -> None:
        """Take the masks of frames as right, as they are.

        Raises:
            KeyError: A frame has no mask.
        """
        files = {i: self.state.masks[i].file for i in frames}
        accepted = {**self.state.accepted, **files}
        self._save(replace(self.state, accepted=accepted), reviews=len(files))

    def sign(self, done: bool = True) -> None:
        """Say that the video is done, or that it is not.

        Raises:
            ValueError: Frames have no mask yet.
        """
        missing = self.source.frame_count - len(self.state.masks)
        if done and missing:
            raise ValueError(
                f"{missing} of {self.source.frame_count} frames of {self.name} have no mask yet: "
                "propagate first"
            )
        self._save(replace(self.state, signed_by=self._who if done else None))

    def look_at(self, index: int) -> None:
        """Save which frame was looked at last."""
        self._save(replace(self.state, place=index))

    def _read(self, index: int, file: str) -> LabelMap:
        size = self.source.height, self.source.width
        return _read_file(self._folder / "masks" / file, index, size)

    def _open_source(self, video: ListedVideo) -> VideoSource:
        if not video.path.exists():
            raise FileNotFoundError(
                f"the video {video.path} is not there any more: put it back, its masks are kept in "
                f"{self._folder}"
            )
        now = fingerprint(video.path)
        known = self.state.source
        if known is not None and known.fingerprint != now:
            raise ValueError(
                f"the video {video.path} has changed since its masks were made: put the old one back, "
                f"or give the new one another name; the masks are kept in {self._folder}"
            )
        source = open_video(video.path)
        found = Source(now, source.frame_count, source.height, source.width, source.fps)
        if known is None:
            self.state = replace(self.state, source=found)
        return source

    def _write_mask(
        self, state: VideoState, index: int, labels: LabelMap, flush: bool
    ) -> tuple[VideoState, str]:
        size = self.source.height, self.source.width
        if not 0 <= index < self.source.frame_count or labels.shape != size:
            raise ValueError(
                f"a mask of {labels.shape} for frame {index} of {self.name}, which has "
                f"{self.source.frame_count} frames of {size} (rows, columns)"
            )
        state = replace(state, number=state.number + 1)
        file = f"{index:06d}-{state.number}.png"
        self._lock.check(self.name)
        folder = self._folder / "masks"
        with room_for(folder / file):
            folder.mkdir(exist_ok=True)
            with (folder / file).open("wb") as out:
                out.write(encode_mask(labels))
                if flush:
                    out.flush()
                    os.fsync(out.fileno())
        return state, file

    def _save(self, state: VideoState, reviews: int = 0, by_hand: bool = True) -> None:
        # What the machine does takes nobody's time: the next action counts it, up to a pause.
        now = self._clock() if by_hand else self._last
        spent = min(max(now - self._last, 0.0), IDLE_S)
        state = replace(
            state, who=self._who, when=_now(), seconds=state.seconds + spent,
            review_s=state.review_s + (spent if reviews else 0.0),
            review_count=state.review_count + reviews,
        )  # fmt: skip
        self._lock.check(self.name)
        write_json(self._folder / STATE, state.to_json())
        old = self.state.files() - state.files()
        self.state, self._last = state, now
        for file in old:
            with suppress(OSError):
                (self._folder / "masks" / file).unlink()

    def _sweep(self) -> None:
        """Remove masks that nothing refers to, which killed processes leave."""
        kept = self.state.files()
        for file in (self._folder / "masks").glob("*.png"):
            if file.name not in kept:
                with suppress(OSError):
                    file.unlink()


def _read_mask(folder: Path, state: VideoState, index: int) -> LabelMap:
    mask = state.masks[index]
    assert state.source is not None
    size = state.source.height, state.source.width
    return _read_file(folder / "masks" / mask.file, index, size)


def _read_file(path: Path, index: int, size: tuple[int, int]) -> LabelMap:
    try:
        return decode_mask(path.read_bytes(), size)
    except (OSError, ValueError) as error:
        raise ValueError(
            f"{path}, the mask of frame {index}, cannot be read ({error}): put back a copy of it, or "
            "paint the frame anew"
        ) from error


def _read_state(folder: Path) -> VideoState:
    path = folder / STATE
    if not path.exists():
        return VideoState()
    content = _read_json(path, "state")
    try:
        return VideoState.from_json(content)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise ValueError(
            f"{path} is damaged ({error!r}): put back a copy of it; the masks beside it are untouched"
        ) from error


def _read_json(path: Path, what: str) -> dict[str, Any]:
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


def _record(folder: Path, video: ListedVideo) -> dict[str, str]:
    return {
        "name": video.name,
        "path": _relative(folder, video.path),
        "patient": video.patient,
    }


def _relative(folder: Path, path: Path) -> str:
    """So that both may be moved together."""
    path = path.resolve()
    with suppress(ValueError):  # another drive
        path = Path(os.path.relpath(path, folder.resolve()))
    return path.as_posix()


def _absolute(folder: Path, path: str) -> Path:
    return Path(os.path.normpath(folder / path))


def _now() -> str:
    return datetime.now().isoformat(timespec="seconds")
