"""Choose the frame to drop when memory is full."""

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Remembered:
    """A remembered frame, as far as eviction needs it.

    Attributes:
        time: Number that rises with each frame that is added.
        prompt: Whether the frame's mask was given; such frames are never dropped.
        until_next: Whether it is dropped as soon as the next frame is added.
    """

    time: int
    prompt: bool
    until_next: bool = False


def find_passed(frames: Mapping[int, Remembered]) -> int | None:
    """Find the slot of the frame that is remembered only until the next one; None if there is none.

    Example:
        >>> find_passed({0: Remembered(0, True), 1: Remembered(1, False, until_next=True)})
        1
    """
    return next((slot for slot, frame in frames.items() if frame.until_next), None)


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
