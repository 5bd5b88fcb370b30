"""Measure how fast the data loader gives training batches, without training."""

import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from monai.bundle import ConfigParser

from benchmarks.cases import Figures, Workload

ROOT = Path(__file__).resolve().parents[3]


def prepare(variant: str, settings: Mapping[str, Any]) -> Workload:
    """Prepare a loader by the config. Each run takes as many batches as the setting ``batches`` says.

    The loader's workers start in the warm-up.

    Raises:
        ValueError: ``dataset_dir`` is not given.
    """
    if settings["dataset_dir"] is None:
        raise ValueError("the loader needs data: --set dataset_dir=DIR")
    config = ConfigParser()
    config.read_config([str(ROOT / name) for name in settings["config_files"]])
    config["dataset_dir"] = str(settings["dataset_dir"])
    config["workers"] = settings["workers"]
    config["iterations_per_epoch"] = 10**6
    for name, value in settings["overrides"].items():
        config[name] = value
    batches: Iterator[Any] = iter(config.get_parsed_content("train#dataloader"))

    def run() -> Figures:
        begin = time.perf_counter()
        clips = sum(len(next(batches)["name"]) for _ in range(settings["batches"]))
        return {"ms_per_clip": 1000 * (time.perf_counter() - begin) / clips}

    return Workload(run, run)
