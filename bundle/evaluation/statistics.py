"""Means with 95 % bootstrap intervals over videos, and differences of paired runs.

A video is resampled with all its objects. Functions take scores as fractions and return percent.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from statistics import fmean, median
from typing import Any, TypeAlias

import numpy as np
from scipy.stats import bootstrap

from bundle.evaluation.metrics import SCORES, Score
from bundle.evaluation.records import (
    NETWORK,
    UNCHANGED,
    VideoScores,
    classes_of,
    domains_of,
    runs_of,
    select,
)

RESAMPLES = 9999
SEED = 0
POOR_DICE = 0.5
MEAN_OVER_DOMAINS = "mean over domains"

Estimate: TypeAlias = dict[str, float | None]
"""``mean``, and the interval's ``low`` and ``high``; None where there is none."""


def estimate(groups: Sequence[Sequence[float]]) -> Estimate:
    """Mean over all values in percent, with its percentile interval over resampled groups.

    Args:
        groups: The values of each video; NaN is left out.

    Returns:
        ``mean``, ``low`` and ``high``; the interval is None for fewer than two videos.
    """
    kept = _without_nan(groups)
    if not kept:
        return {"mean": None, "low": None, "high": None}
    sums = np.array([100 * sum(group) for group in kept])
    counts = np.array([len(group) for group in kept], float)
    mean = float(sums.sum() / counts.sum())
    if len(kept) < 2:
        return {"mean": mean, "low": None, "high": None}

    def ratio(drawn: np.ndarray, number: np.ndarray, axis: int = -1) -> Any:
        return drawn.sum(axis) / number.sum(axis)

    return {"mean": mean, **_interval((sums, counts), ratio, paired=True)}


def estimate_over_domains(domains: Sequence[Sequence[Sequence[float]]]) -> Estimate:
    """Mean over domains in percent. Values are averaged in each video, then videos in each domain.

    All domains have equal weight, whatever their number of videos. Videos are resampled within their
    domain. A domain of one video is constant under resampling, so it adds nothing to the interval.

    Args:
        domains: For each domain, the values of each video; NaN is left out.

    Returns:
        ``mean``, ``low`` and ``high``; the interval is None if no domain has two videos.
    """
    means = [
        np.array([100 * fmean(group) for group in kept])
        for domain in domains
        if (kept := _without_nan(domain))
    ]
    if not means:
        return {"mean": None, "low": None, "high": None}
    mean = fmean(float(domain.mean()) for domain in means)
    several = tuple(domain for domain in means if len(domain) > 1)
    if not several:
        return {"mean": mean, "low": None, "high": None}
    single = sum(float(domain.mean()) for domain in means if len(domain) == 1)

    def over_domains(*drawn: np.ndarray, axis: int = -1) -> Any:
        return (single + sum(domain.mean(axis) for domain in drawn)) / len(means)

    return {"mean": mean, **_interval(several, over_domains, paired=False)}


def _without_nan(groups: Sequence[Sequence[float]]) -> list[list[float]]:
    kept = [[value for value in group if not math.isnan(value)] for group in groups]
    return [group for group in kept if group]


def _interval(
    samples: tuple[np.ndarray, ...], statistic: Callable[..., Any], *, paired: bool
) -> Estimate:
    found = bootstrap(
        samples,
        statistic,
        paired=paired,
        vectorized=True,
        n_resamples=RESAMPLES,
        batch=1000,
        confidence_level=0.95,
        method="percentile",
        random_state=np.random.default_rng(SEED),
    ).confidence_interval
    return {"low": float(found.low), "high": float(found.high)}


def summarise(scores: Sequence[VideoScores]) -> dict[str, Any]:
    """Summarise the scores of one method and perturbation by class, domain and video, with the mean.

    The mean is over all objects or, where videos have domains, over the domains.
    """
    domains = {name: [one for one in scores if one.domain == name] for name in domains_of(scores)}
    return {
        "classes": {
            name: _group([one for one in scores if one.class_name == name])
            for name in classes_of(scores)
        },
        "domains": {name: _group(members, (members,)) for name, members in domains.items()},
        "mean": _group(scores, tuple(domains.values())),
        "videos": {
            video: {score: 100 * fmean(one.mean(score) for one in members) for score in SCORES}
            for video, members in by_video(scores).items()
        },
    }


def _group(
    scores: Sequence[VideoScores], domains: Sequence[Sequence[VideoScores]] = ()
) -> dict[str, Any]:
    """Means over objects, or over domains where there are any."""

    def mean(score: Score, only_shown: bool) -> Estimate:
        parts = [
            [[one.mean(score, only_shown) for one in video] for video in by_video(part).values()]
            for part in domains or (scores,)
        ]
        return estimate_over_domains(parts) if domains else estimate(parts[0])

    poor = [
        fmean(one.mean("dice") for one in video) < POOR_DICE for video in by_video(scores).values()
    ]
    return {
        **{score: mean(score, False) for score in SCORES},
        "only_frames_that_show_it": {score: mean(score, True) for score in SCORES},
        "videos": len(poor),
        "objects": len(scores),
        "frames": sum(len(one.frame_names) for one in scores),
        "videos_with_dice_under_50_percent": 100 * fmean(poor),
    }


def perturbation_costs(scores: Sequence[VideoScores], method: str) -> list[dict[str, Any]]:
    """Difference that each perturbation makes, for each class, on frames scored with and without it.

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
        for row in gains(before, select(scores, method, perturbation))
    ]


def leads(scores: Sequence[VideoScores]) -> list[dict[str, Any]]:
    """Lead of the network over each other method, for each class, on the unperturbed input.

    Returns:
        ``method``, ``class`` and the mean difference of each score, as ``perturbation_costs``.
    """
    found = select(scores)
    others = [method for method, perturbation in runs_of(scores) if perturbation == UNCHANGED]
    return [
        {"method": method, **row}
        for method in others
        if method != NETWORK
        for row in gains(select(scores, method), found)
    ]


def gains(before: Sequence[VideoScores], after: Sequence[VideoScores]) -> list[dict[str, Any]]:
    """Gain of ``after`` over ``before``, paired by object and frame, with intervals over videos.

    Returns:
        A row for each class (or for each domain, and their mean, where videos have domains) with
        ``class`` and the mean difference of each score, in points.

    Raises:
        ValueError: ``after`` has an object or a frame that ``before`` lacks.
    """
    known = {(one.video, one.object_id): one for one in before}
    unknown = [one for one in after if (one.video, one.object_id) not in known]
    if unknown:
        raise ValueError(
            f"object {unknown[0].object_id} of video {unknown[0].video} was scored in one evaluation "
            "only: expected two of the same protocol"
        )
    domains = domains_of(after)
    rows = []
    for name in domains or classes_of(after):
        members = [one for one in after if name in (one.domain, one.class_name)]
        rows.append(_gain(name, [members], known, whole_videos=bool(domains)))
    if domains:
        parts = [[one for one in after if one.domain == name] for name in domains]
        rows.append(_gain(MEAN_OVER_DOMAINS, parts, known, whole_videos=True))
    return rows


def _gain(
    name: str,
    parts: Sequence[Sequence[VideoScores]],
    known: Mapping[tuple[str, int], VideoScores],
    *,
    whole_videos: bool,
) -> dict[str, Any]:
    row: dict[str, Any] = {"class": name}
    for score in SCORES:
        groups = [
            [
                [_difference(known[one.video, one.object_id], one, score) for one in video]
                for video in by_video(part).values()
            ]
            for part in parts
        ]
        row[score] = estimate_over_domains(groups) if whole_videos else estimate(groups[0])
    return row


def _difference(before: VideoScores, after: VideoScores, score: Score) -> float:
    known = dict(zip(before.frame_names, before.values(score), strict=True))
    lacking = [name for name in after.frame_names if name not in known]
    if lacking:
        raise ValueError(
            f"frame {lacking[0]} of video {after.video} was scored in one evaluation only: expected "
            "two of the same protocol"
        )
    pairs = zip(after.frame_names, after.values(score), strict=True)
    return fmean(value - known[name] for name, value in pairs)


def speed(scores: Sequence[VideoScores]) -> dict[str, Any]:
    """Frames per second of the network on the unperturbed videos."""
    rates = [
        members[0].frames_per_second
        for members in by_video(select(scores)).values()
        if members[0].frames_per_second is not None
    ]
    if not rates:
        return {"median": None}
    return {"median": median(rates), "slowest_video": min(rates), "fastest_video": max(rates)}


def given_together(scores: Sequence[VideoScores]) -> str:
    """One sentence on which objects were given together, for the tables."""
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
    """Group scores by video."""
    videos: dict[str, list[VideoScores]] = {}
    for one in scores:
        videos.setdefault(one.video, []).append(one)
    return videos
