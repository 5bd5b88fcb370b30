"""Ablation of the paper: train with and without the temporal contrastive loss, for the same time.

python scripts/studies/ablation.py --dataset_dir DATA --initial_weights START --output_dir OUT

DATA is the folder that holds CVC-ClinicDB, CAMUS, DAVIS-2016-val, ECSSD and Kvasir-SEG. START should be
weights that were not trained with this loss (L_tc), such as the best.pt of configs/pretrain.yaml. For
each seed, both trainings see the same clips in the same order. Start it again after an interruption to
go on. Prints and writes OUT/ablation.json.
"""

import argparse
import csv
import logging
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean, median
from typing import Any

from clips import ROOT, interval, run

logger = logging.getLogger(Path(__file__).stem)

KINDS = ("with", "without")
PROTOCOLS = {"cvc_clinicdb": "CVC-ClinicDB", "camus_seen": "CAMUS", "camus_unseen": "CAMUS"}
SCORES = ("jaccard", "boundary", "dice")
LAST_ROWS = 5

Scores = dict[tuple[str, str], dict[str, float]]
"""Scores in percent, by class and video."""


def call(config: str, **settings: Any) -> None:
    """Run ``python -m monai.bundle run``.

    Args:
        config: ID of the run, then names of configs, with spaces between.
        settings: Values of the configs to change.
    """
    run_id, *files = config.split()
    files = [f"{ROOT}/configs/{name}.yaml" for name in files]
    command = [sys.executable, "-W", "ignore", "-m", "monai.bundle", "run", run_id]
    command += ["--config_file", str(files), "--logging_file", f"{ROOT}/configs/logging.conf"]
    for name, value in settings.items():
        command += [f"--{name}", str(value)]
    logger.info("%s", " ".join(command))
    subprocess.run(command, cwd=ROOT, check=True, stdout=sys.stderr)


def export(weights: Path, checkpoint: Path) -> None:
    """Convert a checkpoint to a weights file with scripts/dev/export_weights.py."""
    script = ROOT / "scripts/dev/export_weights.py"
    command = [sys.executable, "-W", "ignore", str(script), str(weights), str(checkpoint)]
    subprocess.run(command, cwd=ROOT, check=True, stdout=sys.stderr)


def train(folder: Path, beta: float, seed: int, options: argparse.Namespace) -> Path:
    """Train, unless it was done before. Returns the weights: the running average at the end."""
    weights = folder / "weights.pt"
    if not weights.exists():
        settings = {
            "dataset_dir": options.dataset_dir,
            "initial_weights": options.initial_weights,
            "output_dir": folder,
            "loss#beta": beta,
            "seed": seed,
            "size": options.size,
            "epochs": options.epochs,
            "iterations_per_epoch": options.iterations_per_epoch,
            "val_interval": options.epochs + 1,
            "precision": options.precision,
            "threads": options.threads,
        }
        call("training train", **settings)
        export(weights, folder / "last.pt")
    return weights


def evaluate(folder: Path, protocol: str, weights: Path, options: argparse.Namespace) -> Scores:
    """Score weights on a protocol, unless it was done before. Returns scores by class and video."""
    if not (folder / "metrics.csv").exists():
        settings = {
            "protocol": protocol,
            "dataset_dir": options.dataset_dir / PROTOCOLS[protocol],
            "weights": weights,
            "output_dir": folder,
            "inference_size": options.inference_size,
            "baselines": False,
            "save_masks": False,
            "precision": options.precision,
            "threads": options.threads,
        }
        call("evaluating train evaluate", **settings)
    with (folder / "metrics.csv").open(newline="") as file:
        return {
            (row["class"], row["video"]): {score: float(row[score]) for score in SCORES}
            for row in csv.DictReader(file)
        }


def read_values(folder: Path) -> dict[str, float]:
    """Average the last rows of a loss table. They show whether the memory values have collapsed."""
    with (folder / "losses.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))[-LAST_ROWS:]
    names = ("cross_entropy", "dice", "value_distance", "collapsed")
    return {name: round(fmean(float(row[name]) for row in rows), 4) for name in names}


def compare(found: Mapping[str, Sequence[Scores]]) -> dict[str, Any]:
    """Compare the scores with and without the loss.

    Args:
        found: Scores of each seed, for ``with`` and ``without``.

    Returns:
        For each class and score: the mean over videos of each seed, the difference (with minus
        without) of each seed, and the mean difference over seeds, with a bootstrap interval over
        videos.
    """
    table: dict[str, Any] = {}
    keys = list(found["with"][0])
    for name in dict.fromkeys(name for name, _ in keys):
        videos = [video for other, video in keys if other == name]
        table[name] = {"videos": len(videos)}
        for score in SCORES:
            values = {
                kind: [[one[name, video][score] for video in videos] for one in found[kind]]
                for kind in KINDS
            }
            apart = [
                [a - b for a, b in zip(*seed, strict=True)]
                for seed in zip(values["with"], values["without"], strict=True)
            ]
            table[name][score] = {
                **{kind: [round(fmean(seed), 2) for seed in values[kind]] for kind in KINDS},
                "difference_of_each_seed": [round(fmean(seed), 2) for seed in apart],
                "difference": interval([fmean(video) for video in zip(*apart, strict=True)]),
            }
    return table


def study(options: argparse.Namespace) -> dict[str, Any]:
    """Run all trainings, then all evaluations, and compare."""
    for name in ("dataset_dir", "output_dir", "initial_weights"):
        setattr(options, name, getattr(options, name).resolve())
    betas = {"with": options.beta, "without": 0.0}
    runs = [(seed, kind) for seed in range(options.seeds) for kind in KINDS]
    folders = {one: options.output_dir / f"seed{one[0]}_{one[1]}" for one in runs}
    weights = {
        (seed, kind): train(folder, betas[kind], seed, options)
        for (seed, kind), folder in folders.items()
    }
    protocols = {}
    for protocol in options.protocols:
        found: dict[str, list[Scores]] = {kind: [] for kind in KINDS}
        for one, folder in folders.items():
            found[one[1]].append(evaluate(folder / protocol, protocol, weights[one], options))
        protocols[protocol] = compare(found)
    values = {kind: [read_values(folders[one]) for one in runs if one[1] == kind] for kind in KINDS}
    return {
        "iterations": options.epochs * options.iterations_per_epoch,
        "size": options.size,
        "inference_size": options.inference_size,
        "betas": betas,
        "median_value_distance": {
            kind: median(one["value_distance"] for one in values[kind]) for kind in KINDS
        },
        "end_of_training": values,
        "protocols": protocols,
    }


def make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--dataset_dir", type=Path, default=ROOT / "data", help="folder that holds the data sets"
    )
    parser.add_argument(
        "--output_dir", type=Path, default=ROOT / "output/ablation", help="folder of the results"
    )
    parser.add_argument(
        "--initial_weights", type=Path, required=True, help="weights that all trainings begin with"
    )
    parser.add_argument("--seeds", type=int, default=3, help="number of seeds")
    parser.add_argument(
        "--beta", type=float, default=0.05, help="weight of L_tc in the runs that have it"
    )
    parser.add_argument("--epochs", type=int, default=3, help="epochs of each training")
    parser.add_argument(
        "--iterations_per_epoch", type=int, default=100, help="iterations of each epoch"
    )
    parser.add_argument("--size", type=int, default=160, help="side of training crops, pixels")
    parser.add_argument("--inference_size", type=int, default=224, help="shorter side, pixels")
    parser.add_argument("--precision", default="float32", help="float32, bfloat16 or float16")
    parser.add_argument("--threads", type=int, default=2, help="threads of PyTorch")
    parser.add_argument(
        "--protocols",
        nargs="+",
        choices=PROTOCOLS,
        default=list(PROTOCOLS),
        help="protocols to evaluate on (default: all)",
    )
    return parser


if __name__ == "__main__":
    run("ablation", study, make_parser())
