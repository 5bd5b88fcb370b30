"""Write the network as ONNX graphs, for programs without PyTorch, once they proved to compute the same.

    python scripts/export_onnx.py --output_dir output/onnx

Gives ``encode.onnx``, ``memorize.onnx``, ``read_and_decode.onnx`` and ``network.json``, see
docs/export.md. Prints how far each output is from PyTorch's; if one is too far, nothing is written and
the exit code is 1.
"""

import argparse
import hashlib
import json
import os
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from monai.bundle import ConfigParser
from monai.utils import OptionalImportError

from bundle.backends.onnx import GRAPHS, OPSET, TOLERANCE, Difference, check_export, export_network
from bundle.networks.tcmn import STRIDE, TCMN, load_weights
from bundle.utils.options import print_error

ROOT = Path(__file__).resolve().parents[1]


def read_network(config_files: Sequence[Path], weights: Path | None) -> tuple[TCMN, Path]:
    """The network of configs, in evaluation mode, and the weights in it: those or the config's.

    Raises:
        FileNotFoundError: There is no such config or weights file.
        ValueError: The weights are of another network.
    """
    for config_file in config_files:
        if not config_file.is_file():
            raise FileNotFoundError(f"no config at {config_file}")
    config = ConfigParser(ConfigParser.load_config_files([str(file) for file in config_files]))
    config["network_def#backbone_weights"] = config["network_def#mask_backbone_weights"] = None
    network: TCMN = config.get_parsed_content("network_def")
    file = Path(weights or config.get_parsed_content("weights"))
    return load_weights(network, file).eval(), file


def describe(network: TCMN, weights: Path, folder: Path) -> dict[str, Any]:
    """What ``network.json`` holds."""
    metadata = json.loads((ROOT / "configs" / "metadata.json").read_text())
    encoder = network.query_encoder
    return {
        "version": metadata["version"],
        "weights": {"file": weights.name, "sha256": digest(weights)},
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
                "sha256": digest(folder / f"{name}.onnx"),
            }
            for name, graph in GRAPHS.items()
        },
    }


def export(
    config_files: Sequence[Path], weights: Path | None, output_dir: Path, tolerance: float
) -> Mapping[str, Difference]:
    """Write the graphs beside, check them, and put them into place if they pass.

    Args:
        config_files: Have the network; a later one changes values of those before.
        weights: The configs' own if None.
        output_dir: Made if new.
        tolerance: See ``Difference.within``.

    Returns:
        Output -> how far it is from PyTorch's.

    Raises:
        OptionalImportError: A package for the export is not installed.
        OSError, ValueError: A file is missing, unreadable, or cannot be written.
    """
    network, weights = read_network(config_files, weights)
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


def digest(path: Path) -> str:
    """SHA-256 of a file."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output_dir", required=True, type=Path, metavar="DIR", help="made if new")
    parser.add_argument("--weights", type=Path, help="a plain state dict; the configs' by default")
    parser.add_argument(
        "--config_file",
        nargs="+",
        type=Path,
        default=[ROOT / "configs" / "inference.yaml"],
        help="whose network_def the weights are for",
    )
    parser.add_argument(
        "--tolerance",
        type=float,
        default=TOLERANCE,
        help="largest difference, as a share of an output's largest value or of 1 (%(default)s)",
    )
    options = parser.parse_args(arguments)
    try:
        found = export(options.config_file, options.weights, options.output_dir, options.tolerance)
    except (OSError, ValueError, OptionalImportError) as error:
        print_error(type(error), error, error.__traceback__)
        return 1
    for output, each in found.items():
        print(f"{output:12} largest difference {each.largest:.1e}, largest value {each.scale:.3g}")
    wrong = [output for output, each in found.items() if not each.within(options.tolerance)]
    if wrong:
        print(
            f"error: {', '.join(wrong)} of the graphs differ from PyTorch's by more than the share "
            f"{options.tolerance} of their largest value: nothing was written",
            file=sys.stderr,
        )
        return 1
    print(f"{', '.join(f'{name}.onnx' for name in GRAPHS)} are in {options.output_dir}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
