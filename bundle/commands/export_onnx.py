"""``tcmn export``: writes the network as ONNX graphs, after a check that they compute the same.

Gives ``encode.onnx``, ``memorize.onnx``, ``read_and_decode.onnx`` and ``network.json``, for programs
without PyTorch; see docs/deploy.md.
"""

import json
import os
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from monai.bundle import ConfigParser

from bundle.backends.onnx import (
    GRAPHS,
    OPSET,
    TOLERANCE,
    Difference,
    check_export,
    export_network,
    list_graphs,
)
from bundle.networks.definition import make_network
from bundle.networks.tcmn import STRIDE, TCMN
from bundle.networks.weights import file_digest, load_weights
from bundle.utils.bundle_files import program_version


def read_network(weights: Path, config_files: Sequence[Path] = ()) -> TCMN:
    """The network of weights, in evaluation mode.

    Args:
        weights: A plain state dict.
        config_files: Whose ``network_def`` it is, a later one over those before; without any, what
            the file beside the weights says.

    Raises:
        FileNotFoundError: There is no such config or weights file.
        ValueError: The weights are of another network.
    """
    for config_file in config_files:
        if not config_file.is_file():
            raise FileNotFoundError(f"no config at {config_file}")
    if not config_files:
        return load_weights(make_network(weights=weights), weights).eval()
    config = ConfigParser(ConfigParser.load_config_files([str(file) for file in config_files]))
    config["network_def#backbone_weights"] = config["network_def#mask_backbone_weights"] = None
    network: TCMN = config.get_parsed_content("network_def")
    return load_weights(network, weights).eval()


def describe(network: TCMN, weights: Path, folder: Path) -> dict[str, Any]:
    """What ``network.json`` holds."""
    encoder = network.query_encoder
    return {
        "version": program_version(),
        "weights": {"file": weights.name, "sha256": file_digest(weights)},
        "opset": OPSET,
        "stride": STRIDE,
        "key_channels": encoder.key_head.out_channels,
        "value_channels": encoder.query_head.out_channels,
        "channels": dict(
            zip(("stride4", "stride8", "stride16"), encoder.trunk.channels, strict=True)
        ),
        "graphs": {
            name: {
                "inputs": list(graph.inputs),
                "outputs": list(graph.outputs),
                "sha256": file_digest(folder / f"{name}.onnx"),
            }
            for name, graph in list_graphs(network).items()
        },
    }


def export(
    weights: Path,
    output_dir: Path,
    tolerance: float = TOLERANCE,
    config_files: Sequence[Path] = (),
) -> Mapping[str, Difference]:
    """Write the graphs beside, check them, and put them into place if they pass.

    Args:
        weights: A plain state dict.
        output_dir: Made if new.
        tolerance: See ``Difference.within``.
        config_files: See ``read_network``.

    Returns:
        Output -> how far it is from PyTorch's.

    Raises:
        MissingPackageError: A package for the export is not installed.
        OSError, ValueError: A file is missing, unreadable, or cannot be written.
    """
    network = read_network(weights, config_files)
    output_dir.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".", suffix=".partial", dir=output_dir) as partial:
        folder = Path(partial)
        export_network(network, folder)
        differences = check_export(network, folder)
        if all(each.within(tolerance) for each in differences.values()):
            text = json.dumps(describe(network, weights, folder), indent=2)
            (folder / "network.json").write_text(text + "\n")
            for name in (*(f"{graph}.onnx" for graph in GRAPHS), "network.json"):
                os.replace(folder / name, output_dir / name)
    return differences


def export_checked(
    weights: Path,
    output_dir: Path,
    tolerance: float | None = None,
    config_files: Sequence[Path] = (),
) -> None:
    """``export``, and say how far each output is from PyTorch's.

    Raises:
        ValueError: One is too far; nothing was written.
    """
    limit = TOLERANCE if tolerance is None else tolerance
    found = export(weights, output_dir, limit, config_files)
    for output, each in found.items():
        print(f"{output:12} largest difference {each.largest:.1e}, largest value {each.scale:.3g}")
    wrong = [output for output, each in found.items() if not each.within(limit)]
    if wrong:
        raise ValueError(
            f"{', '.join(wrong)} of the graphs differ from PyTorch's by more than the share {limit} of "
            "their largest value: nothing was written"
        )
    print(f"{', '.join(f'{name}.onnx' for name in GRAPHS)} are in {output_dir}")
