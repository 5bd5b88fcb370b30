"""Measure how fast the metrics score a label volume against the reference."""

import time
from collections.abc import Mapping
from typing import Any, cast

import numpy as np
import torch

from benchmarks.cases import Figures, Workload
from benchmarks.scene import DriftingDisks
from bundle.evaluation.metrics import Score, score_objects


def prepare(variant: str, settings: Mapping[str, Any]) -> Workload:
    """Prepare a label volume and a prediction, which is the same shifted by a few pixels.

    ``variant`` is the metric: jaccard, dice or boundary.
    """
    frames = settings["frames"]
    video = DriftingDisks(settings["height"], settings["width"], frames, settings["objects"])
    labels = np.stack([video.labels(i) for i in range(frames)], axis=-1)
    truth = torch.from_numpy(labels).long()
    prediction = truth.roll((3, 2), dims=(0, 1))

    def run() -> Figures:
        begin = time.perf_counter()
        score_objects(prediction, truth, cast(Score, variant))
        return {"ms_per_frame": 1000 * (time.perf_counter() - begin) / frames}

    return Workload(run, run)
