"""Whether equal input gives equal output: over reruns, processes, threads and instruction sets.

python scripts/study_determinism.py --kinds float32 bfloat16 int8 --output_dir OUT

The first frames of the demo's echocardiogram, the shipped weights. Each run is a process of its own,
which segments them twice; all are compared with the first. Prints and writes JSON.
"""

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from make_demo import CINE, OUTLINES, fill_outline
from pydicom.data import get_testdata_file

from bundle.inference.config import read_inference_config
from bundle.io.reading.video import open_video

ROOT = Path(__file__).resolve().parents[1]
KINDS = {
    "float32": {"backend": "torch", "precision": "float32"},
    "bfloat16": {"backend": "torch", "precision": "bfloat16"},
    "int8": {"backend": "int8", "precision": "float32"},
}
OLDER = {
    "ATEN_CPU_CAPABILITY": "avx2", "ONEDNN_MAX_CPU_ISA": "AVX2", "MKL_ENABLE_INSTRUCTIONS": "AVX2"
}  # fmt: skip
"""Environment in which PyTorch and its libraries do without AVX-512, as on a CPU that has none."""


def segment(kind: str, frames: int) -> tuple[np.ndarray, np.ndarray]:
    """Class logits (T, C, H, W) of the frames after the first, from two passes."""
    config = read_inference_config({**KINDS[kind], "device": "cpu"})
    network, inferer = config.get_parsed_content("network"), config.get_parsed_content("inferer")
    video = open_video(Path(str(get_testdata_file(CINE, download=False))))
    outline = json.loads(OUTLINES.read_text())["0"]
    mask = torch.from_numpy(fill_outline(outline, video.height, video.width).copy())
    pictures = torch.from_numpy(np.stack(list(video.frames(range(frames))))) / 255
    clip = torch.zeros(1, 4, video.height, video.width, frames)
    clip[0, :3] = pictures.permute(3, 1, 2, 0)
    clip[0, 3, ..., 0] = mask
    once, again = (
        torch.cat(list(inferer.propagate(clip, network))[1:]).float().numpy() for _ in range(2)
    )
    return once, again


def compare(found: np.ndarray, expected: np.ndarray) -> dict[str, Any]:
    """How far logits lie apart, and what comes of it."""
    labels = found.argmax(1), expected.argmax(1)
    dice = [
        200 * float((a & b).sum() / max(1, (a.sum() + b.sum())))
        for a, b in zip(*labels, strict=True)
    ]
    return {
        "equal_to_the_bit": bool(np.array_equal(found, expected)),
        "pixels_that_differ": int((labels[0] != labels[1]).sum()),
        "pixels": int(labels[0].size),
        "least_dice": round(min(dice), 3),
        "largest_logit_difference": float(np.abs(found - expected).max()),
    }


def run(
    path: Path, kind: str, frames: int, threads: int, environment: Mapping[str, str]
) -> tuple[np.ndarray, np.ndarray]:
    """``segment`` in a process of its own."""
    command = [sys.executable, "-W", "ignore", __file__, "--write", str(path), "--kinds", kind]
    command += ["--frames", str(frames), "--threads", str(threads)]
    subprocess.run(command, env={**os.environ, **environment}, check=True)
    with np.load(path) as found:
        return found["once"], found["again"]


def study(kind: str, frames: int, folder: Path) -> dict[str, Any]:
    """All variants of one kind of number."""
    path = folder / "logits.npz"
    first, again = run(path, kind, frames, 2, {})
    one_thread, one_thread_again = run(path, kind, frames, 1, {})
    result = {
        "again in the same process": compare(again, first),
        "in another process": compare(run(path, kind, frames, 2, {})[0], first),
        "again with one thread": compare(one_thread_again, one_thread),
        "one thread instead of two": compare(one_thread, first),
        "without AVX-512": compare(run(path, kind, frames, 2, OLDER)[0], first),
    }
    path.unlink()
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=list(KINDS))
    parser.add_argument("--frames", type=int, default=12)
    parser.add_argument("--output_dir", type=Path, default=ROOT / "output/determinism")
    parser.add_argument("--threads", type=int, default=2, help=argparse.SUPPRESS)
    parser.add_argument("--write", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.write:  # the process of one run
        torch.set_num_threads(options.threads)
        once, again = segment(options.kinds[0], options.frames)
        np.savez(options.write, once=once, again=again)
        return
    options.output_dir.mkdir(parents=True, exist_ok=True)
    result = {kind: study(kind, options.frames, options.output_dir) for kind in options.kinds}
    text = json.dumps(result, indent=1)
    (options.output_dir / "determinism.json").write_text(text + "\n")
    print(text)


if __name__ == "__main__":
    main()
