"""Check a GPU: compare its masks with those of the CPU, measure times, and train for 200 steps.

    python scripts/dev/check_device.py --device cuda --output_dir output/device

Needs no data: the video is synthetic. On a GPU it should take less than 5 minutes, with ``--tensorrt``,
which builds engines for the GPU first, longer. With ``--device cpu --train_steps 20`` it runs anywhere:
over fewer steps the loss may still rise. Prints a table and writes OUTPUT_DIR/device.json. The exit
status is 1 if masks differ or the loss does not fall.
"""

import argparse
import json
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from statistics import fmean, median
from typing import Any

import torch
from benchmarks.cases import CASES
from benchmarks.scene import DriftingDisks
from benchmarks.training import make_step
from benchmarks.video import make_network
from monai.bundle import ConfigParser

from bundle.evaluation.simulated_user import dice
from bundle.inference.inferers import VideoInferer
from bundle.utils.atomic_write import written_beside
from bundle.utils.bundle_files import bundle_root
from bundle.utils.devices import PRECISIONS, find_device

LEAST_DICE = 0.99
"""Smallest mean Dice at which the masks of a precision count as those of the CPU."""
VIDEOS = ("video", "video_3_objects", "video_480x854")
COMPILED_RUNS = 3


def segment(
    network: Any, device: torch.device, precision: str, case: str, frames: int
) -> tuple[list[Any], list[float]]:
    """Segment the video of a benchmark case. Returns label maps, and the time after each in seconds."""
    settings = CASES[case].settings
    size = settings["height"], settings["width"]
    video = DriftingDisks(*size, frames, settings["objects"])
    inferer = VideoInferer(precision=precision, direction="forward")
    done, labels = [time.perf_counter()], []
    for result in inferer.stream(video, {0: video.labels(0)}, network, device):
        labels.append(result.labels)  # in CPU memory, so the device has finished
        done.append(time.perf_counter())
    return labels, done


def milliseconds(done: Sequence[float]) -> float:
    """Median time of a frame in milliseconds, without the first, whose mask is given."""
    return 1000 * median(b - a for a, b in pairwise(done[1:]))


def load_tensorrt(device: torch.device) -> Any:
    """Load the shipped network as configs/inference_trt.yaml does, with engines at the first frames."""
    names = ("inference.yaml", "inference_trt.yaml")
    files = [str(bundle_root() / "configs" / name) for name in names]
    config = ConfigParser(ConfigParser.load_config_files(files))
    config["device"] = str(device)
    config.get_parsed_content("trt_dir").mkdir(parents=True, exist_ok=True)
    return config.get_parsed_content("network")


def compare_masks(device: torch.device, frames: int, tensorrt: Any = None) -> list[dict[str, Any]]:
    """Compare the masks of each precision with those of float32 on the CPU: mean and lowest Dice.

    Args:
        device: Where the network runs that is compared.
        frames: Length of the video.
        tensorrt: The network of ``load_tensorrt``, which is compared too; None if there is none.
    """
    cpu = torch.device("cpu")
    expected, _ = segment(make_network("plain", cpu), cpu, "float32", "video", frames)
    network = make_network("torch", device)
    runs = [(name, network, name) for name in PRECISIONS]
    if tensorrt is not None:
        runs.append(("tensorrt", tensorrt, "auto"))
    rows = []
    for name, each, precision in runs:
        found, _ = segment(each, device, precision, "video", frames)
        pairs = zip(found[1:], expected[1:], strict=True)
        agreement = [dice(a == 1, b == 1) for a, b in pairs]
        rows.append({"precision": name, "mean": fmean(agreement), "least": min(agreement)})
    return rows


@contextmanager
def compiled(network: Any) -> Iterator[None]:
    """Compile the encoder with ``torch.compile`` (CUDA graphs on a GPU) while the block runs."""
    encode = network.encode
    network.encode = torch.compile(encode, mode="reduce-overhead")
    try:
        yield
    finally:
        network.encode = encode


def time_videos(
    device: torch.device, frames: int, with_compile: bool, tensorrt: Any = None
) -> list[dict[str, Any]]:
    """Measure milliseconds a frame of cases of docs/benchmarks.md.

    Args:
        device: Where the network runs.
        frames: Length of the videos.
        with_compile: Whether to measure a compiled encoder, too.
        tensorrt: See ``compare_masks``.
    """
    network = make_network("torch", device)
    rows = []
    for case in VIDEOS:
        segment(network, device, "auto", case, 12)  # warms up
        _, done = segment(network, device, "auto", case, frames)
        row = {"case": case, "ms": milliseconds(done)}
        if with_compile:
            with compiled(network):
                segment(network, device, "auto", case, 12)
                _, done = segment(network, device, "auto", case, frames)
            row["ms_compiled"] = milliseconds(done)
        if tensorrt is not None:
            segment(tensorrt, device, "auto", case, 12)
            _, done = segment(tensorrt, device, "auto", case, frames)
            row["ms_tensorrt"] = milliseconds(done)
        rows.append(row)
    return rows


def train(device: torch.device, steps: int, precision: str) -> dict[str, Any]:
    """Train by configs/train.yaml on the same clips. Returns the time a step and the losses."""
    settings = {**CASES["training"].settings, "device": str(device)}
    step = make_step("folded", {**settings, "overrides": {"precision": precision}})
    losses, spent = [], []
    for _ in range(steps):
        begin = time.perf_counter()
        losses.append(step())
        spent.append(time.perf_counter() - begin)
    return {
        "precision": precision, "steps": steps, "s_per_step": median(spent),
        "first_loss": losses[0], "last_loss": losses[-1],
    }  # fmt: skip


def check(options: argparse.Namespace) -> dict[str, Any]:
    """Run all three parts and print what they find."""
    device = find_device(options.device)
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else str(device)
    print(f"{name}, PyTorch {torch.__version__}", flush=True)
    found: dict[str, Any] = {"device": name, "torch": torch.__version__}
    tensorrt = load_tensorrt(device) if options.tensorrt else None
    found["masks"] = compare_masks(device, options.frames, tensorrt)
    for row in found["masks"]:
        print("masks, {precision}: Dice {mean:.4f}, least {least:.4f}".format(**row), flush=True)
    found["times"] = time_videos(device, options.frames, options.compile, tensorrt)
    for row in found["times"]:
        print(
            ", ".join(f"{k} {v if isinstance(v, str) else f'{v:.1f}'}" for k, v in row.items()),
            flush=True,
        )
    found["training"] = train(device, options.train_steps, options.train_precision)
    print(
        "training, {precision}: {steps} steps, {s_per_step:.3f} s a step, loss {first_loss:.3f} to "
        "{last_loss:.3f}".format(**found["training"])
    )
    return found


def faults(found: dict[str, Any]) -> list[str]:
    """List what is wrong with masks and training; empty if all is well."""
    training = found["training"]
    wrong = [
        f"{row['precision']}: expected masks like the CPU's, got a Dice of {row['mean']:.3f}"
        for row in found["masks"]
        if row["mean"] < LEAST_DICE
    ]
    if not training["last_loss"] < training["first_loss"]:
        wrong.append(
            f"training: expected a loss below {training['first_loss']:.3f} after "
            f"{training['steps']} steps, got {training['last_loss']:.3f}"
        )
    return wrong


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:N or mps")
    parser.add_argument(
        "--output_dir", type=Path, default=Path("output/device"), help="folder of device.json"
    )
    parser.add_argument("--frames", type=int, default=30, help="length of each video")
    parser.add_argument("--train_steps", type=int, default=200, help="number of training steps")
    parser.add_argument(
        "--train_precision",
        default="auto",
        choices=("auto", *PRECISIONS),
        help="precision of the training",
    )
    parser.add_argument("--compile", action="store_true", help="also time a compiled encoder")
    parser.add_argument("--tensorrt", action="store_true", help="also check and time TensorRT")
    options = parser.parse_args(arguments)
    begin = time.perf_counter()
    try:
        found = check(options)
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    found["seconds"] = time.perf_counter() - begin
    wrong = faults(found)
    options.output_dir.mkdir(parents=True, exist_ok=True)
    with written_beside(options.output_dir / "device.json") as beside:
        beside.write_text(json.dumps({**found, "faults": wrong}, indent=1) + "\n")
    print("\n".join(wrong) or f"all is well, {found['seconds']:.0f} s")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
