"""``tcmn segment``: one video or many, from files to files."""

from pathlib import Path
from typing import Any

from bundle.inference.inputs import list_videos
from bundle.inference.result_saver import ResultSaver
from bundle.inference.streaming import stream_with_frames
from bundle.segmenter import VideoSegmenter
from bundle.utils.paths import expand_user


def segment_videos(
    video: Path,
    mask: Path | None,
    output_dir: Path,
    *,
    overwrite: bool = False,
    formats: str = "auto",
    progress: bool = True,
    mask_frame: str | None = None,
    **options: Any,
) -> None:
    """Segment a video, or each of a folder or list, and write the results.

    Args:
        video: Anything that ``open_video`` takes; without ``mask`` a folder of videos, each with its
            mask beside it, or a list of videos and masks, see ``list_inputs``. Of many, those whose
            results are there already are passed over, and after a failure the next one is done.
        mask: Anything that ``read_masks`` takes.
        output_dir: Results go to ``output_dir/NAME``.
        overwrite: Replace results that are there already.
        formats: See ``bundle.io.writing.ResultWriter``.
        progress: Show a progress bar.
        mask_frame: The frame that a single mask belongs to, from 0; see ``read_masks``.
        options: Of ``VideoSegmenter.from_pretrained``.

    Raises:
        FileNotFoundError, ValueError: A file is missing or damaged, or a value is out of range; of
            many videos, at the end, if some failed.
    """
    many = mask is None
    video, output_dir = expand_user(video), expand_user(output_dir)
    if many and video.is_file() and video.suffix.lower() != ".csv":
        raise ValueError(
            f"no mask given for {video}: add --mask PATH, a picture of the first frame's mask"
        )
    if mask is None:
        videos = list_videos(None, None, video, output_dir, mask_frame)
    else:
        videos = list_videos(video, expand_user(mask), None, output_dir, mask_frame)
    saver = ResultSaver(output_dir, overwrite, progress, formats, keep_going=many)
    if many:
        saver.begin()
    segmenter = VideoSegmenter.from_pretrained(**options)
    for each in videos:
        stream = stream_with_frames(segmenter.settings, segmenter.network, each, segmenter.device)
        saver.save(each, stream)
    if many:
        saver.end()
