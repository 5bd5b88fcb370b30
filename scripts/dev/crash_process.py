"""Start a run in a process of its own and kill it at a chosen moment. Used by ``crashes.py``."""

import os
import select
import signal
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from crash_runs import Kind

from bundle.utils.options import print_error

LONGEST_S = 120.0
AFTER_WRITE_S = 0.005
IN_PLACE = "written in place: "


@dataclass
class Run:
    """How a run ended.

    Attributes:
        status: Exit status; None if it was killed.
        seconds: Duration.
        writes: Number of times it opened, renamed or removed a file among its results.
        said: Its output, stdout and stderr.
    """

    status: int | None
    seconds: float
    writes: int
    said: str


def run(
    kind: Kind, inputs: Path, out: Path, weights: str = "tiny.pt",
    kill_s: float | None = None, kill_write: int | None = None,
) -> Run:  # fmt: skip
    """Start one kind of run. With ``kill_s`` or ``kill_write`` kill it and its child processes.

    Args:
        kind: What to run.
        inputs: Folder that ``make_inputs`` filled.
        out: Folder of the results.
        weights: Name of a weights file in ``inputs``.
        kill_s: Kill it this many seconds after its start.
        kill_write: Kill it shortly after this many writes.
    """
    began, writes = time.monotonic(), 0
    reader, writer = os.pipe()
    with tempfile.TemporaryFile("w+") as log:
        child = os.fork()
        if not child:
            _be_the_run(kind, inputs, out, weights, writer, log.fileno())
        os.setpgid(child, child)  # here, since the child may be killed before it gets to it
        os.close(writer)
        if kill_s is not None:
            writes = _wait(reader, began + kill_s, sys.maxsize)
        elif kill_write is not None:
            writes = _wait(reader, began + LONGEST_S, kill_write)
            time.sleep(AFTER_WRITE_S * float(np.random.default_rng(kill_write).random()))
        if kill_s is not None or kill_write is not None:
            os.killpg(child, signal.SIGKILL)
        writes += _wait(reader, began + LONGEST_S, sys.maxsize)  # until the last process has ended
        os.close(reader)
        _, status = os.waitpid(child, 0)
        log.seek(0)
        ended = None if os.WIFSIGNALED(status) else os.WEXITSTATUS(status)
        return Run(ended, time.monotonic() - began, writes, log.read())


def _be_the_run(
    kind: Kind, inputs: Path, out: Path, weights: str, writer: int, log: int
) -> None:  # does not return
    status = 1
    try:
        os.dup2(log, 1)
        os.dup2(log, 2)
        os.environ["TCMN_TRACEBACK"] = "0"
        torch.set_num_threads(1)
        _tell_writes(out, writer)
        kind.start(inputs, out, weights)
        status = 0
    except BaseException as error:
        print_error(type(error), error, error.__traceback__)
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


def _tell_writes(folder: Path, pipe: int) -> None:
    """From now on, send a byte to a pipe before each change of a file in a folder.

    A file that is opened for writing under its final name, rather than a temporary one, is reported on
    stderr.
    """

    def tell(event: str, arguments: tuple[Any, ...]) -> None:
        if event == "open":
            _, mode, flags = arguments
            changes = flags & os.O_ACCMODE != os.O_RDONLY or set(mode or "") & set("wax+")
        else:
            changes = event in ("os.rename", "os.mkdir", "os.remove", "os.rmdir")
        path = arguments[0] if changes else None
        if not isinstance(path, (str, os.PathLike)) or not Path(path).is_relative_to(folder):
            return
        os.write(pipe, b".")
        seen = not any(part.startswith(".") for part in Path(path).relative_to(folder).parts)
        if event == "open" and seen and not Path(path).is_dir():
            os.write(2, f"{IN_PLACE}{path}\n".encode())

    sys.addaudithook(tell)


def _wait(pipe: int, until: float, count: int) -> int:
    """Read up to ``count`` bytes, until a time or the end of the pipe. Returns how many were read."""
    found = 0
    while found < count:
        ready, _, _ = select.select([pipe], [], [], max(0.0, until - time.monotonic()))
        data = os.read(pipe, min(count - found, 1 << 16)) if ready else b""
        if not data:
            break
        found += len(data)
    return found
