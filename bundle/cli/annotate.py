"""``tcmn annotate`` and ``tcmn export-project``."""

from pathlib import Path
from typing import Annotated

import typer

from bundle.cli.options import (
    PROJECTS,
    Backend,
    Device,
    Every,
    Int8Dir,
    MemoryFrames,
    Prior,
    Review,
    Size,
    Weights,
    given,
)


def annotate(
    video: Annotated[
        Path | None,
        typer.Argument(
            help="Video, folder of frames, or saved session; or a project: a folder of videos, or a "
            "CSV list of them with the columns video and patient.",
            show_default=False,
        ),
    ] = None,
    mask: Annotated[
        Path | None, typer.Option("--mask", "-m", help="Masks to begin with.", show_default=False)
    ] = None,
    port: Annotated[int, typer.Option(help="Port of the page; 0: any free one.")] = 0,
    host: Annotated[
        str,
        typer.Option(help="Address to listen at; one that other machines reach asks for a token."),
    ] = "127.0.0.1",
    token: Annotated[bool, typer.Option("--token", help="Ask for a token here as well.")] = False,
    no_browser: Annotated[
        bool, typer.Option("--no-browser", help="Only print the address.")
    ] = False,
    as_project: Annotated[
        bool | None,
        typer.Option(
            "--project/--one-video",
            help="What a folder is, where that is not clear. One with a project is always a project.",
            rich_help_panel=PROJECTS,
            show_default=False,
        ),
    ] = None,
    structures: Annotated[
        Path | None,
        typer.Option(
            help="What ids stand for, in all videos: JSON, a colour table of 3D Slicer, or a DICOM "
            "segmentation.",
            rich_help_panel=PROJECTS,
            show_default=False,
        ),
    ] = None,
    who: Annotated[
        str | None,
        typer.Option(
            help="Who works on it; the system's user by default.",
            rich_help_panel=PROJECTS,
            show_default=False,
        ),
    ] = None,
    device: Device = "auto",
    backend: Backend = "auto",
    weights: Weights = None,
    int8_dir: Int8Dir = None,
    inference_size: Size = None,
    memory_every: Every = None,
    max_memory_frames: MemoryFrames = None,
    spatial_prior: Prior = None,
    review_below: Review = None,
) -> None:
    """Annotate a video, or a project of many, on a page in the browser, on this machine alone."""
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
            max_memory_frames=max_memory_frames,
            spatial_prior=spatial_prior,
            review_below=review_below,
        ),
    )


def export_project(
    project: Annotated[
        Path,
        typer.Argument(help="The folder of the videos, their list, or the project's own folder."),
    ],
    output: Annotated[
        Path, typer.Argument(help="A folder that is not there yet.", show_default=False)
    ],
    layout: Annotated[
        str,
        typer.Option(
            help="video_folder, davis, coco, yolo, cvat, nnunet_2d, nnunet_3d or dicom_seg."
        ),
    ] = "video_folder",
    frames: Annotated[
        str, typer.Option(help="all, or reviewed: only masks that somebody gave or accepted.")
    ] = "all",
    unfinished: Annotated[
        str,
        typer.Option(help="Videos that are not done: refuse, leave-out, or include as they are."),
    ] = "refuse",
    valid_fraction: Annotated[
        float,
        typer.Option(
            help="Share of the patients whose videos validate; 0 for none.", min=0, max=0.9
        ),
    ] = 0.2,
    seed: Annotated[int, typer.Option(help="Of the draw of patients.")] = 0,
) -> None:
    """Write the masks of a project as a data set, with a split by patient and a manifest."""
    from bundle.commands.export_project import export_data_set

    export_data_set(project, output, layout, frames, unfinished, valid_fraction, seed)
