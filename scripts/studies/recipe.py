"""Change one thing of the training recipe at a time, train equally long, and compare by videos.

    python scripts/studies/recipe.py --dataset_dir DATA --initial_weights START --output_dir OUT

DATA is the parent of the data sets' folders. The unchanged recipe and each change run with every seed,
on the same clips in the same order, and are scored by a protocol. Start it again after an interruption,
or with more seeds or changes, to go on. Prints and writes OUT/recipe.json: what each change gains, by
kind of video, and how far runs that differ in nothing but their seed lie apart.
"""

import argparse
import csv
import itertools
import logging
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

from clips import ROOT, run

from bundle.evaluation.comparison import read_scores
from bundle.evaluation.records import VideoScores, select
from bundle.evaluation.statistics import MEAN_OVER_DOMAINS, estimate_over_domains, summarise

logger = logging.getLogger(Path(__file__).stem)

UNCHANGED = "unchanged"
SLOW = {"query_encoder.key_head": 0.2, "query_encoder.query_head": 0.2}
"""Learning rates of configs/more_data.yaml without those of the parts that a change takes away."""
CHANGES: Mapping[str, Mapping[str, Any]] = {
    "no temporal contrastive loss": {"loss#beta": 0.0},
    "no context": {
        "network_def#context_channels": 0,
        "learning_rate_factors": {"decoder.previous": 5.0, **SLOW},
    },
    "no previous mask": {
        "network_def#previous_mask": False,
        "learning_rate_factors": {"decoder.context": 5.0, **SLOW},
    },
    "no prompts": {"prompted": 0.0},
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
}  # fmt: skip
"""Changed settings of configs/train.yaml, by the name of the change."""
LOSSES = ("cross_entropy", "dice", "prompted", "value_distance", "collapsed")
LAST_ROWS = 3
"""How many rows of a loss table, of 20 iterations each, are averaged for the end of a training."""


def call(what: str, configs: Sequence[str], **settings: Any) -> None:
    """Run ``python -m monai.bundle run``.

    Args:
        what: ID of the run.
        configs: Names of configs.
        settings: Values of the configs to change.
    """
    files = [f"{ROOT}/configs/{name}.yaml" for name in configs]
    command = [sys.executable, "-W", "ignore", "-m", "monai.bundle", "run", what]
    command += ["--config_file", str(files), "--logging_file", f"{ROOT}/configs/logging.conf"]
    for name, value in settings.items():
        command += [f"--{name}", str(value)]
    logger.info("%s", " ".join(command))
    subprocess.run(command, cwd=ROOT, check=True, stdout=sys.stderr)


def train(folder: Path, changes: Mapping[str, Any], seed: int, options: argparse.Namespace) -> Path:
    """Train, unless it was done before. Returns the weights: the running average at the end."""
    weights = folder / "weights.pt"
    if not weights.exists():
        folder.mkdir(parents=True, exist_ok=True)
        shared = options.output_dir / "regions"  # takes minutes to make, the same for all runs
        shared.mkdir(exist_ok=True)
        if not (folder / "regions").exists():
            (folder / "regions").symlink_to(shared)
        settings = {
            "dataset_dir": options.dataset_dir,
            "initial_weights": options.initial_weights,
            "output_dir": folder,
            "seed": seed,
            "size": options.size,
            "epochs": options.iterations // 20,
            "iterations_per_epoch": 20,
            "warm_up": options.iterations // 10,
            "loss#warm_up": 0,
            "max_skip": 10,
            "ema_momentum": 0.05,  # averages over 20 iterations, since the run is short
            "val_interval": options.iterations,
            "precision": options.precision,
            "threads": options.threads,
        }
        call("training", options.configs, **{**settings, **changes})
        script = ROOT / "scripts/dev/export_weights.py"
        command = [sys.executable, "-W", "ignore", str(script), str(weights), f"{folder}/last.pt"]
        subprocess.run(command, cwd=ROOT, check=True, stdout=sys.stderr)
    return weights


def evaluate(folder: Path, weights: Path, options: argparse.Namespace) -> list[VideoScores]:
    """Score weights on the protocol, unless it was done before."""
    if not (folder / "summary.json").exists():
        settings = {
            "protocol": options.protocol,
            "dataset_dir": options.dataset_dir,
            "weights": weights,
            "output_dir": folder,
            "inference_size": options.inference_size,
            "baselines": False,
            "save_masks": False,
            "precision": options.precision,
            "threads": options.threads,
        }
        call("evaluating", ["train", "evaluate"], **settings)
    return select(read_scores(folder))


def gains(pairs: Sequence[tuple[list[VideoScores], list[VideoScores]]]) -> dict[str, Any]:
    """Gain in J of the second of each pair over the first, in points, with intervals over videos.

    Args:
        pairs: One for each seed. The gain of an object is the mean over the seeds.

    Returns:
        For each kind of video, and their mean: ``mean``, ``low``, ``high``.
    """
    found: dict[str, dict[str, dict[int, list[float]]]] = {}
    for before, after in pairs:
        known = {(one.video, one.object_id): one.mean("jaccard") for one in before}
        for one in after:
            gain = one.mean("jaccard") - known[one.video, one.object_id]
            videos = found.setdefault(one.domain, {})
            videos.setdefault(one.video, {}).setdefault(one.object_id, []).append(gain)
    domains = {
        name: [[fmean(seeds) for seeds in objects.values()] for objects in videos.values()]
        for name, videos in found.items()
    }
    table = {name: rounded(estimate_over_domains([each])) for name, each in domains.items()}
    return {**table, MEAN_OVER_DOMAINS: rounded(estimate_over_domains(list(domains.values())))}


def mean_scores(scores: Sequence[VideoScores]) -> dict[str, Any]:
    """Mean J in percent of each kind of video, and their mean."""
    found = summarise(scores)
    table = {name: each["jaccard"]["mean"] for name, each in found["domains"].items()}
    return rounded({**table, MEAN_OVER_DOMAINS: found["mean"]["jaccard"]["mean"]})


def rounded(values: Mapping[str, float | None]) -> dict[str, float | None]:
    return {name: None if value is None else round(value, 2) for name, value in values.items()}


def read_losses(folder: Path) -> dict[str, float]:
    """Average the last rows of a loss table. They show whether the memory values have collapsed."""
    with (folder / "losses.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))[-LAST_ROWS:]
    kept = {name: [float(row[name]) for row in rows if row.get(name)] for name in LOSSES}
    return {name: round(fmean(values), 4) for name, values in kept.items() if values}


def study(options: argparse.Namespace) -> dict[str, Any]:
    """Run all trainings, score each when it ends, and compare."""
    for name in ("dataset_dir", "output_dir", "initial_weights"):
        setattr(options, name, getattr(options, name).resolve())
    before = evaluate(options.output_dir / "before", options.initial_weights, options)
    logger.info("before: %s", mean_scores(before))
    scores: dict[str, list[list[VideoScores]]] = {}
    losses: dict[str, list[dict[str, float]]] = {}
    for seed in range(options.seeds):
        for name in (UNCHANGED, *options.changes):
            folder = options.output_dir / f"{name.replace(' ', '_').replace(',', '')}_{seed}"
            weights = train(folder, CHANGES.get(name, {}), seed, options)
            found = evaluate(folder / "scores", weights, options)
            logger.info("%s, seed %d: %s", name, seed, mean_scores(found))
            scores.setdefault(name, []).append(found)
            losses.setdefault(name, []).append(read_losses(folder))
    plain = scores[UNCHANGED]
    return {
        "iterations": options.iterations,
        "size": options.size,
        "inference_size": options.inference_size,
        "jaccard_before": mean_scores(before),
        "jaccard": {name: list(map(mean_scores, each)) for name, each in scores.items()},
        "end_of_training": losses,
        "gain_of_training": gains([(before, each) for each in plain]),
        "gain_of_change": {
            name: gains(list(zip(plain, scores[name], strict=True))) for name in options.changes
        },
        "gain_of_another_seed": [gains([pair]) for pair in itertools.combinations(plain, 2)],
    }


def make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument(
        "--dataset_dir", type=Path, default=ROOT / "data", help="folder that holds the data sets"
    )
    parser.add_argument(
        "--output_dir", type=Path, default=ROOT / "output/recipe", help="folder of the results"
    )
    parser.add_argument(
        "--initial_weights", type=Path, required=True, help="weights that all trainings begin with"
    )
    parser.add_argument(
        "--configs", nargs="+", default=["train", "more_data"], help="configs of the recipe"
    )
    parser.add_argument(
        "--changes",
        nargs="+",
        choices=CHANGES,
        default=list(CHANGES),
        help="changes to try (default: all)",
    )
    parser.add_argument("--seeds", type=int, default=3, help="number of seeds")
    parser.add_argument("--iterations", type=int, default=80, help="of each training; 20, 40, ...")
    parser.add_argument("--size", type=int, default=160, help="side of training crops, pixels")
    parser.add_argument("--protocol", default="selection", help="what they are scored by")
    parser.add_argument("--inference_size", type=int, default=224, help="shorter side, pixels")
    parser.add_argument("--precision", default="float32", help="float32, bfloat16 or float16")
    parser.add_argument("--threads", type=int, default=2, help="threads of PyTorch")
    return parser


if __name__ == "__main__":
    run("recipe", study, make_parser())
