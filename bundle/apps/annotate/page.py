"""Build the page and connect its buttons and keys to the annotation, which holds the state."""

from collections.abc import Callable, Mapping
from pathlib import Path

from nicegui import events, run, ui

from bundle.apps.annotate.annotation import Annotation
from bundle.apps.annotate.controls import (
    STATES,
    TOOL_KEYS,
    PropagationPanel,
    ToolPanel,
    heading,
    labelled_button,
)
from bundle.apps.annotate.dialogs import ask_export, ask_open, ask_save
from bundle.apps.annotate.fine_tuning import describe_weights_in
from bundle.apps.annotate.kept import build_kept_bar, build_kept_note
from bundle.apps.annotate.measuring import ask_measurements
from bundle.apps.annotate.notices import errors_shown, show_error, show_warning
from bundle.apps.annotate.panels import Curves, ObjectList
from bundle.apps.annotate.project_workspace import ProjectWorkspace
from bundle.apps.annotate.proposals import describe_prompts
from bundle.apps.annotate.review_panel import ReviewPanel
from bundle.apps.annotate.video_list import VideoList
from bundle.apps.annotate.workspace import Workspace

ACCEPTED = {"a": "found, accepted"}
WEB = Path(__file__).parent / "web"
REFRESH_S = 0.2


class Canvas(ui.element, component=WEB / "canvas.js", esm={"tcmn-drawing": str(WEB / "lib")}):
    """The video with its masks and time line; see ``web/canvas.js``."""


class Page:
    """One tab of the browser. It holds only the view: tool, frame, picked object.

    Args:
        workspace: What is open.
        annotation: The annotation that is open there.
    """

    def __init__(self, workspace: Workspace, annotation: Annotation) -> None:
        self.workspace, self.number, self.annotation = workspace, workspace.number, annotation
        self.index, self.picked = annotation.place, min(annotation.objects)
        self._shown: tuple[int, ...] | None = None
        self.review: ReviewPanel | None = None
        self._was_running = False
        self.canvas: Canvas | None = None
        with ui.element("div").classes("tcmn-main"):
            with ui.element("div").classes("tcmn-panel"):
                self.tools = ToolPanel(annotation, self, self._set_props)
                self.objects = ObjectList(annotation, self.pick, lambda: self.picked)
            self.canvas = self._build_canvas()
            with ui.element("div").classes("tcmn-panel"):
                if isinstance(workspace, ProjectWorkspace) and workspace.saver is not None:
                    self.review = ReviewPanel(
                        workspace.saver, self.go, lambda: self.index, annotation.suggest,
                        self.refresh,
                    )  # fmt: skip
                self.propagation = PropagationPanel(annotation, self)
                self.propagation.next.set_visibility(self.review is None)  # which has its own
                heading("Area")
                self.curves = Curves(annotation, self.go)
                _build_legend(STATES if self.review is None else STATES | ACCEPTED)
        self._set_props()
        self.refresh()
        ui.timer(REFRESH_S, self.refresh)

    def _build_canvas(self) -> Canvas:
        video = self.annotation.video
        row_mm, column_mm = video.spacing_mm or (1.0, 1.0)
        canvas = Canvas().classes("tcmn-canvas")
        canvas.props.update(
            number=self.number, count=video.frame_count, width=video.width, height=video.height,
            aspect=row_mm / column_mm, fps=video.fps or 25.0, start=self.index,
            states="", revision=0, suggested=-1, proposal=None, keys=self.tools.keys(),
        )  # fmt: skip
        canvas.on("frame", self._show_frame, throttle=0.1)
        canvas.on("edited", lambda: self.refresh())
        canvas.on("proposed", self._look_at_proposal)
        canvas.on("aiming", lambda event: self.annotation.completer.prepare(int(event.args)))
        canvas.on("problem", lambda event: show_error(ValueError(event.args)))
        canvas.on("shortcut", self._shortcut)
        return canvas

    # What the buttons do

    def go(self, index: int) -> None:
        self._run("go", index)

    def use(self, tool: str) -> None:
        self._run("send", tool)

    def pick(self, object_id: int) -> None:
        self.picked = object_id
        self._set_props()
        self.refresh()

    def propagate(self) -> None:
        with errors_shown():
            self.annotation.propagate(self.propagation.direction.value)
        self.refresh()

    def undo(self) -> None:
        self._step(self.annotation.undo)

    def redo(self) -> None:
        self._step(self.annotation.redo)

    def _step(self, take: Callable[[], int | None]) -> None:
        with errors_shown():
            index = take()
            if index is not None:
                self.go(index)
        self.refresh()

    def confirm(self) -> None:
        with errors_shown():
            if self._proposed:
                self.accept()
            elif self.annotation.summary(self.index) is None:
                raise ValueError("this frame has no mask yet: propagate, or paint one")
            else:
                self.annotation.give({self.index: self.annotation.labels(self.index)})
        self.refresh()

    def accept(self) -> None:
        with errors_shown():
            frame = self.annotation.accept()
            if absent := self.annotation.absent(frame):
                names = ", ".join(self.annotation.objects[i].name for i in absent)
                show_warning(
                    f"The mask of frame {frame} does not show {names}, which counts as gone there: "
                    "if it is there, point at it as well, or undo and propagate first."
                )
        self.refresh()

    def drop(self) -> None:
        with errors_shown():
            self.annotation.drop()
        self.refresh()

    def take_back(self) -> None:
        with errors_shown():
            self.annotation.take_back(self.index)
        self.refresh()

    def go_next(self) -> None:
        if self.review is not None:
            self.review.go_next()
            return
        with errors_shown():
            index = self.annotation.suggest()
            if index is None:
                raise ValueError("no frame has been found yet: paint a mask and propagate first")
            self.go(index)

    async def _shortcut(self, event: events.GenericEventArguments) -> None:
        key = str(event.args[0])
        self.index = self.annotation.place = int(event.args[1])
        if self.review is not None and key in (keys := self.review.keys):
            await keys[key]()
            return
        others: dict[str, Callable[[], None]] = {
            "undo": self.undo, "redo": self.redo, "accept": self.accept, "drop": self.drop,
            "n": self.go_next, "k": self.confirm,
            "[": lambda: self.tools.resize(-1), "]": lambda: self.tools.resize(1),
        }  # fmt: skip
        if key in TOOL_KEYS:
            with errors_shown():
                self.tools.pick(TOOL_KEYS[key])
        elif key in others:
            others[key]()
        elif key.isdigit() and int(key) in self.annotation.objects:
            self.pick(int(key))

    # What keeps it true

    def refresh(self) -> None:
        """Show what has changed since the last time; also called five times a second."""
        if self.number != self.workspace.number:
            return
        annotation, worker = self.annotation, self.annotation.worker
        running, stopping = worker.running, worker.stopping
        if self.picked not in annotation.objects:
            self.picked = min(annotation.objects)
        version = 0 if self.review is None else self.review.version
        state = annotation.revision, running, stopping, self.picked, version
        if state == self._shown:
            return
        ended, self._was_running = self._was_running and not running, running
        self._shown = state
        suggested, states = annotation.suggest(), annotation.states()
        if self.review is not None:
            self.review.refresh()
            suggested, states = self.review.next_frame, self.review.letters(states)
        assert self.canvas is not None
        self.canvas.props.update(
            states=states, revision=annotation.revision,
            suggested=-1 if suggested is None else suggested, proposal=self._describe_proposal(),
        )  # fmt: skip
        self._set_props()
        self.propagation.show_progress()
        self._show_this_frame()
        self.objects.refresh()
        self.curves.refresh(self.index, at_once=not running)
        if ended and worker.problem is not None:
            show_error(worker.problem)

    def _show_frame(self, event: events.GenericEventArguments) -> None:
        self.index = self.annotation.place = int(event.args)
        self._show_this_frame()
        self.curves.mark(self.index)

    @property
    def _proposed(self) -> bool:
        """Whether the frame that is looked at has a proposal."""
        return self.annotation.proposal is not None and self.annotation.proposal.frame == self.index

    def _describe_proposal(self) -> dict[str, object] | None:
        proposal = self.annotation.proposal
        if proposal is None:
            return None
        return {"frame": proposal.frame, "hints": describe_prompts(proposal.prompts)}

    def _look_at_proposal(self, event: events.GenericEventArguments) -> None:
        """Say so if nothing of the object was found."""
        proposal, object_id = self.annotation.proposal, int(event.args)
        if proposal is not None and not (self.annotation.shown(proposal.frame) == object_id).any():
            with errors_shown():
                name = self.annotation.objects[object_id].name
                raise ValueError(f"nothing of {name} was found there: point at it, or paint it")
        self.refresh()

    def _show_this_frame(self) -> None:
        self.tools.show(given=self.index in self.annotation.prompts)
        self.tools.proposal.show(self.index)
        self.propagation.show_frame(self.index)
        if self.review is not None:
            self.review.show_frame()

    def _set_props(self) -> None:
        if self.canvas is None:
            return
        self.canvas.props.update(
            tool=self.tools.tool, size=self.tools.size.value, object=self.picked,
            opacity=self.tools.opacity.value / 100,
            colours={str(i): each.colour for i, each in self.annotation.objects.items()},
        )  # fmt: skip
        self.canvas.update()

    def _run(self, method: str, argument: object) -> None:
        if self.canvas is not None:
            self.canvas.run_method(method, argument)


def _build_legend(states: Mapping[str, str]) -> None:
    with ui.element("div").classes("tcmn-legend"):
        for letter, text in states.items():
            ui.element("span").classes(f"tcmn-dot tcmn-{letter.replace('.', 'p')}")
            ui.label(text)


def _build_header(workspace: Workspace, annotation: Annotation | None) -> None:
    with ui.element("div").classes("tcmn-header"):
        ui.label("TCMN annotate").classes("tcmn-title")
        if annotation is not None:
            video = annotation.video
            opened = workspace.opened if isinstance(workspace, ProjectWorkspace) else None
            name = video.name if opened is None else opened.name
            parts = [name, f"{video.frame_count} frames", f"{video.width} x {video.height}"]
            parts += [f"{video.fps:.4g} frames/s"] if video.fps else []
            if isinstance(workspace, ProjectWorkspace):
                parts.append(describe_weights_in(workspace))
            ui.label(" · ".join(parts)).classes("tcmn-about")
        if workspace.autosave is not None:
            build_kept_note(workspace.autosave)
        if isinstance(workspace, ProjectWorkspace) and workspace.saver is not None:
            build_kept_note(workspace.saver)
        ui.space()
        if isinstance(workspace, ProjectWorkspace):
            _build_way_back(workspace)
        else:
            labelled_button(
                "Open", "folder_open", lambda: ask_open(workspace), "A video or a session"
            )
        if annotation is not None:
            labelled_button(
                "Save", "save", lambda: ask_save(workspace, annotation), "This session, in a file"
            )
            labelled_button(
                "Measure", "straighten", lambda: ask_measurements(workspace, annotation),
                "Areas, ED and ES, diameters, volumes; for research only",
            )  # fmt: skip
            labelled_button(
                "Export",
                "file_download",
                lambda: ask_export(workspace, annotation),
                "Masks, in files",
            )


def _build_way_back(workspace: ProjectWorkspace) -> None:
    async def close() -> None:
        with errors_shown():
            await run.io_bound(workspace.close_video)

    labelled_button("Videos", "list", close, "Back to the list; everything is saved")


def _build_content(workspace: Workspace, annotation: Annotation | None) -> None:
    if annotation is None:
        _build_empty(workspace)
        return
    build_kept_bar(workspace)
    Page(workspace, annotation)


def _build_empty(workspace: Workspace) -> None:
    with ui.element("div").classes("tcmn-empty"):
        ui.icon("movie", size="64px")
        ui.label("Open a video to annotate, or a session that you saved")
        ui.button("Open", on_click=lambda: ask_open(workspace), icon="folder_open").props("no-caps")


def build_page(workspace: Workspace) -> None:
    """Register the page."""
    style = (WEB / "style.css").read_text(encoding="utf-8")

    @ui.page("/")
    def index() -> None:
        ui.add_css(style)
        ui.colors(primary="#4d8fdc", dark="#1b1e23", dark_page="#14161a")
        number, annotation = workspace.number, workspace.annotation
        with ui.element("div").classes("tcmn"):
            if annotation is None and isinstance(workspace, ProjectWorkspace):
                VideoList(workspace)
            else:
                _build_header(workspace, annotation)
                _build_content(workspace, annotation)
        # Another tab may have opened another video.
        ui.timer(REFRESH_S, lambda: ui.navigate.reload() if workspace.number != number else None)
