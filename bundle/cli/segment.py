"""The command ``tcmn segment``."""

import gc
import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer

from bundle.cli.options import (
    ADVANCED,
    PROMPTS,
    Backend,
    Device,
    Direction,
    Every,
    Gone,
    Int8Dir,
    Last,
    MemoryFrames,
    Precision,
    Prior,
    Review,
    Size,
    Weights,
    given,
)


def segment(
    video: Annotated[
        Path,
        typer.Argument(
            help="Video file, folder of frames, DICOM, or a 2D+t NIfTI, MetaImage, NRRD or TIFF. For "
            "many videos: a folder of them, each with a mask NAME_mask beside it, or a CSV list with "
            "the columns video and mask."
        ),
    ],
    mask: Annotated[
        Path | None,
        typer.Option(
            "--mask",
            "-m",
            show_default=False,
            help="Mask of the first frame, as a picture. Or masks of several frames: a volume (empty "
            "frames are ignored), or a folder of pictures with the names of their frames.",
        ),
    ] = None,
    output: Annotated[
        Path,
        typer.Option(
            "--output",
            "--output-dir",
            "-o",
            help="Folder of the results: OUTPUT/NAME for each video.",
        ),
    ] = Path("output"),
    overwrite: Annotated[
        bool,
        typer.Option(
            "--overwrite", help="Replace results of an earlier run. Your own files there stay."
        ),
    ] = False,
    resume: Annotated[
        bool,
        typer.Option(
            "--resume/--no-resume", help="Continue an interrupted run of the same command."
        ),
    ] = True,
    formats: Annotated[
        str,
        typer.Option(
            help="Formats to write: auto, or a comma-separated list of nifti, png, overlay, csv, "
            "summary, mha, nrrd, dicom_seg, rle, seg_nrrd, coco, cvat, yolo, mots."
        ),
    ] = "auto",
    device: Device = "auto",
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Show errors only.")] = False,
    box: Annotated[
        list[str] | None,
        typer.Option(
            help="Box around the object, in pixels. May be repeated, for objects 1, 2 and so on.",
            metavar="LEFT,TOP,RIGHT,BOTTOM",
            rich_help_panel=PROMPTS,
            show_default=False,
        ),
    ] = None,
    points: Annotated[
        list[str] | None,
        typer.Option(
            help="Point in pixels, then 1 if it is on the object or 0 if it is not. May be repeated.",
            metavar="X,Y,1",
            rich_help_panel=PROMPTS,
            show_default=False,
        ),
    ] = None,
    frame: Annotated[
        list[int] | None,
        typer.Option(
            help="Frame of the boxes and points, from 0: given once for all, or once for each.",
            rich_help_panel=PROMPTS,
            show_default="0",
        ),
    ] = None,
    object_id: Annotated[
        list[int] | None,
        typer.Option(
            "--object",
            help="Object id of the boxes and points: given once for all, or once for each.",
            rich_help_panel=PROMPTS,
            show_default="1",
        ),
    ] = None,
    prompts: Annotated[
        Path | None,
        typer.Option(
            help="JSON file of boxes, points, scribbles and masks; see docs/prompts.md.",
            rich_help_panel=PROMPTS,
            show_default=False,
        ),
    ] = None,
    unknown: Annotated[
        int | None,
        typer.Option(
            help="Mask value that means unknown, such as 255. The network segments these pixels.",
            rich_help_panel=PROMPTS,
            show_default=False,
        ),
    ] = None,
    mask_frame: Annotated[
        str | None,
        typer.Option(
            help="Frame that a single mask belongs to, from 0.",
            rich_help_panel=ADVANCED,
            show_default=False,
        ),
    ] = None,
    backend: Backend = "auto",
    weights: Weights = None,
    int8_dir: Int8Dir = None,
    inference_size: Size = None,
    memory_every: Every = None,
    remember_last: Last = None,
    max_memory_frames: MemoryFrames = None,
    direction: Direction = None,
    spatial_prior: Prior = None,
    review_below: Review = None,
    precision: Precision = None,
    eviction: Gone = None,
    policy: Gone = None,
) -> None:
    """Segment a video, given masks, boxes or points in one frame or a few."""
    if quiet:
        logging.getLogger("bundle").setLevel(logging.ERROR)
    with _quick_start():
        from bundle.commands.segment import segment_videos
    segment_videos(
        video,
        mask,
        output,
        overwrite=overwrite,
        resume=resume,
        formats=formats,
        progress=not quiet,
        mask_frame=mask_frame,
        unknown=unknown,
        boxes=box or (),
        points=points or (),
        frames=frame or (),
        objects=object_id or (),
        prompts=prompts,
        device=device,
        backend=backend,
        weights=weights,
        int8_dir=int8_dir,
        **given(
            inference_size=inference_size,
            memory_every=memory_every,
            remember_last=remember_last,
            max_memory_frames=max_memory_frames,
            direction=direction,
            spatial_prior=spatial_prior,
            review_below=review_below,
            precision=precision,
        ),
    )


def was_used() -> bool:
    """Whether the command ran in this process."""
    return "bundle.commands.segment" in sys.modules


@contextmanager
def _quick_start() -> Iterator[None]:
    """Import without garbage collection, which takes a tenth of the time and finds nothing."""
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()
