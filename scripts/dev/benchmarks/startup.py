"""Measure how long a new process takes: imports, the first predicted mask, the whole command.

The video is the echocardiogram that comes with pydicom: 30 frames of 240x320, mask drawn by hand.
"""

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pydicom.data
from PIL import Image, ImageDraw

from benchmarks.cases import Figures, Workload

ROOT = Path(__file__).resolve().parents[3]
CONFIG = str(ROOT / "configs/inference.yaml")
OUTLINES = ROOT / "scripts/demo/left_ventricle.json"
HEIGHT, WIDTH = 240, 320


def prepare(variant: str, settings: Mapping[str, Any]) -> Workload:
    """Prepare a run that starts a new process each time. The warm-up fills the system's file cache."""
    folder = tempfile.TemporaryDirectory()  # the closures below keep it alive
    video, mask = _video(), Path(folder.name) / "mask.png"
    Image.fromarray(_drawn_mask()).save(mask)

    def run_command() -> Figures:
        """Run the command of the README, with all its results."""
        command = ["-m", "monai.bundle", "run", "--config_file", CONFIG]
        command += ["--video", video, "--mask", str(mask), "--output_dir", f"{folder.name}/out"]
        begin = time.perf_counter()
        _start([*command, "--overwrite", "true", "--progress", "false"])
        return {"s_command": time.perf_counter() - begin}

    runs: dict[str, Callable[[], Figures]] = {
        "imports": lambda: _measure("imports"),
        "torch": lambda: _measure("first_mask", "torch", video, mask),
        "int8": lambda: _measure("first_mask", "int8", video, mask),
        "command": run_command,
    }
    return Workload(lambda: runs[variant](), lambda: runs[variant]())  # keeps the folder alive


def _video() -> str:
    found = pydicom.data.get_testdata_file("examples_ybr_color.dcm", download=False)
    if found is None:
        raise FileNotFoundError("pydicom has no examples_ybr_color.dcm: install pydicom 3 or newer")
    return str(found)


def _drawn_mask() -> np.ndarray:
    """The left ventricle in the first frame: (H, W) uint8, 255 inside."""
    outline = json.loads(OUTLINES.read_text())["0"]
    mask = Image.new("L", (WIDTH, HEIGHT))
    ImageDraw.Draw(mask).polygon([(x, y) for x, y in outline], fill=255)
    return np.asarray(mask)


def _measure(*arguments: str | Path) -> Figures:
    """Run benchmarks/new_process.py and read the figures that it prints."""
    script = ROOT / "scripts/dev/benchmarks/new_process.py"
    done = _start([str(script), *map(str, arguments)])
    figures: Figures = json.loads(done.stdout.splitlines()[-1])
    return figures


def _start(arguments: list[str]) -> "subprocess.CompletedProcess[str]":
    done = subprocess.run(
        [sys.executable, "-W", "ignore", *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise RuntimeError(f"a process failed: {arguments}\n{done.stderr}")
    return done
