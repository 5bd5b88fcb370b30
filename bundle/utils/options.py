"""What MONAI's command line lacks: unknown names are refused, and errors take one line."""

import difflib
import os
import sys
import tempfile
from collections.abc import Sequence
from contextlib import suppress
from multiprocessing.connection import Listener
from types import TracebackType
from typing import Any

from monai.bundle import ConfigParser
from monai.utils import OptionalImportError

USER_ERRORS = (ValueError, OSError, FloatingPointError, OptionalImportError)
RUN_ARGUMENTS = {
    "run_id", "init_id", "final_id", "meta_file", "config_file", "logging_file", "tracking", "args_file"
}  # fmt: skip


def check_command_line(arguments: Sequence[str] | None = None) -> None:
    """Refuse an option that names nothing in the configs; from then on errors print as one line.

    Args:
        arguments: Those of the process by default. Looked at only if they are of
            ``monai.bundle run``; a workflow made in Python is left alone.

    Raises:
        ValueError: An unknown option; the message has the nearest known name.
    """
    arguments = sys.argv if arguments is None else arguments
    if len(arguments) < 2 or "monai" not in arguments[0] or arguments[1] != "run":
        return
    sys.excepthook = print_error
    options = _options(arguments[2:])
    if "config_file" not in options:
        return
    parser = ConfigParser(ConfigParser.load_config_files(_literal(options["config_file"])))
    known = [str(name) for name in parser.get() if name != "imports"]
    for name in options:
        root = name.replace("::", "#")
        if name not in RUN_ARGUMENTS and root not in parser:
            near = difflib.get_close_matches(root, [*known, *RUN_ARGUMENTS], n=1)
            hint = f": did you mean --{near[0]}?" if near else f": there are {', '.join(known)}"
            raise ValueError(f"unknown option --{name}{hint}")


def parse_bool(value: Any, name: str) -> bool:
    """Read a switch strictly: the command line turns ``false`` into text, which Python takes as true.

    Raises:
        ValueError: It is neither ``true`` nor ``false``.
    """
    if isinstance(value, bool):
        return value
    if str(value).lower() in ("true", "false"):
        return str(value).lower() == "true"
    raise ValueError(f"--{name} must be true or false, got {value!r}")


def parse_count(value: Any, name: str) -> int | None:
    """Read a whole number or ``null``, which the command line hands over as text.

    Raises:
        ValueError: It is neither.
    """
    if value is None or str(value).lower() in ("null", "none"):
        return None
    number = _read_number(value)
    if isinstance(number, int) and not isinstance(number, bool):
        return number
    raise ValueError(f"--{name} must be a whole number or null, got {value!r}")


def parse_capacity(value: Any) -> int | str | None:
    """Read the option ``capacity``: ``auto``, a whole number or ``null``.

    Raises:
        ValueError: It is none of them.
    """
    return "auto" if value == "auto" else parse_count(value, "capacity")


def parse_workers(value: Any) -> int:
    """Read the number of a loader's processes, and make sure that they can hand anything over.

    They do so through sockets in the folder for temporary files. Where none can be made there, as its
    path is too long for one, PyTorch would wait for the first batch for ever.

    Raises:
        ValueError: It is no whole number from 0 on.
        OSError: No socket can be made.
    """
    count = _read_number(value)
    if not isinstance(count, int) or isinstance(count, bool) or count < 0:
        raise ValueError(f"--workers must be a whole number from 0 on, got {value!r}")
    if count:
        try:
            Listener().close()
        except OSError as error:
            raise OSError(
                f"loader processes need sockets in {tempfile.gettempdir()}, the folder for temporary "
                f"files: {error}. Set TMPDIR to another folder, or --workers 0"
            ) from error
    return count


def parse_number(value: Any, name: str) -> float:
    """Read a number.

    Raises:
        ValueError: It is none.
    """
    number = _read_number(value)
    if isinstance(number, (int, float)) and not isinstance(number, bool):
        return float(number)
    raise ValueError(f"--{name} must be a number, got {value!r}")


def parse_prior(value: Any) -> float | str | None:
    """Read the option ``spatial_prior``: ``auto``, a number or ``null``.

    Raises:
        ValueError: It is none of them.
    """
    if value == "auto" or parse_text(value) is None:
        return parse_text(value)
    try:
        return parse_number(value, "spatial_prior")
    except ValueError as error:
        raise ValueError(
            f"--spatial_prior must be a number, auto or null, got {value!r}"
        ) from error


def _read_number(value: Any) -> Any:
    """A number that is written as text, as a number; all else as it is."""
    for kind in (int, float):
        if isinstance(value, str):
            with suppress(ValueError):
                value = kind(value)
    return value


def parse_text(value: Any) -> str | None:
    """Read text, or ``null``, which the command line hands over as text."""
    return None if value is None or str(value).lower() in ("null", "none") else str(value)


def parse_list(value: Any, name: str) -> list[str]:
    """Read a list of texts, or one text with commas between them, each once.

    Raises:
        ValueError: It is neither, or an entry is empty.
    """
    texts = value.strip("[]").split(",") if isinstance(value, str) else value
    if not isinstance(texts, (list, tuple)) or not all(isinstance(text, str) for text in texts):
        raise ValueError(f"--{name} must be a list, or text with commas, got {value!r}")
    stripped = [text.strip(" '\"") for text in texts]
    if not all(stripped):
        raise ValueError(f"--{name} has an empty entry: {value!r}")
    return list(dict.fromkeys(stripped))


def print_error(
    kind: type[BaseException], error: BaseException, trace: TracebackType | None
) -> None:
    """An exception hook: what went wrong in one line, if it is a user's to mend.

    MONAI's configs wrap each exception in another, which buries the message. Errors of the kinds that
    this package raises on bad input are printed alone. Others, and all with TCMN_TRACEBACK=1 in the
    environment, keep their traceback.
    """
    root = error
    while root.__cause__ is not None and isinstance(root, RuntimeError):
        root = root.__cause__
    if isinstance(root, USER_ERRORS) and os.environ.get("TCMN_TRACEBACK") != "1":
        text = str(root).replace("\n", "\\n")  # such as of a file's name: one line
        print(f"error: {text}", file=sys.stderr)
    elif isinstance(root, KeyboardInterrupt):
        print("interrupted", file=sys.stderr)
    else:
        sys.__excepthook__(kind, error, trace)


def _options(arguments: Sequence[str]) -> dict[str, str]:
    """``--name value`` and ``--name=value`` pairs; fire takes - and _ in names alike."""
    options, name = {}, None
    for argument in arguments:
        if argument.startswith("--"):
            name, _, value = argument[2:].partition("=")
            name = name.replace("-", "_")
            options[name] = value
        elif name is not None and not options[name]:
            options[name] = argument
    return options


def _literal(text: str) -> str | list[str]:
    """The config files: one path, or a Python list of them."""
    if not text.startswith("["):
        return text
    return [part.strip(" '\"") for part in text.strip("[]").split(",")]
