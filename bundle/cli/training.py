"""``tcmn train``, ``finetune`` and ``evaluate``: MONAI's command line, with configs by name."""

import os
import runpy
import sys
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

import typer

from bundle.cli.configs import config_path
from bundle.cli.options import Configs, DatasetDir, OutputDir
from bundle.utils.bundle_files import bundle_root
from bundle.utils.options import MissingPackageError
from bundle.utils.paths import expand_user


def train(
    context: typer.Context,
    dataset_dir: DatasetDir = None,
    output_dir: OutputDir = None,
    config: Configs = None,
) -> None:
    """Train a network. Any value of the config train can be given: --epochs 20 --batch-size 8."""
    _run_config("training", ["train", *(config or ())], context, dataset_dir, output_dir)


def finetune(
    context: typer.Context,
    dataset_dir: DatasetDir = None,
    output_dir: OutputDir = None,
    config: Configs = None,
) -> None:
    """Fine-tune the shipped weights on your videos. Any value of the configs train and finetune can be
    given: --layout video_folder --epochs 6.
    """
    _run_config(
        "training", ["train", "finetune", *(config or ())], context, dataset_dir, output_dir
    )


def evaluate(
    context: typer.Context,
    dataset_dir: DatasetDir = None,
    output_dir: OutputDir = None,
    config: Configs = None,
) -> None:
    """Score weights on a data set. Any value of the configs train and evaluate can be given:
    --protocol cvc_clinicdb --weights best.pt.
    """
    _run_config(
        "evaluating", ["train", "evaluate", *(config or ())], context, dataset_dir, output_dir
    )


def _run_config(
    run_id: str,
    names: Sequence[str],
    context: typer.Context,
    dataset_dir: Path | None,
    output_dir: Path | None,
) -> None:
    """``python -m monai.bundle run``, with the configs of these names."""
    if find_spec("monai") is None:
        raise MissingPackageError("this command needs MONAI: pip install monai")
    files = [str(config_path(name)) for name in names]
    arguments = ["run", run_id, "--config_file", repr(files), *context.args]
    arguments += ["--logging_file", str(bundle_root() / "configs" / "logging.conf")]
    for option, value in (("dataset_dir", dataset_dir), ("output_dir", output_dir)):
        if value is not None:
            arguments += [f"--{option}", os.fspath(expand_user(value))]
    sys.argv = ["monai.bundle", *arguments]
    runpy.run_module("monai.bundle", run_name="__main__", alter_sys=True)
