"""What MONAI's command line lacks: unknown names are refused, paths stay as they are, and errors take
one line."""

import ast
import difflib
import logging
import os
import sys
import tempfile
from collections.abc import Iterable, Mapping, MutableMapping, Sequence
from contextlib import suppress
from multiprocessing.connection import Listener
from pathlib import Path
from types import MappingProxyType, TracebackType
from typing import Any

logger = logging.getLogger(__name__)


class MissingPackageError(ModuleNotFoundError):
    """A package that only some uses need is not installed; the message says how to get it."""


USER_ERRORS = (ValueError, OSError, FloatingPointError, MissingPackageError)
RUN_ARGUMENTS = {
    "run_id", "init_id", "final_id", "meta_file", "config_file", "logging_file", "tracking", "args_file"
}  # fmt: skip


def check_command_line(
    resolved: MutableMapping[str, Any] | None = None,
    arguments: Sequence[str] | None = None,
    old_names: Mapping[str, str] = MappingProxyType({}),
    open_ended: Mapping[str, Iterable[str]] = MappingProxyType({}),
    gone: Mapping[str, str] = MappingProxyType({}),
) -> None:
    """Refuse an option that names nothing in the configs; from then on errors print as one line.

    Args:
        resolved: The config's values so far (``__local_refs`` in an expression of a config). Values
            that MONAI would misread are put there as they were typed, see ``_typed_text``.
        arguments: Those of the process by default. Looked at only if they are of
            ``monai.bundle run``; a workflow made in Python is left alone.
        old_names: Options that have a new name, which is named in a warning.
        open_ended: Sections of the configs to names that may be added to them.
        gone: Options that do nothing any more, and what holds instead, for a warning.

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
    from monai.bundle import ConfigParser  # here, since it takes seconds, which others need not

    parser = ConfigParser(ConfigParser.load_config_files(_literal(options["config_file"])))
    known = [str(name) for name in parser.get() if name != "imports"]
    known += [f"{section}#{name}" for section, names in open_ended.items() for name in names]
    values: dict[str, Any] = {}
    for name, value in options.items():
        root = name.replace("::", "#")
        new = old_names.get(root)
        if new is not None and new in parser:
            logger.warning("--%s is called --%s now: use that, the old name will go", root, new)
            values[new] = _evaluated(value)
        elif root in gone:
            logger.warning("--%s does nothing any more: %s", root, gone[root])
        elif name not in RUN_ARGUMENTS and root not in parser and root not in known:
            raise ValueError(
                f"unknown option --{name}{suggest(root, known, sorted(RUN_ARGUMENTS))}"
            )
        text = _typed_text(value)
        if text is not None:
            values[new or root.replace("#", "::")] = text
    if resolved is not None:
        resolved.update(values)


def suggest(name: str, known: Sequence[str], others: Sequence[str] = (), prefix: str = "--") -> str:
    """The end of a message about an unknown option: the nearest name, or all that are known.

    Args:
        name: Without its dashes.
        known: What is told if none is near.
        others: What may be near beside them.
        prefix: Before the nearest name.

    Example:
        >>> suggest("overwrit", ["overwrite", "mask"])
        ': did you mean --overwrite?'
    """
    near = difflib.get_close_matches(name, [*known, *others], n=1)
    return f": did you mean {prefix}{near[0]}?" if near else f": there are {', '.join(known)}"


def _typed_text(value: str) -> str | None:
    """A value that MONAI would misread, as it was typed; None for all others.

    MONAI writes each ``#`` as ``::``, evaluates what begins with ``$``, and looks up what begins with
    ``@``. In a path these are letters like others. (What begins with ``%`` fails before this is called:
    such a path must be written as ``./%name``.)
    """
    if value.startswith(("$", "@")):
        return value if Path(value).exists() else None
    return value if "#" in value and not value.startswith("%") else None


def _evaluated(value: str) -> Any:
    """A value of the command line as MONAI reads it: a number, list or mapping, or else text."""
    with suppress(ValueError, SyntaxError):
        return ast.literal_eval(value)
    return value


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
    if parse_text(value) is None:
        return None
    number = _read_number(value)
    if isinstance(number, int) and not isinstance(number, bool):
        return number
    raise ValueError(f"--{name} must be a whole number or null, got {value!r}")


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
    # By name, since MONAI need not be imported: its own error for a package that is not installed.
    expected = isinstance(root, USER_ERRORS) or type(root).__name__ == "OptionalImportError"
    if expected and os.environ.get("TCMN_TRACEBACK") != "1":
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
