"""Make the tables of an evaluation: CSV rows by frame and by video, a JSON summary, Markdown."""

import csv
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from bundle.evaluation.metrics import SCORES
from bundle.evaluation.paper import ERROR_NOTE, printed_rows
from bundle.evaluation.presence import presence
from bundle.evaluation.records import NETWORK, UNCHANGED, VideoScores, classes_of, runs_of, select
from bundle.evaluation.statistics import (
    RESAMPLES,
    Estimate,
    given_together,
    leads,
    perturbation_costs,
    speed,
    summarise,
)
from bundle.utils.atomic_write import written_beside

SPEED_INCLUDES = (
    "from the clip in memory to one label per pixel: copy to the device, resizing, network and memory; "
    "not reading, scoring or writing; a process's first video includes its warm-up"
)


def write_text(path: Path, text: str) -> None:
    """Write a text file, renamed into place when it is complete."""
    with written_beside(path) as beside:
        beside.write_text(text, encoding="utf-8", newline="")


def write_csv(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Write rows of equal keys; None is an empty cell."""
    with written_beside(path) as beside, beside.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def frame_rows(scores: Sequence[VideoScores]) -> list[dict[str, Any]]:
    """A row for each frame, object, method and perturbation; scores in percent."""
    return [
        {
            **_key(one),
            "frame": name,
            "distance": distance,
            "shown": int(shown),
            "answered": int(answered),
            **{score: f"{100 * one.values(score)[i]:.6f}" for score in SCORES},
            "confidence": "" if one.confidence is None else f"{one.confidence[i]:.6f}",
        }
        for one in scores
        for i, (name, distance, shown, answered) in enumerate(
            zip(one.frame_names, one.distance, one.shown, one.answered, strict=True)
        )
    ]


def metric_rows(scores: Sequence[VideoScores]) -> list[dict[str, Any]]:
    """A row for each object, method and perturbation: means over frames, in percent."""
    return [
        {
            **_key(one),
            "given_together": one.together,
            "frames": len(one.frame_names),
            **{score: f"{100 * one.mean(score):.6f}" for score in SCORES},
            "frames_shown": sum(one.shown),
            **{f"{score}_shown": _cell(100 * one.mean(score, True)) for score in SCORES},
        }
        for one in scores
    ]


def _key(one: VideoScores) -> dict[str, Any]:
    return {
        "domain": one.domain,
        "video": one.video,
        "class": one.class_name,
        "object": one.object_id,
        "method": one.method,
        "perturbation": one.perturbation,
    }


def _cell(value: float) -> str:
    return "" if math.isnan(value) else f"{value:.6f}"


def make_summary(
    scores: Sequence[VideoScores], description: str, settings: Mapping[str, Any]
) -> dict[str, Any]:
    """The content of ``summary.json``; scores in percent."""
    return {
        "description": description,
        "given_together": given_together(scores),
        "settings": dict(settings),
        "frames_per_second": {**speed(scores), "includes": SPEED_INCLUDES},
        "interval": f"95 % percentile bootstrap over videos, {RESAMPLES} resamples",
        "results": [
            {
                "method": method,
                "perturbation": perturbation,
                **summarise(select(scores, method, perturbation)),
                "presence": presence(
                    select(scores, method, perturbation), settings.get("review_below", 0.0)
                ),
            }
            for method, perturbation in runs_of(scores)
        ],
        "leads": leads(scores),
        "perturbation_costs": perturbation_costs(scores, NETWORK),
    }


def to_json(summary: Mapping[str, Any]) -> str:
    return json.dumps(summary, indent=1, ensure_ascii=False, allow_nan=False) + "\n"


def make_markdown(summary: Mapping[str, Any], protocol: str) -> str:
    """The page ``tables.md``: the table of methods, paired differences, the cost of perturbations."""
    unchanged = [run for run in summary["results"] if run["perturbation"] == UNCHANGED]
    first = _groups(unchanged[0])
    columns = [*first, *(["mean"] if len(first) > 1 else [])]
    where, printed = printed_rows(protocol, columns)
    counts = ", ".join(
        f"{name}: {group['objects']} objects in {group['videos']} videos"
        for name, group in first.items()
    )
    averaged = "then over objects"
    if unchanged[0]["domains"]:
        averaged = (
            "then over the objects of each video, the videos of each domain, and the domains. A domain "
            "of one video adds nothing to the intervals of the mean"
        )
    lines = [
        f"# {summary['description']}",
        "",
        f"{counts}. {summary['given_together']} Scores in percent with {summary['interval']}: mean "
        f"over the scored frames of each object, {averaged}.",
        *_told_settings(summary["settings"]),
        "",
        *_header(columns),
    ]
    for run in unchanged:
        groups = {**_groups(run), "mean": run["mean"]}
        cells = [_estimate(groups[name][score]) for name in columns for score in SCORES]
        lines.append(_row([run["method"], *cells]))
    for method, triples in printed.items():
        blank = ("", "", "")
        cells = [
            f"{value:.2f}" if value != "" else ""
            for name in columns
            for value in triples.get(name, blank)
        ]
        lines.append(_row([f"*{method}, as printed*", *cells]))
    if printed:
        lines += [
            "",
            f"*As printed*: {where}. These figures are the authors', for their own splits of the data "
            "(and for CAMUS whole sequences); they were not measured here and do not compare "
            "directly.",
        ]
    if where.endswith("table 2"):
        lines += ["", ERROR_NOTE]
    if any(
        run["mean"][s] != run["mean"]["only_frames_that_show_it"][s]
        for run in unchanged
        for s in SCORES
    ):
        lines += _only_shown(unchanged, columns)
    lines += _presence(unchanged, summary["settings"])
    lines += _paired(
        "Ahead of the other methods",
        "How many points the network has more, on the same frames, with the paired interval.",
        "method",
        summary["leads"],
    )
    lines += _paired(
        "What perturbations cost",
        "Difference to the unchanged input, in points, on the same frames, with the paired interval.",
        "perturbation",
        summary["perturbation_costs"],
    )
    return "\n".join(lines) + "\n"


def _told_settings(settings: Mapping[str, Any]) -> list[str]:
    if "weights_sha256" not in settings:
        return []
    size = settings["inference_size"]
    seen = "at their own size" if size is None else f"at a shorter side of {size} pixels"
    prior = settings["spatial_prior"]
    last = " and the last" if settings.get("remember_last") else ""
    place = "no spatial prior" if prior is None else f"spatial prior {prior}"
    return [
        "",
        f"Weights `{settings['weights']}` (SHA-256 {settings['weights_sha256'][:12]}), frames {seen}, "
        f"one of {settings['memory_every']}{last} remembered, {place}, computed in "
        f"{settings['computed_in']}.",
    ]


def _only_shown(unchanged: Sequence[Mapping[str, Any]], columns: Sequence[str]) -> list[str]:
    lines = ["", "## Only frames that show the object", "", *_header(columns)]
    for run in unchanged:
        groups = {**_groups(run), "mean": run["mean"]}
        shown = [groups[name]["only_frames_that_show_it"] for name in columns]
        cells = [_estimate(group[score]) for group in shown for score in SCORES]
        lines.append(_row([run["method"], *cells]))
    return lines


def _groups(run: Mapping[str, Any]) -> dict[str, Any]:
    """The columns of a run: its domains, or classes where it has none."""
    found: dict[str, Any] = run["domains"] or run["classes"]
    return found


def _presence(unchanged: Sequence[Mapping[str, Any]], settings: Mapping[str, Any]) -> list[str]:
    """The section on absent and lost objects; no lines if there are none."""
    found = {run["method"]: run["presence"] for run in unchanged}
    if not any(one["absent"]["frames"] or one["shown"]["lost"]["mean"] for one in found.values()):
        return []
    first = next(iter(found.values()))
    lines = [
        "",
        "## Objects that are gone or lost",
        "",
        f"Gone: the truth does not show an object of the given mask ({first['absent']['frames']} "
        "times, counted by object and frame); answered: the method shows it anyway. Lost: the "
        f"truth shows it ({first['shown']['frames']} times) and the method's mask does not touch it. "
        "Flagged: the share of these whose frame has a confidence below "
        f"{settings.get('review_below', 0.0)}, or an empty mask.",
        "",
        _row(["method", "gone, answered", "of these flagged", "shown, lost", "of these flagged"]),
        _row(["---", *["---:"] * 4]),
    ]
    for method, one in found.items():
        flags = [one[kind]["flagged"] for kind in ("absent", "shown")]
        told = ["-" if flag is None else f"{flag:.1f}" for flag in flags]
        answered, lost = _estimate(one["absent"]["answered"]), _estimate(one["shown"]["lost"])
        lines.append(_row([method, answered, told[0], lost, told[1]]))
    return lines


def _paired(
    title: str, told: str, column: str, differences: Sequence[Mapping[str, Any]]
) -> list[str]:
    if not differences:
        return []
    lines = [
        "",
        f"## {title}",
        "",
        told,
        "",
        _row([column, "class", "J", "F", "Dice"]),
        _row(["---", "---", "---:", "---:", "---:"]),
    ]
    lines += [_row([one[column], one["class"], *_signed(one)]) for one in differences]
    return lines


def gain_lines(comparison: Mapping[str, Any]) -> list[str]:
    """Lines of Markdown for the output of ``bundle.evaluation.comparison.compare``."""
    folders = [comparison[side]["folder"] for side in ("before", "after")]
    return [
        f"# {comparison['protocol']}: {folders[1]} - {folders[0]}",
        "",
        "Points, on the same frames, with the paired 95 % interval over videos.",
        "",
        _row(["", "J", "F", "Dice"]),
        _row(["---", "---:", "---:", "---:"]),
        *(_row([one["class"], *_signed(one)]) for one in comparison["gains"]),
    ]


def _signed(difference: Mapping[str, Any]) -> list[str]:
    return [_estimate(difference[score], "+") for score in SCORES]


def _header(columns: Sequence[str]) -> list[str]:
    names = [f"{name} {score}" for name in columns for score in ("J", "F", "Dice")]
    return [_row(["method", *names]), _row(["---", *["---:"] * len(names)])]


def _row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _estimate(found: Estimate, sign: str = "") -> str:
    if found["mean"] is None:
        return "-"
    text = f"{found['mean']:{sign}.2f}"
    if found["low"] is None:
        return text
    return f"{text} [{found['low']:{sign}.1f}, {found['high']:{sign}.1f}]"


def log_lines(scores: Sequence[VideoScores]) -> list[str]:
    """A line for each class and method, for the log."""
    lines = []
    for method, perturbation in runs_of(scores):
        for name in classes_of(scores):
            chosen = select(scores, method, perturbation, name)
            if chosen:
                means = [100 * sum(one.mean(s) for one in chosen) / len(chosen) for s in SCORES]
                run = method if perturbation == UNCHANGED else f"{method}, {perturbation}"
                told = " ".join(
                    f"{k} {v:.2f}" for k, v in zip(["J", "F", "Dice"], means, strict=True)
                )
                lines.append(f"{name}, {run}: {told} ({len(chosen)} objects)")
    return lines
