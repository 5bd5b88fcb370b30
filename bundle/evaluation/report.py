"""Write the tables and pictures of an evaluation from the scores of all videos."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from bundle.evaluation.clinical import Chamber, read_outs
from bundle.evaluation.figures import (
    draw_areas,
    draw_distance,
    draw_examples,
    draw_worst_frames,
    nan_curve,
)
from bundle.evaluation.records import VideoScores, select
from bundle.evaluation.review import CHAMBER, Reviewer
from bundle.evaluation.tables import (
    frame_rows,
    make_markdown,
    make_summary,
    metric_rows,
    to_json,
    write_csv,
    write_text,
)


def write_report(
    folder: Path,
    scores: Sequence[VideoScores],
    reviewer: Reviewer,
    description: str,
    settings: Mapping[str, Any],
) -> None:
    """Write tables and pictures. A file is renamed into place when it is complete.

    Args:
        folder: Made if it does not exist.
        scores: Scores of all videos, methods and perturbations.
        reviewer: Reads videos and the network's saved masks again.
        description: Title of the tables: what was scored.
        settings: Settings of the run; ``protocol`` must be among them.
    """
    folder.mkdir(parents=True, exist_ok=True)
    write_csv(folder / "frames.csv", frame_rows(scores))
    write_csv(folder / "metrics.csv", metric_rows(scores))
    summary = make_summary(scores, description, settings)
    write_text(folder / "summary.json", to_json(summary))
    write_text(folder / "tables.md", make_markdown(summary, settings["protocol"]))
    draw_examples(folder / "figure2.png", scores, reviewer)
    draw_worst_frames(folder / "worst_frames.png", scores, reviewer)
    draw_distance(folder / "distance.png", scores)
    ventricles = [one.video for one in select(scores, class_name=CHAMBER)]
    if ventricles:
        _write_clinical(folder, reviewer.chambers(dict.fromkeys(ventricles)))


def _write_clinical(folder: Path, chambers: Sequence[Chamber]) -> None:
    write_csv(folder / "clinical.csv", read_outs(chambers))
    rows: list[dict[str, Any]] = []
    curves = []
    for chamber in chambers:
        predicted = chamber.masks.sum((1, 2))
        true = [None if mask is None else int(mask.sum()) for mask in chamber.truth]
        curves.append((chamber.name, predicted, nan_curve(true)))
        pixel = chamber.spacing_mm[0] * chamber.spacing_mm[1] if chamber.spacing_mm else None
        for name, area, truth in zip(chamber.frame_ids, predicted, true, strict=True):
            rows.append(
                {
                    "video": chamber.name,
                    "frame": name,
                    "area_px": int(area),
                    "area_mm2": None if pixel is None else f"{area * pixel:.6g}",
                    "truth_area_px": truth,
                    "truth_area_mm2": (
                        None if pixel is None or truth is None else f"{truth * pixel:.6g}"
                    ),
                }
            )
    write_csv(folder / "areas.csv", rows)
    draw_areas(folder / "areas.png", curves)
