"""A PyTorch data set of whole annotated videos, for evaluation and validation.

T frames of H x W.
"""

import json
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from bundle.datasets.datalists import as_videos
from bundle.datasets.frames import read_frames, read_masks
from bundle.datasets.records import Video


def read_clip(
    video: Video, frames: Sequence[int], cache_dir: str | Path | None = None
) -> tuple[Tensor, Tensor]:
    """Read frames (3, H, W, T) uint8, and labels (1, H, W, T) int64 with -1 where not annotated.

    Args:
        video: The record.
        frames: Frame indices.
        cache_dir: See ``bundle.datasets.frames.read_frames``.

    Raises:
        ValueError: A mask or a frame differs in size from the first frame.
    """
    images = read_frames(video, frames, cache_dir)
    height, width = images[0].shape[:2]
    for i, image in zip(frames, images, strict=True):
        if image.shape != images[0].shape:
            raise ValueError(
                f"{video.frames[i]} is {image.shape[1]}x{image.shape[0]} but "
                f"{video.frames[frames[0]]} is {width}x{height}: the frames of a video share one "
                "size"
            )
    annotated = [i for i in dict.fromkeys(frames) if i in video.masks]
    masks = dict(zip(annotated, read_masks(video, annotated), strict=True))
    for i, mask in masks.items():
        if mask.shape != (height, width):
            raise ValueError(
                f"{video.masks[i]} is {mask.shape[1]}x{mask.shape[0]} but {video.frames[i]} "
                f"is {width}x{height}: export the mask at the frame's size"
            )
    label = np.full((height, width, len(frames)), -1, np.int64)
    for t, i in enumerate(frames):
        if i in masks:
            label[..., t] = np.where(np.isin(masks[i], list(video.labels)), masks[i], 0)
    return (
        torch.from_numpy(np.stack(images, axis=-1)).movedim(2, 0),
        torch.from_numpy(label)[None],
    )


def first_shown(video: Video) -> int:
    """Index of the first annotated frame whose mask shows an object of the video.

    Raises:
        ValueError: All masks are empty.
    """
    for i in sorted(video.masks):
        if np.isin(read_masks(video, [i])[0], list(video.labels)).any():
            return i
    raise ValueError(f"all {len(video.masks)} masks of video {video.id} are empty")


def frame_names(video: Video) -> list[str]:
    """Name of each frame: its file's name without suffix, or its index of five digits, from 0.

    The index is used if a file holds many frames, or if the names sorted as text are not in time
    order. So a folder listing always has the frames in time order.
    """
    names = [
        ref.name.removesuffix(".gz").rsplit(".", 1)[0].replace("|", "_")
        for ref in video.frames
        if isinstance(ref, Path)
    ]
    if len(names) == len(video.frames) and names == sorted(set(names)):
        return names
    return [f"{i:05d}" for i in range(len(video.frames))]


class VideoDataset(Dataset[dict[str, Any]]):
    """Whole videos, each from the first frame whose mask shows an object.

    Args:
        data: The videos, or dictionaries with ``image`` and ``label``.
        every: Take only every ``every``-th frame, for a cheaper validation during training.
        cache_dir: Folder for decoded videos; see ``bundle.datasets.frames.read_frames``.
        transform: Applied to each item, such as one of ``bundle.transforms.preprocessing``.
    """

    def __init__(
        self,
        data: Sequence[Video | Mapping[str, Any]],
        every: int = 1,
        cache_dir: str | Path | None = None,
        transform: Callable[[dict[str, Any]], dict[str, Any]] | None = None,
    ) -> None:
        self.data, self.every, self.cache_dir = as_videos(data), every, cache_dir
        self.transform = transform

    def __len__(self) -> int:
        return len(self.data)

    def __getitem__(self, index: int) -> dict[str, Any]:
        """``image`` (3, H, W, T) in [0, 1], ``label`` (1, H, W, T) int64, and the record's other data.

        Labels are 1..N in the order of the ids in the first frame, -1 where not annotated. The other
        data have types that can be collated: ``name``; ``classes``, ``ids`` of the objects and
        ``frame_names``, each a text with | between its entries; ``patient``; ``domain``;
        ``spacing_mm`` (2,), NaN if unknown; ``info`` as JSON.

        Raises:
            ValueError: All masks are empty.
        """
        video = self.data[index]
        frames = range(first_shown(video), len(video.frames), self.every)
        image, label = read_clip(video, frames, self.cache_dir)
        ids = [int(i) for i in label[..., 0].unique() if i > 0]
        renumbered = label.clamp(max=0)
        for number, i in enumerate(ids, start=1):
            renumbered[label == i] = number
        names = frame_names(video)
        item = {
            "image": image.float() / 255,
            "label": renumbered,
            "name": video.id,
            "classes": "|".join(video.labels[i] for i in ids),
            "ids": "|".join(map(str, ids)),
            "frame_names": "|".join(names[i] for i in frames),
            "patient": video.patient,
            "domain": video.domain,
            "spacing_mm": torch.tensor(video.spacing_mm or (math.nan, math.nan)),
            "info": json.dumps(dict(video.info)),
        }
        return item if self.transform is None else self.transform(item)
