"""Handlers of the validation during training: write and log its scores, stop early."""

import csv
import logging
import math
import sys
from pathlib import Path
from typing import Any

import ignite.distributed as idist
from ignite.engine import Engine, Events
from ignite.handlers import EarlyStopping
from monai.handlers import StatsHandler

from bundle.evaluation.tables import write_csv

logger = logging.getLogger(__name__)


class MetricTable:
    """Appends the scores of each validation to a CSV file, beside its epoch.

    Rows of the same or later epochs are replaced, since a resumed training repeats them.

    Args:
        path: The CSV file; a resumed training continues it.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)

    def attach(self, engine: Engine) -> None:
        if idist.get_rank() == 0:
            engine.add_event_handler(Events.EPOCH_COMPLETED, self._append)

    def _append(self, engine: Engine) -> None:
        # An evaluator runs with the trainer's epoch.
        rows: list[dict[str, Any]] = []
        if self.path.exists():
            with self.path.open(newline="") as file:
                rows = [r for r in csv.DictReader(file) if int(r["epoch"]) < engine.state.epoch]
        scores = {
            name: "" if math.isnan(value) else f"{value:.5f}"  # NaN: no video could be scored
            for name, value in engine.state.metrics.items()
        }
        rows.append({"epoch": engine.state.epoch, **scores})
        columns = dict.fromkeys(name for row in rows for name in row)
        write_csv(self.path, [{name: row.get(name, "") for name in columns} for row in rows])


class ValidationStats(StatsHandler):
    """Logs the scores of each validation as MONAI does, but without the traceback of an error.

    The command line prints errors, see ``bundle.utils.options.print_error``.
    """

    def __init__(self) -> None:
        super().__init__(iteration_log=False)

    def exception_raised(self, _engine: Engine, e: Exception) -> None:
        raise e


class EarlyStop(EarlyStopping):
    """Stops a training after a number of validations in a row without a better key metric.

    Its state dict, for the checkpoint, has the count and the best score. It extends Ignite's handler,
    since MONAI's, which wraps that one, has no state.

    Args:
        validator: The evaluator whose key metric counts; higher is better.
        patience: Number of validations without a better score; 0 never stops.

    Raises:
        ValueError: The patience is negative.
    """

    def __init__(self, validator: Engine, patience: int) -> None:
        if patience < 0:
            raise ValueError(
                f"patience must be 0 (never stop) or a number of validations, got {patience}"
            )
        # The trainer is set in attach: a config cannot refer to it inside its own definition.
        super().__init__(patience or sys.maxsize, self._score, trainer=validator)
        self.validator = validator

    def attach(self, engine: Engine) -> None:
        self.trainer = engine
        engine.add_event_handler(Events.STARTED, self._stay_stopped)
        self.validator.add_event_handler(Events.EPOCH_COMPLETED, self._check)

    @staticmethod
    def _score(validator: Engine) -> float:
        score = validator.state.metrics[validator.state.key_metric_name]
        return -math.inf if math.isnan(score) else score  # NaN would count as better

    def _check(self, validator: Engine) -> None:
        self(validator)
        if self.counter >= self.patience:
            logger.warning("stopped after epoch %d: %s", validator.state.epoch, self._reason())

    def _stay_stopped(self, engine: Engine) -> None:
        if self.counter >= self.patience:
            logger.warning("nothing to train: %s", self._reason())
            engine.terminate()

    def _reason(self) -> str:
        name = self.validator.state.key_metric_name
        return (
            f"{self.counter} validations without a better {name} than {self.best_score:.5f}; a "
            "larger patience goes on"
        )
