"""What follows from a validation during training: a table of its scores, and when to stop."""

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

    Rows of this epoch and later ones are replaced: a resumed training does them again.

    Args:
        path: The CSV file; a resumed training goes on in it.
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
    """MONAI's log of the scores of each validation, but for the traceback of an error.

    The command line tells of an error, see ``bundle.utils.options.print_error``.
    """

    def __init__(self) -> None:
        super().__init__(iteration_log=False)

    def exception_raised(self, _engine: Engine, e: Exception) -> None:
        raise e


class EarlyStop(EarlyStopping):
    """Ends a training after so many validations in a row without a better key metric.

    Its count and the best score are its state, which belongs into the checkpoint. MONAI's handler of
    this purpose has none; this is the one of Ignite that MONAI's wraps.

    Args:
        validator: The evaluator whose key metric counts; higher is better.
        patience: Validations without a better score; 0 never ends the training.

    Raises:
        ValueError: The patience is negative.
    """

    def __init__(self, validator: Engine, patience: int) -> None:
        if patience < 0:
            raise ValueError(
                f"patience must be 0 (never stop) or a number of validations, got {patience}"
            )
        # The trainer comes with attach: it cannot be named in a config that it is a part of.
        super().__init__(patience or sys.maxsize, self._score, trainer=validator)
        self.validator = validator

    def attach(self, engine: Engine) -> None:
        self.trainer = engine
        engine.add_event_handler(Events.STARTED, self._stay_stopped)
        self.validator.add_event_handler(Events.EPOCH_COMPLETED, self._check)

    @staticmethod
    def _score(validator: Engine) -> float:
        score = validator.state.metrics[validator.state.key_metric_name]
        return -math.inf if math.isnan(score) else score  # NaN would pass for better

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
