"""Find the frames of a video that need review, with the reason, those that help most first.

It uses only areas, centres and confidences, not pixels, so that it is fast enough to run after each
action. Areas are in pixels, centres are (row, column) in pixels.
"""

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from statistics import median
from typing import Literal, TypeAlias

import numpy as np
from jaxtyping import Integer

from bundle.types import LabelMap

Centre: TypeAlias = tuple[float, float]
Reason: TypeAlias = Literal["low confidence", "vanished", "area jumps", "position jumps"]
MAD_TO_SIGMA = 1.4826
GAP = 2
"""Flagged frames with at most this many others between them form one stretch."""


@dataclass(frozen=True)
class Limits:
    """What counts as suspicious.

    A jump must exceed both its least size and what is usual in this video, so that the beat of a
    heart or a moving camera is not flagged in each frame.

    Attributes:
        confidence: Below it a mask is flagged.
        area_ratio: Least growth or shrinkage of an area from one frame to the next.
        shift: Least way of a centre from one frame to the next, in object sizes (root of the area).
        sigmas: How far above the usual change of this object in this video a jump must lie, in
            robust standard deviations.
    """

    confidence: float = 0.7
    area_ratio: float = 1.5
    shift: float = 0.5
    sigmas: float = 6.0


@dataclass(frozen=True)
class FrameFacts:
    """What is known of one frame's mask.

    Attributes:
        areas: Object id to pixels, of those that are there.
        centres: Object id to the centre of its pixels.
        confidence: Object id to confidence in [0, 1]; may name objects that are not there.
    """

    areas: Mapping[int, int]
    centres: Mapping[int, Centre]
    confidence: Mapping[int, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Finding:
    """One thing that is suspicious.

    Attributes:
        frame: Where.
        object_id: Id of the object.
        reason: Why.
        score: From 0, hardly, to 1, surely wrong.
    """

    frame: int
    object_id: int
    reason: Reason
    score: float


@dataclass(frozen=True)
class Item:
    """A stretch of suspicious frames, and the one of them to look at first.

    Attributes:
        frame: The worst. A correction there usually mends the stretch.
        frames: All of the stretch that are suspicious, rising.
        score: How much a look should help: the scores of all its frames together.
        findings: What is wrong at ``frame``, worst first.
    """

    frame: int
    frames: tuple[int, ...]
    score: float
    findings: tuple[Finding, ...]


def measure_frame(labels: LabelMap, confidence: Mapping[int, float] | None = None) -> FrameFacts:
    """Areas and centres of the objects of a mask.

    Example:
        >>> measure_frame(np.array([[0, 3, 3]], np.uint8))
        FrameFacts(areas={3: 2}, centres={3: (0.0, 1.5)}, confidence={})
    """
    areas, centres = {}, {}
    rows: Integer[np.ndarray, " N"]
    rows, columns = np.nonzero(labels)
    values = labels[rows, columns]
    counts = np.bincount(values)
    row_sums, column_sums = np.bincount(values, rows), np.bincount(values, columns)
    for object_id in np.flatnonzero(counts).tolist():
        count = int(counts[object_id])
        areas[object_id] = count
        centres[object_id] = (
            round(float(row_sums[object_id]) / count, 2),
            round(float(column_sums[object_id]) / count, 2),
        )
    return FrameFacts(areas, centres, dict(confidence or {}))


def review_queue(
    frames: Mapping[int, FrameFacts], trusted: Collection[int] = (), limits: Limits | None = None
) -> list[Item]:
    """The stretches to look at, in the order in which they should be looked at.

    The stretch comes first whose frames are worst all together: a look there helps most frames.

    Args:
        frames: Frame index to what is known of its mask; frames without a mask are absent.
        trusted: Frames whose mask was given, or accepted by somebody. They are never flagged, and
            end a stretch.
        limits: What counts as suspicious.
    """
    by_frame: dict[int, list[Finding]] = {}
    for finding in find_problems(frames, trusted, limits):
        by_frame.setdefault(finding.frame, []).append(finding)
    scores = {i: max(finding.score for finding in each) for i, each in by_frame.items()}
    items = []
    for stretch in _stretches(sorted(by_frame), frozenset(trusted)):
        worst = max(stretch, key=lambda i: (_smooth(scores, i), -i))
        findings = sorted(by_frame[worst], key=lambda each: (-each.score, each.object_id))
        total = sum(scores[i] for i in stretch)
        items.append(Item(worst, tuple(stretch), total, tuple(findings)))
    return sorted(items, key=lambda item: (-item.score, item.frame))


def find_problems(
    frames: Mapping[int, FrameFacts], trusted: Collection[int] = (), limits: Limits | None = None
) -> list[Finding]:
    """Everything that is suspicious, by frame and object; see ``review_queue``."""
    limits, trusted = limits or Limits(), frozenset(trusted)
    indices = sorted(frames)
    found = [
        Finding(i, object_id, "low confidence", 1 - value / limits.confidence)
        for i in indices
        for object_id, value in frames[i].confidence.items()
        if value < limits.confidence
    ]
    for object_id in sorted({each for i in indices for each in frames[i].areas}):
        found += _vanished(frames, indices, object_id)
        found += _jumps(frames, indices, object_id, trusted, limits)
    found = [finding for finding in found if finding.frame not in trusted]
    return sorted(found, key=lambda each: (each.frame, each.object_id, each.reason))


def _vanished(
    frames: Mapping[int, FrameFacts], indices: Sequence[int], object_id: int
) -> list[Finding]:
    """Frames without an object that others show.

    Between two frames that show it, every frame is suspicious. Before the first and after the last
    that show it, only the nearest is: the object may not have come yet, or have left.
    """
    shown = [object_id in frames[i].areas for i in indices]
    first, last = shown.index(True), len(shown) - 1 - shown[::-1].index(True)
    found = [
        Finding(indices[place], object_id, "vanished", 1.0)
        for place in range(first, last)
        if not shown[place]
    ]
    for place in (first - 1, last + 1):
        if 0 <= place < len(indices):
            found.append(Finding(indices[place], object_id, "vanished", 0.5))
    return found


def _jumps(
    frames: Mapping[int, FrameFacts],
    indices: Sequence[int],
    object_id: int,
    trusted: frozenset[int],
    limits: Limits,
) -> list[Finding]:
    pairs, growths, shifts = [], [], []
    for before, after in pairwise(indices):
        a, b = frames[before].areas.get(object_id), frames[after].areas.get(object_id)
        if after - before > 1 or not a or not b:
            continue
        pairs.append((before, after))
        growths.append(abs(math.log(b / a)))
        way = math.dist(frames[before].centres[object_id], frames[after].centres[object_id])
        shifts.append(way / math.sqrt(max(a, b)))
    found = []
    reasons: tuple[tuple[Reason, list[float], float], ...] = (
        ("area jumps", growths, math.log(limits.area_ratio)),
        ("position jumps", shifts, limits.shift),
    )
    for reason, changes, least in reasons:
        limit = max(least, _usual(changes, limits.sigmas))
        for pair, change in zip(pairs, changes, strict=True):
            if change > limit and not trusted.issuperset(pair):
                place = _blame(pair, frames, object_id, trusted)
                found.append(Finding(place, object_id, reason, 1 - 0.5 * limit / change))
    return found


def _usual(changes: Sequence[float], sigmas: float) -> float:
    if not changes:
        return 0.0
    middle = median(changes)
    spread = median(abs(change - middle) for change in changes)
    return middle + sigmas * MAD_TO_SIGMA * spread


def _blame(
    pair: tuple[int, int],
    frames: Mapping[int, FrameFacts],
    object_id: int,
    trusted: frozenset[int],
) -> int:
    """Of two frames that do not fit together the one that is likelier wrong."""
    candidates = [i for i in pair if i not in trusted]

    def doubt(i: int) -> tuple[float, int]:
        away = min((abs(i - each) for each in trusted), default=0)
        return 1 - frames[i].confidence.get(object_id, 1.0), away

    return max(candidates, key=doubt)


def _stretches(flagged: Sequence[int], trusted: frozenset[int]) -> list[list[int]]:
    stretches: list[list[int]] = []
    for i in flagged:
        near = bool(stretches) and i - stretches[-1][-1] <= GAP + 1
        if near and trusted.isdisjoint(range(stretches[-1][-1], i)):
            stretches[-1].append(i)
        else:
            stretches.append([i])
    return stretches


def _smooth(scores: Mapping[int, float], i: int) -> float:
    """A frame's score with a little of its neighbours', so that the middle of a bad run wins."""
    return scores[i] + 0.1 * sum(scores.get(j, 0.0) for j in range(i - 2, i + 3) if j != i)


@dataclass(frozen=True)
class Progress:
    """How far a review is.

    Attributes:
        reviewed: Frames that somebody gave, corrected or accepted.
        waiting: Frames that the queue still asks to look at: one for each stretch.
        minutes: Spent so far.
        rest_minutes: Estimated; None before anything is known to estimate from.
    """

    reviewed: int
    waiting: int
    minutes: float
    rest_minutes: float | None


def estimate_rest(
    waiting: int,
    review_s: float,
    review_count: int,
    unfinished: int = 0,
    minutes_of_finished: Sequence[float] = (),
) -> float | None:
    """Minutes that are left.

    Args:
        waiting: Items in the queues.
        review_s: Seconds that the reviews so far took, all together.
        review_count: How many reviews that were.
        unfinished: Videos that were not propagated yet.
        minutes_of_finished: Spent on each video that is done.

    Returns:
        None if there is something left of a kind of which nothing was done yet.

    Example:
        >>> estimate_rest(waiting=6, review_s=50, review_count=10)
        0.5
    """
    if (waiting and not review_count) or (unfinished and not minutes_of_finished):
        return None
    rest = waiting * review_s / review_count / 60 if waiting else 0.0
    return rest + (unfinished * median(minutes_of_finished) if unfinished else 0.0)
