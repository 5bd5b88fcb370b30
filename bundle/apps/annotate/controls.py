"""Controls of the page: tools and edits (left column), propagation and frame status (right column)."""

from collections.abc import Callable
from typing import Protocol, runtime_checkable

from nicegui import ui

from bundle.apps.annotate.annotation import Annotation
from bundle.apps.annotate.notices import explain

OUTLINED = "@@fill:none;stroke:currentColor;stroke-width:2;stroke-linejoin:round"
TOOLS = {
    "brush": ("brush", "Brush (B); the right button erases"),
    "eraser": (f"M15 4L21 10L11 20H6L3 17ZM9 10L15 16{OUTLINED}|0 0 24 24", "Eraser (E)"),
    "polygon": (
        f"M12 3L21 9.5L17.5 20H6.5L3 9.5Z{OUTLINED}|0 0 24 24",
        "Polygon (P): click corners, double click or Enter closes it, Backspace takes one back",
    ),
    "fill": ("format_color_fill", "Fill (F): a closed outline, or all that hangs together"),
}
"""Name to icon and hint."""
POINTING = {
    "box": (
        f"M4 6H20V18H4Z{OUTLINED}|0 0 24 24",
        "Box (X): drag it around an object, its mask follows; the right button adds a point beside it",
    ),
    "point": (
        f"M12 3V21M3 12H21{OUTLINED}|0 0 24 24",
        "Point (C): click on an object, its mask follows; with Alt or the right button beside it",
    ),
    "scribble": (
        "gesture",
        "Scribble (S): draw a line on an object, its mask follows; with Alt or the right button "
        "beside it",
    ),
}
"""Likewise, of the tools that propose a mask."""
TOOL_KEYS = {
    "b": "brush", "e": "eraser", "p": "polygon", "f": "fill", "x": "box", "c": "point", "s": "scribble",
}  # fmt: skip
STATES = {
    "o": "mask proposed",
    "g": "mask given",
    "d": "found",
    "r": "found, please look",
    ".": "no mask yet",
}
WAYS = {"backward": "← backward", "both": "both ways", "forward": "forward →"}


@runtime_checkable
class Actions(Protocol):
    """What the buttons do."""

    def use(self, tool: str) -> None: ...
    def undo(self) -> None: ...
    def redo(self) -> None: ...
    def confirm(self) -> None: ...
    def take_back(self) -> None: ...
    def accept(self) -> None: ...
    def drop(self) -> None: ...
    def go(self, index: int) -> None: ...
    def propagate(self) -> None: ...
    def go_next(self) -> None: ...


def heading(text: str) -> None:
    """The title of a part of a column."""
    ui.label(text).classes("tcmn-heading")


def labelled_button(
    text: str, icon: str, action: Callable[[], object], hint: str, kind: str = "flat dense"
) -> ui.button:
    """A button with icon, text and hint; tests find it by its text."""
    button = ui.button(text, icon=icon, color=None, on_click=lambda: action())
    name = text.lower().replace(" ", "-")
    return button.props(f"{kind} no-caps data-testid={name}").classes("tcmn-button").tooltip(hint)


class ToolPanel:
    """Tools, their settings, and edits of the whole frame.

    Args:
        annotation: What is edited.
        actions: Actions of the buttons.
        changed: Called when another tool or setting is chosen.

    Attributes:
        tool: The one that is chosen.
    """

    def __init__(
        self, annotation: Annotation, actions: Actions, changed: Callable[[], None]
    ) -> None:
        self.tool, self._changed = "brush", changed
        self._problem = annotation.completer.problem
        self._buttons: dict[str, ui.button] = {}
        heading("Tools")
        with ui.element("div").classes("tcmn-tools"):
            for name, (icon, hint) in TOOLS.items():
                button = ui.button(icon=icon, color=None, on_click=lambda _, n=name: self.pick(n))
                button.props(f"unelevated data-testid={name}").tooltip(hint)
                self._buttons[name] = button
            for name, (icon, hint) in POINTING.items():
                self._build_pointing(name, icon, hint)
        self.proposal = ProposalBox(annotation, actions)
        short = min(annotation.size)
        self.size = self._slider("Size", 1, max(40, short // 3), max(3, short // 20), "px")
        self.opacity = self._slider("Overlay", 0, 100, 45, "%")
        with ui.element("div").classes("tcmn-edits"):
            labelled_button("Undo", "undo", actions.undo, "Undo the last edit (Ctrl+Z)")
            labelled_button(
                "Redo", "redo", actions.redo, "Do again what was undone (Ctrl+Shift+Z, Ctrl+Y)"
            )
            labelled_button(
                "Close holes", "lens", lambda: actions.use("holes"), "Of the picked object"
            )
            labelled_button(
                "Clear", "layers_clear", lambda: actions.use("clear"), "Nothing is in this frame"
            )
            labelled_button(
                "Confirm", "check", actions.confirm, "Take this frame's mask as given, as it is (K)"
            )
            self._take_back = labelled_button(
                "Take back", "backspace", actions.take_back,
                "Drop the mask that was given here: the network finds one",
            )  # fmt: skip
        self.pick(self.tool)

    def pick(self, name: str) -> None:
        """Choose a tool.

        Raises:
            ValueError: The weights cannot do what it needs.
        """
        if name in POINTING and self._problem is not None:
            raise ValueError(self._problem)
        self.tool = name
        for each, button in self._buttons.items():
            button.classes(add="tcmn-on") if each == name else button.classes(remove="tcmn-on")
        self._changed()

    def keys(self) -> dict[str, str]:
        """The tool of each key, of those that the weights can use."""
        usable = TOOLS if self._problem is not None else TOOLS | POINTING
        return {key: name for key, name in TOOL_KEYS.items() if name in usable}

    def resize(self, by: int) -> None:
        """A thicker or thinner brush."""
        self.size.set_value(max(1, self.size.value + by))

    def show(self, given: bool) -> None:
        """Whether the frame's mask can be taken back."""
        self._take_back.set_enabled(given)

    def _build_pointing(self, name: str, icon: str, hint: str) -> None:
        # Around the button, since browsers tell nothing of the mouse on one that is disabled.
        with ui.element("div").classes("tcmn-tool").props(f"data-testid={name}-place"):
            button = ui.button(icon=icon, color=None, on_click=lambda: self.pick(name))
            button.props(f"unelevated data-testid={name}")
            ui.tooltip(hint if self._problem is None else self._problem)
        button.set_enabled(self._problem is None)
        self._buttons[name] = button

    def _slider(self, text: str, low: int, high: int, start: int, unit: str) -> ui.slider:
        with ui.element("div").classes("tcmn-slider"):
            ui.label(text)
            slider = ui.slider(min=low, max=high, value=start, on_change=lambda: self._changed())
            ui.label().bind_text_from(slider, "value", lambda value: f"{value:g} {unit}")
        return slider


class ProposalBox:
    """What is proposed, and what to do with it; hidden while there is nothing.

    Args:
        annotation: Whose proposal.
        actions: Actions of the buttons.
    """

    def __init__(self, annotation: Annotation, actions: Actions) -> None:
        self._annotation, self._actions = annotation, actions
        with ui.element("div").classes("tcmn-proposal").props("data-testid=proposal") as self._box:
            self._text = ui.label().classes("tcmn-note").on("click", self._go)
            with ui.element("div").classes("tcmn-row"):
                accept = ui.button("Accept", icon="check", on_click=actions.accept)
                accept.props("no-caps unelevated dense data-testid=accept").classes("tcmn-run")
                accept.tooltip("Take it as this frame's mask (Enter)")
                drop = ui.button("Drop", icon="close", color=None, on_click=actions.drop)
                drop.props("no-caps outline dense data-testid=drop").tooltip("Drop it (Escape)")
        self._box.set_visibility(False)

    def show(self, index: int) -> None:
        """Show it as from this frame."""
        proposal = self._annotation.proposal
        self._box.set_visibility(proposal is not None)
        if proposal is not None:
            here = "Point again to correct it." if proposal.frame == index else "Click to go there."
            self._text.set_text(f"Mask proposed for frame {proposal.frame}. {here}")

    def _go(self) -> None:
        if self._annotation.proposal is not None:
            self._actions.go(self._annotation.proposal.frame)


class PropagationPanel:
    """Propagating, how far it is, and what is known of the frame.

    Args:
        annotation: Whose masks.
        actions: Actions of the buttons.

    Attributes:
        direction: Which way to propagate masks.
        next: The button that leads to the next frame to annotate.
    """

    def __init__(self, annotation: Annotation, actions: Actions) -> None:
        self._annotation = annotation
        heading("Propagate")
        self.direction = ui.toggle(WAYS, value=annotation.direction).classes("tcmn-ways")
        self.direction.props("no-caps spread unelevated").tooltip(
            "Which way masks are propagated; another way begins anew"
        )
        with ui.element("div").classes("tcmn-row"):
            self._run = ui.button("Propagate", icon="auto_awesome", on_click=actions.propagate)
            self._run.props("no-caps unelevated data-testid=propagate").classes("tcmn-run")
            self._cancel = ui.button(
                "Cancel", icon="stop", color=None, on_click=annotation.worker.cancel
            )
            self._cancel.props("no-caps outline data-testid=cancel")
        self._bar = ui.linear_progress(value=0, show_value=False, size="6px").props("rounded")
        self._status = ui.label().classes("tcmn-note").props("data-testid=status")
        self.next = labelled_button(
            "Next to annotate", "my_location", actions.go_next,
            "To the frame whose mask should help most (N)", "outline",
        )  # fmt: skip
        heading("This frame")
        self._frame = ui.label().classes("tcmn-note").props("data-testid=frame")
        self._trust = ui.element("div").classes("tcmn-trust")

    def show_progress(self) -> None:
        """How far it is, and what to do next."""
        worker = self._annotation.worker
        self._cancel.set_visibility(worker.running)
        self._cancel.set_enabled(not worker.stopping)
        self._bar.set_visibility(worker.running)
        self._run.set_enabled(not worker.running)
        self.direction.set_enabled(not worker.running)
        self._bar.set_value(worker.finished / max(worker.total, 1))
        self._status.set_text(self._describe())

    def _describe(self) -> str:
        annotation, worker, states = (
            self._annotation,
            self._annotation.worker,
            self._annotation.states(),
        )
        if worker.stopping:
            return "It stops after this frame …"
        if worker.running:
            return f"frame {worker.finished} of {worker.total} …"
        if worker.problem is not None:
            return f"It stopped: {explain(worker.problem)}"
        if annotation.proposal is not None:
            return "A mask is proposed: accept it or drop it, then propagate."
        if not annotation.prompts:
            point = "" if annotation.completer.problem else ", or point at it"
            return f"Paint the object on one frame{point}, then propagate."
        if annotation.changed:
            return "Masks have changed: propagate them."
        if pending := states.count("."):
            return f"{pending} frames are pending: propagate to go on."
        review = states.count("r")
        return "All frames have a mask" + (f", {review} want a look." if review else ".")

    def show_frame(self, index: int) -> None:
        """State and confidences of a frame."""
        annotation, summary = self._annotation, self._annotation.summary(index)
        state = annotation.state(index)
        times = annotation.video.times
        time = "" if times is None else f", {times[index]:.2f} s"
        self._frame.set_text(f"Frame {index}{time}: {STATES[state]}")
        self._trust.clear()
        with self._trust:
            for object_id, value in (
                summary.confidence if summary and state in "dr" else {}
            ).items():
                if object_id in annotation.objects:
                    ui.label(annotation.objects[object_id].name)
                    ui.label(f"confidence {value:.2f}").classes("tcmn-number")
