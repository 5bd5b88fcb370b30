"""Means with 95 % bootstrap intervals over videos, and differences of paired runs.

A video is drawn with all its objects. Scores come as fractions and leave in percent.
"""

import math
from collections.abc import Iterator, Sequence
from statistics import fmean, median
from typing import Any, TypeAlias

import numpy as np
from scipy.stats import bootstrap

from bundle.evaluation.metrics import SCORES
from bundle.evaluation.records import (
    NETWORK,
    UNCHANGED,
    VideoScores,
    classes_of,
    runs_of,
    select,
)

RESAMPLES = 9999
SEED = 0
POOR_DICE = 0.5

Estimate: TypeAlias = dict[str, float | None]
"""``mean``, and the interval's ``low`` and ``high``; None where there is none."""


def estimate(groups: Sequence[Sequence[float]]) -> Estimate:
    """Mean over all values in percent, with its percentile interval over resampled groups.

    Args:
        groups: The values of each video; NaN is left out.

    Returns:
        No interval for fewer than two videos.
    """
    kept = [[value for value in group if not math.isnan(value)] for group in groups]
    kept = [group for group in kept if group]
    if not kept:
        return {"mean": None, "low": None, "high": None}
    sums = np.array([100 * sum(group) for group in kept])
    counts = np.array([len(group) for group in kept], float)
    mean = float(sums.sum() / counts.sum())
    if len(kept) < 2:
        return {"mean": mean, "low": None, "high": None}
    found = bootstrap(
        (sums, counts),
        lambda drawn, number, axis=-1: drawn.sum(axis) / number.sum(axis),
        paired=True,
        vectorized=True,
        n_resamples=RESAMPLES,
        batch=1000,
        confidence_level=0.95,
        method="percentile",
        random_state=np.random.default_rng(SEED),
    ).confidence_interval
    return {"mean": mean, "low": float(found.low), "high": float(found.high)}


def summarise(scores: Sequence[VideoScores]) -> dict[str, Any]:
    """Scores of one method and perturbation: of each class, of each video, and over all objects."""
    return {
        "classes": {
            name: _group([one for one in scores if one.class_name == name])
            for name in classes_of(scores)
        },
        "mean": _group(scores),
        "videos": {
            video: {score: 100 * fmean(one.mean(score) for one in members) for score in SCORES}
            for video, members in by_video(scores).items()
        },
    }


def _group(scores: Sequence[VideoScores]) -> dict[str, Any]:
    videos = by_video(scores)
    means: dict[str, Any] = {
        score: estimate([[one.mean(score) for one in video] for video in videos.values()])
        for score in SCORES
    }
    only_shown = {
        score: estimate([[one.mean(score, True) for one in video] for video in videos.values()])
        for score in SCORES
    }
    poor = [fmean(one.mean("dice") for one in video) < POOR_DICE for video in videos.values()]
    return {
        **means,
        "only_frames_that_show_it": only_shown,
        "videos": len(videos),
        "objects": len(scores),
        "frames": sum(len(one.frame_names) for one in scores),
        "videos_with_dice_under_50_percent": 100 * fmean(poor),
    }


def perturbation_costs(scores: Sequence[VideoScores], method: str) -> list[dict[str, Any]]:
    """What each perturbation changes, class by class, on the frames that were scored with and without.

    Returns:
        ``perturbation``, ``class`` and the mean difference of each score, in points, with its paired
        interval over videos.
    """
    before = select(scores, method)
    names = dict.fromkeys(one.perturbation for one in scores if one.method == method)
    return [
        {"perturbation": perturbation, **row}
        for perturbation in names
        if perturbation != UNCHANGED
        for row in _differences(before, select(scores, method, perturbation))
    ]


def leads(scores: Sequence[VideoScores]) -> list[dict[str, Any]]:
    """How far the network is ahead of each other method, class by class, on the unchanged input.

    Returns:
        ``method``, ``class`` and the mean difference, as ``perturbation_costs``.
    """
    found = select(scores)
    others = [method for method, perturbation in runs_of(scores) if perturbation == UNCHANGED]
    return [
        {"method": method, **row}
        for method in others
        if method != NETWORK
        for row in _differences(select(scores, method), found)
    ]


def _differences(
    before: Sequence[VideoScores], after: Sequence[VideoScores]
) -> Iterator[dict[str, Any]]:
    """Of each class what the second gained over the first, paired by object, over videos."""
    known = {(one.video, one.object_id): one for one in before}
    for name in classes_of(after):
        members = by_video([one for one in after if one.class_name == name])
        row: dict[str, Any] = {"class": name}
        for score in SCORES:
            gains = [
                [_difference(known[one.video, one.object_id], one, score) for one in video]
                for video in members.values()
            ]
            row[score] = estimate(gains)
        yield row


def _difference(before: VideoScores, after: VideoScores, score: Any) -> float:
    known = dict(zip(before.frame_names, before.values(score), strict=True))
    pairs = zip(after.frame_names, after.values(score), strict=True)
    return fmean(value - known[name] for name, value in pairs)


def speed(scores: Sequence[VideoScores]) -> dict[str, Any]:
    """Frames per second of the network over the videos as they are."""
    rates = [
        members[0].frames_per_second
        for members in by_video(select(scores)).values()
        if members[0].frames_per_second is not None
    ]
    if not rates:
        return {"median": None}
    return {"median": median(rates), "slowest_video": min(rates), "fastest_video": max(rates)}


def given_together(scores: Sequence[VideoScores]) -> str:
    """A sentence that says which objects were given together."""
    groups: dict[tuple[str, ...], int] = {}
    for members in by_video(select(scores)).values():
        names = tuple(sorted(one.class_name for one in members))
        groups[names] = groups.get(names, 0) + 1
    if all(len(names) == 1 for names in groups):
        return "Each object was given alone."
    told = [
        f"{' + '.join(names)} in {count} video{'s' if count > 1 else ''}"
        for names, count in groups.items()
    ]
    return f"Objects given together: {'; '.join(told)}."


def by_video(scores: Sequence[VideoScores]) -> dict[str, list[VideoScores]]:
    """The objects of each video."""
    videos: dict[str, list[VideoScores]] = {}
    for one in scores:
        videos.setdefault(one.video, []).append(one)
    return videos
