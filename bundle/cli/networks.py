"""The commands ``tcmn quantize`` and ``tcmn export``: convert the network for other runtimes."""

from pathlib import Path
from typing import Annotated

import typer

from bundle.cli.configs import config_path
from bundle.cli.options import ADVANCED, Configs, Weights
from bundle.utils.bundle_files import bundle_root


def quantize(
    dataset_dir: Annotated[Path, typer.Option(help="Folder that holds the training data sets.")],
    output_dir: Annotated[
        Path,
        typer.Option(
            "--output-dir", "--output", "-o", help="New folder to write; it must not exist."
        ),
    ],
    weights: Weights = None,
    clips: Annotated[int, typer.Option(help="Number of training clips to calibrate with.")] = 64,
    size: Annotated[int, typer.Option(help="Side of these clips, in pixels.")] = 320,
    config: Configs = None,
) -> None:
    """Quantize weights to 8-bit integers. Calibrates the value ranges on training clips."""
    from bundle.commands.quantize import quantize_weights

    configs = [config_path(name) for name in ["train", *(config or ())]]
    quantize_weights(weights or _shipped(), dataset_dir, output_dir, configs, clips, size)


def export(
    output_dir: Annotated[
        Path,
        typer.Option(
            "--output-dir",
            "--output",
            "-o",
            help="Folder of the ONNX files; made if it does not exist.",
        ),
    ],
    weights: Weights = None,
    tolerance: Annotated[
        float | None,
        typer.Option(
            help="Largest difference from PyTorch allowed, as a share of the largest output value.",
            rich_help_panel=ADVANCED,
            show_default=False,
        ),
    ] = None,
    config: Configs = None,
) -> None:
    """Export the network as ONNX files. Checks first that they compute the same as PyTorch."""
    from bundle.commands.export_onnx import export_checked

    configs = [config_path(name) for name in config or ()]
    export_checked(weights or _shipped(), output_dir, tolerance, configs)


def _shipped() -> Path:
    return bundle_root() / "models" / "model.pt"
