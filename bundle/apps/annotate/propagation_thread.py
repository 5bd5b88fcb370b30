"""Run a propagation in a thread, so that the page stays responsive and can cancel it."""

import threading
from collections.abc import Callable, Generator
from contextlib import closing
from typing import cast

from bundle.inference.propagation import Propagation


class PropagationThread:
    """Runs one propagation at a time in its own thread.

    Attributes:
        problem: The error that ended the last run; None if there was none.
        finished: Number of frames done in this run.
        total: Number of frames of this run.
    """

    def __init__(self) -> None:
        self.problem: Exception | None = None
        self.finished = self.total = 0
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    @property
    def running(self) -> bool:
        return self._thread is not None and self._thread.is_alive()

    @property
    def stopping(self) -> bool:
        """Whether a run was cancelled whose last frame is still being worked on."""
        return self.running and self._stop.is_set()

    def start(self, propagation: Propagation, found: Callable[[int], None]) -> None:
        """Start a propagation.

        Args:
            propagation: The propagation to run.
            found: Called with the index of each frame as it is done, in the worker's thread.

        Raises:
            ValueError: A propagation is running.
        """
        if self.running:
            raise ValueError(
                "masks are being propagated already: wait for the end, or cancel first"
            )
        self.problem, self.finished, self.total = None, 0, propagation.remaining
        self._stop.clear()
        self._thread = threading.Thread(target=self._run, args=(propagation, found), daemon=True)
        self._thread.start()

    def cancel(self) -> None:
        """Stop after the frame that is being worked on; what is done stays."""
        self._stop.set()

    def wait(self, timeout_s: float | None = None) -> bool:
        """Wait for the end of a run; whether it came."""
        if self._thread is not None:
            self._thread.join(timeout_s)
        return not self.running

    def _run(self, propagation: Propagation, found: Callable[[int], None]) -> None:
        try:
            # Closed at once when stopped: threads that decode ahead end.
            with closing(cast(Generator[int, None, None], propagation.run())) as frames:
                for index in frames:
                    self.finished += 1  # before the page hears of it, and shows the number
                    found(index)
                    if self._stop.is_set():
                        return
        except Exception as error:  # any error is shown on the page
            self.problem = error
