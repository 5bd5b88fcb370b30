"""The data set of random training clips, and the choice of a data set for validation.

T frames of H x W. Every random draw depends on seed, epoch and index only, so a resumed training sees
the same clips, whatever the number of workers.
"""

from collections.abc import Callable, Mapping, Sequence
from itertools import cycle, islice
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from monai.transforms import Compose, Randomizable
from torch import Tensor
from torch.utils.data import Dataset

from bundle.datasets.datalists import as_videos
from bundle.datasets.frames import read_frames
from bundle.datasets.records import Video
from bundle.datasets.whole_videos import VideoDataset, read_clip

ClipKind = Literal["static", "pair", "video"]


def pick_frames(
    video: Video, random: np.random.RandomState, max_skip: int, count: int = 3
) -> tuple[list[int], ClipKind]:
    """Choose annotated frames of a video.

    Args:
        video: The record.
        random: Source of random numbers.
        max_skip: Largest number of annotated frames skipped between neighbours.
        count: Number of frames, at least 3.

    Returns:
        Frame indices, and the kind. ``static``: a single annotated frame, again and again (the paper's
        pretraining). ``pair``: all of the few annotated frames, there and back: first, second, first.
        ``video``: frames in time order, with 0 to ``max_skip`` annotated frames skipped between
        neighbours. Pairs and videos are reversed in half of the draws.
    """
    annotated = sorted(video.masks)
    if len(annotated) == 1:
        return annotated * count, "static"
    if len(annotated) < count:
        there = annotated[:: random.choice([-1, 1])]
        return list(islice(cycle(there + there[-2:0:-1]), count)), "pair"
    room = (len(annotated) - count) // (count - 1)
    steps = 1 + random.randint(0, min(max_skip, room) + 1, count - 1)
    begin = random.randint(0, len(annotated) - steps.sum())
    chosen = [annotated[begin + offset] for offset in (0, *np.cumsum(steps))]
    return chosen[:: random.choice([-1, 1])], "video"


class ClipDataset(Dataset[dict[str, Any]]):
    """Random clips for training.

    Args:
        data: Group name -> videos. A plain list of dictionaries with ``image`` and ``label``, as MONAI
            Label passes it, becomes one group.
        sampling_weights: Relative frequency of each group; equal by default.
        transform: Applied to ``{"image", "label", "kind", "name"}``, whose name is that of the group, a
            slash and that of the video; its random state is set for each clip.
        length: Clips per epoch.
        max_skip: Largest number of annotated frames skipped between neighbours; a list has one number
            for each epoch, and the last stays (a curriculum).
        max_objects: A clip has 1 to this many of the objects that its first frame shows.
        seed: Seed of all random draws.
        cache_dir: Folder for decoded videos; see ``bundle.datasets.frames.read_frames``.
        absent: Share of clips in which the object disappears: later frames come from another scene.
        general: Names of the groups of everyday scenes. Their clips take the other scene from the
            medical groups and vice versa, so that it does not show the object.
        clip_frames: Frames of a clip; the paper has 3.
        pasted: Group name -> share of its clips that get a ``cutout``, which ``RandPasteClipd`` moves
            across the clip: an object of the same group, or of any everyday scene if it is one.

    Raises:
        ValueError: A group is empty, the weights do not name the groups, or clips are too short.
    """

    def __init__(
        self,
        data: Mapping[str, Sequence[Video]] | Sequence[Video | Mapping[str, Any]],
        transform: Callable[[dict[str, Any]], dict[str, Any]],
        length: int,
        sampling_weights: Mapping[str, float] | None = None,
        max_skip: int | Sequence[int] = 5,
        max_objects: int = 2,
        seed: int = 0,
        cache_dir: str | Path | None = None,
        absent: float = 0.0,
        general: Sequence[str] = (),
        clip_frames: int = 3,
        pasted: Mapping[str, float] | None = None,
    ) -> None:
        if clip_frames < 3:
            raise ValueError(f"clip_frames is {clip_frames}: a clip has 3 frames or more")
        self.clip_frames, self.pasted = clip_frames, dict(pasted or {})
        self.absent, self.general = absent, frozenset(general)
        if not isinstance(data, Mapping):
            data, sampling_weights = {"data": as_videos(data)}, None
        self.data = {name: list(videos) for name, videos in data.items()}
        if sampling_weights is None:
            sampling_weights = dict.fromkeys(self.data, 1.0)
        if set(sampling_weights) != set(self.data):
            raise ValueError(
                f"sampling_weights name {sorted(sampling_weights)} but the groups are "
                f"{sorted(self.data)}"
            )
        unknown = set(self.pasted) - set(self.data)
        if unknown:
            raise ValueError(
                f"pasted names {sorted(unknown)} but the groups are {sorted(self.data)}"
            )
        empty = [name for name, videos in self.data.items() if not videos]
        if empty:
            raise ValueError(f"group {empty[0]} holds no video")
        weights = np.array([sampling_weights[name] for name in self.data], float)
        self.names, self.weights = list(self.data), weights / weights.sum()
        self.transform, self.length = transform, length
        self.max_skips = [max_skip] if isinstance(max_skip, int) else list(max_skip)
        self.max_objects, self.seed = max_objects, seed
        self.cache_dir = cache_dir
        # Shared memory: workers that live on between epochs see it change.
        self._position = torch.zeros(2, dtype=torch.long).share_memory_()

    def __len__(self) -> int:
        """Number of clips left in the epoch."""
        return self.length - int(self._position[1])

    def set_epoch(self, epoch: int, begin: int = 0) -> None:
        """Set the epoch, which determines the clips. Call it before the loader's iterator is made.

        Args:
            epoch: Number of the epoch.
            begin: First clip of the epoch to draw, as index 0; above 0 to resume an interrupted epoch.
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
            frames, kind = pick_frames(video, random, max_skip, self.clip_frames)
            image, label = read_clip(video, frames, self.cache_dir)
            present = label[..., 0].unique()
            objects = present[present > 0]
            if len(objects):
                if self.absent and random.rand() < self.absent:
                    image, label = self._leave(image, label, name, random)
                    kind = "pair"
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
        clip: dict[str, Any] = {"image": image.float() / 255, "label": label, "kind": kind}
        clip["name"] = f"{name}/{video.id}"
        if name in self.pasted and random.rand() < self.pasted[name]:
            cutout = self._cut_out(name, random)
            if cutout is not None:
                clip["cutout"] = cutout
        return {**self.transform(clip), "ordered": kind == "video"}

    def _leave(
        self, image: Tensor, label: Tensor, name: str, random: np.random.RandomState
    ) -> tuple[Tensor, Tensor]:
        """The clip with another scene between its first frame and its last, in its last, or in both."""
        wanted = name not in self.general
        names = [n for n in self.names if (n in self.general) == wanted]
        if not names:
            return image, label
        videos = self.data[names[random.randint(len(names))]]
        video = videos[random.randint(len(videos))]
        other = read_frames(video, [random.randint(len(video.frames))], self.cache_dir)[0]
        picture = torch.tensor(other).movedim(-1, 0)[None].float()
        scene = F.interpolate(picture, image.shape[1:3], mode="bilinear", antialias=True)[0]
        image, label = image.clone(), label.clone()
        last = self.clip_frames - 1
        # It comes back, goes late, or goes at once.
        gone = (range(1, last), [last], range(1, last + 1))
        for t in gone[random.randint(3)]:
            image[..., t], label[..., t] = scene.round().clamp(0, 255).to(image.dtype), 0
        return image, label

    def _cut_out(self, name: str, random: np.random.RandomState) -> Tensor | None:
        """Cut an object out of a random frame: RGBA (4, h, w) in [0, 1]; None if it shows none."""
        if name in self.general:
            shares = self.weights * [other in self.general for other in self.names]
            name = self.names[random.choice(len(self.names), p=shares / shares.sum())]
        video = self.data[name][random.randint(len(self.data[name]))]
        annotated = sorted(video.masks)
        frame = annotated[random.randint(len(annotated))]
        image, label = read_clip(video, [frame], self.cache_dir)
        objects = label[label > 0].unique()
        if not len(objects):
            return None
        mask = label[..., 0] == objects[random.randint(len(objects))]
        rows, columns = mask[0].any(1).nonzero(), mask[0].any(0).nonzero()
        box = slice(int(rows[0]), int(rows[-1]) + 1), slice(int(columns[0]), int(columns[-1]) + 1)
        return torch.cat([image[..., 0].float() / 255, mask.float()])[:, *box]


def validation_dataset(
    data: Sequence[Video],
    transform: Callable[[dict[str, Any]], dict[str, Any]],
    every: int = 1,
    cache_dir: str | Path | None = None,
) -> Dataset[dict[str, Any]]:
    """Make the validation data set: whole videos, or clips of deformed copies for still pictures.

    Clips are used if no video has a second annotated frame. They are the same at every validation.

    Args:
        data: The videos or pictures.
        transform: Transform of the clips.
        every: See ``VideoDataset``.
        cache_dir: See ``VideoDataset``.
    """
    if any(len(video.masks) > 1 for video in data):
        return VideoDataset(data, every, cache_dir)
    return ClipDataset({"valid": data}, transform, length=len(data), cache_dir=cache_dir)
