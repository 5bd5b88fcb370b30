"""List the videos to segment with their masks and prompts: one video, a folder, or a CSV list.

Files are opened when they are used.
"""

import csv
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from bundle.datasets.video_folder import find_pairs, pick_pair
from bundle.inference.job import SegmentationJob
from bundle.inference.prompts import Segmenter
from bundle.inference.prompts_file import PromptEntry, check_entry, give_prompts, read_prompts
from bundle.io.reading.masks import PartialLabels, read_annotations, read_partial_annotations
from bundle.io.reading.video import open_video
from bundle.io.reading.volumes import VideoSource, source_name
from bundle.types import LabelMap
from bundle.utils.options import parse_count, parse_text
from bundle.utils.processes import process_share

COLUMNS = ("video", "mask")


@dataclass(frozen=True, eq=False)
class PromptedVideo:
    """One video to segment, with its mask and prompts.

    Nothing is opened before ``source`` or ``annotations`` is used, so an error in one of many videos
    is raised only when it is that video's turn.

    Attributes:
        path: Anything that ``open_video`` takes.
        mask: Anything that ``read_annotations`` takes; None if there are prompts only.
        problem: An error to raise instead of opening the video, such as a missing mask.
        mask_frame: Frame of a single mask; see ``read_annotations``.
        unknown: Pixel value of the mask that means unknown; None if there is none.
        prompts: Boxes, points, scribbles and more masks.
    """

    path: Path
    mask: Path | None
    problem: Exception | None = None
    mask_frame: int | None = None
    unknown: int | None = None
    prompts: Sequence[PromptEntry] = ()

    @property
    def name(self) -> str:
        """The name of the results."""
        return source_name(self.path)

    @cached_property
    def source(self) -> VideoSource:
        """The video; its frames are decoded when they are iterated over."""
        if self.problem is not None:
            raise self.problem
        return open_video(self.path)

    @cached_property
    def annotations(self) -> Mapping[int, LabelMap]:
        """Frame index -> label map (H, W); unknown pixels are 0."""
        return {i: part.labels for i, part in self._masks.items()}

    @property
    def annotated(self) -> frozenset[int]:
        """The frames of the mask and of the prompts."""
        return frozenset(self._masks) | {entry.frame for entry in self.prompts}

    def give(self, segmenter: Segmenter) -> SegmentationJob:
        """Start a job with the mask and the prompts; nothing is propagated yet.

        Raises:
            ValueError: A prompt is invalid, or the network takes no partial masks.
        """
        for entry in self.prompts:  # check all before the network works on the first
            check_entry(entry, self.source)
        job = SegmentationJob(segmenter, self.source)
        for index, part in self._masks.items():
            mask = np.where(part.unknown, -1, part.labels.astype(np.int16))
            job.add_mask(index, mask, unknown=-1)
        give_prompts(job, self.prompts)
        return job

    @cached_property
    def _masks(self) -> Mapping[int, PartialLabels]:
        if self.mask is None:
            return {}
        if self.unknown is not None:
            return read_partial_annotations(self.mask, self.source, self.unknown, self.mask_frame)
        whole = read_annotations(self.mask, self.source, self.mask_frame)
        return {i: PartialLabels(m, np.zeros(m.shape, bool)) for i, m in whole.items()}


class OpenPromptedVideod:
    """A transform that joins the paths ``image`` and ``label`` to a ``PromptedVideo`` in ``image``.

    Optional keys are ``mask_frame``, ``unknown`` and ``prompts``.

    Raises:
        ValueError: There is no video, or neither a mask nor a prompt.
    """

    def __call__(self, data: Mapping[str, Any]) -> dict[str, Any]:
        image, label, prompts = data.get("image"), data.get("label"), data.get("prompts", ())
        if image is None:
            raise ValueError("no video given: add --video PATH, or --input-dir DIR for many videos")
        if label is None and not prompts:
            raise ValueError(
                "no mask given: add --mask PATH, or --prompts FILE.json with a box or points, or "
                "--input-dir DIR for many videos"
            )
        video = PromptedVideo(
            Path(str(image)),
            None if label is None else Path(str(label)),
            data.get("problem"),
            data.get("mask_frame"),
            data.get("unknown"),
            prompts,
        )
        return {"image": video}


def list_inputs(
    video: str | Path | None,
    mask: str | Path | None,
    input_dir: str | Path | None = None,
    output_dir: str | Path | None = None,
    mask_frame: int | str | None = None,
    prompts: str | Path | Sequence[PromptEntry] | None = None,
    unknown: int | str | None = None,
) -> list[dict[str, Any]]:
    """List the videos to segment, as items for ``OpenPromptedVideod``. No file is opened.

    Each process that torchrun started gets its share of the videos.

    Args:
        video: A single video.
        mask: Its mask.
        input_dir: Instead of both, a folder of videos with masks, in the layout of
            ``bundle.datasets.video_folder``; or a CSV list with the columns ``video`` and ``mask``,
            with paths relative to the list.
        output_dir: Folder of the results.
        mask_frame: Frame of a single mask, from 0; the column ``mask_frame`` of a list overrides it.
        prompts: Prompts of a single video, in addition to its mask or instead of it: the path of a
            file, see ``prompts_file``, or its entries.
        unknown: Pixel value of masks that means unknown.

    Raises:
        FileNotFoundError: There is no such folder or list, or no mask in the folder.
        ValueError: ``input_dir`` is given together with a single video or is not a valid list, or the
            results of two videos would go to one folder.
    """
    given = parse_text(input_dir)
    entries = _read_prompts(prompts)
    if entries and given is not None:
        raise ValueError("--prompts is for one video: leave it out, or --input-dir")
    if given is None:
        items: list[dict[str, Any]] = [{"image": parse_text(video), "label": parse_text(mask)}]
    elif parse_text(video) is not None or parse_text(mask) is not None:
        raise ValueError("--input-dir is for many videos: leave it out, or --video and --mask")
    elif Path(given).is_dir():
        if output_dir is not None and Path(output_dir).resolve() == Path(given).resolve():
            raise ValueError(
                f"--output-dir is the --input-dir {given}, where results would be taken for videos "
                "the next time: choose another output_dir"
            )
        items = _list_folder(Path(given))
    else:
        items = _read_list(Path(given))
    frame = parse_count(mask_frame, "mask_frame")
    if frame is not None:
        items = [{"mask_frame": frame, **item} for item in items]
    value = parse_count(unknown, "unknown")
    more = {"unknown": value, "prompts": entries}
    more = {name: each for name, each in more.items() if each not in (None, [])}
    items = [item | more for item in items]
    _refuse_clashes([item["image"] for item in items if item["image"] is not None])
    number, processes = process_share()
    return items[number::processes]


def list_videos(
    video: str | Path | None,
    mask: str | Path | None,
    input_dir: str | Path | None = None,
    output_dir: str | Path | None = None,
    mask_frame: int | str | None = None,
    prompts: str | Path | Sequence[PromptEntry] | None = None,
    unknown: int | str | None = None,
) -> list[PromptedVideo]:
    """The same as ``list_inputs``, as ``PromptedVideo`` objects."""
    items = list_inputs(video, mask, input_dir, output_dir, mask_frame, prompts, unknown)
    return [OpenPromptedVideod()(item)["image"] for item in items]


def _read_prompts(prompts: str | Path | Sequence[PromptEntry] | None) -> list[PromptEntry]:
    if prompts is None or isinstance(prompts, (str, Path)):
        path = parse_text(prompts)
        return [] if path is None else read_prompts(path)
    return list(prompts)


def _list_folder(folder: Path) -> list[dict[str, Any]]:
    items: list[dict[str, Any]] = []
    for stem, (videos, masks) in find_pairs(folder).items():
        try:
            video, mask = pick_pair(stem, videos, masks)
            items.append({"image": video, "label": mask})
        except FileNotFoundError as problem:  # one of many: reported with other failures
            items.append(
                {"image": [*videos, stem][0], "label": [*masks, stem][0], "problem": problem}
            )
    return items


def _read_list(path: Path) -> list[dict[str, Any]]:
    if not path.exists():
        raise FileNotFoundError(f"no such folder or list: --input-dir {path}: check the path")
    if path.suffix.lower() != ".csv":
        raise ValueError(f"--input-dir {path} is neither a folder nor a .csv list")
    items: list[dict[str, Any]] = []
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:  # Excel writes a byte order mark
            reader = csv.DictReader(file)
            columns: Sequence[str] = reader.fieldnames or ()
            if not set(COLUMNS) <= set(columns):
                raise ValueError(
                    f"{path} has the columns {', '.join(columns) or 'of an empty file'}: expected "
                    "video,mask in its first line, with a comma between them"
                )
            for row in reader:
                cells = [(row[column] or "").strip() for column in COLUMNS]
                for column, cell in zip(COLUMNS, cells, strict=True):
                    if not cell:
                        raise ValueError(f"{path}, line {reader.line_num}: the {column} is missing")
                image, label = (path.parent / cell for cell in cells)
                item: dict[str, Any] = {"image": image, "label": label}
                if frame := (row.get("mask_frame") or "").strip():
                    item["mask_frame"] = parse_count(frame, "mask_frame")
                items.append(item)
    except (UnicodeDecodeError, csv.Error) as error:
        raise ValueError(
            f"{path} is not a table in UTF-8 ({error}): save it as CSV UTF-8"
        ) from error
    if not items:
        raise ValueError(f"{path} lists no video: expected a line for each below video,mask")
    return items


def _refuse_clashes(videos: Iterable[str | Path]) -> None:
    taken: dict[str, str | Path] = {}
    for video in videos:
        name = source_name(Path(video)).casefold()  # many file systems ignore letter case
        if name in taken:
            raise ValueError(
                f"the results of {taken[name]} and {video} would go to the same folder {name}: "
                "rename one, or run them into different output folders"
            )
        taken[name] = video
