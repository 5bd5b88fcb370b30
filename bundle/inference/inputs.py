"""Videos and the masks that were given for them: one, a folder or a list; opened when used."""

import csv
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from bundle.datasets.video_folder import find_pairs, pick_pair
from bundle.io.reading.masks import read_annotations
from bundle.io.reading.video import open_video
from bundle.io.reading.volumes import VideoSource, source_name
from bundle.types import LabelMap
from bundle.utils.options import parse_count, parse_text
from bundle.utils.processes import process_share

COLUMNS = ("video", "mask")


@dataclass(frozen=True, eq=False)
class PromptedVideo:
    """What the main job starts from.

    Nothing is opened before ``source`` or ``annotations`` is asked for, so that among many videos a
    bad one is noticed when it is its turn.

    Attributes:
        path: Anything that ``open_video`` takes.
        mask: Anything that ``read_annotations`` takes.
        problem: Why there is nothing to open, if so; raised instead.
        mask_frame: The frame that a single mask belongs to; see ``read_annotations``.
    """

    path: Path
    mask: Path
    problem: Exception | None = None
    mask_frame: int | None = None

    @property
    def name(self) -> str:
        """What the results will be called."""
        return source_name(self.path)

    @cached_property
    def source(self) -> VideoSource:
        """The video; its frames are decoded when they are iterated over."""
        if self.problem is not None:
            raise self.problem
        return open_video(self.path)

    @cached_property
    def annotations(self) -> Mapping[int, LabelMap]:
        """Frame index to label map (H, W)."""
        return read_annotations(self.mask, self.source, self.mask_frame)


class OpenPromptedVideod:
    """Makes the paths in ``image`` and ``label`` one ``PromptedVideo`` in ``image``.

    Raises:
        ValueError: A path is missing.
    """

    def __call__(self, data: Mapping[str, Any]) -> dict[str, Any]:
        for key, option in (("image", "video"), ("label", "mask")):
            if data.get(key) is None:
                raise ValueError(
                    f"no {option} given: add --{option} PATH, or --input_dir DIR for many videos"
                )
        image, label = Path(str(data["image"])), Path(str(data["label"]))
        mask_frame = data.get("mask_frame")
        return {"image": PromptedVideo(image, label, data.get("problem"), mask_frame)}


def list_inputs(
    video: str | Path | None,
    mask: str | Path | None,
    input_dir: str | Path | None = None,
    output_dir: str | Path | None = None,
    mask_frame: int | str | None = None,
) -> list[dict[str, Any]]:
    """What there is to do, as items for ``OpenPromptedVideod``; nothing is opened.

    Of processes that torchrun started each gets its share, whatever has been done already: they may
    not see the same.

    Args:
        video: One video, which needs a mask.
        mask: Its mask.
        input_dir: Instead of both, a folder of videos with their masks, named as
            ``bundle.datasets.video_folder`` says; or a CSV list with the columns ``video`` and
            ``mask``, whose paths are relative to the list.
        output_dir: Where results will go.
        mask_frame: The frame that a single mask belongs to, from 0; a column ``mask_frame`` of a list
            goes before it.

    Raises:
        FileNotFoundError: There is no such folder or list, or no mask in the folder.
        ValueError: ``input_dir`` is given together with one video, or is no list as it should be, or
            the results of two videos would be one.
    """
    given = parse_text(input_dir)
    if given is None:
        items: list[dict[str, Any]] = [{"image": parse_text(video), "label": parse_text(mask)}]
    elif parse_text(video) is not None or parse_text(mask) is not None:
        raise ValueError("--input_dir is for many videos: leave it out, or --video and --mask")
    elif Path(given).is_dir():
        if output_dir is not None and Path(output_dir).resolve() == Path(given).resolve():
            raise ValueError(
                f"--output_dir is the --input_dir {given}, where results would be taken for videos "
                "the next time: choose another output_dir"
            )
        items = _list_folder(Path(given))
    else:
        items = _read_list(Path(given))
    frame = parse_count(mask_frame, "mask_frame")
    if frame is not None:
        items = [{"mask_frame": frame, **item} for item in items]
    _refuse_clashes([item["image"] for item in items if item["image"] is not None])
    number, processes = process_share()
    return items[number::processes]


def list_videos(
    video: str | Path | None,
    mask: str | Path | None,
    input_dir: str | Path | None = None,
    output_dir: str | Path | None = None,
) -> list[PromptedVideo]:
    """``list_inputs``, each ready to be opened."""
    return [
        OpenPromptedVideod()(item)["image"]
        for item in list_inputs(video, mask, input_dir, output_dir)
    ]


def _list_folder(folder: Path) -> list[dict[str, Any]]:
    items: list[dict[str, Any]] = []
    for stem, (videos, masks) in find_pairs(folder).items():
        try:
            video, mask = pick_pair(stem, videos, masks)
            items.append({"image": video, "label": mask})
        except FileNotFoundError as problem:  # one of many: told with what else fails
            items.append(
                {"image": [*videos, stem][0], "label": [*masks, stem][0], "problem": problem}
            )
    return items


def _read_list(path: Path) -> list[dict[str, Any]]:
    if not path.exists():
        raise FileNotFoundError(f"no such folder or list: --input_dir {path}")
    if path.suffix.lower() != ".csv":
        raise ValueError(f"--input_dir {path} is neither a folder nor a .csv list")
    items: list[dict[str, Any]] = []
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:  # Excel begins with a mark
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
        raise ValueError(f"{path} is no table in UTF-8 ({error}): save it as CSV UTF-8") from error
    if not items:
        raise ValueError(f"{path} lists no video: expected a line for each below video,mask")
    return items


def _refuse_clashes(videos: Iterable[str | Path]) -> None:
    taken: dict[str, str | Path] = {}
    for video in videos:
        name = source_name(Path(video)).casefold()  # many file systems know no case
        if name in taken:
            raise ValueError(
                f"the results of {taken[name]} and {video} would go to the same folder {name}: "
                "rename one, or run them into different output folders"
            )
        taken[name] = video
