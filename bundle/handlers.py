"""Handlers that MONAI and Ignite lack: gradient clipping, a table of losses, and resuming."""

import csv
import logging
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from ignite.engine import Engine, Events
from ignite.handlers import Checkpoint, DiskSaver
from monai.engines.utils import IterationEvents
from monai.handlers import IgniteMetricHandler, from_engine
from torch import nn

from bundle.losses import TCMNLoss
from bundle.metrics import Score, VideoScore

logger = logging.getLogger(__name__)


class EpochHandler:
    """Tells the data set which epoch begins, before its workers start."""

    def __init__(self, dataset: Any) -> None:
        self.dataset = dataset

    def attach(self, engine: Engine) -> None:
        # Ignite makes the epoch's loader iterator, and so its workers, after this event.
        engine.add_event_handler(Events.EPOCH_STARTED, self._at_epoch)

    def _at_epoch(self, engine: Engine) -> None:
        self.dataset.set_epoch(engine.state.epoch)

class GradientClipping:
    """Scales the gradient down to a norm; stops at a loss that is no number.

    Args:
        network: Whose gradients.
        max_norm: Largest Euclidean norm of all gradients together.
    """

    def __init__(self, network: nn.Module, max_norm: float) -> None:
        self.network, self.max_norm = network, max_norm

    def attach(self, engine: Engine) -> None:
        engine.add_event_handler(IterationEvents.LOSS_COMPLETED, self._check)
        engine.add_event_handler(IterationEvents.BACKWARD_COMPLETED, self._clip)

    def _check(self, engine: Engine) -> None:
        if not torch.isfinite(engine.state.output["loss"]):
            names = engine.state.batch.get("name")
            raise RuntimeError(
                f"the loss of iteration {engine.state.iteration} is {engine.state.output['loss']} on "
                f"clips {names}; the last checkpoint is good: lower the learning rate and resume"
            )

    def _clip(self, engine: Engine) -> None:
        if getattr(engine, "scaler", None) is not None:
            engine.scaler.unscale_(engine.optimizer)
        nn.utils.clip_grad_norm_(self.network.parameters(), self.max_norm)


class LossTable:
    """Appends the mean loss and its terms to a CSV file, and logs them.

    Args:
        loss: Whose terms.
        path: The CSV file; a resumed training goes on in it.
        every: Iterations that one row averages.
    """

    def __init__(self, loss: TCMNLoss, path: str | Path, every: int = 20) -> None:
        self.loss, self.path, self.every = loss, Path(path), every
        self.columns = ("cross_entropy", "dice", "contrastive", "value_distance", "collapsed")
        self.rows: list[dict[str, float]] = []
        self.begin = time.monotonic()

    def attach(self, engine: Engine) -> None:
        engine.add_event_handler(Events.ITERATION_COMPLETED, self._collect)

    def _collect(self, engine: Engine) -> None:
        self.rows.append({"loss": engine.state.output["loss"].item(), **self.loss.terms})
        if len(self.rows) < self.every:
            return
        row: dict[str, Any] = {"iteration": engine.state.iteration}
        for name in ("loss", *self.columns):
            seen = [r[name] for r in self.rows if name in r]
            row[name] = f"{sum(seen) / len(seen):.5f}" if seen else ""
        row["seconds"] = f"{(time.monotonic() - self.begin) / len(self.rows):.3f}"
        self.rows, self.begin = [], time.monotonic()
        logger.info(" ".join(f"{name}={value}" for name, value in row.items() if value != ""))
        new = not self.path.exists()
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.open("a", newline="") as file:
            writer = csv.DictWriter(file, list(row))
            if new:
                writer.writeheader()
            writer.writerow(row)


class ResumableCheckpoint:
    """Saves everything that training needs to go on, after each epoch, and loads it at the start.

    Files are written beside and renamed, so a killed run leaves the previous one whole.

    Args:
        objects: What has a state dict: network, optimiser, schedule, loss. The trainer is added.
        folder: Where ``last.pt`` is.
        resume: Load it if it exists; otherwise an existing one is an error, not lost.

    Raises:
        FileExistsError: There is a checkpoint and ``resume`` is off.
    """

    def __init__(self, objects: Mapping[str, Any], folder: str | Path, resume: bool = True) -> None:
        self.objects, self.folder, self.resume = dict(objects), Path(folder), resume

    def attach(self, engine: Engine) -> None:
        path = self.folder / "last.pt"
        if path.exists():
            if not self.resume:
                raise FileExistsError(
                    f"{path} exists: choose another output_dir, or --resume true to go on from it"
                )
            state = torch.load(path, map_location="cpu", weights_only=True)
            wanted = engine.state.max_epochs
            Checkpoint.load_objects({**self.objects, "trainer": engine}, state)
            engine.state.max_epochs = wanted
            logger.info("resumed from %s after epoch %d", path, engine.state.epoch)
        saver = Checkpoint(
            {**self.objects, "trainer": engine},
            DiskSaver(str(self.folder), create_dir=True, require_empty=False),
            filename_pattern="last.pt",
            n_saved=1,
        )
        engine.add_event_handler(Events.EPOCH_COMPLETED, saver)


class VideoScoreHandler(IgniteMetricHandler):
    """Mean J or Dice of whole videos as an Ignite metric.

    Args:
        score: ``jaccard`` or ``dice``; see ``bundle.metrics.VideoScore``.
    """

    def __init__(self, score: Score = "jaccard") -> None:
        super().__init__(
            metric_fn=VideoScore(score), output_transform=from_engine(["pred", "label"]), save_details=False
        )
