"""Use an installed wheel of tcmn as its users do: in an empty folder, offline, by each way in.

    cd "$(mktemp -d)" && python CLONE/.ci/check_wheel.py

Run by the Python of an environment that has the wheel with its extras annotate and fast, without the
clone on its path. Prints sizes and times; the first thing that is wrong ends it.
"""

import contextlib
import json
import os
import subprocess
import sys
import sysconfig
import time
import urllib.request
from importlib.metadata import distribution, version
from pathlib import Path

import numpy as np
import pydicom.data
from PIL import Image, ImageDraw

import bundle
from bundle.utils.bundle_files import bundle_root

LARGEST_MB = 100
LEAST_DICE = 80.0
"""Percent, of the two frames that were drawn by hand beside the first."""
WAIT_S = 300
NOWHERE = "http://127.0.0.1:9"
ENVIRONMENT = os.environ | {
    "HTTP_PROXY": NOWHERE, "HTTPS_PROXY": NOWHERE, "NO_PROXY": "127.0.0.1,localhost",
    "PYTHONUNBUFFERED": "1",
}  # fmt: skip
"""Of the commands: a download would fail."""
TCMN = str(Path(sysconfig.get_path("scripts")) / "tcmn")


def run(*command: object) -> str:
    """What a command prints; its time goes to the screen."""
    words = [str(word) for word in command]
    begin = time.monotonic()
    done = subprocess.run(
        words, capture_output=True, text=True, timeout=WAIT_S, env=ENVIRONMENT, check=False
    )
    shown = " ".join(Path(word).name if Path(word).is_absolute() else word for word in words)
    print(f"{time.monotonic() - begin:6.1f} s  {shown}", flush=True)
    if done.returncode:
        sys.exit(
            f"error: exit code {done.returncode}\n{done.stdout[-4000:]}\n{done.stderr[-4000:]}"
        )
    return done.stdout


def installed_files() -> set[Path]:
    """Of the package, but what Python compiles."""
    folder = Path(bundle.__file__).parent
    return {path for path in folder.rglob("*") if "__pycache__" not in path.parts}


def draw(outline: list[list[int]]) -> np.ndarray:
    """(240, 320) uint8 mask of a polygon."""
    mask = Image.new("L", (320, 240))
    ImageDraw.Draw(mask).polygon([(x, y) for x, y in outline], fill=1)
    return np.asarray(mask)


def read_masks(folder: Path) -> list[np.ndarray]:
    """The palette PNGs that a run wrote."""
    masks = [np.asarray(Image.open(path)) for path in sorted((folder / "masks").iterdir())]
    if len(masks) != 30:
        sys.exit(f"error: {folder} holds {len(masks)} masks, expected 30")
    return masks


def check_page(video: str) -> None:
    """The annotation page comes up with the video and is the page."""
    begin = time.monotonic()
    command = [TCMN, "annotate", video, "--no_browser"]
    server = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=ENVIRONMENT)
    try:
        assert server.stdout is not None
        line = next((line for line in server.stdout if line.startswith("annotate at ")), "")
        address = line.removeprefix("annotate at ").strip()
        if not address:
            sys.exit(f"error: tcmn annotate ended with {server.wait(WAIT_S)} and named no address")
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        with contextlib.closing(opener.open(address, timeout=WAIT_S)) as answer:
            page = answer.read().decode()
        if "canvas" not in page:
            sys.exit(f"error: {address} is not the annotation page:\n{page[:2000]}")
    finally:
        server.terminate()
        server.wait(WAIT_S)
    print(f"{time.monotonic() - begin:6.1f} s  tcmn annotate, to the page's HTML", flush=True)


def main() -> None:
    here = Path.cwd()
    if any(here.iterdir()):
        sys.exit(f"error: {here} is not empty")
    package, site = Path(bundle.__file__).parent, Path(sysconfig.get_path("purelib"))
    if package.parent.resolve() != site.resolve() or not bundle_root().is_relative_to(package):
        sys.exit(f"error: the package bundle is in {package}, expected the wheel's in {site}")
    before, found = installed_files(), sum(f.stat().st_size for f in installed_files())
    print(f"tcmn {version('tcmn')}: {found / 1e6:.1f} MB installed")
    if found > LARGEST_MB * 1e6:
        sys.exit(f"error: {found / 1e6:.1f} MB installed, expected at most {LARGEST_MB} MB")
    assert distribution("tcmn").metadata["License-Expression"] == "Apache-2.0"

    video = str(pydicom.data.get_testdata_file("examples_ybr_color.dcm", download=False))
    outlines = json.loads((bundle_root() / "scripts/demo/left_ventricle.json").read_text())
    drawn = {int(frame): draw(outline) for frame, outline in outlines.items()}
    Image.fromarray(drawn[0] * 255).save("first.png")

    if version("tcmn") not in run(TCMN, "--version"):
        sys.exit("error: tcmn --version says another version than the wheel's")
    run(TCMN, "segment", video, "--mask", "first.png", "--output", "results")
    config = run(TCMN, "config", "inference").strip()
    command = [sys.executable, "-W", "ignore", "-m", "monai.bundle", "run", "--config_file", config]
    run(*command, "--video", video, "--mask", "first.png", "--output_dir", "results_monai")
    check_page(video)

    name = Path(video).stem
    masks, others = (read_masks(Path(each) / name) for each in ("results", "results_monai"))
    if not all(np.array_equal(*pair) for pair in zip(masks, others, strict=True)):
        sys.exit("error: tcmn segment and monai.bundle run wrote different masks")
    for frame, truth in drawn.items():
        dice = 200 * (masks[frame] & truth).sum() / (masks[frame].sum() + truth.sum())
        print(f"frame {frame:2d}: Dice {dice:.1f}")
        if dice < LEAST_DICE:
            sys.exit(f"error: Dice of frame {frame} is {dice:.1f}, expected {LEAST_DICE} or more")
    if written := installed_files() ^ before:
        sys.exit(f"error: the package's folder changed: {sorted(map(str, written))[:5]}")
    left = {path.name for path in here.iterdir()}
    if left != {"first.png", "results", "results_monai"}:
        sys.exit(f"error: the working directory holds {sorted(left)}")
    print("the wheel works")


if __name__ == "__main__":
    main()
