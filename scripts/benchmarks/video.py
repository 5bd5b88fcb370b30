"""Masks carried through a video by ``VideoInferer.stream``: resizing, network, memory, labels."""

import time
from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Any

import torch
from monai.bundle import ConfigParser

from benchmarks.cases import Figures, Workload
from benchmarks.scene import DriftingDisks
from bundle.devices import find_device
from bundle.inferers import VideoInferer
from bundle.networks.quantized import optimize
from bundle.options import parse_capacity

ROOT = Path(__file__).resolve().parents[2]
HUNDRED = 100
WARM_UP_FRAMES = 12  # the annotated frame, and two that are remembered


def shipped_network(variant: str, device: torch.device) -> Any:
    """The network of configs/inference.yaml: ``plain`` as it was trained, or for a backend."""
    config = ConfigParser()
    config.read_config(str(ROOT / "configs/inference.yaml"))
    network = config.get_parsed_content("loaded")
    if variant == "plain":
        return network.to(device, memory_format=torch.channels_last)
    return optimize(network, device, variant, ROOT / "models/int8")


def prepare(variant: str, settings: Mapping[str, Any]) -> Workload:
    """A video that is carried from its first frame on, at its own size; see ``Workload``."""
    device = find_device(settings["device"])
    network = shipped_network(variant, device)
    inferer = VideoInferer(
        precision=settings["precision"],
        capacity=parse_capacity(settings["capacity"]),
        direction="forward",
    )

    def carry(frames: int) -> list[float]:
        """When each frame was done."""
        video = DriftingDisks(settings["height"], settings["width"], frames, settings["objects"])
        done = [time.perf_counter()]
        for _ in inferer.stream(video, {0: video.labels(0)}, network, device):
            done.append(time.perf_counter())
        if device.type == "cuda":
            torch.cuda.synchronize(device)
            done[-1] = time.perf_counter()
        return done

    frames = settings["frames"]
    return Workload(
        warm_up=lambda: carry(min(frames, WARM_UP_FRAMES)),
        run=lambda: summarize(carry(frames)),
    )


def summarize(done: list[float]) -> Figures:
    """Milliseconds a frame, the first's included; of long videos early and late ones besides."""
    figures = {"ms_per_frame": 1000 * (done[-1] - done[0]) / (len(done) - 1)}
    # The first frame is given: its mask is not found.
    elapsed = [1000 * (b - a) for a, b in pairwise(done[1:])]
    if len(elapsed) >= 2 * HUNDRED:
        figures["ms_first_100"] = median(elapsed[:HUNDRED])
        figures["ms_last_100"] = median(elapsed[-HUNDRED:])
        figures["last_100_to_first"] = figures["ms_last_100"] / figures["ms_first_100"]
    return figures
