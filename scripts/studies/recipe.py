"""Ablate the training recipe: change one setting at a time, train equally long, and compare J.

python scripts/studies/recipe.py --dataset_dir DATA --initial_weights START --output_dir OUT

DATA is the folder that holds CVC-ClinicDB, CAMUS, DAVIS-2016-val, ECSSD and Kvasir-SEG. The unchanged
recipe runs with several seeds, which shows how much J varies by chance. The changed ones run with the
first seed. J is that of the validation videos. Start it again after an interruption to go on. Prints
and writes OUT/recipe.json.
"""

import argparse
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

from ablation import call, export
from clips import ROOT, Clip, load_network, make_parser, propagate, read_clips, run

logger = logging.getLogger(Path(__file__).stem)

CHANGES: Mapping[str, Mapping[str, Any]] = {
    "larger crops": {"size": 224},
    "no running average": {"ema_momentum": 0.999},
    "no mixed pairs": {
        "train#dataset#sampling_weights#kvasir_mixed_pairs": 0.0,
        "train#dataset#sampling_weights#cvc_mixed_pairs": 0.0,
    },
    "backbones learn as fast as the rest": {"backbone_factor": 1.0},
    "three times the learning rate": {"learning_rate": 0.0003},
    "one object a clip": {"max_objects": 1},
    "no soft Dice loss": {"loss#dice": 0.0},
    "neighbouring frames only": {"max_skip": 0},
    "no light, no radial warp": {"illumination": 0.0, "radial_warp": 0.0},
    "no temporal contrastive loss": {"loss#beta": 0.0},
}  # fmt: skip
"""Changed settings of configs/train.yaml, by the name of the change."""


def train(folder: Path, changes: Mapping[str, Any], seed: int, options: argparse.Namespace) -> Path:
    """Train, unless it was done before. Returns the weights: the running average at the end."""
    weights = folder / "weights.pt"
    if not weights.exists():
        folder.mkdir(parents=True, exist_ok=True)
        shared = options.output_dir / "regions"  # takes a minute to make, the same for all runs
        shared.mkdir(exist_ok=True)
        if not (folder / "regions").exists():
            (folder / "regions").symlink_to(shared)
        settings = {
            "dataset_dir": options.dataset_dir,
            "initial_weights": options.initial_weights,
            "output_dir": folder,
            "seed": seed,
            "size": options.size,
            "epochs": 1,
            "iterations_per_epoch": options.iterations,
            "warm_up": options.iterations // 10,
            "loss#warm_up": 0,
            "max_skip": 10,
            "ema_momentum": 0.05,  # averages over 20 iterations, since the run is short
            "val_interval": 2,
            "precision": options.precision,
            "threads": options.threads,
        }
        call("training train", **{**settings, **changes})
        export(weights, folder / "last.pt")
    return weights


def score(weights: Path, clips: Sequence[Clip], options: argparse.Namespace) -> dict[str, float]:
    """Mean J in percent, without first frames, over the videos of each data set."""
    options.weights = weights
    network = load_network(options)
    found: dict[str, list[float]] = {"polyps": [], "general": []}
    for clip in clips:
        scores, _ = propagate(clip, [0], network, options)
        kind = "polyps" if clip.name.startswith("sequence") else "general"
        found[kind].append(100 * fmean(scores[1:]))
    return {kind: round(fmean(each), 2) for kind, each in found.items()}


def study(options: argparse.Namespace) -> dict[str, Any]:
    """Run all trainings and score each when it ends, so that an interrupted study has results."""
    for name in ("dataset_dir", "output_dir", "initial_weights"):
        setattr(options, name, getattr(options, name).resolve())
    runs: list[tuple[str, Mapping[str, Any], int]]
    runs = [(f"unchanged, seed {seed}", {}, seed) for seed in range(options.seeds)]
    runs += [(name, CHANGES[name], 0) for name in options.changes]
    clips = list(read_clips(options))
    scores = {"before": score(options.initial_weights, clips, options)}
    logger.info("before: %s", scores["before"])
    for name, changes, seed in runs:
        folder = options.output_dir / name.replace(" ", "_").replace(",", "")
        scores[name] = score(train(folder, changes, seed, options), clips, options)
        logger.info("%s: %s", name, scores[name])
    return {
        "iterations": options.iterations,
        "size": options.size,
        "inference_size": options.inference_size,
        "jaccard": scores,
    }


def parse() -> argparse.ArgumentParser:
    parser = make_parser(__doc__)
    parser.add_argument(
        "--initial_weights", type=Path, required=True, help="weights that all trainings begin with"
    )
    parser.add_argument("--seeds", type=int, default=3, help="seeds of the unchanged recipe")
    parser.add_argument("--iterations", type=int, default=80, help="iterations of each training")
    parser.add_argument("--size", type=int, default=160, help="side of training crops, pixels")
    parser.add_argument(
        "--changes",
        nargs="+",
        choices=CHANGES,
        default=list(CHANGES),
        help="changes to try (default: all)",
    )
    parser.set_defaults(output_dir=ROOT / "output/recipe", inference_size=224)
    return parser


if __name__ == "__main__":
    run("recipe", study, parse())
