"""The page: what it shows of a desk, and what its buttons do. What they do it with is in ``work``."""

from collections.abc import Callable
from pathlib import Path

from nicegui import events, ui

from bundle.apps.annotate.controls import (
    STATES,
    TOOL_KEYS,
    CarryPanel,
    ToolPanel,
    heading,
    labelled_button,
)
from bundle.apps.annotate.desk import Desk
from bundle.apps.annotate.dialogs import ask_export, ask_open, ask_save
from bundle.apps.annotate.kept import build_kept_bar, build_kept_note
from bundle.apps.annotate.notices import tell, told, warn
from bundle.apps.annotate.panels import Curves, ObjectList
from bundle.apps.annotate.proposals import describe_prompts
from bundle.apps.annotate.work import Work

WEB = Path(__file__).parent / "web"
REFRESH_S = 0.2


class Canvas(ui.element, component=WEB / "canvas.js", esm={"tcmn-drawing": str(WEB / "lib")}):
    """The video with its masks and time line; see ``web/canvas.js``."""


class Page:
    """One tab on an annotation. It holds what is only looked at: tool, frame, picked object.

    Args:
        desk: What is open.
        work: The annotation that is open there.
    """

    def __init__(self, desk: Desk, work: Work) -> None:
        self.desk, self.number, self.work = desk, desk.number, work
        self.index, self.picked = work.place, min(work.objects)
        self._shown: tuple[int, bool, int] | None = None
        self._was_running = False
        self.canvas: Canvas | None = None
        with ui.element("div").classes("tcmn-main"):
            with ui.element("div").classes("tcmn-panel"):
                self.tools = ToolPanel(work, self, self._set_props)
                self.objects = ObjectList(work, self.pick, lambda: self.picked)
            self.canvas = self._build_canvas()
            with ui.element("div").classes("tcmn-panel"):
                self.carrying = CarryPanel(work, self)
                heading("Area")
                self.curves = Curves(work, self.go)
                _build_legend()
        self._set_props()
        self.refresh()
        ui.timer(REFRESH_S, self.refresh)

    def _build_canvas(self) -> Canvas:
        video = self.work.video
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
        canvas.on("aiming", lambda event: self.work.completer.prepare(int(event.args)))
        canvas.on("problem", lambda event: tell(ValueError(event.args)))
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
        with told():
            self.work.propagate(self.carrying.direction.value)
        self.refresh()

    def undo(self) -> None:
        self._step(self.work.undo)

    def redo(self) -> None:
        self._step(self.work.redo)

    def _step(self, take: Callable[[], int | None]) -> None:
        with told():
            index = take()
            if index is not None:
                self.go(index)
        self.refresh()

    def confirm(self) -> None:
        with told():
            if self._proposed:
                self.accept()
            elif self.work.seen(self.index) is None:
                raise ValueError("this frame has no mask yet: propagate, or paint one")
            else:
                self.work.give({self.index: self.work.labels(self.index)})
        self.refresh()

    def accept(self) -> None:
        with told():
            frame = self.work.accept()
            if absent := self.work.absent(frame):
                names = ", ".join(self.work.objects[i].name for i in absent)
                warn(
                    f"The mask of frame {frame} does not show {names}, which counts as gone there: "
                    "if it is there, point at it as well, or undo and propagate first."
                )
        self.refresh()

    def drop(self) -> None:
        with told():
            self.work.drop()
        self.refresh()

    def take_back(self) -> None:
        with told():
            self.work.take_back(self.index)
        self.refresh()

    def go_next(self) -> None:
        with told():
            index = self.work.suggest()
            if index is None:
                raise ValueError("no frame has been found yet: paint a mask and propagate first")
            self.go(index)

    def _shortcut(self, event: events.GenericEventArguments) -> None:
        key = str(event.args)
        others: dict[str, Callable[[], None]] = {
            "undo": self.undo, "redo": self.redo, "accept": self.accept, "drop": self.drop,
            "n": self.go_next, "k": self.confirm,
            "[": lambda: self.tools.resize(-1), "]": lambda: self.tools.resize(1),
        }  # fmt: skip
        if key in TOOL_KEYS:
            with told():
                self.tools.pick(TOOL_KEYS[key])
        elif key in others:
            others[key]()
        elif key.isdigit() and int(key) in self.work.objects:
            self.pick(int(key))

    # What keeps it true

    def refresh(self) -> None:
        """Show what has changed since the last time; also called five times a second."""
        work, running = self.work, self.work.worker.running
        state = work.revision, running, self.picked
        if self.number != self.desk.number or state == self._shown:
            return
        if self.picked not in work.objects:
            self.picked = min(work.objects)
        ended, self._was_running = self._was_running and not running, running
        self._shown = work.revision, running, self.picked
        suggested = work.suggest()
        assert self.canvas is not None
        self.canvas.props.update(
            states=work.states(), revision=work.revision,
            suggested=-1 if suggested is None else suggested, proposal=self._describe_proposal(),
        )  # fmt: skip
        self._set_props()
        self.carrying.show_progress()
        self._show_this_frame()
        self.objects.refresh()
        self.curves.refresh(self.index, at_once=not running)
        if ended and work.worker.problem is not None:
            tell(work.worker.problem)

    def _show_frame(self, event: events.GenericEventArguments) -> None:
        self.index = self.work.place = int(event.args)
        self._show_this_frame()
        self.curves.mark(self.index)

    @property
    def _proposed(self) -> bool:
        """Whether the frame that is looked at has a proposal."""
        return self.work.proposal is not None and self.work.proposal.frame == self.index

    def _describe_proposal(self) -> dict[str, object] | None:
        proposal = self.work.proposal
        if proposal is None:
            return None
        return {"frame": proposal.frame, "hints": describe_prompts(proposal.prompts)}

    def _look_at_proposal(self, event: events.GenericEventArguments) -> None:
        """Say so if nothing of the object was found."""
        proposal, object_id = self.work.proposal, int(event.args)
        if proposal is not None and not (self.work.shown(proposal.frame) == object_id).any():
            with told():
                name = self.work.objects[object_id].name
                raise ValueError(f"nothing of {name} was found there: point at it, or paint it")
        self.refresh()

    def _show_this_frame(self) -> None:
        self.tools.show(given=self.index in self.work.prompts)
        self.tools.proposal.show(self.index)
        self.carrying.show_frame(self.index)

    def _set_props(self) -> None:
        if self.canvas is None:
            return
        self.canvas.props.update(
            tool=self.tools.tool, size=self.tools.size.value, object=self.picked,
            opacity=self.tools.opacity.value / 100,
            colours={str(i): each.colour for i, each in self.work.objects.items()},
        )  # fmt: skip
        self.canvas.update()

    def _run(self, method: str, argument: object) -> None:
        if self.canvas is not None:
            self.canvas.run_method(method, argument)


def _build_legend() -> None:
    with ui.element("div").classes("tcmn-legend"):
        for letter, text in STATES.items():
            ui.element("span").classes(f"tcmn-dot tcmn-{letter.replace('.', 'p')}")
            ui.label(text)


def _build_header(desk: Desk, work: Work | None) -> None:
    with ui.element("div").classes("tcmn-header"):
        ui.label("TCMN annotate").classes("tcmn-title")
        if work is not None:
            video = work.video
            parts = [video.name, f"{video.frame_count} frames", f"{video.width} x {video.height}"]
            parts += [f"{video.fps:.4g} frames/s"] if video.fps else []
            ui.label(" · ".join(parts)).classes("tcmn-about")
        if desk.autosave is not None:
            build_kept_note(desk.autosave)
        ui.space()
        labelled_button("Open", "folder_open", lambda: ask_open(desk), "A video or a session")
        if work is not None:
            labelled_button("Save", "save", lambda: ask_save(desk, work), "This session, in a file")
            labelled_button(
                "Export", "file_download", lambda: ask_export(desk, work), "Masks, in files"
            )


def _build_empty(desk: Desk) -> None:
    with ui.element("div").classes("tcmn-empty"):
        ui.icon("movie", size="64px")
        ui.label("Open a video to annotate, or a session that you saved")
        ui.button("Open", on_click=lambda: ask_open(desk), icon="folder_open").props("no-caps")


def build_page(desk: Desk) -> None:
    """Register the page."""
    style = (WEB / "style.css").read_text(encoding="utf-8")

    @ui.page("/")
    def index() -> None:
        ui.add_css(style)
        ui.colors(primary="#4d8fdc", dark="#1b1e23", dark_page="#14161a")
        number, work = desk.number, desk.work
        with ui.element("div").classes("tcmn"):
            _build_header(desk, work)
            if work is None:
                _build_empty(desk)
            else:
                build_kept_bar(desk)
                Page(desk, work)
        # Another tab may have opened another video.
        ui.timer(REFRESH_S, lambda: ui.navigate.reload() if desk.number != number else None)
