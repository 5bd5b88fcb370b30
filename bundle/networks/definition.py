"""Build a network from a file in ``configs/network``, or from the description beside its weights."""

from pathlib import Path
from typing import Any

import yaml

from bundle.networks.tcmn import TCMN
from bundle.networks.weights import read_description
from bundle.utils.bundle_files import bundle_root


def read_definition(name: str) -> dict[str, Any]:
    """Read the arguments of ``TCMN`` from a file.

    Args:
        name: Name of a file in ``configs/network`` without suffix, or the path of a YAML file.

    Raises:
        ValueError: The network is unknown.

    Example:
        >>> read_definition("resnet18")["backbone"]
        'resnet18'
    """
    folder = bundle_root() / "configs" / "network"
    path = Path(name) if name.endswith((".yaml", ".yml")) else folder / f"{name}.yaml"
    if not path.is_file():
        known = ", ".join(sorted(each.stem for each in folder.glob("*.yaml")))
        raise ValueError(f"unknown network {name!r}: there are {known}, or give a .yaml file")
    definition: dict[str, Any] = yaml.safe_load(path.read_text(encoding="utf-8"))
    return definition


def make_network(name: str = "default", weights: str | Path | None = None, **values: Any) -> TCMN:
    """Make a network with random weights.

    Args:
        name: See ``read_definition``.
        weights: File of weights. If there is a description beside it, that is used instead of the
            name. The weights are not loaded.
        values: Arguments of ``TCMN`` that override the others.

    Raises:
        ValueError: The network is unknown, or the file beside the weights is damaged.
        TypeError: ``TCMN`` has no such argument.

    Example:
        >>> make_network("resnet18", key_channels=8).definition["key_channels"]
        8
    """
    described = None if weights is None else read_description(weights)
    found = read_definition(name) if described is None else described.network
    return TCMN(**{**found, **values})
