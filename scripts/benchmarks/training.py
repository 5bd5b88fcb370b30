"""One iteration of configs/train.yaml on random clips: forward, losses, backward, optimiser."""

import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from monai.bundle import ConfigParser

from benchmarks.cases import Figures, Workload
from bundle.devices import find_device

ROOT = Path(__file__).resolve().parents[2]

CHANGES: dict[str, dict[str, Any]] = {
    # Plain eager: none of what the config does for speed.
    "plain": {"network": "$@network_def.to(@device)", "optimizer#fused": False},
    "channels_last": {"optimizer#fused": False},
    "config": {},
    "bfloat16": {"precision": "bfloat16"},
}
"""What each variant has otherwise than configs/train.yaml."""


def make_step(variant: str, settings: Mapping[str, Any]) -> Callable[[], None]:
    """One iteration on the same clips each time; the device has finished when it returns."""
    device = find_device(settings["device"])
    config = ConfigParser()
    config.read_config(str(ROOT / "configs/train.yaml"))
    config["device"], config["precision"] = device, "float32"
    for name, value in {**CHANGES[variant], **settings.get("overrides", {})}.items():
        config[name] = value
    network = config.get_parsed_content("loaded").train()
    optimizer = config.get_parsed_content("optimizer")
    loss = config.get_parsed_content("loss").to(device)
    inferer = config.get_parsed_content("train#inferer")
    size, clips = settings["size"], config["batch_size"]
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

    def step() -> None:
        optimizer.zero_grad()
        loss(inferer(clip, network, return_values=True), target).backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), config["max_gradient"])
        optimizer.step()
        if device.type == "cuda":
            torch.cuda.synchronize(device)

    return step


def prepare(variant: str, settings: Mapping[str, Any]) -> Workload:
    """Steps of one variant; see ``Workload``."""
    step = make_step(variant, settings)

    def run() -> Figures:
        begin = time.perf_counter()
        step()
        return {"s_per_step": time.perf_counter() - begin}

    return Workload(step, run)
