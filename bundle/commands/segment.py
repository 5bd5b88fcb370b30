"""``tcmn segment``: one video or many, from files to files."""

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from bundle.commands.prompt_options import read_prompt_options
from bundle.inference.checkpoint import RunCheckpoint
from bundle.inference.inputs import PromptedVideo, list_videos
from bundle.inference.prompts import require_prompts
from bundle.inference.prompts_file import read_prompts
from bundle.inference.result_saver import ResultSaver
from bundle.inference.streaming import stream_with_frames
from bundle.networks.weights import file_digest
from bundle.segmenter import VideoSegmenter
from bundle.utils.bundle_files import bundle_root, program_version
from bundle.utils.paths import expand_user, fit_name

logger = logging.getLogger(__name__)


def segment_videos(
    video: Path,
    mask: Path | None,
    output_dir: Path,
    *,
    overwrite: bool = False,
    resume: bool = True,
    formats: str = "auto",
    progress: bool = True,
    mask_frame: str | None = None,
    unknown: int | None = None,
    boxes: Sequence[str] = (),
    points: Sequence[str] = (),
    frames: Sequence[int] = (),
    objects: Sequence[int] = (),
    prompts: Path | None = None,
    **options: Any,
) -> None:
    """Segment a video, or each of a folder or list, and write the results.

    Args:
        video: Anything that ``open_video`` takes; without ``mask`` and prompts a folder of videos, each
            with its mask beside it, or a list of videos and masks, see ``list_inputs``. Of many, those
            whose results are there already are passed over, and after a failure the next one is done.
        mask: Anything that ``read_masks`` takes.
        output_dir: Results go to ``output_dir/NAME``.
        overwrite: Replace results that are there already.
        resume: Go on where the same command was interrupted; see ``bundle.inference.checkpoint``.
        formats: See ``bundle.io.writing.ResultWriter``.
        progress: Show a progress bar.
        mask_frame: The frame that a single mask belongs to, from 0; see ``read_masks``.
        unknown: The value of the mask's pixels of which nothing is known.
        boxes: See ``bundle.commands.prompt_options``.
        points: Likewise.
        frames: Frames of the boxes and points.
        objects: Likewise.
        prompts: A file of boxes, points, scribbles and masks; see ``bundle.inference.prompts_file``.
        options: Options of ``VideoSegmenter.from_pretrained``.

    Raises:
        FileNotFoundError, ValueError: A file is missing or damaged, or a value is out of range; of
            many videos, at the end, if some failed.
    """
    entries = read_prompt_options(boxes, points, frames, objects)
    if prompts is not None:
        entries = [*read_prompts(expand_user(prompts)), *entries]
    many = mask is None and not entries
    video, output_dir = expand_user(video), expand_user(output_dir)
    if many and video.is_file() and video.suffix.lower() != ".csv":
        raise ValueError(
            f"no mask given for {video}: add --mask PATH, a picture of the first frame's mask, or "
            "point at the object with --box LEFT,TOP,RIGHT,BOTTOM or --points X,Y,1"
        )
    if many:
        videos = list_videos(None, None, video, output_dir, mask_frame, None, unknown)
    else:
        given = None if mask is None else expand_user(mask)
        videos = list_videos(video, given, None, output_dir, mask_frame, entries, unknown)
    saver = ResultSaver(output_dir, overwrite, progress, formats, keep_going=many)
    if many:
        saver.begin()
    segmenter = VideoSegmenter.from_pretrained(**options)
    if entries:
        require_prompts(segmenter.network)  # before a folder is made
    made_by = _describe_segmenter(segmenter, options)
    for each in videos:
        identity = f"{made_by} {_describe_video(each)}"
        checkpoint = RunCheckpoint(
            output_dir / f".{fit_name(each.name, 12)}.checkpoint", identity, resume
        )
        stream = stream_with_frames(
            segmenter.settings, segmenter.network, each, segmenter.device, checkpoint
        )
        try:
            written = saver.save(each, stream)
        except KeyboardInterrupt:
            if checkpoint.folder.is_dir():
                logger.warning("%s: interrupted; the same command goes on from here", each.path)
            raise
        if written:
            checkpoint.remove()
    if many:
        saver.end()


def _describe_segmenter(segmenter: VideoSegmenter, options: Mapping[str, Any]) -> str:
    """What masks depend on beside the video, its prompts and the settings."""
    weights = expand_user(options.get("weights") or bundle_root() / "models" / "model.pt")
    parts = (
        file_digest(weights),
        options.get("int8_dir"),
        type(segmenter.network).__name__,
        segmenter.device,
        program_version(),
    )
    return " ".join(map(str, parts))


def _describe_video(video: PromptedVideo) -> str:
    """Where it is, and when it was changed."""
    path = video.path
    try:
        files = [path, *path.iterdir()] if path.is_dir() else [path]
        changed = max(each.stat().st_mtime_ns for each in files)
    except OSError:  # opening it will say why
        changed = 0
    return f"{path.absolute()} {changed}"
