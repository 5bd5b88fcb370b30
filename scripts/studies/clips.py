"""Shared code of the studies: validation videos, network, Jaccard index (J), command line."""

import argparse
import json
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from bundle.datasets.cvc_clinicdb import cvc_clinicdb
from bundle.datasets.frames import read_frames, read_masks
from bundle.datasets.generic import davis
from bundle.datasets.protocols import DAVIS_HELD_OUT
from bundle.datasets.records import Video
from bundle.datasets.whole_videos import first_shown
from bundle.evaluation.statistics import estimate
from bundle.inference.config import read_inference_config
from bundle.inference.inferers import VideoInferer
from bundle.networks import TCMN
from bundle.types import Frame, LabelMap

ROOT = Path(__file__).resolve().parents[2]


class Clip(NamedTuple):
    """A video of which every frame has a reference mask, (H, W) uint8 of 0 and 1."""

    name: str
    frames: list[Frame]
    truth: list[LabelMap]


def read_clips(options: argparse.Namespace) -> Iterator[Clip]:
    """Read the validation videos of CVC-ClinicDB, and those of DAVIS with every n-th frame."""
    polyps = cvc_clinicdb(options.dataset_dir / "CVC-ClinicDB", "valid")
    general = davis(options.dataset_dir / "DAVIS-2016-val", DAVIS_HELD_OUT)
    for videos, every in ((polyps, 1), (general, options.every)):
        for video in videos[: options.videos]:
            yield _read(video, every)


def _read(video: Video, every: int) -> Clip:
    wanted = [i for i in range(first_shown(video), len(video.frames), every) if i in video.masks]
    ids = list(video.labels)
    masks = [np.isin(labels, ids).astype(np.uint8) for labels in read_masks(video, wanted)]
    return Clip(video.id, read_frames(video, wanted), masks)


def load_network(options: argparse.Namespace) -> TCMN:
    """Load the weights that the options name, or the shipped ones, for PyTorch on the CPU."""
    values = {"device": "cpu", "backend": "torch"}
    if options.weights:
        values["weights"] = str(options.weights)
    config = read_inference_config(values)
    network: TCMN = config.get_parsed_content("network")
    return network.to(memory_format=torch.channels_last)


def jaccard(found: LabelMap, truth: LabelMap) -> float:
    """Jaccard index of two masks of 0 and 1, from 0 to 1; 1 if both are empty."""
    union = np.count_nonzero(found | truth)
    return np.count_nonzero(found & truth) / union if union else 1.0


def make_inferer(options: argparse.Namespace, **settings: Any) -> VideoInferer:
    """Make the inferer that the options and settings describe."""
    return VideoInferer(
        inference_size=options.inference_size,
        precision=options.precision,
        spatial_prior=options.spatial_prior,
        **settings,
    )


def propagate(
    clip: Clip, prompts: Sequence[int], network: TCMN, options: argparse.Namespace, **settings: Any
) -> tuple[list[float], list[float]]:
    """Segment a clip from the reference masks of some frames.

    Args:
        clip: Clip to segment.
        prompts: Frames whose reference masks are given.
        network: Network to use.
        options: Options of ``make_parser``.
        settings: Further settings of the inferer.

    Returns:
        J of each frame, and confidence of each frame; both are 1 where the mask was given.
    """
    inferer = make_inferer(options, **settings)
    given = {i: clip.truth[i] for i in prompts}
    found = list(inferer.stream(clip.frames, given, network))
    scores = [jaccard(r.labels, truth) for r, truth in zip(found, clip.truth, strict=True)]
    return scores, [r.confidence.get(1, 1.0) for r in found]


def interval(differences: Sequence[float]) -> dict[str, Any]:
    """Mean of differences, one a video, in percentage points, with a 95 % bootstrap interval."""
    found = estimate([[value / 100] for value in differences])
    result: dict[str, Any] = {"mean": _round(found["mean"]), "videos": len(differences)}
    if found["low"] is not None:
        result["interval_95"] = [_round(found["low"]), _round(found["high"])]
    return result


def _round(value: float | None) -> float | None:
    return None if value is None else round(value, 2)


def make_parser(document: str | None) -> argparse.ArgumentParser:
    """Make a parser with the options that all studies share. Its description is the first line."""
    parser = argparse.ArgumentParser(description=(document or "").splitlines()[0])
    parser.add_argument(
        "--dataset_dir", type=Path, default=ROOT / "data", help="folder that holds the data sets"
    )
    parser.add_argument(
        "--output_dir", type=Path, default=ROOT / "output/study", help="folder of the results"
    )
    parser.add_argument("--weights", type=Path, help="weights file (default: the shipped weights)")
    parser.add_argument("--inference_size", type=int, default=320, help="shorter side, pixels")
    parser.add_argument("--spatial_prior", default="auto", help="a number, auto or null")
    parser.add_argument("--precision", default="float32", help="auto, float32, bfloat16 or float16")
    parser.add_argument(
        "--threads", type=int, default=torch.get_num_threads(), help="threads of PyTorch"
    )
    parser.add_argument("--every", type=int, default=3, help="use every n-th frame of DAVIS")
    parser.add_argument("--videos", type=int, help="most videos of each data set (default: all)")
    return parser


def run(
    name: str,
    study: Callable[[argparse.Namespace], Mapping[str, Any]],
    parser: argparse.ArgumentParser,
) -> None:
    """Run a study. Prints its result and writes it to NAME.json in the output folder."""
    options = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    torch.set_num_threads(options.threads)
    options.output_dir.mkdir(parents=True, exist_ok=True)
    text = json.dumps(study(options), indent=1)
    (options.output_dir / f"{name}.json").write_text(text + "\n")
    print(text)
