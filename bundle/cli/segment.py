"""``tcmn segment``."""

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
            help="A video file, a folder of frames, DICOM, or a 2D+t NIfTI, MetaImage, NRRD or TIFF. "
            "Many videos: a folder of them, each with NAME_mask beside it, or a CSV list of video,mask."
        ),
    ],
    mask: Annotated[
        Path | None,
        typer.Option(
            "--mask",
            "-m",
            show_default=False,
            help="Mask of the first frame (a picture), or masks of several frames: a volume, whose "
            "empty frames do not count, or a folder of pictures named like their frames.",
        ),
    ] = None,
    output: Annotated[
        Path,
        typer.Option(
            "--output", "--output-dir", "-o", help="Folder of results: OUTPUT/NAME for each video."
        ),
    ] = Path("output"),
    overwrite: Annotated[
        bool,
        typer.Option("--overwrite", help="Replace results of an earlier run; files of yours stay."),
    ] = False,
    resume: Annotated[
        bool,
        typer.Option("--resume/--no-resume", help="Go on where the same command was interrupted."),
    ] = True,
    formats: Annotated[
        str,
        typer.Option(
            help="Results to write: auto, or some of nifti, png, overlay, csv, summary, mha, nrrd, "
            "dicom_seg, rle, seg_nrrd, coco, cvat, yolo, mots, with commas between them."
        ),
    ] = "auto",
    device: Device = "auto",
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Only errors are shown.")] = False,
    box: Annotated[
        list[str] | None,
        typer.Option(
            help="A box around the object, in pixels; may be repeated, for objects 1, 2 and so on.",
            metavar="LEFT,TOP,RIGHT,BOTTOM",
            rich_help_panel=PROMPTS,
            show_default=False,
        ),
    ] = None,
    points: Annotated[
        list[str] | None,
        typer.Option(
            help="A point in pixels, with 1 on the object or 0 beside it; may be repeated.",
            metavar="X,Y,1",
            rich_help_panel=PROMPTS,
            show_default=False,
        ),
    ] = None,
    frame: Annotated[
        list[int] | None,
        typer.Option(
            help="Frame of the boxes and points, counted from 0: once for all, or once for each.",
            rich_help_panel=PROMPTS,
            show_default="0",
        ),
    ] = None,
    object_id: Annotated[
        list[int] | None,
        typer.Option(
            "--object",
            help="Number of the object: once for all boxes and points, or once for each.",
            rich_help_panel=PROMPTS,
            show_default="1",
        ),
    ] = None,
    prompts: Annotated[
        Path | None,
        typer.Option(
            help="A JSON file of boxes, points, scribbles and masks; see docs/prompts.md.",
            rich_help_panel=PROMPTS,
            show_default=False,
        ),
    ] = None,
    unknown: Annotated[
        int | None,
        typer.Option(
            help="Value of the mask's pixels that are unknown, such as 255; the network fills them.",
            rich_help_panel=PROMPTS,
            show_default=False,
        ),
    ] = None,
    mask_frame: Annotated[
        str | None,
        typer.Option(
            help="Frame of a single mask, counted from 0.",
            rich_help_panel=ADVANCED,
            show_default=False,
        ),
    ] = None,
    backend: Backend = "auto",
    weights: Weights = None,
    int8_dir: Int8Dir = None,
    inference_size: Size = None,
    memory_every: Every = None,
    max_memory_frames: MemoryFrames = None,
    direction: Direction = None,
    spatial_prior: Prior = None,
    review_below: Review = None,
    precision: Precision = None,
    eviction: Gone = None,
    policy: Gone = None,
) -> None:
    """Segment a video from the mask of one frame, or of a few; or from a box or points."""
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
    """Import without collecting garbage, of which imports make none; it takes a tenth of their time."""
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()
