"""Handlers of the training loop: set the data set's epoch, clip gradients, write the loss table."""

import csv
import logging
import time
from pathlib import Path
from typing import Any

import ignite.distributed as idist
import torch
from ignite.engine import Engine, Events
from monai.engines.utils import IterationEvents
from torch import nn

from bundle.evaluation.tables import write_csv
from bundle.training.losses import LossOfTerms
from bundle.utils.distributed import mean_over_processes

logger = logging.getLogger(__name__)


class EpochHandler:
    """Sets the epoch and first clip of the data set before the loader's workers start.

    Args:
        dataset: A data set with ``set_epoch(epoch, begin)``.
        batch_size: Clips per iteration, of all processes together. An interrupted epoch is resumed
            after the clips of its last iteration.
    """

    def __init__(self, dataset: Any, batch_size: int) -> None:
        self.dataset, self.batch_size = dataset, batch_size

    def attach(self, engine: Engine) -> None:
        # Ignite makes the epoch's loader iterator, and so its workers, after this event.
        engine.add_event_handler(Events.EPOCH_STARTED, self._at_epoch)

    def _at_epoch(self, engine: Engine) -> None:
        done = engine.state.iteration % engine.state.epoch_length
        self.dataset.set_epoch(engine.state.epoch, done * self.batch_size)


class GradientClipping:
    """Scales gradients down to a maximal norm, and stops the training if the loss is not finite.

    Args:
        network: The network to train.
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
            raise FloatingPointError(
                f"the loss of iteration {engine.state.iteration} is {engine.state.output['loss']} on "
                f"clips {names}; the last checkpoint is good: lower the learning rate and resume"
            )

    def _clip(self, engine: Engine) -> None:
        if getattr(engine, "scaler", None) is not None:
            engine.scaler.unscale_(engine.optimizer)
        nn.utils.clip_grad_norm_(self.network.parameters(), self.max_norm)


class LossTable:
    """Appends the mean loss and its terms to a CSV file, and logs them.

    Means are over all processes too. The first process writes.

    Args:
        loss: The loss whose terms are written.
        path: The CSV file; a resumed training continues it.
        every: Number of iterations averaged in a row. Iterations of an incomplete row are part of the
            state dict.
    """

    def __init__(self, loss: LossOfTerms, path: str | Path, every: int = 20) -> None:
        self.loss, self.path, self.every = loss, Path(path), every
        self.columns = (*loss.names, "seconds")
        self.rows: list[dict[str, float]] = []
        self.last = time.monotonic()

    def state_dict(self) -> dict[str, Any]:
        return {"rows": self.rows}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.rows = list(state["rows"])

    def attach(self, engine: Engine) -> None:
        engine.add_event_handler(Events.STARTED, self._start)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self._collect)

    def _start(self, engine: Engine) -> None:
        self.last = time.monotonic()

    def _collect(self, engine: Engine) -> None:
        terms = {"loss": engine.state.output["loss"].item(), **self.loss.terms}
        now = time.monotonic()
        terms["seconds"], self.last = now - self.last, now
        self.rows.append(mean_over_processes(terms))
        if len(self.rows) < self.every:
            return
        row: dict[str, Any] = {"iteration": engine.state.iteration}
        for name in ("loss", *self.columns):
            seen = [r[name] for r in self.rows if name in r]
            row[name] = f"{sum(seen) / len(seen):.5f}" if seen else ""
        self.rows = []
        logger.info(" ".join(f"{name}={value}" for name, value in row.items() if value != ""))
        if idist.get_rank() == 0:
            write_csv(self.path, [*self._earlier(engine.state.iteration), row])

    def _earlier(self, iteration: int) -> list[dict[str, Any]]:
        """The rows before an iteration; a resumed training writes later ones again."""
        if not self.path.exists():
            return []
        with self.path.open(newline="") as file:
            return [row for row in csv.DictReader(file) if int(row["iteration"]) < iteration]


class Attach:
    """Attaches a handler that is defined elsewhere in a config, where other entries refer to it too.

    MONAI's bundle check requires that each entry of a list of handlers names its class.

    Args:
        handler: The handler.
    """

    def __init__(self, handler: Any) -> None:
        self.handler = handler

    def attach(self, engine: Engine) -> None:
        self.handler.attach(engine)
