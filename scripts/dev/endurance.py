"""Measure memory and time a frame over one very long video: do they grow?

    python scripts/dev/endurance.py --frames 20000 --output_dir OUT

Writes a synthetic video, then segments it as ``tcmn segment`` does: shipped weights, default settings
except for the size, all results written. Time is measured twice: as elapsed time, which other programs
disturb, and as processor time. Prints and writes endurance.json, and draws endurance.png.
"""

import argparse
import json
import shutil
import time
from collections.abc import Generator, Iterable, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import av
import numpy as np
import psutil
import torch
from matplotlib.figure import Figure
from PIL import Image

from bundle.inference.checkpoint import RunCheckpoint
from bundle.inference.inputs import list_videos
from bundle.inference.result_saver import ResultSaver
from bundle.inference.settings import InferenceSettings
from bundle.inference.streaming import stream_with_frames
from bundle.segmenter import VideoSegmenter
from bundle.types import Frame
from bundle.utils.atomic_write import written_beside

ROOT = Path(__file__).resolve().parents[2]
DEFAULTS = {each.name: each.default for each in fields(InferenceSettings)}
T = TypeVar("T")


class Sample(NamedTuple):
    """Resident memory in MiB, elapsed time and processor time in seconds, after a frame."""

    rss_mb: float
    clock_s: float
    cpu_s: float


def disk(size: int, index: int) -> np.ndarray:
    """Mask of the disk in a frame: (H, W) bool. The disk moves in circles."""
    rows, columns = np.ogrid[:size, :size]
    x, y = size * (0.5 + 0.3 * np.cos(index / 50)), size * (0.5 + 0.3 * np.sin(index / 31))
    return (rows - y) ** 2 + (columns - x) ** 2 < (size / 8) ** 2


def frame_of(size: int, index: int) -> Frame:
    """Draw a frame: the disk, bright, over noise. (H, W, 3) uint8."""
    noise = np.random.default_rng(index).integers(0, 80, (size, size, 3), dtype=np.uint8)
    noise[disk(size, index)] += 150
    return noise


def write_video(path: Path, frames: int, size: int) -> None:
    """Write the video as MPEG-4, 25 frames a second, with a key frame each second."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=25, width=size, height=size)
        stream.bit_rate, stream.gop_size = 1_000_000, 25
        for index in range(frames):
            picture = av.VideoFrame.from_ndarray(frame_of(size, index), format="rgb24")
            container.mux(stream.encode(picture))
        container.mux(stream.encode())


def sampled(items: Iterable[T], samples: list[Sample]) -> Generator[T, None, None]:
    """Yield the items unchanged, and append a sample for each."""
    process = psutil.Process()
    for item in items:
        rss = process.memory_info().rss / 2**20
        samples.append(Sample(rss, time.perf_counter(), time.process_time()))
        yield item


def measure(options: argparse.Namespace) -> list[Sample]:
    """Write and segment the video. Returns a sample for each frame."""
    folder = options.output_dir
    video, mask = folder / "video.mp4", folder / "mask.png"
    write_video(video, options.frames, options.size)
    Image.fromarray(disk(options.size, 0).astype(np.uint8)).save(mask)
    segmenter = VideoSegmenter.from_pretrained(
        backend=options.backend,
        device="cpu",
        inference_size=options.size,
        max_memory_frames=options.max_memory_frames,
    )
    (given,) = list_videos(video, mask, None, folder, "0", None, None)
    checkpoint = RunCheckpoint(folder / "checkpoint", "endurance", resume=False)
    samples: list[Sample] = []
    saver = ResultSaver(folder, overwrite=True, progress=False)
    stream = stream_with_frames(
        segmenter.settings, segmenter.network, given, segmenter.device, checkpoint
    )
    saver.save(given, sampled(stream, samples))
    checkpoint.remove()
    video.unlink()
    shutil.rmtree(folder / given.name)
    return samples


def summarize(samples: Sequence[Sample]) -> dict[str, Any]:
    """Compare the first 100 frames with the last 100, and the memory after frame 500 with the end.

    Processor time is averaged, since the writing threads work in bursts. Elapsed time is a median.
    """
    rss, clock, cpu = (np.array(each) for each in zip(*samples, strict=True))
    hundred = min(100, len(samples) // 3)
    early = min(500, len(samples) // 10)
    first, last = slice(0, hundred + 1), slice(-hundred - 1, None)
    cpu_ms = [1000 * float(np.diff(cpu[part]).mean()) for part in (first, last)]
    clock_ms = [1000 * float(np.median(np.diff(clock[part]))) for part in (first, last)]
    tenths = np.linspace(early, len(samples) - 1, 11).astype(int)
    return {
        "frames": len(samples),
        "rss_mb_early": round(rss[early]),
        "rss_mb_end": round(rss[-1]),
        "rss_mb_most": round(rss.max()),
        "rss_mb_by_tenths": [round(each) for each in rss[tenths]],
        "cpu_ms_per_frame_first_100": round(cpu_ms[0], 2),
        "cpu_ms_per_frame_last_100": round(cpu_ms[1], 2),
        "cpu_last_over_first": round(cpu_ms[1] / cpu_ms[0], 3),
        "clock_ms_per_frame_first_100": round(clock_ms[0], 2),
        "clock_ms_per_frame_last_100": round(clock_ms[1], 2),
    }


def draw(path: Path, samples: Sequence[Sample]) -> None:
    """Draw resident memory, and processor time a frame averaged over 100 frames, as a PNG."""
    rss, _, cpu = (np.array(each) for each in zip(*samples, strict=True))
    figure = Figure(figsize=(8, 5), dpi=110, layout="constrained")
    upper, lower = figure.subplots(2, 1, sharex=True)
    upper.plot(rss)
    upper.set(ylabel="resident memory, MiB", ylim=(0, 1.25 * rss.max()))
    step = min(100, max(1, len(samples) // 10))
    ends = np.arange(step, len(samples), step)
    ms = 1000 * (cpu[ends] - cpu[ends - step]) / step
    lower.plot(ends, ms, "C3")
    lower.set(ylabel="processor time a frame, ms", xlabel="frame", ylim=(0, 1.5 * ms.max()))
    with written_beside(path) as beside:
        figure.savefig(beside, format="png")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument(
        "--output_dir", type=Path, default=ROOT / "output/endurance", help="folder of the results"
    )
    parser.add_argument("--frames", type=int, default=20000, help="length of the video")
    parser.add_argument("--size", type=int, default=96, help="side of the square frames, pixels")
    parser.add_argument(
        "--max_memory_frames", default=DEFAULTS["max_memory_frames"], help="most frames in memory"
    )
    parser.add_argument("--backend", default="int8", help="torch, openvino, int8 or auto")
    parser.add_argument(
        "--threads", type=int, default=torch.get_num_threads(), help="threads of PyTorch"
    )
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    options.output_dir.mkdir(parents=True, exist_ok=True)
    samples = measure(options)
    draw(options.output_dir / "endurance.png", samples)
    text = json.dumps(summarize(samples), indent=1)
    (options.output_dir / "endurance.json").write_text(text + "\n")
    print(text)


if __name__ == "__main__":
    main()
