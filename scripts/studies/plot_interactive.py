"""Draw several runs of evaluate_interactive.py in one picture, a panel for each.

    python scripts/studies/plot_interactive.py OUTPUT_DIR "TITLE=RUN_DIR" ...

RUN_DIR is the output folder of a run; its groups get TITLE, with the structure behind it where it has
several. Writes OUTPUT_DIR/frames.png and OUTPUT_DIR/videos.png.
"""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bundle.evaluation.interactive import draw_curves
from bundle.evaluation.statistics import MEAN_OVER_DOMAINS


def read_rows(runs: Sequence[str], part: str) -> list[dict[str, Any]]:
    """Rows of ``frames`` or ``videos`` of all runs, with the titles as groups."""
    rows = []
    for run in runs:
        title, _, folder = run.partition("=")
        found = json.loads((Path(folder) / "interactive.json").read_text()).get(part, [])
        groups = {row["group"] for row in found} - {MEAN_OVER_DOMAINS}
        for row in found:
            if row["group"] == MEAN_OVER_DOMAINS:
                continue
            group = title if len(groups) == 1 else f"{title}: {row['group']}"
            rows.append({**row, "group": group})
    return rows


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("output_dir", type=Path)
    parser.add_argument("runs", nargs="+", metavar="TITLE=RUN_DIR")
    options = parser.parse_args(arguments)
    if wrong := [run for run in options.runs if "=" not in run]:
        parser.error(f"{wrong[0]}: expected TITLE=RUN_DIR")
    options.output_dir.mkdir(parents=True, exist_ok=True)
    for part in ("frames", "videos"):
        if rows := read_rows(options.runs, part):
            draw_curves(options.output_dir / f"{part}.png", rows, part == "videos")


if __name__ == "__main__":
    main()
