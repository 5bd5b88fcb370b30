"""Tell whether a frame still shows the scene of the frames whose masks were given.

After a cut the network takes something alike for the object, and is as sure of it as before.
"""

from collections.abc import Mapping
from typing import Any

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor

SIDE = 64
"""Pixels of the small picture whose colours are counted."""
BINS = 8
"""Bins of hue, of saturation and of value."""
LARGEST_CHANGE = 0.5
"""Share of the picture whose colours may differ within a scene; see docs/studies/presence.md."""


def count_colours(image: Float[Tensor, "B 3 H W"]) -> Float[Tensor, "B D"]:
    """The share of each bin of hue, saturation and value in a small copy of each image.

    Args:
        image: RGB in [0, 1].

    Returns:
        On the CPU; each row sums to 1.

    Example:
        >>> red = torch.zeros(1, 3, 32, 32)
        >>> red[:, 0] = 1
        >>> count_colours(red).max()
        tensor(1.)
    """
    small = (F.interpolate(image.float(), (SIDE, SIDE), mode="area") * 255).round().to(torch.uint8)
    counts = []
    for picture in small.permute(0, 2, 3, 1).cpu().numpy():
        hsv = cv2.cvtColor(np.ascontiguousarray(picture), cv2.COLOR_RGB2HSV)
        found = cv2.calcHist([hsv], [0, 1, 2], None, [BINS] * 3, [0, 180, 0, 256, 0, 256])
        counts.append(torch.from_numpy(found).flatten() / SIDE**2)
    return torch.stack(counts)


class Scene:
    """The colours of the scene, from the frames whose masks were given on.

    A frame belongs to it if more than half of its colours are those of a given frame, or of the last
    frame that belonged to it, so that the light may change slowly.

    Example:
        >>> scene, dark = Scene(), torch.zeros(1, 3, 32, 32)
        >>> scene.give(count_colours(dark))
        >>> scene.follow(count_colours(dark + 0.05)), scene.follow(count_colours(dark + 0.9))
        (tensor([True]), tensor([False]))
    """

    def __init__(self) -> None:
        self._given: list[Tensor] = []
        self._last: Tensor | None = None

    def give(self, colours: Float[Tensor, "B D"]) -> None:
        """Add a frame whose mask was given."""
        self._given.append(colours)
        self._last = colours

    def follow(self, colours: Float[Tensor, "B D"]) -> Bool[Tensor, " B"]:
        """Whether the next frame belongs to the scene; no mask given yet means that it does."""
        if self._last is None:
            return torch.ones(len(colours), dtype=torch.bool)
        known = torch.stack([self._last, *self._given])
        change = 0.5 * (known - colours).abs().sum(2).amin(0)
        same = change <= LARGEST_CHANGE
        self._last = torch.where(same[:, None], colours, self._last)
        return same

    def state(self) -> dict[str, Any]:
        """For ``load_state``."""
        return {"given": self._given, "last": self._last}

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Continue from the ``state`` of another."""
        self._given, self._last = list(state["given"]), state["last"]
