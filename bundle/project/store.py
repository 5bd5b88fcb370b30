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

import os
import secrets
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from filelock import SoftFileLease, Timeout

from bundle.io.structures import (
    Structures,
    make_structures,
    structures_from_json,
    structures_to_json,
)
from bundle.project.files import local_time, read_json, read_mask, read_state, write_json
from bundle.project.listing import FOLDER, ListedVideo, check_names, folder_name, list_videos
from bundle.project.locks import Holder, VideoLock, current_user
from bundle.project.opened_video import OpenVideo
from bundle.project.review import Limits, Progress, estimate_rest
from bundle.project.state import STAGES, VERSION, Stage, VideoState
from bundle.types import LabelMap

HEAD = "project.json"


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
        trainings: Those whose weights were taken, see ``bundle.project.learning``: the last one's
            are used, the shipped ones if there is none.

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
        self.trainings: list[str] = []
        self._locks: dict[str, VideoLock] = {}
        self.reload()

    def reload(self) -> None:
        """Read what others have changed of the list of videos and of structures."""
        path = self.folder / HEAD
        head = read_json(path, "project")
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
            self.trainings = [str(name) for name in head.get("trainings", ())]
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

    def weights_file(self) -> Path | None:
        """The weights that the project uses; None for the shipped ones.

        Raises:
            FileNotFoundError: They are not there any more.
        """
        if not self.trainings:
            return None
        path = self.folder / "trainings" / self.trainings[-1] / "model.pt"
        if not path.is_file():
            raise FileNotFoundError(
                f"{path}, the weights that the project uses, are not there any more: put them back, or "
                f"use those before: tcmn finetune {self.folder} --take-back"
            )
        return path

    def use_weights(self, training: str) -> None:
        """Use the weights of a training from now on; those before can be taken back."""
        self._change(lambda head: {"trainings": [*head.get("trainings", ()), training]})

    def take_back_weights(self) -> str:
        """Use the weights again that were used before; the training whose weights go.

        Raises:
            ValueError: The project uses none of its own.
        """
        self.reload()
        if not self.trainings:
            raise ValueError(
                f"{self.folder} uses the weights that it began with: there are none to take back"
            )
        dropped = self.trainings[-1]
        self._change(lambda head: {"trainings": head["trainings"][:-1]})
        return dropped

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
        return read_state(self._video_folder(name))

    def open(self, name: str) -> OpenVideo:
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
        return read_mask(self._video_folder(name), self.state(name), index)

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
                head = read_json(self.folder / HEAD, "project")
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
        "created": local_time(),
        "source": _relative(folder, source),
        "secret": secret,
        "structures": structures_to_json(structures) if structures else None,
        "videos": [_record(folder, video) for video in videos],
    }
    write_json(folder / HEAD, head)
    return folder


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
