"""The command ``tcmn serve``."""

from pathlib import Path
from typing import Annotated

import typer


def serve(
    context: typer.Context,
    studies: Annotated[
        str, typer.Option(help="Folder of videos, or address of a DICOMweb server.")
    ],
    app_dir: Annotated[
        Path,
        typer.Option("--app-dir", help="Folder of the server; weights trained by it go there."),
    ] = Path("tcmn-label"),
    host: Annotated[str, typer.Option(help="Network address of the server.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port of the server.")] = 8000,
) -> None:
    """Start a MONAI Label server, for 3D Slicer and others. Further options go to MONAI Label."""
    from bundle.commands.serve import serve_label_app

    serve_label_app(studies, app_dir, host, port, context.args)
