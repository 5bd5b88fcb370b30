"""Measure speed and memory; prints one line of JSON per case.

python scripts/benchmark.py --frames 30 --size 384 --threads 2
python scripts/benchmark.py --case loader --dataset_dir DATA

``video`` carries random masks through random frames with the shipped network; weights do not change
how long that takes. ``loader`` makes the batches of configs/train.yaml and trains nothing.
"""

import argparse
import json
import platform
import resource
import statistics
import subprocess
import time
from collections.abc import Callable, Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from monai.bundle import ConfigParser

from bundle.inferers import VideoInferer, find_device

ROOT = Path(__file__).resolve().parents[1]


def measure_video(options: argparse.Namespace) -> dict[str, Any]:
    """Frames per second of whole videos, first frame and its memorising included."""
    device = find_device(options.device)
    config = ConfigParser()
    config.read_config(str(ROOT / "configs/train.yaml"))
    network = config.get_parsed_content("network_def").eval()
    network = network.to(device, memory_format=torch.channels_last)
    inferer = VideoInferer(precision=options.precision)
    random = np.random.default_rng(0)
    size = (options.size, options.size)
    frames = random.integers(0, 256, (options.frames, *size, 3), dtype=np.uint8)
    stripe = np.arange(options.size) * (options.objects + 1) // options.size
    mask = np.broadcast_to(stripe, size).astype(np.uint8)

    def run() -> int:
        stream = inferer.stream(iter(frames), {0: mask}, network, device)
        count = sum(1 for _ in stream)
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        return count

    result = rate(run, options.runs, "fps")
    if device.type == "cuda":
        result["peak_device_mb"] = round(torch.cuda.max_memory_allocated(device) / 2**20)
    return result


def measure_loader(options: argparse.Namespace) -> dict[str, Any]:
    """Clips per second; workers start before the clock does."""
    config = ConfigParser()
    config.read_config(str(ROOT / "configs/train.yaml"))
    config["dataset_dir"], config["output_dir"] = str(options.dataset_dir), str(options.output_dir)
    config["workers"] = options.workers
    config["iterations_per_epoch"] = (options.runs + 1) * options.batches
    loader = config.get_parsed_content("train#dataloader")
    batches = iter(loader)

    def run() -> int:
        return sum(len(next(batches)["name"]) for _ in range(options.batches))

    return {"workers": options.workers, **rate(run, options.runs, "clips_per_s")}


def rate(run: Callable[[], int], runs: int, unit: str) -> dict[str, Any]:
    """Median and extremes of ``run``'s count per second, after one run to warm up."""
    run()
    rates = [count / seconds for count, seconds in timed(run, runs)]
    return {
        unit: round(statistics.median(rates), 2),
        f"{unit}_min": round(min(rates), 2),
        f"{unit}_max": round(max(rates), 2),
    }


def timed(run: Callable[[], int], runs: int) -> Iterator[tuple[int, float]]:
    """What ``run`` gives, and how many seconds it takes."""
    for _ in range(runs):
        begin = time.perf_counter()
        count = run()
        yield count, time.perf_counter() - begin


def surroundings() -> dict[str, Any]:
    """What a figure depends on besides the options."""
    commit = subprocess.run(
        ["git", "-C", str(ROOT), "rev-parse", "--short", "HEAD"],
        capture_output=True,
        text=True,
        check=False,
    ).stdout.strip()
    return {
        # Linux counts in KiB.
        "peak_rss_mb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024),
        "torch": version("torch"),
        "monai": version("monai"),
        "python": platform.python_version(),
        "commit": commit or None,
    }


CASES = {"video": measure_video, "loader": measure_loader}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--case", choices=CASES, default="video")
    parser.add_argument("--frames", type=int, default=30)
    parser.add_argument("--size", type=int, default=384, help="side of the frames, pixels")
    parser.add_argument("--objects", type=int, default=1)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--device", default="auto")
    parser.add_argument("--precision", default="auto")
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--dataset_dir", type=Path, default=ROOT / "data", help="loader only")
    parser.add_argument("--output_dir", type=Path, default=ROOT / "output/benchmark")
    parser.add_argument("--workers", type=int, default=1, help="loader only")
    parser.add_argument("--batches", type=int, default=10, help="loader only: of each run")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    result = CASES[options.case](options)
    settings = {name: str(value) for name, value in vars(options).items()}
    print(json.dumps({**result, **surroundings(), "settings": settings}))


if __name__ == "__main__":
    main()
