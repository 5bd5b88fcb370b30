"""Host memory and time a frame over a long video of 640x480; prints and writes JSON, draws both.

python scripts/dev/endurance.py --frames 5000 --inference_size 64 --output_dir OUT

The network is that of configs/inference.yaml; weights do not matter.
"""

import argparse
import json
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import torch
from matplotlib.figure import Figure

from bundle.inference.config import read_inference_config
from bundle.inference.inferers import VideoInferer
from bundle.types import Frame
from bundle.utils.atomic_write import written_beside

ROOT = Path(__file__).resolve().parents[2]
HEIGHT, WIDTH = 480, 640
RADIUS = 60


class MovingDisk:
    """A bright disk that moves over noise; a frame is made when it is asked for."""

    height, width = HEIGHT, WIDTH

    def __init__(self, frame_count: int) -> None:
        self.frame_count = frame_count

    def frames(self, indices: Sequence[int]) -> Iterator[Frame]:
        for index in indices:
            random = np.random.default_rng(index)
            frame = random.integers(0, 80, (HEIGHT, WIDTH, 3), dtype=np.uint8)
            frame[self.mask(index)] += 150
            yield frame

    def mask(self, index: int) -> np.ndarray:
        """(H, W) bool, where the disk is."""
        rows, columns = np.ogrid[:HEIGHT, :WIDTH]
        x, y = 320 + 200 * np.cos(index / 50), 240 + 120 * np.sin(index / 31)
        return (rows - y) ** 2 + (columns - x) ** 2 < RADIUS**2


def measure(options: argparse.Namespace) -> tuple[list[float], list[float]]:
    """MiB of resident memory after each frame, and the seconds it took."""
    config = read_inference_config({"backend": options.backend, "device": "cpu"})
    network = config.get_parsed_content("network")
    inferer = VideoInferer(
        inference_size=options.inference_size,
        max_memory_frames=options.max_memory_frames,
        spatial_prior=None,
    )
    video, process = MovingDisk(options.frames), psutil.Process()
    resident, elapsed = [], []
    before = time.perf_counter()
    for _ in inferer.stream(video, {0: video.mask(0).astype(np.uint8)}, network):
        now = time.perf_counter()
        elapsed.append(now - before)
        resident.append(process.memory_info().rss / 2**20)
        before = now
    return resident, elapsed


def summarize(resident: Sequence[float], elapsed: Sequence[float]) -> dict[str, Any]:
    """Early (frame 500, or a tenth of the way) against late."""
    hundred = min(100, len(elapsed) // 3)
    early = min(500, len(resident) // 10)
    return {
        "frames": len(elapsed),
        "rss_mb_early": round(resident[early]),
        "rss_mb_end": round(resident[-1]),
        "rss_growth_percent": round(100 * (resident[-1] / resident[early] - 1), 2),
        "ms_per_frame_first_100": round(1000 * float(np.median(elapsed[1 : 1 + hundred]))),
        "ms_per_frame_last_100": round(1000 * float(np.median(elapsed[-hundred:]))),
    }


def draw(path: Path, resident: Sequence[float], elapsed: Sequence[float]) -> None:
    """Both curves; the thick line of the lower is the median of 100 frames."""
    figure = Figure(figsize=(8, 5), dpi=110, layout="constrained")
    upper, lower = figure.subplots(2, 1, sharex=True)
    upper.plot(resident)
    upper.set(ylabel="resident memory, MiB", ylim=(0, 1.25 * max(resident)))
    ms = 1000 * np.asarray(elapsed)
    lower.plot(ms, linewidth=0.3, alpha=0.5)
    middles = range(50, len(ms) - 50, 50)
    lower.plot(middles, [np.median(ms[i - 50 : i + 50]) for i in middles], "C3")
    lower.set(ylabel="time a frame, ms", xlabel="frame", ylim=(0, 3 * float(np.median(ms))))
    with written_beside(path) as beside:
        figure.savefig(beside, format="png")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--output_dir", type=Path, default=ROOT / "output/endurance")
    parser.add_argument("--frames", type=int, default=5000)
    parser.add_argument("--inference_size", type=int, default=64, help="shorter side, pixels")
    parser.add_argument("--max_memory_frames", type=int, default=20, help="frames remembered")
    parser.add_argument("--backend", default="torch", help="torch, int8 or auto")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    options.output_dir.mkdir(parents=True, exist_ok=True)
    resident, elapsed = measure(options)
    draw(options.output_dir / "endurance.png", resident, elapsed)
    text = json.dumps(summarize(resident, elapsed), indent=1)
    (options.output_dir / "endurance.json").write_text(text + "\n")
    print(text)


if __name__ == "__main__":
    main()
