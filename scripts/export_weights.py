"""Write a training's weights as models/model.pt: a plain state dict in half precision.

    python scripts/export_weights.py output/train/last.pt models/model.pt

BatchNorm's running statistics stay in float32, since their variances span more than half precision
resolves. Of a resumable checkpoint the running average of the weights is taken.
"""

import argparse
import hashlib
import os
from pathlib import Path

import torch
from torch import Tensor

STATISTICS = ("running_mean", "running_var")


def to_half(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """A copy in float16, but for BatchNorm's statistics and the counters."""
    return {
        name: tensor.half()
        if tensor.is_floating_point() and not name.endswith(STATISTICS)
        else tensor
        for name, tensor in state.items()
    }


def export(source: Path, target: Path) -> None:
    """Convert ``source`` and write ``target`` beside, then rename.

    Raises:
        ValueError: A weight is not finite in half precision.
    """
    checkpoint = torch.load(source, map_location="cpu", weights_only=True)
    state = to_half(checkpoint.get("ema", checkpoint))
    bad = [name for name, tensor in state.items() if not tensor.float().isfinite().all()]
    if bad:
        raise ValueError(f"{source}: {bad[0]} is not finite in half precision")
    partial = target.with_suffix(".partial")
    torch.save(state, partial)
    os.replace(partial, target)
    digest = hashlib.sha256(target.read_bytes()).hexdigest()
    print(f"{target}: {target.stat().st_size / 1e6:.1f} MB, sha256 {digest}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("source", type=Path, help="last.pt or best.pt of a training")
    parser.add_argument("target", type=Path, help="the file to write")
    arguments = parser.parse_args()
    export(arguments.source, arguments.target)
