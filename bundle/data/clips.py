"""Data sets for training and validation: which frames make a clip, and whole videos.

T frames of H x W. Every draw derives from seed, epoch and index, so a resumed training sees the
same clips, whatever the number of workers.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import numpy as np
import torch
from monai.transforms import Compose, Randomizable
from torch import Tensor
from torch.utils.data import Dataset

from bundle.data.decode import read_image, read_labels
from bundle.data.records import Video
from bundle.types import Frame

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


def read_clip(video: Video, frames: Sequence[int]) -> tuple[Tensor, Tensor]:
    """Frames (3, H, W, T) uint8, and their labels (1, H, W, T) int64 with -1 where not annotated.

    Raises:
        ValueError: A mask or a frame is of another size than the first frame.
    """
    images: list[Frame] = []
    labels: list[np.ndarray] = []
    for i in frames:
        image = read_image(video.frames[i])
        height, width = image.shape[:2]
        if images and image.shape != images[0].shape:
            raise ValueError(
                f"{video.frames[i]} is {width}x{height} but {video.frames[frames[0]]} is "
                f"{images[0].shape[1]}x{images[0].shape[0]}: the frames of a video share one size"
            )
        label = np.full((height, width), -1, np.int64)
        if i in video.masks:
            label = read_labels(video.masks[i], binary=video.binary).astype(np.int64)
            if label.shape != (height, width):
                raise ValueError(
                    f"{video.masks[i]} is {label.shape[1]}x{label.shape[0]} but {video.frames[i]} "
                    f"is {width}x{height}: export the mask at the frame's size"
                )
            label[~np.isin(label, list(video.labels))] = 0
        images.append(image)
        labels.append(label)
    return (
        torch.from_numpy(np.stack(images, axis=-1)).movedim(2, 0),
        torch.from_numpy(np.stack(labels, axis=-1))[None],
    )


class ClipDataset(Dataset[dict[str, Any]]):
    """Random clips of three frames for training.

    Args:
        data: Groups of videos by name.
        shares: How often each group is drawn, in proportion. Equal by default.
        transform: Applied to ``{"image", "label", "kind"}``; its randomness is set for each clip.
        length: Clips per epoch.
        max_skip: Most annotated frames passed over between neighbours.
        seed: Of all draws.

    Raises:
        ValueError: A group is empty, or a share names no group.
    """

    def __init__(
        self,
        data: Mapping[str, Sequence[Video]],
        transform: Callable[[dict[str, Any]], dict[str, Any]],
        length: int,
        shares: Mapping[str, float] | None = None,
        max_skip: int = 5,
        seed: int = 0,
    ) -> None:
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
        self.max_skip, self.seed = max_skip, seed
        # Shared memory: workers that live on between epochs see it change.
        self._epoch = torch.zeros((), dtype=torch.long).share_memory_()

    def __len__(self) -> int:
        return self.length

    def set_epoch(self, epoch: int) -> None:
        """Draw other clips from now on. Call it before the epoch's loader iterator is made."""
        self._epoch.fill_(epoch)

    def __getitem__(self, index: int) -> dict[str, Any]:
        """``image`` (3, H, W, T) in [0, 1], ``label`` (1, H, W, T), ``kind`` and ``ordered``."""
        random = np.random.RandomState(
            np.random.SeedSequence((self.seed, int(self._epoch), index)).generate_state(4)
        )
        for _ in range(10):
            name = self.names[random.choice(len(self.names), p=self.weights)]
            video = self.data[name][random.randint(len(self.data[name]))]
            frames, kind = pick_frames(video, random, self.max_skip)
            image, label = read_clip(video, frames)
            present = label[..., 0].unique()
            objects = present[present > 0]
            if len(objects):
                break
        else:
            raise ValueError(f"ten draws gave no object in a first frame, last of video {video.id}")
        # Ids become 1..N in random order, so that the network cannot tie meaning to an id.
        order = objects[torch.from_numpy(random.permutation(len(objects)))]
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


class VideoDataset(Dataset[dict[str, Any]]):
    """Whole videos for validation, from the first annotated frame on.

    Args:
        data: The videos.
        every: Take only every so many frames, to make validation during training cheaper.
    """

    def __init__(self, data: Sequence[Video], every: int = 1) -> None:
        self.data, self.every = list(data), every

    def __len__(self) -> int:
        return len(self.data)

    def __getitem__(self, index: int) -> dict[str, Any]:
        """``image`` (3, H, W, T) in [0, 1], ``label`` (1, H, W, T) int64, ``name`` and ``classes``.

        Labels are 1..N in the order of the ids that the first frame shows, -1 where not annotated;
        ``classes`` are their names.
        """
        video = self.data[index]
        image, label = read_clip(video, range(min(video.masks), len(video.frames), self.every))
        ids = [int(i) for i in label[..., 0].unique() if i > 0]
        renumbered = label.clamp(max=0)
        for number, i in enumerate(ids, start=1):
            renumbered[label == i] = number
        classes = [video.labels[i] for i in ids]
        return {
            "image": image.float() / 255,
            "label": renumbered,
            "name": video.id,
            "classes": "|".join(classes),
        }
