"""Measure one training iteration by configs/train.yaml: forward, losses, backward, optimiser."""

import atexit
import multiprocessing
import shutil
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from monai.bundle import ConfigParser
from torch import distributed

from benchmarks.cases import Figures, Workload
from bundle.utils.devices import find_device, keep_freed_memory

ROOT = Path(__file__).resolve().parents[3]

CHANGES: dict[str, dict[str, Any]] = {
    "plain": {
        "network": "$@network_def.to(@device)",
        "optimizer#fused": False,
        "train#trainer#network": "@loaded",
    },
    "channels_last": {"optimizer#fused": False, "train#trainer#network": "@loaded"},
    "fused": {"train#trainer#network": "@loaded"},
    "folded": {},
    "config": {},
    "bfloat16": {"precision": "bfloat16"},
    "processes": {},
}
"""How each variant differs from configs/train.yaml. Each adds one optimisation to the one before."""
KEEPING = ("config", "bfloat16", "processes")
"""Variants that keep freed memory."""


def make_step(variant: str, settings: Mapping[str, Any], processes: int = 1) -> Callable[[], float]:
    """Make a function that runs one training iteration, always on the same random clips.

    It returns the loss when the device has finished.

    Args:
        variant: Name in ``CHANGES``.
        settings: Settings of the case; ``overrides`` changes values of the config.
        processes: Number of processes that share the batch. This process is one of them.
    """
    if variant in KEEPING:
        keep_freed_memory()
    device = find_device(settings["device"])
    files = ["train.yaml"] if processes == 1 else ["train.yaml", "multi_gpu_train.yaml"]
    config = ConfigParser()
    config.read_config([str(ROOT / "configs" / name) for name in files])
    config["device"], config["precision"] = device, "float32"
    for name, value in {**CHANGES[variant], **settings.get("overrides", {})}.items():
        config[name] = value
    network = config.get_parsed_content("loaded").train()
    optimizer = config.get_parsed_content("optimizer")
    form = config.get_parsed_content("train#trainer#network")
    loss = config.get_parsed_content("loss").to(device)
    inferer = config.get_parsed_content("train#inferer")
    size, clips = settings["size"], config["batch_size"] // processes
    generator = torch.Generator().manual_seed(0)
    clip = torch.rand(clips, 4, size, size, 3, generator=generator)
    clip[:, 3] = 0
    clip[:, 3, : size // 2, : size // 2] = 1
    clip = clip.to(device)
    target = {
        "label": clip[:, 3].long(),
        "ordered": torch.ones(clips, dtype=torch.bool, device=device),
        "present": torch.ones(clips, 1, dtype=torch.bool, device=device),
    }

    def step() -> float:
        if processes > 1:
            distributed.barrier()
        optimizer.zero_grad()
        found = loss(inferer(clip, form, return_values=True), target)
        found.backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), config["max_gradient"])
        optimizer.step()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        return float(found.detach())

    return step


def prepare(variant: str, settings: Mapping[str, Any]) -> Workload:
    """Prepare the iterations of one variant.

    The variant ``processes`` splits the batch over as many processes as there are threads, with one
    thread each.
    """
    step = make_shared_step(settings) if variant == "processes" else make_step(variant, settings)

    def run() -> Figures:
        begin = time.perf_counter()
        step()
        return {"s_per_step": time.perf_counter() - begin}

    return Workload(step, run)


def make_shared_step(settings: Mapping[str, Any]) -> Callable[[], float]:
    """Start the other processes, and make the step of this one. They end when this one does."""
    processes = torch.get_num_threads()
    scratch = tempfile.mkdtemp()
    atexit.register(shutil.rmtree, scratch)
    meeting = f"{scratch}/meeting"
    context = multiprocessing.get_context("spawn")
    for rank in range(1, processes):
        context.Process(
            target=follow, args=(rank, processes, meeting, dict(settings)), daemon=True
        ).start()
    return join(0, processes, meeting, settings)


def join(
    rank: int, processes: int, meeting: str, settings: Mapping[str, Any]
) -> Callable[[], float]:
    """Join the process group as ``rank`` and make the step of this process, with one thread."""
    torch.set_num_threads(1)
    distributed.init_process_group(
        "gloo", init_method=f"file://{meeting}", rank=rank, world_size=processes
    )
    return make_step("processes", settings, processes)


def follow(rank: int, processes: int, meeting: str, settings: Mapping[str, Any]) -> None:
    """Run a step whenever the first process does, for ever."""
    step = join(rank, processes, meeting, settings)
    while True:
        step()
