"""Choose the frame to drop when memory is full."""

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Remembered:
    """What is known of a remembered frame.

    Attributes:
        time: Rises with each frame that is remembered.
        prompt: The frame's mask was given; such frames are never dropped.
    """

    time: int
    prompt: bool


def find_oldest(frames: Mapping[int, Remembered]) -> int | None:
    """The slot of the frame that was remembered first: prompts and the latest frames stay.

    Args:
        frames: By slot.

    Returns:
        None where every frame is a prompt.

    Example:
        >>> find_oldest({0: Remembered(0, True), 1: Remembered(2, False), 2: Remembered(1, False)})
        2
    """
    slots = [slot for slot, frame in frames.items() if not frame.prompt]
    return min(slots, key=lambda slot: frames[slot].time, default=None)
