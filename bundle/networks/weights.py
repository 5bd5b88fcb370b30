"""Load weights, and read or write the JSON file beside them that describes their network.

The description of ``NAME.pt`` is ``NAME.json``. The layout of the backbone and the pixel normalisation
cannot be inferred from the weights, which would load without error into the wrong network.
"""

import hashlib
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import nn
from torch.nn import functional

from bundle.utils.atomic_write import written_beside
from bundle.utils.bundle_files import program_version

Network = TypeVar("Network", bound=nn.Module)

GROWN = ("decoder.context.", "decoder.previous.")
"""Optional parts of a network; before training they change nothing."""
MASK_INPUT = "mask_encoder.trunk.conv1.weight"
"""Has one more channel in a network that takes partial masks."""
STATISTICS = ("running_mean", "running_var")
"""Of BatchNorm, by the ends of their names."""
GROWN_BY = ("context_channels", "previous_mask", "partial_masks")
"""The arguments of ``TCMN`` that add such parts."""


@dataclass(frozen=True)
class WeightsDescription:
    """What the file beside weights says.

    Attributes:
        network: Arguments of ``TCMN``.
        version: Version of the program that wrote it.
        sha256: SHA-256 of the weights' file; None where it still changes, as in a training.
        fingerprint: Fingerprint of the weights themselves, see ``fingerprint_state``. A network in
            8-bit integers carries that of the weights that it was made from.
        seen: Protocols of evaluation whose videos or structures the weights learned from: their scores
            say nothing about new ones.
    """

    network: Mapping[str, Any]
    version: str
    sha256: str | None = None
    fingerprint: str | None = None
    seen: Sequence[str] = ()


def load_weights(network: Network, path: str | Path, *, grow: bool = False) -> Network:
    """Load a plain state dict, in any floating-point precision, into a network.

    Args:
        network: The network to fill; it is returned.
        path: The file.
        grow: Whether to accept weights of a network without context, previous mask or partial masks;
            these parts then keep their initial values.

    Raises:
        FileNotFoundError: The file does not exist.
        ValueError: The file is not a state dict, is of a network of another size (the message names
            the first tensor that differs), or the file beside it describes another network.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(f"no weights at {path}: check the path")
    try:
        state: Any = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        # PyTorch's own message advises to load without its safeguard: not repeated here.
        raise ValueError(
            f"{path} is not a weights file: expected a plain state dict that torch.save wrote"
        ) from error
    if not isinstance(state, Mapping):
        found = type(state).__name__
        raise ValueError(f"{path} is not a weights file (a plain state dict): it holds a {found}")
    if "ema" in state and "optimizer" in state:
        raise ValueError(
            f"{path} is the checkpoint of a training, not a weights file: make one of it with "
            "scripts/dev/export_weights.py"
        )
    own = network.state_dict()
    if grow:
        state = {**{name: own[name] for name in own if name.startswith(GROWN)}, **state}
        first, wanted = state.get(MASK_INPUT), own.get(MASK_INPUT)
        if first is not None and wanted is not None and first.shape[1] + 1 == wanted.shape[1]:
            state[MASK_INPUT] = functional.pad(first, (0, 0, 0, 0, 0, 1))
    for name, tensor in own.items():
        found = str(tuple(state[name].shape)) if name in state else "nothing"
        if found != str(tuple(tensor.shape)):
            raise ValueError(
                f"{path} is of another network: {name} should be {tuple(tensor.shape)}, "
                f"found {found}; use the config that the weights were trained with"
            )
    check_description(network, path, ignore=GROWN_BY if grow else ())
    network.load_state_dict({name: state[name] for name in own})
    return network


def description_path(weights: str | Path) -> Path:
    """Path of the description of weights.

    Example:
        >>> description_path("models/model.pt").as_posix()
        'models/model.json'
    """
    return Path(weights).with_suffix(".json")


def read_description(weights: str | Path) -> WeightsDescription | None:
    """Read the description beside weights; None if there is none.

    Raises:
        ValueError: The file is damaged.
    """
    path = description_path(weights)
    if not path.is_file():
        return None
    try:
        description = WeightsDescription(**json.loads(path.read_text(encoding="utf-8")))
        if not isinstance(description.network, Mapping):
            raise TypeError("network is not an object")
    except (ValueError, TypeError) as error:
        raise ValueError(
            f"{path} does not describe weights ({error}): take the file that came with "
            f"{Path(weights).name}, or remove it"
        ) from error
    return description


def describe_weights(weights: str | Path, description: WeightsDescription) -> None:
    """Write the description beside weights."""
    with written_beside(description_path(weights)) as beside:
        items = asdict(description).items()
        text = json.dumps({k: v for k, v in items if v or k == "network"}, indent=2)
        beside.write_text(text + "\n", encoding="utf-8")


def to_half(state: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Weights in float16, as they are kept.

    BatchNorm's running statistics stay in float32, since their variances span more than half
    precision resolves; counters stay as they are.
    """
    return {
        name: tensor.half()
        if tensor.is_floating_point() and not name.endswith(STATISTICS)
        else tensor
        for name, tensor in state.items()
    }


def save_weights(
    path: str | Path,
    state: Mapping[str, torch.Tensor],
    network: Mapping[str, Any],
    source: str | Path,
    seen: Sequence[str] = (),
) -> WeightsDescription:
    """Write weights in half precision, and the file beside them that says which network they are of.

    Args:
        path: The file; replaced if it is there.
        state: A plain state dict.
        network: Arguments of ``TCMN``.
        source: Where they come from, for the message.
        seen: See ``WeightsDescription``.

    Returns:
        What the file beside them says.

    Raises:
        ValueError: A weight is not finite in half precision.
        DiskFullError: There is no room.
    """
    half = to_half(state)
    bad = [name for name, tensor in half.items() if not tensor.float().isfinite().all()]
    if bad:
        raise ValueError(f"{source}: {bad[0]} is not finite in half precision")
    # By way of memory, since of a full disk PyTorch says something else than the system.
    content = io.BytesIO()
    torch.save(half, content)
    with written_beside(path) as beside:
        beside.write_bytes(content.getbuffer())
    description = WeightsDescription(
        network, program_version(), file_digest(path), fingerprint_state(half), seen
    )
    describe_weights(path, description)
    return description


def file_digest(path: str | Path) -> str:
    """SHA-256 of a file."""
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def check_description(network: nn.Module, weights: str | Path, ignore: Sequence[str] = ()) -> None:
    """Check that a network is the one that the description beside weights names, if there is one.

    Args:
        network: The network to load the weights into.
        weights: File of the weights.
        ignore: Arguments of ``TCMN`` that may differ.

    Raises:
        ValueError: The networks differ, or the description is of another file than these weights.
    """
    described = read_description(weights)
    if described is None:
        return
    if described.sha256 is not None and described.sha256 != file_digest(weights):
        raise ValueError(
            f"{weights} is not the file that {description_path(weights).name} beside it describes: "
            "they are of two versions, take both from one"
        )
    built = getattr(network, "definition", {})
    for name, value in described.network.items():
        if name in built and name not in ignore and _plain(built[name]) != _plain(value):
            raise ValueError(
                f"{weights} is of a network with {name} {_plain(value)}, but the one here has "
                f"{_plain(built[name])}: leave {name} as {description_path(weights).name} says, or "
                "use other weights"
            )


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, (list, tuple)) else value


def fingerprint(network: nn.Module) -> str:
    """``fingerprint_state`` of a network's weights."""
    return fingerprint_state(network.state_dict())


def fingerprint_state(state: Mapping[str, torch.Tensor]) -> str:
    """SHA-256 of weights in half precision, as they are stored."""
    digest = hashlib.sha256()
    for name, tensor in sorted(state.items()):
        digest.update(name.encode())
        half = tensor.half() if tensor.is_floating_point() else tensor
        digest.update(half.cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()
