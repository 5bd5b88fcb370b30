"""The commands ``tcmn train``, ``finetune`` and ``evaluate``: run MONAI bundle configs by name."""

import os
import runpy
import sys
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated

import typer

from bundle.cli.configs import config_path
from bundle.cli.options import PROJECTS, Configs, DatasetDir, OutputDir, Who
from bundle.utils.bundle_files import bundle_root
from bundle.utils.options import MissingPackageError
from bundle.utils.paths import expand_user


def train(
    context: typer.Context,
    dataset_dir: DatasetDir = None,
    output_dir: OutputDir = None,
    config: Configs = None,
) -> None:
    """Train a network. Any value of the config train can be an option: --epochs 20 --batch-size 8."""
    _run_config("training", ["train", *(config or ())], context, dataset_dir, output_dir)


def finetune(
    context: typer.Context,
    project: Annotated[
        str | None,
        typer.Argument(
            help="Project of many videos: folder of the videos, CSV list of them, or its own folder.",
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
            help="Use the new weights for the project, even if they are not better. If a training has "
            "ended already, use its weights without training again.",
            rich_help_panel=PROJECTS,
        ),
    ] = False,
    take_back: Annotated[
        bool,
        typer.Option(
            "--take-back",
            help="Use the project's previous weights again.",
            rich_help_panel=PROJECTS,
        ),
    ] = False,
    frames: Annotated[
        str,
        typer.Option(
            help="Masks to train on, of videos that are done: reviewed (those that a person made or "
            "accepted), or all.",
            rich_help_panel=PROJECTS,
        ),
    ] = "reviewed",
    valid_fraction: Annotated[
        float | None,
        typer.Option(
            help="Share of the patients on whose videos old and new weights are compared. By default "
            "0.2, and at least two patients if there are four.",
            min=0.01,
            max=0.9,
            rich_help_panel=PROJECTS,
            show_default=False,
        ),
    ] = None,
    who: Who = None,
) -> None:
    """Fine-tune the shipped weights on your videos. Any value of the configs train and finetune can be
    an option: --layout video_folder --epochs 6. With a project, trains on its videos that are done, and
    uses the new weights if they are better.
    """
    arguments = [*([] if project is None else [project]), *context.args]
    source = _pop_project(arguments)
    if source is None:
        if take or take_back or who is not None:
            raise ValueError(
                "--take, --take-back and --who go with a project: tcmn finetune PROJECT"
            )
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
    finetune_project(source, arguments, configs, take, take_back, frames, valid_fraction, who)


def evaluate(
    context: typer.Context,
    dataset_dir: DatasetDir = None,
    output_dir: OutputDir = None,
    config: Configs = None,
) -> None:
    """Score weights on a data set. Any value of the configs train and evaluate can be an option:
    --protocol cvc_clinicdb --weights best.pt.
    """
    _run_config(
        "evaluating", ["train", "evaluate", *(config or ())], context, dataset_dir, output_dir
    )


def _pop_project(arguments: list[str]) -> Path | None:
    """Remove the first argument that is neither an option nor its value, and return it as a path."""
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
    """Run ``python -m monai.bundle run`` with the configs of these names.

    Raises:
        MissingPackageError: MONAI is not installed.
    """
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
