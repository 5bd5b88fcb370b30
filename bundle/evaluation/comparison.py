"""Compare two saved evaluations of one protocol, paired by object and frame."""

import csv
import json
from collections.abc import Mapping, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

from bundle.evaluation.metrics import SCORES
from bundle.evaluation.records import VideoScores, select
from bundle.evaluation.statistics import gains


def compare(before: str | Path, after: str | Path) -> dict[str, Any]:
    """Compute the gain of one evaluation over another, on unchanged input, paired by frame.

    Args:
        before: The ``output_dir`` of one evaluation.
        after: The ``output_dir`` of another evaluation of the same protocol.

    Returns:
        ``protocol``; ``before`` and ``after``, each with its folder and the settings that differ; and
        ``gains``, see ``bundle.evaluation.statistics.gains``.

    Raises:
        FileNotFoundError: A folder has no ``frames.csv`` or ``summary.json``.
        ValueError: The evaluations are of two protocols, or scored different objects or frames.
    """
    settings = [read_settings(folder) for folder in (before, after)]
    protocols = [one.get("protocol") for one in settings]
    if protocols[0] != protocols[1]:
        raise ValueError(
            f"{before} scored the protocol {protocols[0]} but {after} scored {protocols[1]}: expected "
            "two evaluations of one protocol"
        )
    first, second = (select(read_scores(folder)) for folder in (before, after))
    gains(second, first)  # raises an error for what only the first has
    differing = [key for key in settings[1] if settings[0].get(key) != settings[1][key]]
    return {
        "protocol": protocols[0],
        "before": {"folder": str(before), **{key: settings[0].get(key) for key in differing}},
        "after": {"folder": str(after), **{key: settings[1][key] for key in differing}},
        "gains": gains(first, second),
    }


def read_settings(folder: str | Path) -> dict[str, Any]:
    """The settings of an evaluation, from its ``summary.json``."""
    path = _file(folder, "summary.json")
    settings: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))["settings"]
    return settings


def read_scores(folder: str | Path) -> list[VideoScores]:
    """The scores of an evaluation, from its ``frames.csv``, which does not hold the speed."""
    with _file(folder, "frames.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))

    def key(row: Mapping[str, str]) -> tuple[str, ...]:
        return row["method"], row["perturbation"], row["video"], row["object"]

    groups = [list(members) for _, members in groupby(rows, key)]
    together: dict[str, set[str]] = {}
    for row in rows:
        together.setdefault(row["video"], set()).add(row["object"])
    return [_scores(members, len(together[members[0]["video"]])) for members in groups]


def _scores(rows: Sequence[Mapping[str, str]], together: int) -> VideoScores:
    first = rows[0]
    said = first["confidence"] != ""
    return VideoScores(
        video=first["video"],
        class_name=first["class"],
        object_id=int(first["object"]),
        method=first["method"],
        perturbation=first["perturbation"],
        frame_names=tuple(row["frame"] for row in rows),
        distance=tuple(int(row["distance"]) for row in rows),
        shown=tuple(row["shown"] == "1" for row in rows),
        frames_per_second=None,
        together=together,
        domain=first["domain"],
        answered=tuple(row["answered"] == "1" for row in rows),
        confidence=tuple(float(row["confidence"]) for row in rows) if said else None,
        **{score: tuple(float(row[score]) / 100 for row in rows) for score in SCORES},
    )


def _file(folder: str | Path, name: str) -> Path:
    path = Path(folder) / name
    if not path.is_file():
        raise FileNotFoundError(f"no {path}: expected the output_dir of an evaluation")
    return path
