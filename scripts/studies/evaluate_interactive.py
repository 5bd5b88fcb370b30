"""Simulate a user who corrects: Jaccard index (J) by number of interactions, on frames and videos.

    python scripts/studies/evaluate_interactive.py --protocol NAME --dataset_dir DIR --output_dir OUT

Writes OUT/interactive.json, OUT/curves.csv, OUT/frames.png and OUT/videos.png.

The simulated user knows the reference masks. On frames it begins with a box or a point on each object,
then adds points where the error is largest. The same prompts without a network are the baseline. On
videos it begins with a mask, boxes or three points, and corrects one frame after each propagation. For
a network that differs from the shipped one use --set, such as --set network_def#partial_masks=true.
"""

import argparse
import logging
import sys
from collections.abc import Sequence
from itertools import product
from pathlib import Path
from typing import Any

import torch
import yaml
from tqdm import tqdm

from bundle.datasets.protocols import PROTOCOLS, read_protocol
from bundle.datasets.records import Video
from bundle.datasets.registry import READERS, read_all
from bundle.evaluation.interactive import (
    Curve,
    correct_videos,
    curve_rows,
    draw_curves,
    prompt_videos,
    summarise_curves,
)
from bundle.evaluation.simulated_user import (
    CHOICES,
    CORRECTIONS,
    FIRST_MASKS,
    FIRST_PROMPTS,
    FrameMethod,
    NetworkMethod,
    WithoutNetwork,
)
from bundle.evaluation.tables import to_json, write_csv, write_text
from bundle.inference.config import read_inference_config
from bundle.inference.inferers import VideoInferer
from bundle.utils.options import print_error

logger = logging.getLogger(Path(__file__).stem)


def load_method(options: argparse.Namespace) -> NetworkMethod:
    """Load the network and its inferer with the settings of the options.

    Raises:
        ValueError: A value of ``--set`` is not ``NAME=VALUE``.
    """
    values: dict[str, Any] = {"device": "cpu", "backend": "torch"}
    if options.weights is not None:
        values["weights"] = str(options.weights)
    for text in options.set:
        name, separator, value = text.partition("=")
        if not separator:
            raise ValueError(
                f"--set {text}: expected NAME=VALUE, such as network_def#key_channels=64"
            )
        values[name] = yaml.safe_load(value)
    network = read_inference_config(values).get_parsed_content("network")
    inferer = VideoInferer(
        inference_size=options.inference_size,
        precision=options.precision,
        spatial_prior=options.spatial_prior,
    )
    return NetworkMethod(inferer, network.to(memory_format=torch.channels_last))


def read_videos(options: argparse.Namespace) -> list[Video]:
    """Read the videos of a protocol, or of a data set of pictures."""
    if options.protocol in PROTOCOLS:
        videos = read_protocol(options.protocol, options.dataset_dir)
    else:
        videos = read_all(options.protocol, options.dataset_dir)
    return videos[:: options.every]


def evaluate(options: argparse.Namespace) -> dict[str, Any]:
    """Run the simulated users on all videos and write the results when all are done.

    Raises:
        ValueError: No video has an object of 16 pixels and, for corrections, two annotated frames.
    """
    videos, method = read_videos(options), load_method(options)
    options.output_dir.mkdir(parents=True, exist_ok=True)
    methods: dict[str, FrameMethod] = {"network": method, "no network": WithoutNetwork()}
    frames = []
    if options.frames_per_video:
        for video in tqdm(videos, desc="frames", unit="video", disable=None):
            for curve in prompt_videos(
                [video], methods, options.firsts, options.interactions, options.frames_per_video
            ):
                frames.append(curve)
                log(curve)
    whole = []
    runs = list(product(options.first_masks, options.choices, options.corrections_with))
    for video in tqdm(videos, desc="videos", unit="video", disable=None):
        if not options.corrections:
            break
        for curve in correct_videos([video], method, runs, options.corrections, options.max_frames):
            whole.append(curve)
            log(curve)
    if not frames and not whole:
        raise ValueError(
            f"{options.protocol} in {options.dataset_dir} gives nothing to evaluate: expected objects "
            "of 16 pixels and more, and for corrections videos of two annotated frames"
        )
    write_csv(options.output_dir / "curves.csv", curve_rows([*frames, *whole]))
    result: dict[str, Any] = {
        "protocol": options.protocol,
        "weights": str(options.weights) if options.weights else "shipped",
        "inference_size": options.inference_size,
        "spatial_prior": options.spatial_prior,
        "precision": options.precision,
    }
    for name, curves in (("frames", frames), ("videos", whole)):
        if curves:
            result[name] = summarise_curves(curves)
            draw_curves(options.output_dir / f"{name}.png", result[name], name == "videos")
    write_text(options.output_dir / "interactive.json", to_json(result))
    return result


def log(curve: Curve) -> None:
    """Log the J of a curve, in percent."""
    place = "" if curve.frame is None else f" frame {curve.frame} object {curve.object_id}"
    values = " ".join(f"{100 * jaccard:.0f}" for jaccard in curve.jaccard)
    logger.info("%s%s, %s: J %s", curve.video, place, curve.run, values)


def print_table(result: dict[str, Any]) -> None:
    """Print J after each interaction, and the number of clicks (NoC) to 85 % and 90 %."""
    for name in ("frames", "videos"):
        for row in result.get(name, []):
            values = " ".join(f"{point['mean']:5.1f}" for point in row["jaccard"])
            line = f"{name} | {row['group']} | {row['run']} | J {values}"
            for percent in (85, 90):
                if f"interactions_to_{percent}" in row:
                    count = row[f"interactions_to_{percent}"]["mean"]
                    never = row[f"never_{percent}"]["mean"]
                    line += f" | NoC@{percent} {count:.2f} (never {never:.0f} %)"
            print(line)


def make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    names = [*PROTOCOLS, *(name for name in READERS if name not in PROTOCOLS)]
    parser.add_argument(
        "--protocol",
        default="selection",
        choices=names,
        metavar="NAME",
        help=f"protocol or data set: {', '.join(names)}",
    )
    parser.add_argument(
        "--dataset_dir", type=Path, required=True, metavar="DIR", help="root folder of the data set"
    )
    parser.add_argument(
        "--output_dir",
        type=Path,
        default=Path("output/interactive"),
        metavar="DIR",
        help="folder of the results",
    )
    parser.add_argument("--weights", type=Path, help="weights file (default: the shipped weights)")
    parser.add_argument(
        "--set", nargs="*", default=[], metavar="NAME=VALUE", help="change values of inference.yaml"
    )
    parser.add_argument("--every", type=int, default=1, help="use every n-th video")
    parser.add_argument(
        "--frames_per_video", type=int, default=2, help="frames of each video; 0: no single frames"
    )
    parser.add_argument(
        "--firsts",
        nargs="+",
        choices=FIRST_PROMPTS,
        default=["box", "point"],
        help=f"first prompts on frames: {', '.join(FIRST_PROMPTS)} (default: box and point)",
    )
    parser.add_argument(
        "--interactions", type=int, default=8, help="interactions on a frame, with the first"
    )
    parser.add_argument(
        "--corrections", type=int, default=3, help="corrected frames of a video; 0: no videos"
    )
    parser.add_argument(
        "--first_masks",
        nargs="+",
        choices=FIRST_MASKS,
        default=list(FIRST_MASKS),
        help="first prompts on videos (default: all)",
    )
    parser.add_argument(
        "--choices",
        nargs="+",
        choices=CHOICES,
        default=list(CHOICES),
        help="how the frame to correct is chosen (default: all)",
    )
    parser.add_argument(
        "--corrections_with",
        nargs="+",
        choices=CORRECTIONS,
        default=list(CORRECTIONS),
        help="what a frame is corrected with (default: all)",
    )
    parser.add_argument("--max_frames", type=int, help="most frames of each video (default: all)")
    parser.add_argument("--inference_size", type=int, default=320, help="shorter side, pixels")
    parser.add_argument("--spatial_prior", default="auto", help="a number, auto or null")
    parser.add_argument("--precision", default="auto", help="auto, float32, bfloat16 or float16")
    parser.add_argument(
        "--threads", type=int, default=torch.get_num_threads(), help="threads of PyTorch"
    )
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    options = make_parser().parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    torch.set_num_threads(options.threads)
    try:
        print_table(evaluate(options))
    except (OSError, ValueError) as error:
        print_error(type(error), error, error.__traceback__)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
