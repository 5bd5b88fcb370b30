"""The command ``tcmn check-data``."""

from pathlib import Path
from typing import Annotated

import typer


def check_data(
    dataset: Annotated[
        str, typer.Option(help="Layout of the data set: video_folder, davis, camus ...")
    ],
    dataset_dir: Annotated[Path, typer.Option(help="Root folder of the data set.")],
    output_dir: Annotated[
        Path,
        typer.Option("--output-dir", "--output", "-o", help="Folder of the overview picture."),
    ] = Path("output/check_data"),
) -> None:
    """Check a data set: read every frame and mask, list all problems, draw an overview picture."""
    from bundle.commands.check_data import check

    if not check(dataset, dataset_dir, output_dir):
        raise typer.Exit(1)
