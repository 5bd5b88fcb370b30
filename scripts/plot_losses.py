"""Draw the loss tables of trainings, one stage after the other.

python scripts/plot_losses.py docs/losses.png docs/losses_pretrain.csv docs/losses_train.csv
"""

import argparse
import csv
from pathlib import Path

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

PANELS = {
    "supervised terms": ("cross_entropy", "dice"),
    "temporal contrastive loss": ("contrastive",),
    "1 - cosine of first and third value": ("value_distance",),
}


def read_table(path: Path, begin: int) -> dict[str, list[tuple[int, float]]]:
    """Column name to (iteration since the first stage, value), without empty cells."""
    columns: dict[str, list[tuple[int, float]]] = {}
    with path.open(newline="") as file:
        for row in csv.DictReader(file):
            for name, value in row.items():
                if value:
                    columns.setdefault(name, []).append(
                        (begin + int(row["iteration"]), float(value))
                    )
    return columns


def plot(target: Path, sources: list[Path]) -> None:
    """Write one picture with a panel per kind of loss."""
    figure = Figure(figsize=(10, 7.5), dpi=110, layout="constrained")
    panels = figure.subplots(len(PANELS), 1, sharex=True)
    begin = 0
    for number, source in enumerate(sources):
        table = read_table(source, begin)
        for axes, (title, names) in zip(panels, PANELS.items(), strict=True):
            for colour, name in enumerate(names):
                points = table.get(name, [])
                axes.plot(*zip(*points, strict=True), color=f"C{colour}") if points else None
                if number == 0:
                    axes.plot([], [], color=f"C{colour}", label=name.replace("_", " "))
            axes.set_title(title, fontsize=10, loc="left")
            axes.grid(alpha=0.3)
            axes.axvline(begin, color="grey", linewidth=0.8)
        panels[0].text(
            begin, 1.0, f" {source.stem}", transform=panels[0].get_xaxis_transform(), va="top"
        )
        begin = table["iteration"][-1][0]
    for axes in panels:
        axes.set_ylim(bottom=0)
    panels[0].legend(loc="center", fontsize=9)
    panels[-1].set_xlabel("iteration")
    FigureCanvasAgg(figure).print_png(str(target))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("target", type=Path, help="the PNG to write")
    parser.add_argument("sources", type=Path, nargs="+", help="losses.csv of each stage, in order")
    arguments = parser.parse_args()
    plot(arguments.target, arguments.sources)
