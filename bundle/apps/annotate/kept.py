"""Notes of the page on autosaved masks: when they were saved, and those left by an earlier process."""

from collections.abc import Callable
from datetime import datetime
from typing import Protocol, runtime_checkable

from nicegui import run, ui

from bundle.apps.annotate.controls import labelled_button
from bundle.apps.annotate.notices import errors_shown
from bundle.apps.annotate.workspace import Workspace

LOOK_S = 1.0
SURE = "Really delete them?"


@runtime_checkable
class Kept(Protocol):
    """Something that saves an annotation to disk, such as ``Autosave`` or ``ProjectSaver``.

    Attributes:
        time: When it saved last; None if there is nothing to save.
        problem: The error of the last save; None if it succeeded.
    """

    @property
    def time(self) -> datetime | None: ...
    @property
    def problem(self) -> Exception | None: ...


def build_kept_note(autosave: Kept) -> None:
    """Show in the header whether the last change is on disk."""
    note = ui.label().classes("tcmn-about").props("data-testid=kept")

    def show() -> None:
        note.set_text(describe(autosave.time, autosave.problem))

    show()
    ui.timer(LOOK_S, show)


def describe(time: datetime | None, problem: Exception | None) -> str:
    """Text for the header.

    Example:
        >>> describe(datetime(2026, 5, 4, 13, 7, 9), None)
        'kept at 13:07:09'
    """
    if problem is not None:
        return f"not kept on disk, save it yourself: {problem}"
    return "" if time is None else f"kept at {time:%H:%M:%S}"


def build_kept_bar(workspace: Workspace) -> None:
    """Show a bar if there are masks that were not saved the last time, with buttons to open them."""
    left = None if workspace.left is None else workspace.left.time
    if workspace.resumed is None and left is None:
        return
    with ui.element("div").classes("tcmn-bar").props("data-testid=kept-bar") as bar:
        if workspace.resumed is not None:
            ui.label(
                f"You go on with masks of {say_when(workspace.resumed)}, which were not saved."
            )
            _button("Start anew", "restart_alt", workspace.start_anew, "These masks are kept")
        if left is not None:
            ui.label(f"Other masks of this video, of {say_when(left)}, were not saved.")
            _button("Go on with them", "history", workspace.go_on, "What is open now is kept")

            def forget() -> None:
                if button.text != SURE:
                    button.set_text(SURE)
                    return
                workspace.forget_left()
                bar.delete()

            button = labelled_button("Delete them", "delete", forget, "There is no way back")
        ui.space()
        ui.button(icon="close", color=None, on_click=bar.delete).props("flat dense round size=sm")


def say_when(time: datetime) -> str:
    """A time of the last days.

    Example:
        >>> say_when(datetime(2026, 5, 4, 13, 7))
        '4 May, 13:07'
    """
    return f"{time.day} {time:%b, %H:%M}"


def _button(text: str, icon: str, action: Callable[[], None], hint: str) -> None:
    async def act() -> None:
        with errors_shown():
            await run.io_bound(action)

    labelled_button(text, icon, act, hint)
