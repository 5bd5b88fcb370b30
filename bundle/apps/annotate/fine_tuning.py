"""The dialog that fine-tunes on the videos of a project that are done."""

import shlex
from collections.abc import Callable

from nicegui import ui

from bundle.apps.annotate.dialogs import attempt, dialog_with_note
from bundle.apps.annotate.project_workspace import ProjectWorkspace
from bundle.project.learning import (
    choose_videos,
    describe_weights_of,
    last_result,
    read_progress,
    take_back_weights,
    take_weights,
)

LOOK_S = 1.0


def describe_weights_in(workspace: ProjectWorkspace) -> str:
    """Which weights the page uses, for its header.

    Weights that the command line names go before the project's.
    """
    if workspace.fixed_weights is not None:
        return f"weights: {workspace.fixed_weights.name}"
    return describe_weights_of(workspace.project)


def ask_fine_tune(workspace: ProjectWorkspace) -> None:
    """Fine-tune on the videos that are done; look at how far it is, and at what came of it."""
    project = workspace.project
    with dialog_with_note("Fine-tune on the videos that are done") as (dialog, note):
        ui.label(
            "Learns from masks that somebody gave or accepted, in the background. Videos of some "
            "patients are kept aside, and old and new weights are compared on them: the new ones are "
            "used if they are better. The old ones can be taken back."
        ).classes("tcmn-note")
        used = ui.label().classes("tcmn-note").props("data-testid=weights-used")
        options = ui.input("Options of tcmn finetune, such as --epochs 3 or --frames all")
        options.classes("tcmn-wide").props("outlined dense data-testid=options")
        stage = ui.label().classes("tcmn-note").props("data-testid=fine-tuning")
        bar = ui.linear_progress(value=0, show_value=False, size="6px")
        outcome = ui.label().classes("tcmn-note").props("data-testid=outcome")
        told: list[str] = []

        def begin() -> None:
            given = shlex.split(options.value)
            if "all" not in given:  # else said at once, though the process would say it, too
                choose_videos(project)
            workspace.start_fine_tuning(given)

        async def act(action: Callable[[], object]) -> None:
            told.clear()
            await attempt(note, action)
            look()

        with ui.element("div").classes("tcmn-row tcmn-end"):
            back = ui.button(
                "Take old weights back", on_click=lambda: act(lambda: take_back_weights(project))
            )
            back.props("flat no-caps data-testid=take-back")
            take = ui.button("Use new weights", on_click=lambda: act(lambda: take_weights(project)))
            take.props("flat no-caps data-testid=take")
            stop = ui.button("Stop", on_click=lambda: act(workspace.stop_fine_tuning))
            stop.props("flat no-caps data-testid=stop")
            ui.button("Close", on_click=dialog.close).props("flat no-caps")
            start = ui.button("Start", on_click=lambda: act(begin))
            start.props("unelevated no-caps data-testid=act")

        def look() -> None:
            project.reload()
            process, result = workspace.fine_tuning, last_result(project)
            running = process is not None and process.running
            used.set_text(
                f"In use now: {describe_weights_in(workspace).removeprefix('weights: ')}."
            )
            progress = read_progress(project)
            bar.set_visibility(running)
            if running:
                stage.set_text(
                    "Beginning" if progress is None
                    else f"{progress.stage.capitalize()}: {100 * progress.share:.0f} %"
                )  # fmt: skip
                bar.set_value(0.0 if progress is None else progress.total)
            else:
                stage.set_text(
                    "" if progress is None else "A training was interrupted: Start goes on."
                )
            outcome.set_text("" if result is None or running else f"Last training: {result}")
            waits = result is not None and not result.taken and not running
            take.set_visibility(waits)
            back.set_visibility(bool(project.trainings) and not running)
            stop.set_visibility(running)
            start.set_visibility(not running)
            if process is not None and process.problem is not None and not told:
                told.append(process.problem)
                note(process.problem)

        look()
        ui.timer(LOOK_S, look)
