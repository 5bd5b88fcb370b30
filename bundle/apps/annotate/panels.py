"""Two parts of the page: the list of objects and the area curves."""

import time
from collections.abc import Callable

from nicegui import events, ui

from bundle.apps.annotate.annotation import Annotation
from bundle.apps.annotate.notices import errors_shown

REDRAW_S = 1.0
"""Between two states of the curves while masks are propagated."""


class ObjectList:
    """Objects to pick, rename, recolour, add and remove.

    Args:
        annotation: Whose objects.
        pick: Called with an object's id.
        picked: Gives the id of the one that is picked.
    """

    def __init__(
        self, annotation: Annotation, pick: Callable[[int], None], picked: Callable[[], int]
    ) -> None:
        self._annotation, self._pick, self._picked = annotation, pick, picked
        self._shown: object = None
        with ui.element("div").classes("tcmn-heading tcmn-row"):
            ui.label("Objects")
            ui.space()
            ui.button(icon="add", color=None, on_click=self._add).props(
                "flat dense round size=sm"
            ).tooltip("Add an object").props("data-testid=add-object")
        self._rows = ui.element("div").classes("tcmn-objects")

    def refresh(self) -> None:
        """Show what there is, unless it is shown already."""
        state = tuple(self._annotation.objects.items()), self._picked()
        if state == self._shown:
            return
        self._shown = state
        self._rows.clear()
        with self._rows:
            for object_id in sorted(self._annotation.objects):
                self._build_row(object_id)

    def _build_row(self, object_id: int) -> None:
        each = self._annotation.objects[object_id]
        row = ui.element("div").classes("tcmn-object").props(f"data-testid=object-{object_id}")
        if object_id == self._picked():
            row.classes("tcmn-on")
        row.on("click", lambda: self._pick(object_id))
        with row:
            ui.label(str(object_id)).classes("tcmn-id")
            with (
                ui.button()
                .props("flat dense")
                .classes("tcmn-swatch")
                .style(f"background: {each.colour} !important")
                .tooltip("Colour")
            ):
                ui.color_picker(on_pick=lambda event: self._change(object_id, colour=event.color))
            name = ui.input(value=each.name).props("dense borderless").classes("tcmn-name")
            name.on("blur", lambda: self._change(object_id, name=name.value))
            name.on("keydown.enter", lambda: name.run_method("blur"))
            remove = ui.button(icon="delete", color=None).tooltip("Remove from all masks")
            remove.on("click.stop", lambda: self._remove(object_id)).classes("tcmn-remove")
            remove.props(f"flat dense round size=xs data-testid=remove-{object_id}")

    def _add(self) -> None:
        with errors_shown():
            self._pick(self._annotation.add_object())

    def _remove(self, object_id: int) -> None:
        with errors_shown():
            self._annotation.remove_object(object_id)

    def _change(self, object_id: int, **values: str) -> None:
        each = self._annotation.objects.get(object_id)
        if each and any(getattr(each, name) != value for name, value in values.items()):
            self._annotation.change_object(object_id, **values)


class Curves:
    """The area of each object over time; a click goes to the frame.

    Args:
        annotation: Whose masks.
        go: Called with a frame's index.
    """

    def __init__(self, annotation: Annotation, go: Callable[[int], None]) -> None:
        self._annotation, self._drawn_at = annotation, 0.0
        self._unit = 1.0
        if annotation.video.spacing_mm is not None:
            row_mm, column_mm = annotation.video.spacing_mm
            self._unit = row_mm * column_mm
        grey = {"color": "#9aa4b2", "fontSize": 11}
        lines = {"lineStyle": {"color": "#2b3038"}}
        axis = {"axisLabel": grey, "nameTextStyle": grey, "splitLine": lines}
        options = {
            "animation": False, "textStyle": {"fontFamily": "inherit"},
            "grid": {"left": 52, "right": 10, "top": 26, "bottom": 24},
            "tooltip": {"trigger": "axis", "confine": True},
            "xAxis": {**axis, "type": "value", "min": 0, "max": max(annotation.frame_count - 1, 1),
                      "minInterval": 1, "splitLine": {"show": False}},
            "yAxis": {**axis, "type": "value", "min": 0,
                      "name": "px" if annotation.video.spacing_mm is None else "mm²"},
            "series": [],
        }  # fmt: skip
        self._chart = ui.echart(options, on_point_click=lambda event: go(_frame_of(event)))
        self._chart.classes("tcmn-chart")

    def refresh(self, index: int, at_once: bool) -> None:
        """Draw the areas anew, if that was not just done."""
        if not at_once and time.monotonic() - self._drawn_at < REDRAW_S:
            return
        self._drawn_at = time.monotonic()
        self._chart.set_visibility(bool(set(self._annotation.states()) - set(".o")))
        self._chart.options["series"] = [self._marker(index)] + [
            {
                "type": "line", "name": each.name, "id": str(object_id), "sampling": "lttb",
                "showSymbol": self._annotation.frame_count <= 60, "symbolSize": 5,
                "lineStyle": {"width": 2, "color": each.colour}, "itemStyle": {"color": each.colour},
                "data": [
                    [i, None if area is None else round(area * self._unit, 2)]
                    for i, area in enumerate(self._annotation.areas(object_id))
                ],
            }
            for object_id, each in sorted(self._annotation.objects.items())
        ]  # fmt: skip
        self._chart.update()

    def mark(self, index: int) -> None:
        """Show which frame is looked at."""
        self._chart.run_chart_method("setOption", {"series": [self._marker(index)]})

    def _marker(self, index: int) -> dict[str, object]:
        return {
            "type": "line", "id": "here", "data": [], "silent": True,
            "markLine": {
                "symbol": "none", "silent": True, "animation": False, "label": {"show": False},
                "lineStyle": {"color": "#ffffff", "type": "solid", "width": 1},
                "data": [{"xAxis": index}],
            },
        }  # fmt: skip


def _frame_of(event: events.EChartPointClickEventArguments) -> int:
    return int(event.data[0]) if isinstance(event.data, list) else int(event.data_index)
