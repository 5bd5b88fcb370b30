"""Show errors and warnings as notifications on the page."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager

from nicegui import ui

from bundle.utils.options import USER_ERRORS

logger = logging.getLogger(__name__)
EXPECTED = (*USER_ERRORS, IndexError)


def explain(error: Exception) -> str:
    """The message of an error, with its type if it is not an expected one."""
    return str(error) if isinstance(error, EXPECTED) else f"{type(error).__name__}: {error}"


def show_error(error: Exception) -> None:
    """Show an error as a notification."""
    ui.notify(
        explain(error), type="negative", position="top", multi_line=True, timeout=8000,
        close_button="OK",
    )  # fmt: skip


def show_warning(text: str) -> None:
    """Show a warning as a notification."""
    ui.notify(
        text, type="warning", position="top", multi_line=True, timeout=8000, close_button="OK"
    )


@contextmanager
def errors_shown() -> Iterator[None]:
    """Show errors inside the with-block as notifications; log unexpected ones too."""
    try:
        yield
    except Exception as error:
        if not isinstance(error, EXPECTED):
            logger.exception("the page failed")
        show_error(error)
