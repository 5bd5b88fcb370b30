"""Demo on a real echocardiogram: segment the left ventricle from the mask of its first frame.

    python scripts/demo/make_demo.py --output_dir output/demo

The video is the apical four-chamber cine that comes with pydicom (30 frames of 240x320). Three frames
have masks drawn by hand. The first is given to the network. The other two are compared with its
result. This checks that the installation works; it is not a clinical evaluation.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pydicom.data
from PIL import Image, ImageDraw

ROOT = Path(__file__).resolve().parents[2]
OUTLINES = ROOT / "scripts" / "demo" / "left_ventricle.json"
CINE = "examples_ybr_color.dcm"


def fill_outline(outline: list[list[int]], height: int, width: int) -> np.ndarray:
    """(H, W) uint8 mask of a polygon given as (x, y) pixels."""
    mask = Image.new("L", (width, height))
    ImageDraw.Draw(mask).polygon([(x, y) for x, y in outline], fill=1)
    return np.asarray(mask)


def dice(first: np.ndarray, second: np.ndarray) -> float:
    """Dice overlap of two boolean or 0/1 masks of equal shape, in percent."""
    return float(200 * (first & second).sum() / (first.sum() + second.sum()))


def main(output_dir: Path) -> None:
    found = pydicom.data.get_testdata_file(CINE, download=False)
    if found is None:
        sys.exit(f"error: pydicom {pydicom.__version__} has no {CINE}: install pydicom 3 or newer")
    video = str(found)
    outlines = json.loads(OUTLINES.read_text())
    drawn = {int(frame): fill_outline(outline, 240, 320) for frame, outline in outlines.items()}
    output_dir.mkdir(parents=True, exist_ok=True)
    mask = output_dir / "first_mask.png"
    Image.fromarray(drawn[0] * 255).save(mask)

    command = [sys.executable, "-W", "ignore", "-m", "monai.bundle", "run"]
    command += ["--config_file", str(ROOT / "configs" / "inference.yaml")]
    command += ["--logging_file", str(ROOT / "configs" / "logging.conf")]
    command += ["--video", video, "--mask", str(mask), "--output_dir", str(output_dir)]
    command += ["--overwrite", "true"]
    print("$ " + " ".join(command), flush=True)
    begin = time.monotonic()
    if subprocess.run(command, cwd=ROOT, env=os.environ, check=False).returncode:
        sys.exit("error: the demo's run failed; see the message above")
    seconds = time.monotonic() - begin

    results = output_dir / Path(video).stem
    print(f"\nmasks of all 30 frames: {results} ({seconds:.0f} s)")
    print(f"look at               : {results / 'summary.png'} and overlay.mp4")
    print("agreement with two masks drawn by hand (checks the installation only):")
    for frame in sorted(drawn)[1:]:
        predicted = np.asarray(Image.open(results / "masks" / f"{frame:05d}.png"))
        copied = dice(drawn[0], drawn[frame])
        print(
            f"  frame {frame:2d}: Dice {dice(predicted, drawn[frame]):.1f} "
            f"(copying the first mask: {copied:.1f})"
        )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--output_dir", type=Path, default=ROOT / "output" / "demo", help="folder of the results"
    )
    main(parser.parse_args().output_dir.resolve())
