"""``tcmn train``, ``finetune`` and ``evaluate``: MONAI's command line, with configs by name."""

import os
import runpy
import sys
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated

import typer

from bundle.cli.configs import config_path
from bundle.cli.options import PROJECTS, Configs, DatasetDir, OutputDir
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
    project: Annotated[
        str | None,
        typer.Argument(
            help="A project of many videos: the folder of the videos, their list, or its own folder.",
            show_default=False,
        ),
    ] = None,
    dataset_dir: DatasetDir = None,
    output_dir: OutputDir = None,
    config: Configs = None,
    take: Annotated[
        bool,
        typer.Option(
            "--take",
            help="Let the project use the new weights even if they are not better; without a "
            "training, if one has ended and they wait.",
            rich_help_panel=PROJECTS,
        ),
    ] = False,
    take_back: Annotated[
        bool,
        typer.Option(
            "--take-back",
            help="Let the project use the weights again that it used before.",
            rich_help_panel=PROJECTS,
        ),
    ] = False,
    frames: Annotated[
        str,
        typer.Option(
            help="Masks to learn from: reviewed, those that somebody gave or accepted; or all, of "
            "videos that are done.",
            rich_help_panel=PROJECTS,
        ),
    ] = "reviewed",
    valid_fraction: Annotated[
        float | None,
        typer.Option(
            help="Share of the patients whose videos old and new weights are compared on; by default "
            "0.2, two at least of four.",
            min=0.01,
            max=0.9,
            rich_help_panel=PROJECTS,
            show_default=False,
        ),
    ] = None,
) -> None:
    """Fine-tune the shipped weights on your videos. Any value of the configs train and finetune can be
    given: --layout video_folder --epochs 6. Of a project it learns from the videos that are done, and
    takes the new weights if they are better.
    """
    arguments = [*([] if project is None else [project]), *context.args]
    source = _pop_project(arguments)
    if source is None:
        if take or take_back:
            raise ValueError("--take and --take-back go with a project: tcmn finetune PROJECT")
        context.args = arguments
        names = ["train", "finetune", *(config or ())]
        _run_config("training", names, context, dataset_dir, output_dir)
        return
    if dataset_dir is not None or output_dir is not None:
        raise ValueError(
            "a project has its own data and its own place for results: leave out --dataset-dir and "
            "--output-dir"
        )
    from bundle.commands.finetune import finetune_project

    configs = [config_path(name) for name in config or ()]
    finetune_project(source, arguments, configs, take, take_back, frames, valid_fraction)


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


def _pop_project(arguments: list[str]) -> Path | None:
    """Take out what is neither an option nor the value of one."""
    for place, argument in enumerate(arguments):
        before = arguments[place - 1] if place else ""
        is_value = before.startswith("--") and "=" not in before
        if not argument.startswith("--") and not is_value:
            return Path(arguments.pop(place))
    return None


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
