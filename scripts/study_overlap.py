"""Measure what decoding ahead and writing behind save; prints one JSON object.

python scripts/study_overlap.py --video PATH --mask PATH --output_dir OUT

The whole of configs/inference.yaml runs on one video, decoding and writing included, the network's
loading and the first run not. Variants take turns and are compared round by round, so that what else
the machine does falls on all.
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch

import bundle.inference.propagation
import bundle.inference.streaming
import bundle.io.writing.results
from bundle.inference.config import read_inference_config
from bundle.inference.frame_stream import ahead
from bundle.io.writing.writer import Segmented, WriteBehind

ROOT = Path(__file__).resolve().parents[1]


class WriteAtOnce(WriteBehind):
    """Has written a frame when ``put`` returns."""

    def put(self, result: Segmented) -> None:
        self._write(result)


def in_turn(items: Iterator[Any]) -> Iterator[Any]:
    """Instead of ``ahead``: makes each item when it is asked for."""
    return items


VARIANTS: dict[str, tuple[Callable[[Iterator[Any]], Iterator[Any]], type[WriteBehind]]] = {
    "in turn": (in_turn, WriteAtOnce),
    "decode ahead": (ahead, WriteAtOnce),
    "decode ahead, write behind": (ahead, WriteBehind),
}


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """Seconds of each run of each variant, and how many times faster it was than the run in turn."""
    names = ("video", "mask", "output_dir", "formats", "backend", "device")
    given = {name: str(getattr(options, name)) for name in names}
    config = read_inference_config({**given, "overwrite": True, "progress": False})
    evaluator = config.get_parsed_content("evaluator")
    evaluator.logger.setLevel("WARNING")
    evaluator.run()
    seconds: dict[str, list[float]] = {name: [] for name in VARIANTS}
    for _ in range(options.runs):
        for name, (decode, writer) in VARIANTS.items():
            bundle.inference.streaming.ahead = bundle.inference.propagation.ahead = decode  # type: ignore[assignment]
            bundle.io.writing.results.WriteBehind = writer  # type: ignore[misc]
            begin = time.perf_counter()
            evaluator.run()
            seconds[name].append(round(time.perf_counter() - begin, 2))
    rounds = {
        name: [first / second for first, second in zip(seconds["in turn"], each, strict=True)]
        for name, each in seconds.items()
    }
    return {
        "seconds": seconds,
        "times_faster_than_in_turn": {
            name: {
                "median": round(statistics.median(each), 3),
                "min": round(min(each), 3),
                "max": round(max(each), 3),
            }
            for name, each in rounds.items()
        },
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--video", type=Path, required=True)
    parser.add_argument("--mask", type=Path, required=True)
    parser.add_argument("--output_dir", type=Path, default=ROOT / "output/overlap")
    parser.add_argument("--formats", default="auto,rle", help="see configs/inference.yaml")
    parser.add_argument("--backend", default="auto", help="torch, int8 or auto")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--runs", type=int, default=5)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    print(json.dumps(measure(options), indent=1))


if __name__ == "__main__":
    main()
