"""Convert checkpoints of a training to a weights file: a state dict in half precision.

    python scripts/dev/export_weights.py models/model.pt output/train/last.pt [output/train/best.pt ...]

A description of the network goes beside it, as models/model.json.

- BatchNorm statistics stay in float32: variances span more than half precision can represent.
- From a checkpoint that can be resumed, the running average of the weights is taken.
- Several files are averaged, equally or as --shares says. They must come from one training, or from
  trainings that began with each other's weights.
- Parameters that a file lacks, because its network has no context, previous mask or partial masks, are
  taken from the first file.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from bundle.datasets.protocols import PROTOCOLS
from bundle.networks.definition import read_definition
from bundle.networks.weights import read_description, save_weights


def read_state(path: Path) -> dict[str, Tensor]:
    """Read the weights of a checkpoint (its running average) or of a plain state dict."""
    checkpoint = torch.load(path, map_location="cpu", weights_only=True)
    state: dict[str, Tensor] = checkpoint.get("ema", checkpoint)
    return state


def average(states: Sequence[dict[str, Tensor]], shares: Sequence[float]) -> dict[str, Tensor]:
    """Average the weights, in proportion to ``shares``. Integers are those of the first state."""
    first = states[0]
    pairs = list(zip(states, shares, strict=True))
    return {
        name: torch.stack([state[name].float() * share for state, share in pairs]).sum(0)
        / sum(shares)
        if tensor.is_floating_point()
        else tensor
        for name, tensor in first.items()
    }


def complete(state: dict[str, Tensor], first: dict[str, Tensor]) -> dict[str, Tensor]:
    """Add to ``state`` what it lacks of ``first``: parameters, and input channels of convolutions."""
    completed = {**first, **state}
    for name, tensor in state.items():
        if name in first and tensor.ndim == first[name].ndim > 1:
            completed[name] = torch.cat([tensor, first[name][:, tensor.shape[1] :].to(tensor)], 1)
    return completed


def export(
    target: Path,
    sources: Sequence[Path],
    network: str = "default",
    shares: Sequence[float] | None = None,
    seen: Sequence[str] | None = None,
) -> None:
    """Average checkpoints and write the result with its description. No file is ever half written.

    Args:
        target: Weights file to write.
        sources: Checkpoints or weights files of one network.
        network: Name of the network in ``configs/network``, used if the first source has no
            description beside it.
        shares: Share of each source in the average; equal by default.
        seen: Protocols whose videos or structures the weights were trained on; by default those of
            the first source.

    Raises:
        ValueError: The sources are of different networks, their number and that of the shares differ,
            or a weight is not finite in half precision.
    """
    described = read_description(sources[0])
    definition = read_definition(network) if described is None else described.network
    shares = [1.0] * len(sources) if shares is None else shares
    if len(shares) != len(sources):
        raise ValueError(
            f"got {len(shares)} shares for {len(sources)} sources: give one share for each source"
        )
    states = [read_state(source) for source in sources]
    for number, source in enumerate(sources[1:], 1):
        states[number] = complete(states[number], states[0])
        sizes, expected = (
            {name: tensor.shape for name, tensor in state.items()}
            for state in (states[number], states[0])
        )
        if sizes != expected:
            raise ValueError(f"{source} and {sources[0]} hold networks of different sizes")
    if seen is None:
        seen = () if described is None else described.seen
    description = save_weights(target, average(states, shares), definition, sources[0], seen)
    print(f"{target}: {target.stat().st_size / 1e6:.1f} MB, sha256 {description.sha256}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("target", type=Path, help="weights file to write")
    parser.add_argument("sources", type=Path, nargs="+", help="last.pt or best.pt of a training")
    parser.add_argument(
        "--shares",
        type=float,
        nargs="+",
        help="share of each source in the average (default: equal)",
    )
    parser.add_argument(
        "--network",
        default="default",
        help="name in configs/network, if the first source has no .json beside it",
    )
    parser.add_argument(
        "--seen",
        nargs="+",
        choices=list(PROTOCOLS),
        metavar="PROTOCOL",
        help="protocols whose videos or structures were trained on (default: as the first source)",
    )
    arguments = parser.parse_args()
    export(arguments.target, arguments.sources, arguments.network, arguments.shares, arguments.seen)
