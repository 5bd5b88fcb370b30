"""Write a training's weights as models/model.pt: a plain state dict in half precision.

    python scripts/dev/export_weights.py models/model.pt output/train/last.pt [output/train/best.pt ...]

Beside it goes models/model.json, which says which network the weights are of.

BatchNorm's running statistics stay in float32, since their variances span more than half precision
resolves. Of a resumable checkpoint the running average of the weights is taken; of several files, which
must come from one training, or the one from the other, the mean.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from bundle.networks.definition import read_definition
from bundle.networks.weights import (
    WeightsDescription,
    describe_weights,
    file_digest,
    fingerprint_state,
    read_description,
)
from bundle.utils.atomic_write import written_beside
from bundle.utils.bundle_files import program_version

STATISTICS = ("running_mean", "running_var")


def to_half(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """A copy in float16, but for BatchNorm's statistics and the counters."""
    return {
        name: tensor.half()
        if tensor.is_floating_point() and not name.endswith(STATISTICS)
        else tensor
        for name, tensor in state.items()
    }


def read_state(path: Path) -> dict[str, Tensor]:
    """The weights of a checkpoint or a plain state dict."""
    checkpoint = torch.load(path, map_location="cpu", weights_only=True)
    state: dict[str, Tensor] = checkpoint.get("ema", checkpoint)
    return state


def average(states: Sequence[dict[str, Tensor]]) -> dict[str, Tensor]:
    """The mean of each weight; counters are the first one's."""
    first = states[0]
    return {
        name: torch.stack([state[name].float() for state in states]).mean(0)
        if tensor.is_floating_point()
        else tensor
        for name, tensor in first.items()
    }


def export(target: Path, sources: Sequence[Path], network: str = "default") -> None:
    """Average ``sources``, write ``target`` beside, then rename; then its description.

    Args:
        target: The file to write.
        sources: Of one network.
        network: A name in ``configs/network``: which network, if the file beside the first source
            does not say.

    Raises:
        ValueError: The sources are of different networks, or a weight is not finite in half
            precision.
    """
    states = [read_state(source) for source in sources]
    for source, state in zip(sources, states, strict=True):
        shapes = {name: tensor.shape for name, tensor in state.items()}
        if shapes != {name: tensor.shape for name, tensor in states[0].items()}:
            raise ValueError(f"{source} and {sources[0]} hold networks of different sizes")
    state = to_half(average(states))
    bad = [name for name, tensor in state.items() if not tensor.float().isfinite().all()]
    if bad:
        raise ValueError(f"{sources[0]}: {bad[0]} is not finite in half precision")
    with written_beside(target) as beside:
        torch.save(state, beside)
    digest, described = file_digest(target), read_description(sources[0])
    definition = read_definition(network) if described is None else described.network
    description = WeightsDescription(
        definition, program_version(), digest, fingerprint_state(state)
    )
    describe_weights(target, description)
    print(f"{target}: {target.stat().st_size / 1e6:.1f} MB, sha256 {digest}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("target", type=Path, help="the file to write")
    parser.add_argument("sources", type=Path, nargs="+", help="last.pt or best.pt of a training")
    parser.add_argument(
        "--network", default="default", help="in configs/network, if no .json beside it says"
    )
    arguments = parser.parse_args()
    export(arguments.target, arguments.sources, arguments.network)
