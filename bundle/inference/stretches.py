"""Plan the propagation: which frames are segmented from which annotated frame, in which direction.

A prompt is a frame whose mask was given. Prompts divide a video into stretches. Each stretch is
segmented frame by frame, starting at one prompt, forwards or backwards.
"""

from bisect import bisect
from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple


class Stretch(NamedTuple):
    """Frames in the order of propagation, and the prompt they start from.

    Attributes:
        prompt: Index of the prompt; None if no prompt reaches these frames.
        frames: Their indices, rising or falling.
    """

    prompt: int | None
    frames: range


def plan_stretches(prompts: Sequence[int], count: int, direction: str) -> list[Stretch]:
    """Divide a video into stretches, in time order.

    With ``both``, a frame between two prompts is propagated from the nearer one, which halves the
    distance over which errors add up; with ``forward`` from the last prompt before it; with
    ``backward`` from the next.

    Args:
        prompts: Indices of annotated frames, rising.
        count: Number of frames of the video.
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


def find_start(prompts: Sequence[int], frame: int, direction: str) -> int | None:
    """Which prompt a frame is propagated from, as ``plan_stretches`` has it; itself if it is one.

    Args:
        prompts: Indices of annotated frames, rising.
        frame: Its index.
        direction: ``both``, ``forward`` or ``backward``.

    Example:
        >>> find_start([2, 7], 5, "both"), find_start([2, 7], 1, "forward")
        (7, None)
    """
    place = bisect(prompts, frame)
    before = prompts[place - 1] if place else None
    after = prompts[place] if place < len(prompts) else None
    if before == frame or direction == "forward" or (after is None and direction == "both"):
        return before
    if direction == "backward" or before is None or after is None:
        return after
    return before if frame - before < after - frame else after
