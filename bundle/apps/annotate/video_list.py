"""The start page of a project: the list of its videos, those that need work most first."""

from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Any
from urllib.parse import quote

from nicegui import events, run, ui

from bundle.apps.annotate.controls import labelled_button
from bundle.apps.annotate.dialogs import ask_export_project
from bundle.apps.annotate.fine_tuning import ask_fine_tune, describe_weights_in
from bundle.apps.annotate.notices import errors_shown
from bundle.apps.annotate.project_workspace import ProjectWorkspace
from bundle.apps.annotate.thumbnails import Thumbnail
from bundle.project.review import Progress
from bundle.project.store import Overview

WEB = Path(__file__).parent / "web"
LOOK_S = 2.0
"""Between two looks at what others do; states are files, perhaps on a slow network."""


class Videos(ui.element, component=WEB / "videos.js"):
    """The rows; see ``web/videos.js``."""


class VideoList:
    """The list, in one tab. It looks at the project again and again while it is shown.

    Args:
        workspace: Whose project.
    """

    def __init__(self, workspace: ProjectWorkspace) -> None:
        self.workspace = workspace
        self._looking = False
        with ui.element("div").classes("tcmn-header"):
            ui.label("TCMN annotate").classes("tcmn-title")
            folder = workspace.project.folder
            ui.label(folder.resolve().parent.name).classes("tcmn-about").tooltip(str(folder))
            self._progress = ui.label().classes("tcmn-about").props("data-testid=progress")
            self._weights = ui.label().classes("tcmn-about").props("data-testid=weights")
            ui.space()
            labelled_button(
                "Fine-tune", "model_training", lambda: ask_fine_tune(workspace),
                "Learn from the videos that are done",
            )  # fmt: skip
            labelled_button(
                "Export data set", "file_download", lambda: ask_export_project(workspace),
                "All videos, in one folder",
            )  # fmt: skip
        lines = workspace.project.overview()
        workspace.thumbnails.ask(line.video for line in lines)
        with ui.element("div").classes("tcmn-list-place"):
            self._videos = Videos().classes("tcmn-list-place")
        self._videos.props["videos"] = []
        self._show(lines, workspace.project.progress())
        self._videos.on("open", self._open)
        ui.timer(LOOK_S, self._look, immediate=False)

    async def _open(self, event: events.GenericEventArguments) -> None:
        with errors_shown():
            await run.io_bound(self.workspace.open_video, str(event.args))

    async def _look(self) -> None:
        if self._looking or self.workspace.annotation is not None:
            return
        self._looking = True
        try:
            with errors_shown():
                found = await run.io_bound(self._read)
                if found is not None:  # else the program is about to end
                    self._show(*found)
        finally:
            self._looking = False

    def _read(self) -> tuple[list[Overview], Progress]:
        project = self.workspace.project
        project.reload()
        return project.overview(), project.progress()

    def _show(self, lines: Sequence[Overview], progress: Progress) -> None:
        videos = [
            describe_video(line, self.workspace.thumbnails.get(line.video.name)) for line in lines
        ]
        self._weights.set_text(describe_weights_in(self.workspace))
        done = sum(line.stage == "done" for line in lines)
        self._progress.set_text(
            f"{done} of {len(lines)} videos done · {describe_progress(progress)}"
        )
        if videos != self._videos.props["videos"]:
            self._videos.props["videos"] = videos
            self._videos.update()


def describe_progress(progress: Progress, reviewed: str | None = None) -> str:
    """How far a review is, in words.

    Args:
        progress: How far it is.
        reviewed: How many frames, if it is not to be the bare number.

    Example:
        >>> describe_progress(Progress(120, 3, 42.4, 7.6))
        '120 frames reviewed · 3 to look at · 42 min spent, about 8 min left'
    """
    rest = progress.rest_minutes
    left = "" if rest is None else f", about {rest:.0f} min left"
    spent = f"{progress.minutes:.0f} min spent{left}"
    return (
        f"{reviewed or progress.reviewed} frames reviewed · {progress.waiting} to look at · {spent}"
    )


def describe_video(line: Overview, thumbnail: Thumbnail | None) -> dict[str, Any]:
    """A row, as the page shows it."""
    frames, fps = line.frame_count, None
    problem = line.problem
    if thumbnail is not None:
        frames, fps = frames or thumbnail.frame_count, thumbnail.fps
        problem = problem or thumbnail.problem
    length_s = line.length_s or (frames / fps if frames and fps else None)
    parts = [f"{frames} frames"] if frames else []
    parts += [f"{length_s:.1f} s"] if length_s else []
    patient = line.video.patient
    parts += [patient] if patient != line.video.name else []
    shown = None
    if thumbnail is not None and thumbnail.jpeg is not None:
        shown = f"/thumbnails?name={quote(line.video.name, safe='')}"
    worst = line.worst_confidence
    return {
        "name": line.video.name, "patient": patient, "length": " · ".join(parts),
        "stage": line.stage, "worst": "" if worst is None else f"{worst:.2f}",
        "reviewed": line.progress.reviewed, "waiting": line.progress.waiting,
        "who": line.who or "", "when": say_when(line.when) if line.when else "",
        "openBy": "" if line.open_by is None else str(line.open_by), "problem": problem or "",
        "thumbnail": shown,
    }  # fmt: skip


def say_when(when: str) -> str:
    """A time of a state in words.

    Example:
        >>> say_when("2026-05-04T13:07:09")
        '4 May 2026, 13:07'
    """
    time = datetime.fromisoformat(when)
    return f"{time.day} {time:%b %Y, %H:%M}"
