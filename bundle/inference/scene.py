"""Tell whether a frame still shows the scene of the frames whose masks were given.

After a cut the network takes something alike for the object, and is as sure of it as before. B clips,
D bins of colours, K key channels, P positions of the feature grid.
"""

import functools
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Shaped
from torch import Tensor

SIDE = 64
"""Pixels of the small picture whose colours are counted."""
BINS = 8
"""Bins of hue, of saturation and of value."""
LIMITS = 0.5, 1.0
"""Of two signs: the share of the picture whose colours differ, and the distance of the keys, against
that within the frames. See docs/studies/presence.md."""
SUDDEN = 1.5, 1.1
"""Likewise: a sign counts only if it exceeds its median over the frames before by this factor."""
USUAL_OF = 100
"""Largest number of frames before, of which that median is taken."""
NEIGHBOURS = 2
"""Positions at most this far apart do not count within a frame: neighbours are always alike."""
POSITIONS = 100
"""Positions of the feature grid to compare: about so many, but at most every second."""
GIVEN_KEPT = 4
"""Only the latest given frames are compared with, since each takes time in every frame."""


class Appearance(NamedTuple):
    """What a frame looks like, to compare it with others.

    Attributes:
        colours: Share of each bin of colours; each row sums to 1.
        keys: Its keys.
        within: Mean distance from a key to the nearest other one of the frame that is not close by;
            infinite for a frame so small that all are.
    """

    colours: Float[Tensor, "B D"]
    keys: Float[Tensor, "B P K"]
    within: Float[Tensor, " B"]


class SceneMatch(NamedTuple):
    """What ``Scene.follow`` finds.

    Attributes:
        same: Neither colours nor keys say that it is another scene.
        elsewhere: Both say so.
    """

    same: Bool[Tensor, " B"]
    elsewhere: Bool[Tensor, " B"]


def describe_appearance(
    image: Float[Tensor, "B 3 H W"], key: Float[Tensor, "B K h w"]
) -> Appearance:
    """Describe a frame for ``Scene``.

    Args:
        image: RGB in [0, 1].
        key: The key map that the network gives for it.

    Returns:
        All on the device of the keys.

    Example:
        >>> one = describe_appearance(torch.rand(1, 3, 128, 128), torch.rand(1, 64, 8, 8))
        >>> one.keys.shape
        torch.Size([1, 64, 64])
    """
    keys = key.float().flatten(2).mT
    close = _close_by(*key.shape[-2:]).to(key.device)
    colours = count_colours(image).to(key.device)
    return Appearance(colours, keys, _distance(_sample(keys), keys, close))


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
    """What the scene looks like, from the frames whose masks were given on.

    A frame is compared with the given frames and with the last frame that belonged to the scene, so
    that light and view may change slowly. Two signs tell another scene: less than half of the colours
    are alike; or its keys lie farther from those of the scene than from each other. Neither counts
    unless it stands out from the frames before, since in some videos the camera leaps all the time.

    Example:
        >>> scene, key = Scene(), torch.rand(1, 64, 8, 8)
        >>> scene.give(describe_appearance(torch.zeros(1, 3, 128, 128), key))
        >>> scene.follow(describe_appearance(torch.zeros(1, 3, 128, 128), key)).same
        tensor([True])
        >>> scene.follow(describe_appearance(torch.ones(1, 3, 128, 128), key + 9)).elsewhere
        tensor([True])
    """

    def __init__(self) -> None:
        self._given: list[Appearance] = []
        self._last: Appearance | None = None
        # Both signs of each frame until now; nan where it was of another scene.
        self._past: list[Float[Tensor, "2 B"]] = []

    def give(self, frame: Appearance) -> None:
        """Add a frame whose mask was given."""
        self._given = [*self._given, frame][-GIVEN_KEPT:]
        self._last = frame

    def follow(self, frame: Appearance) -> SceneMatch:
        """Compare the next frame with the scene; if no mask was given yet, it is the same."""
        if self._last is None:
            same = torch.ones(len(frame.keys), dtype=torch.bool, device=frame.keys.device)
            return SceneMatch(same, ~same)
        found = _compare(frame, [*self._given, self._last])
        signs = found > found.new_tensor(LIMITS)[:, None]
        if self._past:
            usual = torch.stack(self._past).nanmedian(0).values
            signs &= ~(found <= found.new_tensor(SUDDEN)[:, None] * usual)  # true if it is nan
        same, elsewhere = ~signs.any(0), signs.all(0)
        self._last = Appearance(
            *(
                torch.where(same.view(-1, *[1] * (new.ndim - 1)), new, old)
                for new, old in zip(frame, self._last, strict=True)
            )
        )
        self._past = [*self._past, found.masked_fill(elsewhere, torch.nan)][-USUAL_OF:]
        return SceneMatch(same, elsewhere)

    def state(self) -> dict[str, Any]:
        """For ``load_state``."""
        last = None if self._last is None else tuple(self._last)
        given = [tuple(each) for each in self._given]
        return {"given": given, "last": last, "past": self._past}

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Continue from the ``state`` of another."""
        self._given = [Appearance(*each) for each in state["given"]]
        self._last = None if state["last"] is None else Appearance(*state["last"])
        self._past = list(state["past"])


def _compare(frame: Appearance, known: Sequence[Appearance]) -> Float[Tensor, "2 B"]:
    """The two signs, with the units of ``LIMITS``."""
    colours = torch.stack([each.colours for each in known])
    change = 0.5 * (frame.colours - colours).abs().sum(2).amin(0)
    distance = _distance(_sample(frame.keys), torch.cat([each.keys for each in known], 1))
    within = (frame.within + torch.stack([each.within for each in known]).mean(0)) / 2
    return torch.stack([change, distance / within])


def _sample(positions: Shaped[Tensor, "B P ..."]) -> Shaped[Tensor, "B p ..."]:
    """Take every second position, or fewer of a large frame."""
    return positions[:, :: max(2, positions.shape[1] // POSITIONS)]


def _distance(
    query: Float[Tensor, "B p K"],
    keys: Float[Tensor, "B P K"],
    penalty: Float[Tensor, "p P"] | None = None,
) -> Float[Tensor, " B"]:
    """Mean distance from each query to the nearest key; a penalty is added to squared distances."""
    squares = keys.square().sum(2)[:, None]
    if penalty is not None:
        squares = squares + penalty
    # Not torch.cdist, which takes the root of all of them.
    with torch.autocast(query.device.type, enabled=False):
        nearest = torch.baddbmm(squares, query, keys.mT, alpha=-2).amin(2)
    return (nearest + query.square().sum(2)).clamp(min=0).sqrt().mean(1)


@functools.lru_cache(maxsize=8)
def _close_by(height: int, width: int) -> Float[Tensor, "p P"]:
    """Infinite where a position lies close to one of the sampled ones or is the same, else 0."""
    y, x = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    place = torch.stack([y.flatten(), x.flatten()], 1)
    apart = (_sample(place[None])[0][:, None] - place).abs().amax(2)
    return torch.zeros(apart.shape).masked_fill(apart <= NEIGHBOURS, torch.inf)
