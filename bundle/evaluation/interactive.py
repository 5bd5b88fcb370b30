"""Run a simulated user over a data set, and summarise and plot J against the number of interactions.

The user is ``bundle.evaluation.simulated_user``. Single frames and whole videos are separate runs.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from bundle.datasets.frames import read_frames, read_masks
from bundle.datasets.records import Video
from bundle.datasets.whole_videos import first_shown
from bundle.evaluation.simulated_user import (
    Choice,
    Correction,
    FirstMask,
    FirstPrompt,
    FrameMethod,
    VideoMethod,
    correct_video,
    prompt_frame,
)
from bundle.evaluation.statistics import (
    MEAN_OVER_DOMAINS,
    Estimate,
    estimate,
    estimate_over_domains,
)
from bundle.utils.atomic_write import written_beside

SMALLEST_PX = 16
"""Objects of fewer pixels are left out: a user would not see them."""
MIN_WIDTH_IN = 7.0
"""Least width of a picture in inches, so that its legend fits."""
MAX_SHADED = 4
"""Largest number of curves in a panel whose intervals are drawn."""
TARGETS = (0.85, 0.90)
"""Values of J. The interactions needed to reach each are counted (NoC, number of clicks)."""


@dataclass(frozen=True)
class Curve:
    """Scores after each interaction with one object of a frame, or with a whole video.

    Attributes:
        group: Curves of one group are averaged: the domain, or the class if there are no domains.
        video: Id of the video.
        frame: Index of the frame; None for a whole video.
        object_id: Id in the data set's masks; None for a whole video.
        run: Name of the method with its prompts, such as ``network, box``.
        jaccard: J after each interaction, 0 to 1.
        dice: Dice after each interaction, 0 to 1; empty for frames.
    """

    group: str
    video: str
    frame: int | None
    object_id: int | None
    run: str
    jaccard: tuple[float, ...]
    dice: tuple[float, ...] = ()


def count_interactions(jaccard: Sequence[float], target: float) -> int:
    """Number of interactions until J reaches a target (NoC); their total if it never does.

    Example:
        >>> count_interactions([0.4, 0.8, 0.9, 0.86], 0.85), count_interactions([0.4, 0.5], 0.85)
        (3, 2)
    """
    return next((i for i, j in enumerate(jaccard, start=1) if j >= target), len(jaccard))


def spread(indices: Sequence[int], count: int) -> list[int]:
    """Choose ``count`` of the indices, evenly spread from the first on; all if there are fewer.

    Example:
        >>> spread(range(10, 22), 4), spread([3, 5], 4)
        ([10, 13, 16, 19], [3, 5])
    """
    if len(indices) <= count:
        return list(indices)
    return [indices[i * len(indices) // count] for i in range(count)]


def prompt_videos(
    videos: Iterable[Video],
    methods: Mapping[str, FrameMethod],
    firsts: Sequence[FirstPrompt],
    interactions: int,
    frames_per_video: int,
) -> Iterator[Curve]:
    """Prompt single objects in some annotated frames of each video; see ``prompt_frame``.

    Args:
        videos: Videos with at least one mask each.
        methods: Name -> method.
        firsts: Kinds of first prompt; each gives a curve.
        interactions: Number of interactions, the first included.
        frames_per_video: Number of annotated frames of each video, evenly spread.
    """
    for video in videos:
        chosen = spread(sorted(video.masks), frames_per_video)
        pairs = zip(read_frames(video, chosen), read_masks(video, chosen), strict=True)
        for index, (frame, labels) in zip(chosen, pairs, strict=True):
            for number, name in video.labels.items():
                truth = labels == number
                if np.count_nonzero(truth) < SMALLEST_PX:
                    continue
                for method_name, method in methods.items():
                    for first in firsts:
                        found = prompt_frame(method, frame, truth, first, interactions)
                        run = f"{method_name}, {first}"
                        group = video.domain or name
                        yield Curve(group, video.id, index, number, run, tuple(found))


def correct_videos(
    videos: Iterable[Video],
    method: VideoMethod,
    runs: Sequence[tuple[FirstMask, Choice, Correction]],
    corrections: int,
    max_frames: int | None = None,
) -> Iterator[Curve]:
    """Propagate a first mask through whole videos and correct them; see ``correct_video``.

    Args:
        videos: Videos with fewer than two annotated frames are skipped.
        method: Makes masks and propagates them.
        runs: For each run: first mask, choice of the frame to correct, kind of correction.
        corrections: Number of corrections.
        max_frames: Largest number of frames of each video, from the first that shows an object; None
            for all.
    """
    for video in videos:
        if len(video.masks) < 2:
            continue
        start = first_shown(video)
        stop = len(video.frames) if max_frames is None else start + max_frames
        indices = range(start, min(stop, len(video.frames)))
        annotated = [i for i in indices if i in video.masks]
        if len(annotated) < 2:
            continue
        frames = read_frames(video, indices)
        known = np.array([i if i in video.labels else 0 for i in range(256)], np.uint8)
        masks = read_masks(video, annotated)
        truth = {i - start: known[mask] for i, mask in zip(annotated, masks, strict=True)}
        for first, choice, correction in runs:
            rounds = correct_video(method, frames, truth, first, corrections, choice, correction)
            jaccard, dice = zip(*rounds, strict=True)
            shown = [name for i, name in video.labels.items() if (truth[0] == i).any()]
            group = video.domain or " + ".join(shown)
            run = f"{first}, then {correction} on {choice} frame"
            yield Curve(group, video.id, None, None, run, jaccard, dice)


def summarise_curves(curves: Sequence[Curve]) -> list[dict[str, Any]]:
    """Mean of each run in each group, and over the groups, with intervals over videos.

    Returns:
        Rows with ``run``, ``group``, ``videos``, ``curves`` and ``jaccard`` after each interaction, in
        percent (for videos ``dice`` too). For frames also ``interactions_to_85`` and so on, the mean
        number of interactions to that J (NoC), and ``never_85``, the percentage of curves that never
        reach it.
    """
    rows = []
    for run in dict.fromkeys(curve.run for curve in curves):
        members = [curve for curve in curves if curve.run == run]
        groups = list(dict.fromkeys(curve.group for curve in members))
        for group in groups:
            rows.append(_summary(run, group, [[c for c in members if c.group == group]]))
        if len(groups) > 1:
            parts = [[c for c in members if c.group == group] for group in groups]
            rows.append(_summary(run, MEAN_OVER_DOMAINS, parts))
    return rows


def _summary(run: str, group: str, parts: Sequence[Sequence[Curve]]) -> dict[str, Any]:
    curves = [curve for part in parts for curve in part]

    places = [(number, curve.video) for number, part in enumerate(parts) for curve in part]

    def mean(values: Sequence[float]) -> Estimate:
        """Mean of one value, a fraction, for each curve."""
        groups: list[dict[str, list[float]]] = [{} for _ in parts]
        for (number, video), value in zip(places, values, strict=True):
            groups[number].setdefault(video, []).append(value)
        found = [list(videos.values()) for videos in groups]
        return estimate_over_domains(found) if len(found) > 1 else estimate(found[0])

    row: dict[str, Any] = {
        "run": run,
        "group": group,
        "videos": len({curve.video for curve in curves}),
        "curves": len(curves),
    }
    for score in ("jaccard", "dice"):
        known = [getattr(curve, score) for curve in curves]
        if known[0]:
            row[score] = [mean(each) for each in zip(*known, strict=True)]
    if curves[0].frame is not None:
        for target in TARGETS:
            percent = round(100 * target)
            # In hundredths, since means are returned in percent.
            needed = [count_interactions(curve.jaccard, target) / 100 for curve in curves]
            never = [float(max(curve.jaccard) < target) for curve in curves]
            row[f"interactions_to_{percent}"] = mean(needed)
            row[f"never_{percent}"] = mean(never)
    return row


def curve_rows(curves: Sequence[Curve]) -> list[dict[str, Any]]:
    """A row for each curve and interaction, scores in percent."""
    return [
        {
            "group": curve.group,
            "video": curve.video,
            "frame": curve.frame,
            "object": curve.object_id,
            "run": curve.run,
            "interaction": number,
            "jaccard": f"{100 * jaccard:.6f}",
            "dice": f"{100 * curve.dice[number - first]:.6f}" if curve.dice else None,
        }
        for curve in curves
        for first in [1 if curve.frame is not None else 0]
        for number, jaccard in enumerate(curve.jaccard, start=first)
    ]


def draw_curves(path: Path, summary: Sequence[Mapping[str, Any]], whole_videos: bool) -> None:
    """Plot J against the number of interactions, a panel for each group, with intervals over videos.

    Args:
        path: The PNG file.
        summary: Output of ``summarise_curves``.
        whole_videos: Whether curves are of whole videos, whose first value is before any correction.
    """
    groups = list(dict.fromkeys(row["group"] for row in summary))
    runs = list(dict.fromkeys(row["run"] for row in summary))
    columns = min(2, len(groups))
    lines = -(-len(groups) // columns)
    size = max(MIN_WIDTH_IN, 4.6 * columns), 3.4 * lines + 0.25 * len(runs)
    figure = Figure(figsize=size, dpi=120, layout="constrained")
    panels: list[Axes] = list(figure.subplots(lines, columns, squeeze=False).ravel())
    for number, (axes, group) in enumerate(zip(panels, groups, strict=False)):
        rows = [row for row in summary if row["group"] == group]
        for row in rows:
            means = [point["mean"] for point in row["jaccard"]]
            x = np.arange(len(means)) + (0 if whole_videos else 1)
            colour = f"C{runs.index(row['run'])}"
            axes.plot(x, means, color=colour, marker=".", label=row["run"])
            # More intervals than these would hide the curves.
            known = all(point["low"] is not None for point in row["jaccard"])
            if known and len(rows) <= MAX_SHADED:
                low, high = ([point[end] for point in row["jaccard"]] for end in ("low", "high"))
                axes.fill_between(x, low, high, color=colour, alpha=0.12, linewidth=0)
        axes.set_title(f"{group} ({_count(rows[0]['videos'])})")
        axes.set_ylim(top=101)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.grid(alpha=0.3)
        axes.set_xlabel("corrections" if whole_videos else "interactions")
        if number % columns == 0:
            axes.set_ylabel("J (%)")
    for axes in panels[len(groups) :]:
        axes.set_axis_off()
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=2, fontsize=9)
    with written_beside(path) as beside:
        FigureCanvasAgg(figure).print_png(str(beside))


def _count(videos: int) -> str:
    return f"{videos} video{'' if videos == 1 else 's'}"
