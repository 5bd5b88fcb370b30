"""Measurements of the open video: the dialog, its table and picture, and the files."""

import shutil
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from nicegui import run, ui

from bundle.apps.annotate.annotation import Annotation
from bundle.apps.annotate.dialogs import attempt, beside, dialog_with_note, finish
from bundle.apps.annotate.project_saver import refuse_unfinished
from bundle.apps.annotate.workspace import Workspace
from bundle.evaluation.measurements import (
    RESEARCH_ONLY,
    measure_video,
    summarize,
    write_measurements,
)
from bundle.types import LabelMap
from bundle.utils.paths import expand_user, fit_name

SHOWN = {
    "name": "Object", "area_ed_px": "Area at ED (px)", "area_es_px": "at ES (px)",
    "ed_frame": "ED frame", "es_frame": "ES frame", "fac_percent": "Area change (%)",
    "largest_diameter_px": "Largest diameter (px)", "largest_diameter_mm": "(mm)",
    "edv_ml": "EDV (ml)", "esv_ml": "ESV (ml)", "ef_percent": "EF (%)",
}  # fmt: skip
"""Columns of the table in the page, with their headings; those without a value are left out."""


class FoundMasks(Mapping[int, LabelMap]):
    """The masks of an annotation, each made when it is looked at: long videos need no room."""

    def __init__(self, annotation: Annotation) -> None:
        self._annotation = annotation
        count = annotation.video.frame_count
        self._frames = [i for i in range(count) if annotation.summary(i) is not None]

    def __getitem__(self, index: int) -> LabelMap:
        return self._annotation.labels(index)

    def __iter__(self) -> Iterator[int]:
        return iter(self._frames)

    def __len__(self) -> int:
        return len(self._frames)


def measure(
    annotation: Annotation, folder: Path, chambers: Collection[int] = ()
) -> list[dict[str, Any]]:
    """Measure what is annotated, and write the tables and the picture.

    Args:
        annotation: Of the video.
        folder: See ``bundle.evaluation.measurements.write_measurements``.
        chambers: Ids of objects that are chambers of the heart.

    Returns:
        The rows of the summary, one for each object.

    Raises:
        ValueError: Masks are being propagated or proposed, or none shows an object.
        OSError: Nothing can be written there.
    """
    refuse_unfinished(annotation)
    video = annotation.video
    masks, spacing = FoundMasks(annotation), video.spacing_mm
    measured = measure_video(masks, video.frame_count, spacing, sorted(chambers))
    names = {i: each.name for i, each in annotation.objects.items()}
    colours = {i: each.colour for i, each in annotation.objects.items()}
    name = fit_name(video.name, len("_measurements.csv"))
    write_measurements(
        folder, name, measured, fps=video.fps, spacing_mm=spacing, names=names, colours=colours
    )
    return summarize(name, measured, spacing, names)


def table_of(rows: Sequence[Mapping[str, Any]]) -> tuple[list[str], list[list[str]]]:
    """Headings and cells of what has a value.

    Example:
        >>> table_of([{"name": "polyp", "largest_diameter_px": 41.23, "edv_ml": None}])
        (['Object', 'Largest diameter (px)'], [['polyp', '41.2']])
    """
    columns = [key for key in SHOWN if any(row.get(key) is not None for row in rows)]
    return [SHOWN[key] for key in columns], [
        [_text(row.get(key)) for key in columns] for row in rows
    ]


def _text(value: object) -> str:
    if value is None:
        return ""
    return f"{value:.1f}" if isinstance(value, float) else str(value)


def ask_measurements(workspace: Workspace, annotation: Annotation) -> None:
    """Measure the video; write the tables and the picture to a folder, or download them."""
    video = annotation.video
    with dialog_with_note("Measurements") as (dialog, note):
        dialog.props("data-testid=measurements")
        ui.label(f"For {RESEARCH_ONLY}.").classes("tcmn-warn").props("data-testid=research-only")
        boxes: dict[int, ui.checkbox] = {}
        if video.spacing_mm is None:
            ui.label(
                "The video declares no distance of its pixels: nothing is in mm, there is no volume."
            ).classes("tcmn-note")
        else:
            ui.label(
                "Chambers of the heart, of which Simpson's volume is estimated from this view:"
            )
            with ui.element("div").classes("tcmn-formats"):
                for i, each in annotation.objects.items():
                    box = ui.checkbox(each.name).props(f"dense data-testid=chamber-{i}")
                    boxes[i] = box.on_value_change(lambda: show())
        shown = ui.element("div").classes("tcmn-measured")
        folder = ui.input("Folder", value=str(beside(workspace, annotation) / "measurements"))
        folder.classes("tcmn-wide").props("outlined dense data-testid=measurements-path")

        def chambers() -> list[int]:
            return [i for i, box in boxes.items() if box.value]

        async def show() -> None:
            made: list[tuple[Path, list[dict[str, Any]]]] = []

            def begin() -> None:
                place = workspace.new_folder()
                made.append((place, measure(annotation, place, chambers())))

            if not await attempt(note, begin):
                return
            ((place, rows),) = made
            headings, cells = table_of(rows)
            shown.clear()
            with shown:
                with ui.element("table").props("data-testid=measured"):
                    for row in (headings, *cells):
                        with ui.element("tr"):
                            for text in row:
                                with ui.element("th" if row is headings else "td"):
                                    ui.label(text)
                (picture,) = place.glob("*.png")
                ui.image(picture).classes("tcmn-wide").props("data-testid=measured-picture")

        async def to_folder() -> None:
            target = expand_user(folder.value.strip())
            if await attempt(note, lambda: measure(annotation, target, chambers())):
                dialog.close()
                ui.notify(f"written to {target}", type="positive", position="top")

        async def download() -> None:
            place = workspace.new_folder()
            if await attempt(note, lambda: measure(annotation, place, chambers())):
                packed = workspace.new_folder() / f"{fit_name(video.name, 17)}_measurements"
                await run.io_bound(shutil.make_archive, str(packed), "zip", place)
                ui.download.file(f"{packed}.zip")

        finish(dialog, "Write", to_folder, download)
        ui.timer(0.05, show, once=True)
