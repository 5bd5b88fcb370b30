"""Measure how well the confidence predicts the Jaccard index (J), on the validation videos.

python scripts/studies/confidence.py --dataset_dir DATA --output_dir OUT

DATA is the folder that holds CVC-ClinicDB and DAVIS-2016-val. Prints and writes OUT/confidence.json,
and draws OUT/confidence.png.
"""

import argparse
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from clips import load_network, make_parser, propagate, read_clips, run
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from scipy.stats import spearmanr

from bundle.utils.atomic_write import written_beside

logger = logging.getLogger(Path(__file__).stem)


def study(options: argparse.Namespace) -> dict[str, Any]:
    """Compute the rank correlation of confidence and J, J by tenths of confidence, and draw both."""
    network = load_network(options)
    pairs: list[tuple[float, float]] = []
    by_video = {}
    for clip in read_clips(options):
        found, trust = propagate(clip, [0], network, options)
        pairs += list(zip(trust[1:], found[1:], strict=True))
        by_video[clip.name] = {
            "confidence": round(float(np.mean(trust[1:])), 3),
            "jaccard": round(float(np.mean(found[1:])), 3),
        }
        logger.info("%s: %s", clip.name, by_video[clip.name])
    confidence, scores = (np.array(column) for column in zip(*pairs, strict=True))
    bins = np.array_split(np.argsort(confidence), 10)
    rows = [
        {
            "confidence": round(float(confidence[b].mean()), 3),
            "jaccard": round(float(scores[b].mean()), 3),
            "frames": len(b),
        }
        for b in bins
    ]
    bad = scores < 0.5
    flags = {}
    for threshold in (0.5, 0.6, 0.7, 0.8, 0.9):
        flagged = confidence < threshold
        flags[str(threshold)] = {
            "flagged_percent": round(100 * float(flagged.mean()), 1),
            "of_frames_with_J_under_50_percent": round(100 * float(flagged[bad].mean()), 1),
            "of_flagged_J_under_50_percent": round(
                100 * float(bad[flagged].mean()) if flagged.any() else 0.0, 1
            ),
        }
    _draw_reliability(options.output_dir / "confidence.png", confidence, scores, rows)
    return {
        "spearman": round(float(spearmanr(confidence, scores).statistic), 3),
        "frames": len(scores),
        "mean_absolute_error": round(float(np.abs(confidence - scores).mean()), 3),
        "by_tenths": rows,
        "flags": flags,
        "by_video": by_video,
    }


def _draw_reliability(
    path: Path, confidence: np.ndarray, scores: np.ndarray, rows: Sequence[Mapping[str, Any]]
) -> None:
    figure = Figure(figsize=(5, 5), dpi=110, layout="constrained")
    axes = figure.subplots()
    axes.plot([0, 1], [0, 1], color="grey", linewidth=0.8)
    axes.scatter(confidence, scores, s=6, alpha=0.3, linewidths=0, label="a frame")
    axes.plot(
        [row["confidence"] for row in rows],
        [row["jaccard"] for row in rows],
        "o-",
        color="C3",
        label="a tenth of the frames",
    )
    axes.set(xlabel="confidence", ylabel="J", xlim=(0, 1.02), ylim=(0, 1.02))
    axes.legend(loc="upper left")
    with written_beside(path) as beside:
        FigureCanvasAgg(figure).print_png(str(beside))


if __name__ == "__main__":
    run("confidence", study, make_parser(__doc__))
