"""The commands ``tcmn annotate`` and ``tcmn export-project``."""

from pathlib import Path
from typing import Annotated

import typer

from bundle.cli.options import (
    PROJECTS,
    Backend,
    Device,
    Every,
    Int8Dir,
    Last,
    MemoryFrames,
    Prior,
    Review,
    Size,
    Weights,
    Who,
    given,
)


def annotate(
    video: Annotated[
        Path | None,
        typer.Argument(
            help="Video, folder of frames, or saved session. Or a project of many videos: a folder of "
            "them, or a CSV list with the columns video and patient.",
            show_default=False,
        ),
    ] = None,
    mask: Annotated[
        Path | None, typer.Option("--mask", "-m", help="Masks to start from.", show_default=False)
    ] = None,
    port: Annotated[int, typer.Option(help="Port of the page; 0: any free port.")] = 0,
    host: Annotated[
        str,
        typer.Option(
            help="Network address of the page. If other machines can reach it, a token is required."
        ),
    ] = "127.0.0.1",
    token: Annotated[
        bool, typer.Option("--token", help="Require a token on this machine, too.")
    ] = False,
    no_browser: Annotated[
        bool, typer.Option("--no-browser", help="Print the address; do not open a browser.")
    ] = False,
    as_project: Annotated[
        bool | None,
        typer.Option(
            "--project/--one-video",
            help="Treat a folder as a project or as one video, if it could be both. By default a "
            "folder in which a project was begun opens as a project.",
            rich_help_panel=PROJECTS,
            show_default=False,
        ),
    ] = None,
    structures: Annotated[
        Path | None,
        typer.Option(
            help="Names of the objects, by id, for all videos: JSON, a colour table of 3D Slicer, or a "
            "DICOM segmentation.",
            rich_help_panel=PROJECTS,
            show_default=False,
        ),
    ] = None,
    who: Who = None,
    device: Device = "auto",
    backend: Backend = "auto",
    weights: Weights = None,
    int8_dir: Int8Dir = None,
    inference_size: Size = None,
    memory_every: Every = None,
    remember_last: Last = None,
    max_memory_frames: MemoryFrames = None,
    spatial_prior: Prior = None,
    review_below: Review = None,
) -> None:
    """Annotate a video, or a project of many videos, in the browser. By default only this
    machine can open the page.
    """
    from bundle.apps.annotate.launch import open_page

    open_page(
        video,
        mask,
        host=host,
        port=port,
        token=token,
        browser=not no_browser,
        as_project=as_project,
        structures=structures,
        who=who,
        device=device,
        backend=backend,
        weights=weights,
        int8_dir=int8_dir,
        **given(
            inference_size=inference_size,
            memory_every=memory_every,
            remember_last=remember_last,
            max_memory_frames=max_memory_frames,
            spatial_prior=spatial_prior,
            review_below=review_below,
        ),
    )


def export_project(
    project: Annotated[
        Path,
        typer.Argument(help="Folder of the videos, CSV list of them, or the project's own folder."),
    ],
    output: Annotated[
        Path, typer.Argument(help="New folder to write; it must not exist.", show_default=False)
    ],
    layout: Annotated[
        str,
        typer.Option(
            help="Layout of the data set: video_folder, davis, coco, yolo, cvat, nnunet_2d, nnunet_3d "
            "or dicom_seg."
        ),
    ] = "video_folder",
    frames: Annotated[
        str,
        typer.Option(
            help="Masks to write: all, or reviewed (those that a person made or accepted)."
        ),
    ] = "all",
    unfinished: Annotated[
        str,
        typer.Option(
            help="If some videos are not done: refuse to export, leave-out these, or include them."
        ),
    ] = "refuse",
    valid_fraction: Annotated[
        float,
        typer.Option(
            help="Share of the patients in the validation set; 0 for none.", min=0, max=0.9
        ),
    ] = 0.2,
    seed: Annotated[int, typer.Option(help="Seed of the random split.")] = 0,
) -> None:
    """Export the masks of a project as a data set, split by patient, with a manifest of all files."""
    from bundle.commands.export_project import export_data_set

    export_data_set(project, output, layout, frames, unfinished, valid_fraction, seed)
