"""Draw scores by hours of training, with the target of each score as a dashed line.

python scripts/studies/plot_hours.py docs/studies/training/hours.png docs/studies/training/hours.csv
"""

import argparse
import csv
from collections.abc import Mapping, Sequence
from pathlib import Path

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from bundle.utils.atomic_write import written_beside

AIMS = {
    "polyp J": 85.0, "LV wall Dice": 91.0, "LV cavity Dice": 91.0, "left atrium Dice": 90.33
}  # fmt: skip


def draw_hours(path: Path, rows: Sequence[Mapping[str, str]]) -> None:
    """Draw a panel for each score, in percent, over hours of training.

    Args:
        path: PNG to write.
        rows: ``version``, ``hours`` and the scores of ``AIMS`` (empty if unknown) of each version.
    """
    figure = Figure(figsize=(10, 2.9), layout="constrained")
    FigureCanvasAgg(figure)
    for axes, (score, aim) in zip(figure.subplots(1, len(AIMS)), AIMS.items(), strict=True):
        known = [row for row in rows if row[score]]
        hours = [float(row["hours"]) for row in known]
        values = [float(row[score]) for row in known]
        axes.plot(hours, values, "o-", color="tab:blue")
        axes.axhline(aim, linestyle="--", color="tab:red")
        for number, (row, x, y) in enumerate(zip(known, hours, values, strict=True)):
            above = number % 2 != len(known) % 2  # in turns, so that neighbours do not overlap
            axes.annotate(
                row["version"],
                (x, y),
                (0, 5 if above else -5),
                textcoords="offset points",
                fontsize=7,
                rotation=60,
                ha="left" if above else "right",
                va="bottom" if above else "top",
                rotation_mode="anchor",
            )
        axes.set_title(f"{score} (aim {aim:g})", fontsize=10)
        axes.set_xlabel("hours of training")
        axes.margins(x=0.2, y=0.3)
        axes.grid(alpha=0.3)
    with written_beside(path) as beside:
        figure.savefig(beside, format="png", dpi=110)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("target", type=Path, help="PNG to write")
    parser.add_argument("source", type=Path, help="table like docs/studies/training/hours.csv")
    arguments = parser.parse_args()
    with arguments.source.open(newline="") as file:
        draw_hours(arguments.target, list(csv.DictReader(file)))
