"""Write a training's weights as models/model.pt: a plain state dict in half precision.

    python scripts/dev/export_weights.py models/model.pt output/train/last.pt [output/train/best.pt ...]

Beside it goes models/model.json, which says which network the weights are of.

BatchNorm's running statistics stay in float32, since their variances span more than half precision
resolves. Of a resumable checkpoint the running average of the weights is taken; of several files, which
must come from one training, or the one from the other, the mean, in equal shares or in those of
--shares. What a file lacks, since its network has no context, previous mask or partial masks, is the
first's.
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
    """The weights of a checkpoint or a plain state dict."""
    checkpoint = torch.load(path, map_location="cpu", weights_only=True)
    state: dict[str, Tensor] = checkpoint.get("ema", checkpoint)
    return state


def average(states: Sequence[dict[str, Tensor]], shares: Sequence[float]) -> dict[str, Tensor]:
    """The weighted mean of each weight; counters are the first one's."""
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
    """Weights with what they lack of ``first``: parameters, and input channels of a convolution."""
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
    """Average ``sources``, write ``target`` beside, then rename; then its description.

    Args:
        target: The file to write.
        sources: Of one network.
        network: A name in ``configs/network``: which network, if the file beside the first source
            does not say.
        shares: Of each source in the mean; by default equal.
        seen: Protocols whose videos or structures the weights learned from; by default those of the
            first source.

    Raises:
        ValueError: The sources are of different networks, there is not a share for each, or a weight
            is not finite in half precision.
    """
    described = read_description(sources[0])
    definition = read_definition(network) if described is None else described.network
    shares = [1.0] * len(sources) if shares is None else shares
    if len(shares) != len(sources):
        raise ValueError(
            f"{len(shares)} shares do not fit {len(sources)} sources: give one for each"
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
    parser.add_argument("target", type=Path, help="the file to write")
    parser.add_argument("sources", type=Path, nargs="+", help="last.pt or best.pt of a training")
    parser.add_argument("--shares", type=float, nargs="+", help="of each source in the mean")
    parser.add_argument(
        "--network", default="default", help="in configs/network, if no .json beside it says"
    )
    parser.add_argument(
        "--seen",
        nargs="+",
        choices=list(PROTOCOLS),
        metavar="PROTOCOL",
        help="whose videos or structures they learned from; by default those of the first source",
    )
    arguments = parser.parse_args()
    export(arguments.target, arguments.sources, arguments.network, arguments.shares, arguments.seen)
