"""Show the loss terms while a training runs: in a progress bar and in trackers such as MLflow."""

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from typing import Any

import ignite.distributed as idist
from ignite.engine import Engine, Events
from monai.handlers import MLFlowHandler
from tqdm import tqdm
from tqdm.contrib.logging import logging_redirect_tqdm

from bundle.training.losses import LossOfTerms


class LossTerms:
    """Returns the loss of the last iteration and its terms, by name.

    Args:
        loss: The loss whose terms are returned.
        prefix: Prefix of the names, to tell the Dice loss from the Dice score.
    """

    def __init__(self, loss: LossOfTerms, prefix: str = "") -> None:
        self.loss, self.prefix = loss, prefix

    def __call__(self, output: Mapping[str, Any]) -> dict[str, float]:
        """``output`` is the trainer's, with the total in ``loss``."""
        terms = {"loss": output["loss"].item(), **self.loss.terms}
        return {self.prefix + name: value for name, value in terms.items()}


def track_terms(handlers: Sequence[Any], terms: LossTerms) -> Sequence[Any]:
    """Make the MLflow handler that ``--tracking mlflow`` adds to a trainer log the loss and its terms.

    By default MONAI's handler expects one result per clip. A trainer that does not decollate gives a
    tuple, which MLflow rejects.
    """
    for handler in handlers:
        if isinstance(handler, MLFlowHandler):
            handler.output_transform = terms
    return handlers


class TrainingBar:
    """A progress bar for each epoch: clips done, time left, clips per second, latest loss and terms.

    It is hidden if stderr is not a terminal, and in all processes but the first. Log messages are
    printed above it.

    Args:
        loss: The loss whose terms are shown.
        batch_size: Clips per iteration, of all processes together.
    """

    def __init__(self, loss: LossOfTerms, batch_size: int) -> None:
        self.terms, self.batch_size = LossTerms(loss), batch_size
        self._shown = ExitStack()

    def attach(self, engine: Engine) -> None:
        engine.add_event_handler(Events.EPOCH_STARTED, self._open)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self._advance)
        engine.add_event_handler(Events.TERMINATE, self._close)
        engine.add_event_handler(Events.EXCEPTION_RAISED, self._fail)

    def _open(self, engine: Engine) -> None:
        state = engine.state
        self.bar = tqdm(
            desc=f"epoch {state.epoch}/{state.max_epochs}",
            initial=state.iteration % state.epoch_length * self.batch_size,
            total=state.epoch_length * self.batch_size,
            unit="clip",
            dynamic_ncols=True,
            disable=True if idist.get_rank() > 0 else None,  # None: unless stderr is a terminal
        )
        self._shown.enter_context(self.bar)
        if not self.bar.disable:
            self._shown.enter_context(logging_redirect_tqdm())

    def _advance(self, engine: Engine) -> None:
        if not self.bar.disable:
            self.bar.set_postfix(self.terms(engine.state.output), refresh=False)
        self.bar.update(self.batch_size)
        # Not at the epoch's end, since validation belongs to that.
        if engine.state.iteration % engine.state.epoch_length == 0:
            self._close()

    def _close(self) -> None:
        self._shown.close()

    def _fail(self, error: BaseException) -> None:
        """Close the bar, so that the error message starts on a new line."""
        self._close()
        raise error  # Ignite leaves raising it to the handler of this event
