"""Draw the curves of a training, from its CSV tables of losses and validation scores."""

import csv
import math
from collections.abc import Sequence
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from bundle.utils.atomic_write import written_beside

LOSS_PANELS = {
    "total loss": ("loss",),
    "supervised terms": ("cross_entropy", "dice"),
    "temporal contrastive loss": ("contrastive",),
    "1 - cosine of first and third value": ("value_distance",),
    "share of the teacher's maps that the student misses": (
        "key",
        "query",
        "value",
        "skip8",
        "skip4",
    ),
}
"""Panels that a table has no column for are left out."""
FIGURE_WIDTH_IN = 10.0
PANEL_HEIGHT_IN = 2.5
DPI = 110
FEW_POINTS = 50

Curve = list[tuple[int, float]]


def read_table(path: Path, index: str) -> dict[str, Curve]:
    """Column name to (what stands in the index column, value), without empty cells.

    Raises:
        ValueError: The index column is missing, or a cell holds no number.
    """
    curves: dict[str, Curve] = {}
    with path.open(newline="") as file:
        reader = csv.DictReader(file)
        if index not in (reader.fieldnames or ()):
            raise ValueError(f"{path} has no column {index}: its columns are {reader.fieldnames}")
        for row in reader:
            for name, value in row.items():
                if not value:
                    continue
                try:
                    curves.setdefault(name, []).append((int(row[index]), float(value)))
                except ValueError as error:
                    raise ValueError(
                        f"{path}, line {reader.line_num}: column {name} holds {value!r}, expected "
                        "a number: mend the line or remove it"
                    ) from error
    return curves


def draw_curves(target: Path, losses: Sequence[Path], metrics: Path | None = None) -> None:
    """Write the picture: a panel per kind of loss, and one of the validation scores.

    Args:
        target: The PNG file. It is written beside and renamed.
        losses: Tables of the stages of a training, drawn one after the other.
        metrics: Table of validation scores per epoch; without it there is no such panel.

    Raises:
        ValueError: As ``read_table``, or there is no table.
    """
    tables = [(path, read_table(path, "iteration")) for path in losses]
    known = {name for _, table in tables for name in table}
    titles = [title for title, names in LOSS_PANELS.items() if known.intersection(names)]
    panel_count = len(titles) + (metrics is not None)
    if not panel_count:
        raise ValueError(f"no table of losses or scores to draw {target} from")
    size_in = (FIGURE_WIDTH_IN, PANEL_HEIGHT_IN * panel_count)
    figure = Figure(figsize=size_in, dpi=DPI, layout="constrained")
    panels = list(figure.subplots(panel_count, 1, squeeze=False)[:, 0])
    if metrics is not None:
        _draw_scores(panels.pop(), read_table(metrics, "epoch"))
    if titles:
        _draw_losses(panels, titles, tables)
    with written_beside(target) as beside:
        FigureCanvasAgg(figure).print_png(str(beside))


def _draw_losses(
    panels: Sequence[Axes], titles: Sequence[str], tables: Sequence[tuple[Path, dict[str, Curve]]]
) -> None:
    for axes, title in zip(panels, titles, strict=True):
        _dress(axes, title)
        axes.sharex(panels[-1])
        axes.tick_params(labelbottom=axes is panels[-1])
    begin = 0
    for stage, (path, table) in enumerate(tables):
        for axes, title in zip(panels, titles, strict=True):
            axes.axvline(begin, color="grey", linewidth=0.8)
            names = LOSS_PANELS[title]
            for number, name in enumerate(names):
                # A sole curve is named by its panel.
                label = name.replace("_", " ") if stage == 0 and len(names) > 1 else None
                curve = [(begin + x, y) for x, y in table.get(name, [])]
                _draw(axes, curve, f"C{number}", label)
        if len(tables) > 1:
            over = panels[0].get_xaxis_transform()
            stage_name = path.stem.removeprefix("losses_")
            # In two rows, so that a short stage's name does not run into the next.
            height = 0.02 + 0.08 * (stage % 2)
            panels[0].text(begin, height, f" {stage_name}", transform=over, parse_math=False)
        begin += table.get("iteration", [(0, 0.0)])[-1][0]
    panels[-1].set_xlabel("iteration")
    for axes in panels:
        _finish(axes)


def _draw_scores(axes: Axes, table: dict[str, Curve]) -> None:
    _dress(axes, "validation")
    names = [name for name in table if name != "epoch"]
    for number, name in enumerate(names):
        _draw(axes, table[name], f"C{number}", name.replace("_", " "))
    axes.set_xlabel("epoch")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    _finish(axes)


def _draw(axes: Axes, curve: Curve, colour: str, label: str | None) -> None:
    """A line; with few points, dots on it, since one point makes no line."""
    marker = "." if len(curve) <= FEW_POINTS else ""
    xs, ys = [x for x, _ in curve], [y for _, y in curve]
    axes.plot(xs, ys, color=colour, marker=marker, label=label)


def _dress(axes: Axes, title: str) -> None:
    axes.set_title(title, fontsize=10, loc="left")
    axes.grid(alpha=0.3)
    axes.margins(x=0.02)


def _finish(axes: Axes) -> None:
    """The y axis begins at 0; the names of curves stand above."""
    top = axes.dataLim.ymax
    axes.set_ylim(0, 1.08 * top if 0 < top < math.inf else None)
    lines, names = axes.get_legend_handles_labels()
    if names:
        axes.legend(
            lines,
            names,
            loc="lower right",
            bbox_to_anchor=(1, 1),
            ncols=len(names),
            fontsize=9,
            frameon=False,
            borderaxespad=0,
        )
