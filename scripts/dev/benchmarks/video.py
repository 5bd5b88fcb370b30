"""Measure inference on a video by ``VideoInferer.stream``: resizing, network, memory, labels."""

import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from itertools import pairwise
from statistics import median
from typing import Any

import torch

from benchmarks.cases import Figures, Workload
from benchmarks.scene import DriftingDisks
from bundle.backends.openvino import optimize
from bundle.inference.config import read_inference_config
from bundle.inference.inferers import VideoInferer
from bundle.networks.tcmn import STRIDE
from bundle.utils.devices import autocast, find_device

HUNDRED = 100
WARM_UP_FRAMES = 12  # the annotated frame, and two that are remembered


ENCODED = 20


def make_network(variant: str, device: torch.device) -> Any:
    """Load the shipped network.

    Args:
        variant: ``plain``, as it was trained, or the name of a backend that it is optimised for.
        device: Device to run on.
    """
    config = read_inference_config()
    network = config.get_parsed_content("loaded")
    if variant == "plain":
        return network.to(device, memory_format=torch.channels_last)
    return optimize(network, device, variant, config.get_parsed_content("int8_dir"))


def prepare(variant: str, settings: Mapping[str, Any]) -> Workload:
    """Prepare a synthetic video that is segmented from its first mask, at its own size."""
    device = find_device(settings["device"])
    network = make_network(variant, device)
    inferer = VideoInferer(
        precision=settings["precision"],
        max_memory_frames=settings["max_memory_frames"],
        direction="forward",
        spatial_prior="auto",
    )

    def propagate(frames: int) -> list[float]:
        """Segment the video. Returns the time at the start and after each frame, in seconds."""
        video = DriftingDisks(settings["height"], settings["width"], frames, settings["objects"])
        done = [time.perf_counter()]
        for _ in inferer.stream(video, {0: video.labels(0)}, network, device):
            done.append(time.perf_counter())
        if device.type == "cuda":
            torch.cuda.synchronize(device)
            done[-1] = time.perf_counter()
        return done

    @torch.inference_mode()
    def encode() -> float:
        """Median time of the encoder alone, in milliseconds."""
        image = torch.rand(
            1, 3, *(-(-settings[side] // STRIDE) * STRIDE for side in ("height", "width"))
        )
        image = image.to(device, memory_format=torch.channels_last)
        spent = []
        for _ in range(ENCODED):
            begin = time.perf_counter()
            with autocast(settings["precision"], device):
                network.encode(image)
            if device.type == "cuda":
                torch.cuda.synchronize(device)
            spent.append(1000 * (time.perf_counter() - begin))
        return median(spent)

    def run() -> Figures:
        begin = time.process_time()
        figures = summarize(propagate(settings["frames"]))
        figures["cpu_ms_per_frame"] = 1000 * (time.process_time() - begin) / settings["frames"]
        if settings["busy"]:
            with busy_cores(settings["busy"]):
                disturbed = summarize(propagate(settings["frames"]))["ms_per_frame"]
            figures["ms_busy"] = disturbed
            figures["busy_to_calm"] = disturbed / figures["ms_per_frame"]
            return figures
        alone = encode()
        return {**figures, "ms_encode": alone, "frame_to_encode": figures["ms_per_frame"] / alone}

    return Workload(warm_up=lambda: propagate(min(settings["frames"], WARM_UP_FRAMES)), run=run)


@contextmanager
def busy_cores(count: int) -> Iterator[None]:
    """Keep ``count`` cores busy with other processes while the block runs."""
    command = [sys.executable, "-c", "while True: pass"]
    processes = [subprocess.Popen(command) for _ in range(count)]
    try:
        yield
    finally:
        for process in processes:
            process.kill()
            process.wait()


def summarize(done: list[float]) -> Figures:
    """Compute milliseconds a frame. For long videos also the medians of the first and last 100."""
    figures = {"ms_per_frame": 1000 * (done[-1] - done[0]) / (len(done) - 1)}
    # The first frame is given: its mask is not found.
    elapsed = [1000 * (b - a) for a, b in pairwise(done[1:])]
    if len(elapsed) >= 2 * HUNDRED:
        figures["ms_first_100"] = median(elapsed[:HUNDRED])
        figures["ms_last_100"] = median(elapsed[-HUNDRED:])
        figures["last_100_to_first"] = figures["ms_last_100"] / figures["ms_first_100"]
    return figures
