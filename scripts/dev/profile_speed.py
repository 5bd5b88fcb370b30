"""Profile where the time goes: the parts of a frame, and the operations of a training step.

python scripts/dev/profile_speed.py --output docs/studies/profile.png

Draws stacked bars and prints the figures as JSON. Each part is timed by wrapping its function; the rest
is "other". One thing is done after the other here, so that the parts add up. Inference itself encodes
the next frame with OpenVINO in another thread meanwhile, and is faster than the bars.
"""

import argparse
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any
from unittest import mock

import av
import numpy as np
import torch
from benchmarks.scene import DriftingDisks
from benchmarks.training import make_step
from benchmarks.video import make_network
from matplotlib.figure import Figure

from bundle.inference import inferers, propagation
from bundle.inference import session as sessions
from bundle.io.reading.video import open_video
from bundle.memory.bank import MemoryBank
from bundle.utils.devices import find_device

ROOT = Path(__file__).resolve().parents[2]
Times = dict[str, float]

OPERATIONS = {
    "convolution, backwards": ("convolution_backward",),
    "convolution": ("mkldnn_convolution", "cudnn_convolution"),
    "batch normalisation": ("batch_norm",),
    "memory read": ("bmm", "softmax", "scaled_dot_product"),
    "optimiser": ("lerp_", "addcmul_", "addcdiv_", "sqrt", "_fused_adamw"),
}


class Stopwatch:
    """Measures the seconds spent in wrapped functions, by part. Of nested calls the outer counts."""

    def __init__(self, device: torch.device) -> None:
        self.seconds: Times = {}
        self.device = device
        self._busy = False

    def wrap(self, part: str, call: Callable[..., Any]) -> Callable[..., Any]:
        """Return a function that does the same and adds its time to ``part``."""
        self.seconds.setdefault(part, 0.0)

        def timed(*arguments: Any, **options: Any) -> Any:
            if self._busy:
                return call(*arguments, **options)
            self._busy = True
            begin = time.perf_counter()
            try:
                return call(*arguments, **options)
            finally:
                if self.device.type == "cuda":
                    torch.cuda.synchronize(self.device)
                self.seconds[part] += time.perf_counter() - begin
                self._busy = False

        return timed


def wrap_parts(watch: Stopwatch, network: Any, stack: ExitStack) -> None:
    """Time the parts of ``VideoInferer.stream`` until the stack is closed."""
    read_ahead = propagation.read_ahead

    def wait(items: Iterator[Any]) -> Iterator[Any]:
        taken, end = read_ahead(items), object()
        fetch = watch.wrap("decode", next)
        while (item := fetch(taken, end)) is not end:
            yield item

    stack.enter_context(mock.patch.object(propagation, "read_ahead", wait))
    session = sessions.VideoSession
    for part, owner, name in (
        ("decode", propagation, "to_image"),
        ("resize", session, "_enter"),
        ("encoder", network, "encode"),
        ("memory read", MemoryBank, "read"),
        ("decoder", network, "segment"),
        ("confidence", sessions, "expected_jaccard"),
        ("memorise", network, "memorize"),
        ("memorise", MemoryBank, "add"),
        ("upsample and labels", session, "_leave"),
        ("upsample and labels", propagation, "choose_class"),
    ):
        call = getattr(owner, name)
        stack.enter_context(mock.patch.object(owner, name, watch.wrap(part, call)))


def profile_video(backend: str, options: argparse.Namespace) -> Times:
    """Measure the milliseconds a frame of each part, as medians over runs. Decodes a video file."""
    device = find_device(options.device)
    network = make_network(backend, device=device)
    network.encodes_ahead = False
    scene = DriftingDisks(options.size, options.size, options.frames, 1)
    inferer = inferers.VideoInferer(
        inference_size=options.inference_size,
        precision="float32",
        direction="forward",
        spatial_prior=None,
    )
    runs: list[Times] = []
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        path = Path(folder) / "video.mp4"
        write_video(path, scene)
        watch = Stopwatch(device)
        wrap_parts(watch, network, stack)
        for _ in range(options.runs + 1):
            watch.seconds = dict.fromkeys(watch.seconds, 0.0)
            begin = time.perf_counter()
            for _ in inferer.stream(open_video(path), {0: scene.labels(0)}, network, device):
                pass
            whole = time.perf_counter() - begin
            watch.seconds["other"] = whole - sum(watch.seconds.values())
            runs.append({k: 1000 * v / options.frames for k, v in watch.seconds.items()})
    return {part: statistics.median(run[part] for run in runs[1:]) for part in runs[0]}


def write_video(path: Path, scene: DriftingDisks) -> None:
    """Write the scene as an MPEG-4 video."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=25)
        stream.width, stream.height, stream.pix_fmt = scene.width, scene.height, "yuv420p"
        for picture in scene.frames(range(scene.frame_count)):
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(picture), format="rgb24")
            container.mux(stream.encode(frame))
        container.mux(stream.encode())


def profile_training(variant: str, size: int) -> Times:
    """Measure the milliseconds of one training step by kind of operation, with PyTorch's profiler."""
    step = make_step(variant, {"size": size, "device": "cpu"})
    step()
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as recorded:
        step()
    spent = dict.fromkeys([*OPERATIONS, "other"], 0.0)
    for event in recorded.key_averages():
        kinds = (
            kind for kind, names in OPERATIONS.items() if any(name in event.key for name in names)
        )
        spent[next(kinds, "other")] += event.self_cpu_time_total / 1000
    return spent


def draw(path: Path, panels: Mapping[str, Mapping[str, Times]]) -> None:
    """Draw stacked bars, a panel each. Parts below 4 % of the longest bar get no number."""
    figure = Figure(figsize=(11, 4.5), dpi=110, layout="constrained")
    places = figure.subplots(1, len(panels), squeeze=False)[0]
    for axes, (title, bars) in zip(places, panels.items(), strict=True):
        tallest = max(sum(times.values()) for times in bars.values())
        parts = list(next(iter(bars.values())))
        bottom = np.zeros(len(bars))
        for number, part in enumerate(parts):
            heights = np.array([times[part] for times in bars.values()])
            rects = axes.bar(
                list(bars), heights, bottom=bottom, label=part, color=f"C{number}", width=0.6
            )
            shown = [f"{h:.0f}" if h > 0.04 * tallest else "" for h in heights]
            axes.bar_label(rects, shown, label_type="center", fontsize=8, color="white")
            bottom += heights
        for place, height in enumerate(bottom):
            axes.text(place, height, f"{height:.0f} ms", ha="center", va="bottom")
        axes.set(title=title, ylabel="milliseconds", ylim=(0, 1.1 * tallest))
        handles, names = axes.get_legend_handles_labels()
        axes.legend(handles[::-1], names[::-1], fontsize=8, loc="upper right")
        axes.set_xlim(-0.5, len(bars) + 0.6)  # room for the legend
    partial = path.with_suffix(".partial")
    figure.savefig(partial, format="png")
    partial.replace(path)


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument(
        "--output", type=Path, default=ROOT / "output/profile.png", help="PNG to write"
    )
    parser.add_argument(
        "--backends", nargs="+", default=["torch", "int8"], help="backends to compare"
    )
    parser.add_argument("--frames", type=int, default=30, help="length of the video")
    parser.add_argument("--size", type=int, default=480, help="side of the frames, pixels")
    parser.add_argument(
        "--inference_size", type=int, default=384, help="side of frames in the network, pixels"
    )
    parser.add_argument(
        "--training_size",
        type=int,
        default=224,
        help="side of training clips, pixels; 0: skip them",
    )
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:N or mps")
    parser.add_argument(
        "--threads", type=int, default=torch.get_num_threads(), help="threads of PyTorch"
    )
    parser.add_argument("--runs", type=int, default=3, help="runs of the video")
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)
    panels: dict[str, dict[str, Times]] = {
        f"a frame of {options.inference_size}x{options.inference_size}, one object": {
            backend: profile_video(backend, options) for backend in options.backends
        }
    }
    if options.training_size:
        panels[f"a training step, {options.training_size} pixels"] = {
            variant: profile_training(variant, options.training_size)
            for variant in ("plain", "config")
        }
    options.output.parent.mkdir(parents=True, exist_ok=True)
    draw(options.output, panels)
    rounded = {
        title: {bar: {part: round(ms, 1) for part, ms in times.items()} for bar, times in bars.items()}
        for title, bars in panels.items()
    }  # fmt: skip
    json.dump(rounded, sys.stdout, indent=1)
    print()


if __name__ == "__main__":
    main()
