"""Measure what the frames that stay when memory is full do to J, on videos that are played to and fro.

python scripts/study_memory.py --dataset_dir DATA --output_dir OUT

DATA is the parent of CVC-ClinicDB and DAVIS-2016-val. Prints OUT/memory.json.
"""

import argparse
import logging
from pathlib import Path
from typing import Any

import numpy as np
from study_clips import Clip, carry, interval, load_network, make_parser, mean_of, read_clips, run

logger = logging.getLogger(Path(__file__).stem)


def study(options: argparse.Namespace) -> dict[str, Any]:
    """J of each eviction rule at each size of memory, on videos that are played to and fro."""
    network = load_network(options)
    table: dict[str, dict[str, float]] = {}
    variants: dict[str, dict[str, Any]] = {
        f"{eviction}, {limit} frames": {"eviction": eviction, "max_memory_frames": limit}
        for limit in options.limits
        for eviction in ("latest", "useful")
    }
    variants["unbounded"] = {}
    for clip in read_clips(options):
        there = range(len(clip.frames))
        order = ([*there, *there[-2:0:-1]] * options.frames)[: options.frames]
        long = Clip(clip.name, [clip.frames[i] for i in order], [clip.truth[i] for i in order])
        for name, settings in variants.items():
            scores, _ = carry(long, [0], network, options, **settings)
            mean = 100 * float(np.mean(scores[1:]))
            table.setdefault(name, {})[clip.name] = round(mean, 2)
            logger.info("%s, %s: J %.2f", clip.name, name, mean)
    return {
        "jaccard": {name: {"mean": mean_of(row), **row} for name, row in table.items()},
        "useful_minus_latest": {
            limit: interval(
                [
                    table[f"useful, {limit} frames"][video] - score
                    for video, score in table[f"latest, {limit} frames"].items()
                ]
            )
            for limit in options.limits
        },
    }


if __name__ == "__main__":
    parser = make_parser(__doc__)
    parser.add_argument("--frames", type=int, default=200, help="length of each video")
    parser.add_argument("--limits", type=int, nargs="+", default=[3, 6, 12])
    run("memory", study, parser)
