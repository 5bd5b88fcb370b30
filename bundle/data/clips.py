"""Data sets for training and validation: which frames make a clip, and whole videos.

T frames of H x W. Every draw derives from seed, epoch and index, so a resumed training sees the
same clips, whatever the number of workers.
"""

import json
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from monai.transforms import Compose, Randomizable
from torch import Tensor
from torch.utils.data import Dataset

from bundle.data.datalists import as_videos
from bundle.data.frames import read_frames, read_masks
from bundle.data.records import Video

ClipKind = Literal["static", "pair", "video"]
CLIP_FRAMES = 3


def pick_frames(
    video: Video, random: np.random.RandomState, max_skip: int
) -> tuple[list[int], ClipKind]:
    """Choose three annotated frames.

    ``static``: one annotated frame, three times over (the paper's pretraining). ``pair``: there and
    back between two. ``video``: time-ordered with 0 to ``max_skip`` annotated frames passed over
    between neighbours, reversed in half of the draws.
    """
    annotated = sorted(video.masks)
    if len(annotated) == 1:
        return annotated * CLIP_FRAMES, "static"
    if len(annotated) == 2:
        first, second = annotated[:: random.choice([-1, 1])]
        return [first, second, first], "pair"
    room = (len(annotated) - CLIP_FRAMES) // (CLIP_FRAMES - 1)
    steps = 1 + random.randint(0, min(max_skip, room) + 1, CLIP_FRAMES - 1)
    begin = random.randint(0, len(annotated) - steps.sum())
    chosen = [annotated[begin + offset] for offset in (0, *np.cumsum(steps))]
    return chosen[:: random.choice([-1, 1])], "video"


def read_clip(
    video: Video, frames: Sequence[int], cache_dir: str | Path | None = None
) -> tuple[Tensor, Tensor]:
    """Frames (3, H, W, T) uint8, and their labels (1, H, W, T) int64 with -1 where not annotated.

    Raises:
        ValueError: A mask or a frame is of another size than the first frame.
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
    """The first annotated frame whose mask shows an object of the video.

    Raises:
        ValueError: All masks are empty.
    """
    for i in sorted(video.masks):
        if np.isin(read_masks(video, [i])[0], list(video.labels)).any():
            return i
    raise ValueError(f"all {len(video.masks)} masks of video {video.id} are empty")


def frame_names(video: Video) -> list[str]:
    """What to call each frame: its own file's name without suffix, or its index, from 0.

    The index, of five digits, names all frames of a video whose files hold many frames each, or do
    not sort into the order of time as plain text: then a folder listing has the right order.
    """
    names = [
        ref.name.removesuffix(".gz").rsplit(".", 1)[0].replace("|", "_")
        for ref in video.frames
        if isinstance(ref, Path)
    ]
    if len(names) == len(video.frames) and names == sorted(set(names)):
        return names
    return [f"{i:05d}" for i in range(len(video.frames))]


class ClipDataset(Dataset[dict[str, Any]]):
    """Random clips of three frames for training.

    Args:
        data: Groups of videos by name. MONAI Label puts one list there, of dictionaries with
            ``image`` and ``label``: it becomes one group, whatever the shares.
        shares: How often each group is drawn, in proportion. Equal by default.
        transform: Applied to ``{"image", "label", "kind"}``; its randomness is set for each clip.
        length: Clips per epoch.
        max_skip: Most annotated frames passed over between neighbours; a list has one number for
            each epoch, of which the last stays: a curriculum.
        max_objects: A clip takes 1 to this many of the objects that its first frame shows.
        seed: Of all draws.
        cache_dir: Where videos are kept decoded; see ``bundle.data.frames.read_frames``.

    Raises:
        ValueError: A group is empty, or a share names no group.
    """

    def __init__(
        self,
        data: Mapping[str, Sequence[Video]] | Sequence[Video | Mapping[str, Any]],
        transform: Callable[[dict[str, Any]], dict[str, Any]],
        length: int,
        shares: Mapping[str, float] | None = None,
        max_skip: int | Sequence[int] = 5,
        max_objects: int = 2,
        seed: int = 0,
        cache_dir: str | Path | None = None,
    ) -> None:
        if not isinstance(data, Mapping):
            data, shares = {"data": as_videos(data)}, None
        self.data = {name: list(videos) for name, videos in data.items()}
        shares = dict.fromkeys(self.data, 1.0) if shares is None else shares
        if set(shares) != set(self.data):
            raise ValueError(f"shares name {sorted(shares)} but the groups are {sorted(self.data)}")
        empty = [name for name, videos in self.data.items() if not videos]
        if empty:
            raise ValueError(f"group {empty[0]} holds no video")
        weights = np.array([shares[name] for name in self.data], float)
        self.names, self.weights = list(self.data), weights / weights.sum()
        self.transform, self.length = transform, length
        self.max_skips = [max_skip] if isinstance(max_skip, int) else list(max_skip)
        self.max_objects, self.seed = max_objects, seed
        self.cache_dir = cache_dir
        # Shared memory: workers that live on between epochs see it change.
        self._position = torch.zeros(2, dtype=torch.long).share_memory_()

    def __len__(self) -> int:
        """Clips that are left of the epoch."""
        return self.length - int(self._position[1])

    def set_epoch(self, epoch: int, begin: int = 0) -> None:
        """Draw other clips from now on. Call it before the epoch's loader iterator is made.

        Args:
            epoch: Which.
            begin: Index 0 is this clip of the epoch, the last one stays: where an epoch that was
                broken off goes on.
        """
        self._position.copy_(torch.tensor([epoch, begin]))

    def __getitem__(self, index: int) -> dict[str, Any]:
        """``image`` (3, H, W, T) in [0, 1], ``label`` (1, H, W, T), ``kind`` and ``ordered``."""
        epoch, begin = self._position.tolist()
        max_skip = self.max_skips[min(max(epoch - 1, 0), len(self.max_skips) - 1)]
        random = np.random.RandomState(
            np.random.SeedSequence((self.seed, epoch, begin + index)).generate_state(4)
        )
        for _ in range(10):
            name = self.names[random.choice(len(self.names), p=self.weights)]
            video = self.data[name][random.randint(len(self.data[name]))]
            frames, kind = pick_frames(video, random, max_skip)
            image, label = read_clip(video, frames, self.cache_dir)
            present = label[..., 0].unique()
            objects = present[present > 0]
            if len(objects):
                break
        else:
            raise ValueError(f"ten draws gave no object in a first frame, last of video {video.id}")
        # Ids become 1..N in random order, so that the network cannot tie meaning to an id.
        taken = random.randint(1, min(self.max_objects, len(objects)) + 1)
        order = objects[torch.from_numpy(random.permutation(len(objects))[:taken])]
        label = (
            torch.stack([label == i for i in order])
            .int()
            .mul(torch.arange(1, len(order) + 1).view(-1, 1, 1, 1, 1))
            .sum(0)
        )
        if isinstance(self.transform, (Randomizable, Compose)):
            self.transform.set_random_state(seed=int(random.randint(2**31)))
        clip = self.transform({"image": image.float() / 255, "label": label, "kind": kind})
        return {**clip, "ordered": kind == "video", "name": f"{name}/{video.id}"}


def validation_dataset(
    data: Sequence[Video],
    transform: Callable[[dict[str, Any]], dict[str, Any]],
    every: int = 1,
    cache_dir: str | Path | None = None,
) -> Dataset[dict[str, Any]]:
    """Whole videos; or, if no video has a second annotated frame, clips of deformed copies.

    The deformations are the same at every validation.

    Args:
        data: The videos or pictures.
        transform: Of the clips.
        every: See ``VideoDataset``.
        cache_dir: Likewise.
    """
    if any(len(video.masks) > 1 for video in data):
        return VideoDataset(data, every, cache_dir)
    return ClipDataset({"valid": data}, transform, length=len(data), cache_dir=cache_dir)


class VideoDataset(Dataset[dict[str, Any]]):
    """Whole videos for validation, from the first frame on whose mask shows an object.

    Args:
        data: The videos, or dictionaries with ``image`` and ``label``.
        every: Take only every so many frames, to make validation during training cheaper.
        cache_dir: Where videos are kept decoded; see ``bundle.data.frames.read_frames``.
        transform: Of ``bundle.data.preprocessing``, applied to all that is returned.
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
        """``image`` (3, H, W, T) in [0, 1], ``label`` (1, H, W, T) int64, and what is known besides.

        Labels are 1..N in the order of the ids that the first frame shows, -1 where not annotated.
        All else is of a form that batches: ``name``; ``classes`` and ``ids`` of the objects,
        ``frame_names``, each text with | between its entries; ``patient``; ``spacing_mm`` (2,),
        NaN if unknown; ``info`` as JSON.

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
            "spacing_mm": torch.tensor(video.spacing_mm or (math.nan, math.nan)),
            "info": json.dumps(dict(video.info)),
        }
        return item if self.transform is None else self.transform(item)
