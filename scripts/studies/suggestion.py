"""Measure the gain of a second mask: on the suggested frame, on random frames, on the middle one.

python scripts/studies/suggestion.py --dataset_dir DATA --output_dir OUT

DATA is the folder that holds CVC-ClinicDB and DAVIS-2016-val. Prints and writes OUT/suggestion.json.
"""

import argparse
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from clips import (
    Clip,
    interval,
    jaccard,
    load_network,
    make_inferer,
    make_parser,
    propagate,
    read_clips,
    run,
)

logger = logging.getLogger(Path(__file__).stem)


def study(options: argparse.Namespace) -> dict[str, Any]:
    """Compute how much J (in percentage points) a second mask gains, for each choice of its frame."""
    network = load_network(options)
    random = np.random.default_rng(0)
    gains: dict[str, list[float]] = {"suggested": [], "random": [], "middle": []}
    rows = {}
    for clip in read_clips(options):
        inferer = make_inferer(options)
        work = inferer.open(clip.frames, {0: clip.truth[0]}, network)
        list(work.run())
        before = _all_scores(work.result, clip)
        suggested = work.suggest()
        assert suggested is not None
        draws = random.choice(
            np.arange(1, len(clip.frames)), min(options.draws, len(clip.frames) - 1), replace=False
        )
        after = {
            i: np.array(propagate(clip, [0, i], network, options)[0])
            for i in {suggested, len(clip.frames) // 2, *draws.tolist()}
        }
        gain = {i: 100 * float((scores - before)[1:].mean()) for i, scores in after.items()}
        gains["suggested"].append(gain[suggested])
        gains["middle"].append(gain[len(clip.frames) // 2])
        gains["random"].append(float(np.mean([gain[int(i)] for i in draws])))
        rows[clip.name] = {
            "jaccard_before": round(100 * float(before[1:].mean()), 2),
            "suggested_frame": int(suggested),
            **{name: round(values[-1], 2) for name, values in gains.items()},
        }
        logger.info("%s: %s", clip.name, rows[clip.name])
    return {
        "gain_of_jaccard": {name: interval(values) for name, values in gains.items()},
        "suggested_minus_random": interval(
            np.subtract(gains["suggested"], gains["random"]).tolist()
        ),
        "suggested_minus_middle": interval(
            np.subtract(gains["suggested"], gains["middle"]).tolist()
        ),
        "by_video": rows,
    }


def _all_scores(result: Callable[[int], Any], clip: Clip) -> np.ndarray:
    """J of each frame, from 0 to 1. It is 1 where the mask was given."""
    return np.array([jaccard(result(i).labels, truth) for i, truth in enumerate(clip.truth)])


if __name__ == "__main__":
    parser = make_parser(__doc__)
    parser.add_argument(
        "--draws", type=int, default=3, help="number of random frames of each video"
    )
    run("suggestion", study, parser)
