"""Which remembered frame goes when memory is full."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor


@dataclass(frozen=True)
class Remembered:
    """What an eviction rule knows of a remembered frame.

    Attributes:
        time: Rises with each frame that is remembered.
        prompt: The frame's mask was given; such frames are never dropped.
        confidence: In the frame's mask, in [0, 1].
        key: A coarse map of its key, one vector (D,), to tell how alike two frames are.
    """

    time: int
    prompt: bool
    confidence: float
    key: Float[Tensor, " D"]


def drop_oldest(frames: Mapping[int, Remembered]) -> int:
    """The slot of the frame that was remembered first: prompts and the latest frames stay."""
    return min(droppable(frames), key=lambda slot: frames[slot].time)


def drop_least_useful(frames: Mapping[int, Remembered]) -> int:
    """The slot of the frame that adds least: alike to another one, or with a mask of low confidence.

    A frame's worth is the distance of its key to the nearest other one, times its confidence. The
    latest frame always stays, since the next one will look most like it.
    """
    keys = torch.stack([frame.key for frame in frames.values()])
    distance = torch.cdist(keys[None], keys[None])[0].fill_diagonal_(math.inf)
    nearest = dict(zip(frames, distance.min(1).values.tolist(), strict=True))
    slots = droppable(frames)
    latest = max(slots, key=lambda slot: frames[slot].time)
    return min(slots, key=lambda slot: (slot == latest, nearest[slot] * frames[slot].confidence))


def droppable(frames: Mapping[int, Remembered]) -> list[int]:
    """The slots of the frames that may go."""
    return [slot for slot, frame in frames.items() if not frame.prompt]


Eviction = Callable[[Mapping[int, Remembered]], int]
EVICTIONS: dict[str, Eviction] = {"latest": drop_oldest, "useful": drop_least_useful}
"""What goes when memory is full: name -> (slot -> frame) -> slot to give up."""
