"""List the benchmark cases: what is measured, in which variants, with which settings.

This module must not import PyTorch. Each variant is measured in a process of its own, and the memory
of that process counts.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

Figures = dict[str, float]
"""Name to value. Lower is better for all. Names of times contain the unit."""


QUIET_CORES = 0.2
"""Cores that other programs may use during a run that counts."""


class Workload(NamedTuple):
    """What ``prepare(variant, settings)`` of a case's module returns.

    Attributes:
        warm_up: Called once, before the runs, in the same process.
        run: Called once for each run. Returns the figures of the run after the device has finished.
    """

    warm_up: Callable[[], Any]
    run: Callable[[], Figures]


class Case(NamedTuple):
    """One benchmark.

    Attributes:
        module: Name of the module of this package that measures it, by its function ``prepare``.
        variants: Names of what is compared. Each runs in a process of its own; they take turns.
        settings: Name to value; values are such as JSON can hold.
    """

    module: str
    variants: tuple[str, ...]
    settings: Mapping[str, Any]


VIDEO = {
    "height": 384,
    "width": 384,
    "frames": 30,
    "objects": 1,
    "max_memory_frames": None,
    "precision": "auto",
    "busy": 0,
    "device": "auto",
}
BACKENDS = ("plain", "torch", "openvino", "int8")
LONG = {**VIDEO, "frames": 600}
CLIPS = {"size": 224, "device": "auto"}

CASES: Mapping[str, Case] = {
    "video": Case("video", BACKENDS, VIDEO),
    "video_3_objects": Case("video", BACKENDS, {**VIDEO, "objects": 3}),
    "video_480x854": Case("video", BACKENDS, {**VIDEO, "height": 480, "width": 854}),
    "video_busy": Case("video", ("openvino", "int8"), {**VIDEO, "busy": 1}),
    "long": Case("video", ("torch", "int8"), LONG),
    "long_limited": Case("video", ("torch", "int8"), {**LONG, "max_memory_frames": 12}),
    "training": Case(
        "training",
        ("plain", "channels_last", "fused", "folded", "config", "bfloat16", "processes"),
        CLIPS,
    ),
    "metrics": Case(
        "metrics",
        ("jaccard", "dice", "boundary"),
        {"height": 480, "width": 854, "frames": 30, "objects": 1},
    ),
    "loader": Case(
        "loader",
        ("loader",),
        {
            "dataset_dir": None,
            "workers": 1,
            "batches": 10,
            "config_files": ["configs/train.yaml"],
            "overrides": {},
        },
    ),
    "startup": Case("startup", ("imports", "torch", "int8", "command"), {}),
}


def change_settings(case: Case, changes: Sequence[str]) -> Case:
    """Return the case with some settings changed.

    Args:
        case: Case to start from.
        changes: ``NAME=VALUE`` each. A value that is not JSON is taken as text.

    Raises:
        ValueError: The case has no such setting, or there is no ``=``.
    """
    settings = dict(case.settings)
    for change in changes:
        name, equals, text = change.partition("=")
        if not equals or name not in settings:
            raise ValueError(
                f"--set {change}: expected NAME=VALUE with a name of {sorted(settings)}"
            )
        try:
            settings[name] = json.loads(text)
        except json.JSONDecodeError:
            settings[name] = text
    return case._replace(settings=settings)
