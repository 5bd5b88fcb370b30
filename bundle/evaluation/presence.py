"""Count masks shown where the object is absent, objects that were lost, and how many were flagged."""

from collections.abc import Sequence
from statistics import fmean
from typing import Any

from bundle.evaluation.records import VideoScores
from bundle.evaluation.statistics import by_video, estimate


def presence(scores: Sequence[VideoScores], review_below: float) -> dict[str, Any]:
    """Count false masks of absent objects and lost objects, and how many of both are flagged.

    The unit is an object of the given mask in a scored frame. It is *absent* where the truth does not
    show it, and *answered* there if the method shows at least one pixel of it. It is *lost* where the
    truth shows it and the method's mask does not overlap it. A frame is flagged for review if the
    network's confidence in any of its objects is below ``review_below``, or its mask of one
    is empty.

    Args:
        scores: Scores of one method and perturbation.
        review_below: Confidence, 0 to 1.

    Returns:
        ``absent`` and ``shown``, each with ``frames``, the number of units; ``answered`` or ``lost``,
        in percent of them, with the interval over videos; and ``flagged``, the percentage of the
        answered or lost ones that are flagged. ``flagged`` is None where there are none, or where the
        method gives no confidence.
    """
    return {
        "absent": _count(scores, review_below, absent=True),
        "shown": _count(scores, review_below, absent=False),
    }


def _count(scores: Sequence[VideoScores], review_below: float, *, absent: bool) -> dict[str, Any]:
    wrong: list[list[float]] = []
    flagged: list[float] = []
    for members in by_video(scores).values():
        flags = _flags(members, review_below)
        found = []
        for one in members:
            for i, shown in enumerate(one.shown):
                if shown == absent:
                    continue
                bad = one.answered[i] if absent else one.jaccard[i] == 0
                found.append(float(bad))
                if bad and flags is not None:
                    flagged.append(float(flags[i]))
        wrong.append(found)
    return {
        "frames": sum(map(len, wrong)),
        "answered" if absent else "lost": estimate(wrong),
        "flagged": 100 * fmean(flagged) if flagged else None,
    }


def _flags(members: Sequence[VideoScores], review_below: float) -> list[bool] | None:
    """Whether each frame of a video is flagged; None where no confidence is known."""
    said = [
        [
            value < review_below or not answered
            for value, answered in zip(one.confidence, one.answered, strict=True)
        ]
        for one in members
        if one.confidence is not None
    ]
    return [any(frame) for frame in zip(*said, strict=True)] if said else None
