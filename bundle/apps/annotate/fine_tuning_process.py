"""Fine-tuning of a project beside its page: a process of its own."""

import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from bundle.project.store import Project

END_S = 30.0
"""For a training to save what it has, when the page ends."""
STOPPED = (1, 130, -15, 143)
"""Exit codes of a process that was told to end."""


class FineTuningProcess:
    """``tcmn finetune PROJECT`` beside the page, at a lower priority than what somebody works on.

    Args:
        project: Which.
        log: A file for what it says.
        options: Options of the command.
    """

    def __init__(self, project: Project, log: Path, options: Sequence[str]) -> None:
        self._log = log
        command = [sys.executable, "-m", "bundle.cli", "finetune", str(project.folder)]
        command += ["--who", project.who, *options]
        if shutil.which("nice"):
            command = ["nice", "-n", "10", *command]
        package = str(Path(__file__).resolve().parents[3])
        paths = os.pathsep.join(each for each in (package, os.environ.get("PYTHONPATH")) if each)
        with log.open("w") as file:
            self._process = subprocess.Popen(
                command, stdout=file, stderr=subprocess.STDOUT, env={**os.environ, "PYTHONPATH": paths},
                stdin=subprocess.DEVNULL, start_new_session=True,
            )  # fmt: skip

    @property
    def running(self) -> bool:
        return self._process.poll() is None

    @property
    def problem(self) -> str | None:
        """Why it failed; None while it runs and if it did not."""
        if self.running or self._process.returncode == 0:
            return None
        lines = self._log.read_text(errors="replace").splitlines()
        said = [line.partition("error: ")[2] for line in lines if line.startswith("error: ")]
        if said:
            return said[-1]
        return "the training was stopped; begin it again to go on" + (
            "" if self._process.returncode in STOPPED else f" ({''.join(lines[-1:])})"
        )

    def stop(self) -> None:
        """End it; it goes on from where it was the next time."""
        if not self.running:
            return
        self._process.terminate()
        try:
            self._process.wait(END_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
