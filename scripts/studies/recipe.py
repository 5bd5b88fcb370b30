"""Change one thing of the training at a time, at equal budget, and score the validation sequences.

python scripts/studies/recipe.py --dataset_dir DATA --initial_weights START --output_dir OUT

DATA is the parent of CVC-ClinicDB, CAMUS, DAVIS-2016-val, ECSSD and Kvasir-SEG. The unchanged recipe
runs with several seeds, which shows how far apart runs lie that differ in nothing; the changes run with
the first. A run that was interrupted goes on where it was. Prints and writes OUT/recipe.json.
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
"""What is changed, to settings of configs/train.yaml."""


def train(folder: Path, changes: Mapping[str, Any], seed: int, options: argparse.Namespace) -> Path:
    """Weights of one training: the running average at its end."""
    weights = folder / "weights.pt"
    if not weights.exists():
        folder.mkdir(parents=True, exist_ok=True)
        shared = options.output_dir / "regions"  # they take a minute, and are the same for all
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
            "ema_momentum": 0.05,  # a run of a hundred iterations has no memory of a hundred
            "val_interval": 2,
            "precision": options.precision,
            "threads": options.threads,
        }
        call("training train", **{**settings, **changes})
        export(weights, folder / "last.pt")
    return weights


def score(weights: Path, clips: Sequence[Clip], options: argparse.Namespace) -> dict[str, float]:
    """Mean J of each data set's sequences, frames but the first, in percent."""
    options.weights = weights
    network = load_network(options)
    found: dict[str, list[float]] = {"polyps": [], "general": []}
    for clip in clips:
        scores, _ = propagate(clip, [0], network, options)
        kind = "polyps" if clip.name.startswith("sequence") else "general"
        found[kind].append(100 * fmean(scores[1:]))
    return {kind: round(fmean(each), 2) for kind, each in found.items()}


def study(options: argparse.Namespace) -> dict[str, Any]:
    """All runs, each scored at once, so that a study that is broken off has told something."""
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
    parser.add_argument("--initial_weights", type=Path, required=True)
    parser.add_argument("--seeds", type=int, default=3, help="of the unchanged recipe")
    parser.add_argument("--iterations", type=int, default=80)
    parser.add_argument("--size", type=int, default=160, help="side of training crops, pixels")
    parser.add_argument("--changes", nargs="+", choices=CHANGES, default=list(CHANGES))
    parser.set_defaults(output_dir=ROOT / "output/recipe", inference_size=224)
    return parser


if __name__ == "__main__":
    run("recipe", study, parse())
