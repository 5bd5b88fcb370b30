"""Which frames are propagated from which annotated frame, and which way.

A prompt is a frame whose mask was given. Prompts part a video into stretches, each of which is
propagated frame by frame from one of them, forwards or backwards.
"""

from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple


class Stretch(NamedTuple):
    """Frames in the order in which they are propagated from a prompt; none if nothing reaches them."""

    prompt: int | None
    frames: range


def plan_stretches(prompts: Sequence[int], count: int, direction: str) -> list[Stretch]:
    """Which prompt each frame is propagated from, in order of time.

    With ``both`` a frame between two prompts is propagated from the nearer, so that drift has half the
    way; with ``forward`` from the last prompt before it; with ``backward`` from the next.

    Args:
        prompts: Indices of annotated frames, rising.
        count: Frames of the video.
        direction: ``both``, ``forward`` or ``backward``.

    Example:
        >>> plan_stretches([2, 7], 9, "both")
        [Stretch(prompt=2, frames=range(1, -1, -1)), Stretch(prompt=2, frames=range(3, 5)),
        Stretch(prompt=7, frames=range(6, 4, -1)), Stretch(prompt=7, frames=range(8, 9))]
    """
    first, last = prompts[0], prompts[-1]
    reaches_back, reaches_on = direction != "forward", direction != "backward"
    before = range(first - 1, -1, -1)
    stretches = [Stretch(first if reaches_back else None, before)]
    for a, b in pairwise(prompts):
        middle = {"both": (a + b + 1) // 2, "forward": b, "backward": a + 1}[direction]
        stretches.append(Stretch(a, range(a + 1, middle)))
        stretches.append(Stretch(b, range(b - 1, middle - 1, -1)))
    stretches.append(Stretch(last if reaches_on else None, range(last + 1, count)))
    return [stretch for stretch in stretches if len(stretch.frames)]
