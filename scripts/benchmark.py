"""Measure speed and memory; prints one line of JSON per case.

python scripts/benchmark.py --frames 30 --size 384 --threads 2 --backends torch int8
python scripts/benchmark.py --case training --size 224 --threads 2
python scripts/benchmark.py --case loader --dataset_dir DATA

``video`` carries masks through random frames with the shipped network, as it was trained and as each
backend runs it. ``training`` times steps on random clips, each way of computing in turn, and says
where the time goes. ``loader`` makes the batches of configs/train.yaml and trains nothing.
"""

import argparse
import json
import platform
import resource
import statistics
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from monai.bundle import ConfigParser

from bundle.devices import autocast, find_device
from bundle.engines import parameter_groups
from bundle.inferers import ClipInferer, VideoInferer
from bundle.networks.quantized import optimize
from bundle.networks.tcmn import VideoNetwork
from bundle.options import parse_capacity

ROOT = Path(__file__).resolve().parents[1]


def measure_video(options: argparse.Namespace) -> dict[str, Any]:
    """Frames per second of whole videos, first frame and its memorising included, of each backend.

    ``plain`` is the network as it was trained. The wall is what its query trunk alone would allow.
    Backends take turns, so that what else the machine does falls on all.
    """
    device = find_device(options.device)
    config = ConfigParser()
    config.read_config(str(ROOT / "configs/inference.yaml"))
    loaded = config.get_parsed_content("loaded")
    networks = {"plain": loaded.to(device, memory_format=torch.channels_last)}
    for backend in options.backends:
        networks[backend] = optimize(loaded, device, backend, ROOT / "models/int8")
    inferer = VideoInferer(
        precision=options.precision, capacity=parse_capacity(options.capacity), direction="forward"
    )
    random = np.random.default_rng(0)
    size = (options.size, options.size)
    frames = random.integers(0, 256, (options.frames, *size, 3), dtype=np.uint8)
    stripe = np.arange(options.size) * (options.objects + 1) // options.size
    mask = np.broadcast_to(stripe, size).astype(np.uint8)
    image = torch.rand(1, 3, *size, device=device).contiguous(memory_format=torch.channels_last)

    def segment(network: VideoNetwork) -> int:
        count = sum(1 for _ in inferer.stream(list(frames), {0: mask}, network, device))
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        return count

    def encode(module: Callable[[torch.Tensor], Any]) -> int:
        with torch.inference_mode(), autocast(options.precision, device):
            for _ in range(options.frames):
                module(image)
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        return options.frames

    runs: dict[str, Callable[[], int]] = {
        name: partial(segment, network) for name, network in networks.items()
    }
    runs["wall, plain"] = partial(encode, networks["plain"].query_encoder.trunk)
    for name, network in networks.items():
        runs[f"encoder, {name}"] = partial(encode, network.encode)
    result: dict[str, Any] = {"fps": rates(runs, options.runs)}
    middle = {name: each["median"] for name, each in result["fps"].items()}
    result["times_faster_than_plain"] = {
        name: round(middle[name] / middle["plain"], 2) for name in networks
    }
    if device.type == "cuda":
        result["peak_device_mb"] = round(torch.cuda.max_memory_allocated(device) / 2**20)
    return result


TRAINING_VARIANTS: dict[str, dict[str, Any]] = {
    "float32": {"precision": "float32", "layout": torch.contiguous_format, "fused": False},
    "channels_last": {"precision": "float32", "layout": torch.channels_last, "fused": False},
    "channels_last, fused": {"precision": "float32", "layout": torch.channels_last, "fused": True},
    "bfloat16": {"precision": "bfloat16", "layout": torch.contiguous_format, "fused": False},
    "bfloat16, channels_last": {
        "precision": "bfloat16", "layout": torch.channels_last, "fused": False
    },
}  # fmt: skip
OPERATIONS = {
    "convolution, backwards": ("convolution_backward",),
    "convolution": ("mkldnn_convolution", "cudnn_convolution"),
    "batch normalisation": ("batch_norm",),
    "memory read": ("bmm", "softmax", "scaled_dot_product"),
    "optimiser": ("lerp_", "addcmul_", "addcdiv_", "sqrt", "_fused_adamw"),
}


def measure_training(options: argparse.Namespace) -> dict[str, Any]:
    """Seconds a step of each variant, in turn, so that what else the machine does falls on all."""
    steps = {name: make_step(options, **how) for name, how in TRAINING_VARIANTS.items()}
    for step in steps.values():
        step()
    seconds: dict[str, list[float]] = {name: [] for name in steps}
    for _ in range(options.runs):
        for name, step in steps.items():
            seconds[name] += [elapsed for _, elapsed in timed(step, 1)]
    middle = {name: statistics.median(each) for name, each in seconds.items()}
    best = min(middle, key=lambda name: middle[name])
    return {
        "seconds_per_step": {name: round(value, 3) for name, value in middle.items()},
        "times_faster_than_float32": {
            name: round(middle["float32"] / value, 2) for name, value in middle.items()
        },
        "where_time_goes_percent": {best: profile_step(steps[best])},
    }


def make_step(
    options: argparse.Namespace, precision: str, layout: torch.memory_format, fused: bool
) -> Callable[[], int]:
    """One iteration of configs/train.yaml on random clips."""
    config = ConfigParser()
    config.read_config(str(ROOT / "configs/train.yaml"))
    network = config.get_parsed_content("network_def").train().to(memory_format=layout)
    groups = parameter_groups(network, 1e-4, 0.2, config["frozen"])
    optimizer = torch.optim.AdamW(groups, weight_decay=0.01, fused=fused)
    loss = config.get_parsed_content("loss")
    inferer = ClipInferer(precision)
    clip = torch.rand(config["batch_size"], 4, options.size, options.size, 3)
    clip[:, 3] = 0
    clip[:, 3, : options.size // 2, : options.size // 2] = 1
    target = {
        "label": clip[:, 3].long(),
        "ordered": torch.ones(len(clip), dtype=torch.bool),
        "present": torch.ones(len(clip), 1, dtype=torch.bool),
    }

    def step() -> int:
        optimizer.zero_grad()
        loss(inferer(clip, network, return_values=True), target).backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimizer.step()
        return 1

    return step


def profile_step(step: Callable[[], int]) -> dict[str, float]:
    """Share of the time of one step, by kind of operation."""
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as recorded:
        step()
    spent = dict.fromkeys([*OPERATIONS, "everything else"], 0.0)
    for event in recorded.key_averages():
        kinds = (
            kind
            for kind, names in OPERATIONS.items()
            if any(event.key == f"aten::{name}" or name in event.key for name in names)
        )
        spent[next(kinds, "everything else")] += event.self_cpu_time_total
    total = sum(spent.values())
    return {kind: round(100 * value / total, 1) for kind, value in spent.items()}


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

    return {
        "workers": options.workers,
        "clips_per_s": rates({"loader": run}, options.runs)["loader"],
    }


def rates(runs: Mapping[str, Callable[[], int]], times: int) -> dict[str, dict[str, float]]:
    """Median and extremes of each run's count per second, in turn, after one to warm up."""
    for run in runs.values():
        run()
    found: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(times):
        for name, run in runs.items():
            found[name] += [count / seconds for count, seconds in timed(run, 1)]
    return {
        name: {
            "median": round(statistics.median(each), 2),
            "min": round(min(each), 2),
            "max": round(max(each), 2),
        }
        for name, each in found.items()
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


CASES = {"video": measure_video, "training": measure_training, "loader": measure_loader}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--case", choices=CASES, default="video")
    parser.add_argument("--frames", type=int, default=30)
    parser.add_argument("--size", type=int, default=384, help="side of the frames, pixels")
    parser.add_argument("--objects", type=int, default=1)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--device", default="auto")
    parser.add_argument("--precision", default="auto")
    parser.add_argument("--backends", nargs="*", default=["torch"], help="video only: torch, int8")
    parser.add_argument("--capacity", default="null", help="video only: frames remembered")
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
