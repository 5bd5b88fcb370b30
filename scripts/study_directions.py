"""Measure what the place of the masks and the way they are carried do to J, on the validation videos.

python scripts/study_directions.py --dataset_dir DATA --output_dir OUT

DATA is the parent of CVC-ClinicDB and DAVIS-2016-val. Prints OUT/directions.json.
"""

import argparse
import logging
from pathlib import Path
from typing import Any

import numpy as np
from study_clips import carry, interval, load_network, make_parser, mean_of, read_clips, run

logger = logging.getLogger(Path(__file__).stem)


def study(options: argparse.Namespace) -> dict[str, Any]:
    """J over the frames that no variant was given."""
    network = load_network(options)
    table: dict[str, dict[str, float]] = {}
    for clip in read_clips(options):
        last, middle = len(clip.frames) - 1, len(clip.frames) // 2
        variants: dict[str, tuple[list[int], str]] = {
            "first, forward": ([0], "forward"),
            "last, backward": ([last], "backward"),
            "middle, both": ([middle], "both"),
            "both ends, both": ([0, last], "both"),
        }
        scored = [i for i in range(1, last) if i != middle]
        for name, (prompts, direction) in variants.items():
            scores, _ = carry(clip, prompts, network, options, direction=direction)
            mean = 100 * float(np.mean([scores[i] for i in scored]))
            table.setdefault(name, {})[clip.name] = round(mean, 2)
            logger.info("%s, %s: J %.2f", clip.name, name, mean)
    first = table["first, forward"]
    return {
        "jaccard": {name: {"mean": mean_of(row), **row} for name, row in table.items()},
        "difference_to_first_forward": {
            name: interval([row[video] - first[video] for video in row])
            for name, row in table.items()
            if row is not first
        },
    }


if __name__ == "__main__":
    run("directions", study, make_parser(__doc__))
