"""The cases: what is measured, in which variants, with which settings.

Nothing heavy is imported here: PyTorch belongs to the processes that measure, so that the memory of
each is its own.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

Figures = dict[str, float]
"""Name to value. Less is better in all of them; times have their unit in the name."""


QUIET_CORES = 0.2
"""Cores that other programs may use during a run that counts."""


class Workload(NamedTuple):
    """What a case's ``prepare(variant, settings)`` returns: both are called in one process.

    Attributes:
        warm_up: Called once.
        run: Called for each run; the figures of that run, the device having finished.
    """

    warm_up: Callable[[], Any]
    run: Callable[[], Figures]


class Case(NamedTuple):
    """One case.

    Attributes:
        module: Of this package; has ``prepare``.
        variants: Each runs in a process of its own; they take turns.
        settings: Names to values that JSON knows.
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
    """The case with settings given as ``NAME=VALUE``, the value in JSON, or else a text.

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
