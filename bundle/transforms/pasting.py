"""Paste an object of another picture into a training clip, as a MONAI transform for configs."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from monai.transforms import RandomizableTransform
from torch import Tensor

from bundle.transforms.deformation import SMALLEST_PX, rotation


class RandPasteClipd(RandomizableTransform):
    """Move a cut-out object across a clip, in front of what it shows.

    It hides parts of the objects and looks like one, so the network learns to follow one object among
    many. In half of the clips it becomes an object of the clip itself, if the first frame shows it and
    there is room for one more; else it is background. It moves steadily and turns and grows a little
    from frame to frame. Clips without a ``cutout``, and those whose first frame it would hide, are
    returned as they are.

    Args:
        objects: Largest number of objects of a clip.
        size: Range of the longer side of the object, as a share of the shorter side of the clip.
        speed: Largest step per frame, as a share of that side.
        turn: Largest rotation per frame in degrees.
        growth: Largest relative change of size per frame.

    Example:
        >>> cutout = torch.cat([torch.zeros(3, 8, 8), torch.ones(1, 8, 8)])  # a black square
        >>> label = torch.zeros(1, 64, 64, 3, dtype=torch.long)
        >>> label[:, 8:56, 8:56] = 1
        >>> clip = {"image": torch.ones(3, 64, 64, 3), "label": label, "cutout": cutout}
        >>> pasted = RandPasteClipd(objects=2).set_random_state(0)(clip)
        >>> sorted(pasted), bool((pasted["image"] == 0).any())
        (['image', 'label'], True)
    """

    def __init__(
        self,
        objects: int = 2,
        size: tuple[float, float] = (0.15, 0.6),
        speed: float = 0.2,
        turn: float = 15.0,
        growth: float = 0.1,
    ) -> None:
        super().__init__()
        self.objects, self.size, self.speed = objects, size, speed
        self.turn, self.growth = turn, growth

    def __call__(self, data: Mapping[str, Any]) -> dict[str, Any]:
        clip = dict(data)
        cutout: Tensor | None = clip.pop("cutout", None)
        if cutout is None:
            return clip
        layers = self._move(cutout, clip["label"].shape[1:])
        covered = layers[3] > 0.5
        label = clip["label"].masked_fill(covered, 0)
        before, after = (
            torch.bincount(x[..., 0].clamp(min=0).flatten(), minlength=self.objects + 1)[1:]
            for x in (clip["label"], label)
        )
        if (after[before > 0] < SMALLEST_PX).any():
            return clip
        number = int((before > 0).sum()) + 1
        taken = self.R.rand() < 0.5
        if taken and number <= self.objects and covered[..., 0].sum() >= SMALLEST_PX:
            label = label.masked_fill(covered, number)
        image = clip["image"] * (1 - layers[3]) + layers[:3] * layers[3]
        return {**clip, "image": image, "label": label}

    def _move(self, cutout: Tensor, shape: tuple[int, int, int]) -> Tensor:
        """The cut-out at its place in each frame: RGBA (4, H, W, T)."""
        height, width, frames = shape
        side = min(height, width)
        longest = self.R.uniform(*self.size) * side  # pixels of the clip
        shrunk = min(1.0, 1.5 * longest / max(cutout.shape[1:]))  # or fine patterns would alias
        cut = [max(1, round(length * shrunk)) for length in cutout.shape[1:]]
        cutout = F.interpolate(cutout[None], cut, mode="bilinear", antialias=True)[0]
        half = np.array(cut[::-1]) / 2  # (x, y) from its middle to its edges, in its own pixels
        scale = longest / (2 * half.max())
        place = self.R.uniform(0, 1, 2) * [width, height]
        step = self.R.uniform(-self.speed, self.speed, 2) * side
        angle = self.R.uniform(-30, 30)
        flip = self.R.choice([-1, 1])
        x, y = torch.arange(width) + 0.5, torch.arange(height) + 0.5
        pixels = torch.stack(torch.meshgrid(x, y, indexing="xy"), dim=-1)
        grids = []
        for _ in range(frames):
            inverse = rotation(-angle) / scale / half[:, None]
            inverse[0] *= flip
            offset = pixels - torch.tensor(place, dtype=torch.float32)
            grids.append(offset @ torch.tensor(inverse.T, dtype=torch.float32))
            place = place + step
            angle += self.R.uniform(-self.turn, self.turn)
            scale *= 1 + self.R.uniform(-self.growth, self.growth)
        many = cutout[None].expand(frames, -1, -1, -1)
        alpha = F.grid_sample(many[:, 3:], torch.stack(grids), align_corners=False)
        colour = F.grid_sample(
            many[:, :3], torch.stack(grids), padding_mode="border", align_corners=False
        )
        return torch.cat([colour, alpha], dim=1).movedim(0, -1)
