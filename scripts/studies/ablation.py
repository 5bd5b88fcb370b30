"""Train with and without the temporal contrastive loss at equal budget: the paper's ablation.

python scripts/studies/ablation.py --dataset_dir DATA --initial_weights START --output_dir OUT

DATA is the parent of CVC-ClinicDB, CAMUS, DAVIS-2016-val, ECSSD and Kvasir-SEG; START should be weights
that never saw L_tc, such as the best.pt of configs/pretrain.yaml. Both kinds of a seed see the same
clips in the same order. A run that was interrupted goes on where it was. Prints and writes
OUT/ablation.json.
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
"""Of a class and a video, in percent."""


def call(config: str, **settings: Any) -> None:
    """``python -m monai.bundle run ID``, its settings given as on the command line."""
    run_id, *files = config.split()
    files = [f"{ROOT}/configs/{name}.yaml" for name in files]
    command = [sys.executable, "-W", "ignore", "-m", "monai.bundle", "run", run_id]
    command += ["--config_file", str(files), "--logging_file", f"{ROOT}/configs/logging.conf"]
    for name, value in settings.items():
        command += [f"--{name}", str(value)]
    logger.info("%s", " ".join(command))
    subprocess.run(command, cwd=ROOT, check=True, stdout=sys.stderr)


def export(weights: Path, checkpoint: Path) -> None:
    """Write the running average of a training's weights as a plain state dict."""
    script = ROOT / "scripts/dev/export_weights.py"
    command = [sys.executable, "-W", "ignore", str(script), str(weights), str(checkpoint)]
    subprocess.run(command, cwd=ROOT, check=True, stdout=sys.stderr)


def train(folder: Path, beta: float, seed: int, options: argparse.Namespace) -> Path:
    """Weights of one training, the running average at its end."""
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
    """The network's scores of each video and class of a protocol."""
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
    """The last rows of a training's loss table: did the values collapse, does a frame change them?"""
    with (folder / "losses.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))[-LAST_ROWS:]
    names = ("cross_entropy", "dice", "value_distance", "collapsed")
    return {name: round(fmean(float(row[name]) for row in rows), 4) for name in names}


def compare(found: Mapping[str, Sequence[Scores]]) -> dict[str, Any]:
    """Means of each class, and the differences with - without.

    Args:
        found: Of each kind, the scores of each seed.

    Returns:
        For each class and score: the means over seeds and videos, the difference of each seed, and
        that of all with a bootstrap interval over videos, each of them the mean over seeds.
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
    """All trainings, then all evaluations, so that what fails does so early."""
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
    parser.add_argument("--dataset_dir", type=Path, default=ROOT / "data")
    parser.add_argument("--output_dir", type=Path, default=ROOT / "output/ablation")
    parser.add_argument("--initial_weights", type=Path, required=True)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--beta", type=float, default=0.05, help="of the runs with L_tc")
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--iterations_per_epoch", type=int, default=100)
    parser.add_argument("--size", type=int, default=160, help="side of training crops, pixels")
    parser.add_argument("--inference_size", type=int, default=224, help="shorter side, pixels")
    parser.add_argument("--precision", default="float32")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--protocols", nargs="+", choices=PROTOCOLS, default=list(PROTOCOLS))
    return parser


if __name__ == "__main__":
    run("ablation", study, make_parser())
