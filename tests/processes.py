"""Commands in processes of their own, without the seconds that importing PyTorch and MONAI takes.

A server imports them once for each process of pytest; a command is a copy of it. It has its own
arguments, folder, environment, output and exit code, as if Python had been started.
"""

import multiprocessing
import os
import runpy
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
TIMEOUT_S = 200
LIBRARIES = [
    "av", "cv2", "ignite.handlers", "matplotlib.backends.backend_agg", "monai.bundle", "monai.engines",
    "monai.handlers", "monai.transforms", "nibabel", "openpyxl", "pydicom", "SimpleITK", "scipy.stats",
    "skimage.segmentation", "tifffile", "torch", "torch.distributed", "torchvision", "tqdm",
]  # fmt: skip

_context = multiprocessing.get_context("forkserver")
_context.set_forkserver_preload(LIBRARIES)


class Command:
    """``python ARGUMENTS``, running.

    Args:
        arguments: ``-m`` and the name of a module, or the path of a script, then its own arguments.
        cwd: Where it runs.
        environment: Variables beside those of this process.
    """

    def __init__(self, arguments, cwd=ROOT, **environment):
        self.arguments = [str(argument) for argument in arguments]
        self._folder = tempfile.TemporaryDirectory()
        defaults = {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
        self._process = _context.Process(
            target=_run,
            args=(
                self.arguments,
                str(cwd),
                os.environ | defaults | environment,
                [f"{self._folder.name}/{name}" for name in ("out", "err")],
            ),
        )
        self._process.start()

    def wait(self):
        """Exit code and output, as ``subprocess.run`` gives them."""
        self._process.join(TIMEOUT_S)
        if self._process.exitcode is None:
            self._process.kill()
            self._process.join()
        with self._folder as folder:
            said = [(Path(folder) / name).read_text() for name in ("out", "err")]
        return subprocess.CompletedProcess(self.arguments, self._process.exitcode, *said)


def run(arguments, cwd=ROOT, **environment):
    """``Command``, to its end."""
    return Command(arguments, cwd, **environment).wait()


def _run(arguments, cwd, environment, outputs):
    """Be Python. Runs in the copy of the server."""
    os.setsid()  # a signal to its group is not for the server, nor for pytest
    for number, path in enumerate(outputs, start=1):
        os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND), number)
    os.chdir(cwd)
    os.environ.clear()
    os.environ.update(environment)
    sys.modules["torch"].set_num_threads(int(environment["OMP_NUM_THREADS"]))
    search = environment["PYTHONPATH"].split(os.pathsep)
    module = arguments[0] == "-m"
    sys.path[:0] = [cwd if module else str(Path(arguments[0]).parent), *search]
    sys.argv = arguments[module:]
    try:
        if module:
            runpy.run_module(arguments[1], run_name="__main__", alter_sys=True)
        else:
            runpy.run_path(arguments[0], run_name="__main__")
    except SystemExit:
        raise
    except BaseException:
        sys.excepthook(*sys.exc_info())
        sys.exit(1)
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
