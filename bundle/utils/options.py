"""Improve MONAI's command line: reject unknown options, keep paths unchanged, print errors in a line.

Also parse the values of options: switches, counts, lists.
"""

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
    """An optional package is not installed; the message says how to install it."""


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
    """Reject options that are not in the configs; print later errors in one line.

    Args:
        resolved: The config's values so far (``__local_refs`` in an expression of a config). Values
            that MONAI would misread are stored there as typed, see ``_typed_text``.
        arguments: The command line, by default that of the process. It is checked only if it is
            ``monai.bundle run``, not for a workflow made in Python.
        old_names: Old name -> new name of renamed options, for a warning.
        open_ended: Section of the configs -> names that may be added to it.
        gone: Removed option -> what applies instead, for a warning.

    Raises:
        ValueError: An option is unknown; the message has the most similar name.
    """
    arguments = sys.argv if arguments is None else arguments
    if len(arguments) < 2 or "monai" not in arguments[0] or arguments[1] != "run":
        return
    sys.excepthook = print_error
    options = read_options(arguments[2:])
    if "config_file" not in options:
        return
    from monai.bundle import ConfigParser  # here, since it takes seconds

    parser = ConfigParser(ConfigParser.load_config_files(_literal(options["config_file"])))
    known = [str(name) for name in parser.get() if name != "imports"]
    known += [f"{section}#{name}" for section, names in open_ended.items() for name in names]
    values: dict[str, Any] = {}
    for name, value in options.items():
        root = name.replace("::", "#")
        new = old_names.get(root)
        if new is not None and new in parser:
            logger.warning("--%s is called --%s now: use that, the old name will go", root, new)
            values[new] = evaluate_text(value)
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
    """The end of a message about an unknown option: the most similar name, or all known names.

    Args:
        name: The unknown name, without dashes.
        known: Known names; all are listed if none is similar.
        others: More names that may be suggested but are not listed.
        prefix: Text before the suggested name.

    Example:
        >>> suggest("overwrit", ["overwrite", "mask"])
        ': did you mean --overwrite?'
    """
    near = difflib.get_close_matches(name, [*known, *others], n=1)
    return f": did you mean {prefix}{near[0]}?" if near else f": there are {', '.join(known)}"


def _typed_text(value: str) -> str | None:
    """The value as typed, if MONAI would misread it; else None.

    MONAI replaces each ``#`` by ``::``, evaluates values that begin with ``$``, and looks up those that
    begin with ``@``. In a path these are ordinary characters. (A value that begins with ``%`` fails
    before this is called: write such a path as ``./%name``.)
    """
    if value.startswith(("$", "@")):
        return value if Path(value).exists() else None
    return value if "#" in value and not value.startswith("%") else None


def evaluate_text(value: str) -> Any:
    """A value of the command line as MONAI reads it: a number, list or mapping, or else text.

    Example:
        >>> evaluate_text("0.5"), evaluate_text("auto")
        (0.5, 'auto')
    """
    with suppress(ValueError, SyntaxError):
        return ast.literal_eval(value)
    return value


def spell(name: str) -> str:
    """An option's name as ``tcmn --help`` shows it; ``_`` may stand for ``-`` wherever it is typed.

    Example:
        >>> spell("mask_frame")
        '--mask-frame'
    """
    return f"--{name.replace('_', '-')}"


def parse_bool(value: Any, name: str) -> bool:
    """Parse a switch; the text ``false`` from the command line would count as true in Python.

    Raises:
        ValueError: The value is neither ``true`` nor ``false``.

    Example:
        >>> parse_bool("false", "overwrite")
        False
    """
    if isinstance(value, bool):
        return value
    if str(value).lower() in ("true", "false"):
        return str(value).lower() == "true"
    raise ValueError(f"{spell(name)} must be true or false, got {value!r}")


def parse_count(value: Any, name: str) -> int | None:
    """Parse a whole number or ``null``, which may be text from the command line.

    Raises:
        ValueError: The value is neither.
    """
    if parse_text(value) is None:
        return None
    number = _read_number(value)
    if isinstance(number, int) and not isinstance(number, bool):
        return number
    raise ValueError(f"{spell(name)} must be a whole number or null, got {value!r}")


def parse_workers(value: Any) -> int:
    """Parse the number of a data loader's processes, and check that they can send data.

    They use sockets in the folder for temporary files. If its path is too long for a socket, PyTorch
    would wait for the first batch forever.

    Raises:
        ValueError: The value is not a whole number from 0.
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
    """Turn text that is a number into a number; other values are returned unchanged."""
    for kind in (int, float):
        if isinstance(value, str):
            with suppress(ValueError):
                value = kind(value)
    return value


def parse_text(value: Any) -> str | None:
    """Parse text, or ``null``, which may be text from the command line.

    Example:
        >>> parse_text("null"), parse_text("a.mp4")
        (None, 'a.mp4')
    """
    return None if value is None or str(value).lower() in ("null", "none") else str(value)


def parse_list(value: Any, name: str) -> list[str]:
    """Parse a list of texts, or one text with commas; repeated entries are dropped.

    Raises:
        ValueError: The value is neither, or an entry is empty.

    Example:
        >>> parse_list("png, nifti,png", "formats")
        ['png', 'nifti']
    """
    texts = value.strip("[]").split(",") if isinstance(value, str) else value
    if not isinstance(texts, (list, tuple)) or not all(isinstance(text, str) for text in texts):
        raise ValueError(f"{spell(name)} must be a list, or text with commas, got {value!r}")
    stripped = [text.strip(" '\"") for text in texts]
    if not all(stripped):
        raise ValueError(f"{spell(name)} has an empty entry: {value!r}")
    return list(dict.fromkeys(stripped))


def print_error(
    kind: type[BaseException], error: BaseException, trace: TracebackType | None
) -> None:
    """An exception hook that prints errors which a user can fix in one line.

    MONAI's configs wrap each exception in another, which hides the message. Errors of the types that
    this package raises for bad input are printed without traceback. Others, and all errors if
    TCMN_TRACEBACK=1 is in the environment, keep their traceback.
    """
    root = error
    while root.__cause__ is not None and isinstance(root, RuntimeError):
        root = root.__cause__
    # MONAI's own error for a missing package; by name, so that MONAI is not imported here.
    expected = isinstance(root, USER_ERRORS) or type(root).__name__ == "OptionalImportError"
    if expected and os.environ.get("TCMN_TRACEBACK") != "1":
        text = str(root).replace("\n", "\\n")  # a file name may contain line breaks
        print(f"error: {text}", file=sys.stderr)
    elif isinstance(root, KeyboardInterrupt):
        print("interrupted", file=sys.stderr)
    else:
        sys.__excepthook__(kind, error, trace)


def read_options(arguments: Sequence[str]) -> dict[str, str]:
    """``--name value`` and ``--name=value`` pairs; fire takes - and _ in names alike.

    Example:
        >>> read_options(["--epochs", "2", "--batch-size=4"])
        {'epochs': '2', 'batch_size': '4'}
    """
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
