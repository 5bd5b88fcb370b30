"""Choose the frame to drop when memory is full."""

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Remembered:
    """A remembered frame, as far as eviction needs it.

    Attributes:
        time: Number that rises with each frame that is added.
        prompt: Whether the frame's mask was given; such frames are never dropped.
    """

    time: int
    prompt: bool


def find_oldest(frames: Mapping[int, Remembered]) -> int | None:
    """Find the slot of the oldest frame that is not a prompt.

    Args:
        frames: Slot -> frame.

    Returns:
        The slot; None if every frame is a prompt.

    Example:
        >>> find_oldest({0: Remembered(0, True), 1: Remembered(2, False), 2: Remembered(1, False)})
        2
    """
    slots = [slot for slot, frame in frames.items() if not frame.prompt]
    return min(slots, key=lambda slot: frames[slot].time, default=None)
