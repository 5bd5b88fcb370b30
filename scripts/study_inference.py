"""Measure what choices of inference do to J, on the validation videos; prints and writes JSON.

python scripts/study_inference.py --case directions --dataset_dir DATA --output_dir OUT
python scripts/study_inference.py --case memory --dataset_dir DATA --output_dir OUT
python scripts/study_inference.py --case confidence --dataset_dir DATA --output_dir OUT
python scripts/study_inference.py --case suggestion --dataset_dir DATA --output_dir OUT

DATA is the parent of CVC-ClinicDB and DAVIS-2016-val. ``directions``: where masks are given and which
way they are carried. ``memory``: which frames stay when memory is full, on videos played to and fro.
``confidence``: whether it tells J. ``suggestion``: a second mask on the frame that the inferer names
against one on random frames.
"""

import argparse
import json
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from monai.bundle import ConfigParser
from scipy.stats import bootstrap, spearmanr

from bundle.data.clips import first_shown
from bundle.data.cvc_clinicdb import cvc_clinicdb
from bundle.data.frames import read_frames, read_masks
from bundle.data.generic import davis
from bundle.data.records import Video
from bundle.inferers import VideoInferer
from bundle.networks import TCMN
from bundle.types import Frame, LabelMap

ROOT = Path(__file__).resolve().parents[1]
logger = logging.getLogger(Path(__file__).stem)


class Clip(NamedTuple):
    """A video whose every frame has its true mask, 0 and 1."""

    name: str
    frames: list[Frame]
    truth: list[LabelMap]


def read_clips(options: argparse.Namespace) -> Iterator[Clip]:
    """The validation sequences of CVC-ClinicDB, and of DAVIS every so many frames."""
    config = ConfigParser.load_config_file(str(ROOT / "configs/train.yaml"))
    polyps = cvc_clinicdb(options.dataset_dir / "CVC-ClinicDB", "valid")
    general = davis(options.dataset_dir / "DAVIS-2016-val", include=config["held_out"])
    for videos, every in ((polyps, 1), (general, options.every)):
        for video in videos[: options.videos]:
            yield _read(video, every)


def _read(video: Video, every: int) -> Clip:
    wanted = [i for i in range(first_shown(video), len(video.frames), every) if i in video.masks]
    ids = list(video.labels)
    masks = [np.isin(labels, ids).astype(np.uint8) for labels in read_masks(video, wanted)]
    return Clip(video.id, read_frames(video, wanted), masks)


def load_network(options: argparse.Namespace) -> TCMN:
    config = ConfigParser()
    config.read_config(str(ROOT / "configs/inference.yaml"))
    config["device"], config["backend"] = "cpu", "torch"
    if options.weights:
        config["weights"] = str(options.weights)
    network: TCMN = config.get_parsed_content("network")
    return network.to(memory_format=torch.channels_last)


def jaccard(found: LabelMap, truth: LabelMap) -> float:
    union = np.count_nonzero(found | truth)
    return np.count_nonzero(found & truth) / union if union else 1.0


def carry(
    clip: Clip, prompts: Sequence[int], network: TCMN, options: argparse.Namespace, **settings: Any
) -> tuple[list[float], list[float]]:
    """J and confidence of each frame; 1 where the mask was given."""
    inferer = VideoInferer(
        working_size=options.working_size, precision=options.precision, **settings
    )
    given = {i: clip.truth[i] for i in prompts}
    found = list(inferer.stream(clip.frames, given, network))
    scores = [jaccard(r.labels, truth) for r, truth in zip(found, clip.truth, strict=True)]
    return scores, [r.confidence.get(1, 1.0) for r in found]


def interval(differences: Sequence[float]) -> dict[str, Any]:
    """Mean over videos with the 95 % interval of a bootstrap over them."""
    sample = np.asarray(differences)
    result: dict[str, Any] = {"mean": round(float(sample.mean()), 2), "videos": len(sample)}
    if len(sample) > 1 and np.ptp(sample) > 0:
        found = bootstrap((sample,), np.mean, method="percentile", rng=0, n_resamples=9999)
        result["interval_95"] = [round(float(end), 2) for end in found.confidence_interval]
    return result


def study_directions(options: argparse.Namespace) -> dict[str, Any]:
    """J over the frames that no variant was given."""
    network = load_network(options)
    table: dict[str, dict[str, float]] = {}
    for clip in read_clips(options):
        last, middle = len(clip.frames) - 1, len(clip.frames) // 2
        variants: dict[str, tuple[list[int], str]] = {
            "first, forward": ([0], "forward"),
            "last, backward": ([last], "backward"),
            "middle, both": ([middle], "both"),
            "both ends, both": ([0, last], "both"),
        }
        scored = [i for i in range(1, last) if i != middle]
        for name, (prompts, direction) in variants.items():
            scores, _ = carry(clip, prompts, network, options, direction=direction)
            mean = 100 * float(np.mean([scores[i] for i in scored]))
            table.setdefault(name, {})[clip.name] = round(mean, 2)
            logger.info("%s, %s: J %.2f", clip.name, name, mean)
    first = table["first, forward"]
    return {
        "jaccard": {name: {"mean": _mean(row), **row} for name, row in table.items()},
        "difference_to_first_forward": {
            name: interval([row[video] - first[video] for video in row])
            for name, row in table.items()
            if row is not first
        },
    }


def _mean(row: Mapping[str, float]) -> float:
    return round(float(np.mean(list(row.values()))), 2)


def study_memory(options: argparse.Namespace) -> dict[str, Any]:
    """J of each policy at each capacity, on videos that are played to and fro."""
    network = load_network(options)
    table: dict[str, dict[str, float]] = {}
    variants: dict[str, dict[str, Any]] = {
        f"{policy}, {capacity} frames": {"policy": policy, "capacity": capacity}
        for capacity in options.capacities
        for policy in ("latest", "useful")
    }
    variants["unbounded"] = {}
    for clip in read_clips(options):
        there = range(len(clip.frames))
        order = ([*there, *there[-2:0:-1]] * options.frames)[: options.frames]
        long = Clip(clip.name, [clip.frames[i] for i in order], [clip.truth[i] for i in order])
        for name, settings in variants.items():
            scores, _ = carry(long, [0], network, options, **settings)
            mean = 100 * float(np.mean(scores[1:]))
            table.setdefault(name, {})[clip.name] = round(mean, 2)
            logger.info("%s, %s: J %.2f", clip.name, name, mean)
    return {
        "jaccard": {name: {"mean": _mean(row), **row} for name, row in table.items()},
        "useful_minus_latest": {
            capacity: interval(
                [
                    table[f"useful, {capacity} frames"][video] - score
                    for video, score in table[f"latest, {capacity} frames"].items()
                ]
            )
            for capacity in options.capacities
        },
    }


def study_confidence(options: argparse.Namespace) -> dict[str, Any]:
    """Rank correlation with J, and J by confidence as a picture."""
    network = load_network(options)
    pairs: list[tuple[float, float]] = []
    by_video = {}
    for clip in read_clips(options):
        found, trust = carry(clip, [0], network, options)
        pairs += list(zip(trust[1:], found[1:], strict=True))
        by_video[clip.name] = {
            "confidence": round(float(np.mean(trust[1:])), 3),
            "jaccard": round(float(np.mean(found[1:])), 3),
        }
        logger.info("%s: %s", clip.name, by_video[clip.name])
    confidence, scores = (np.array(column) for column in zip(*pairs, strict=True))
    bins = np.array_split(np.argsort(confidence), 10)
    rows = [
        {
            "confidence": round(float(confidence[b].mean()), 3),
            "jaccard": round(float(scores[b].mean()), 3),
            "frames": len(b),
        }
        for b in bins
    ]
    bad = scores < 0.5
    flags = {}
    for threshold in (0.5, 0.6, 0.7, 0.8, 0.9):
        flagged = confidence < threshold
        flags[str(threshold)] = {
            "flagged_percent": round(100 * float(flagged.mean()), 1),
            "of_frames_with_J_under_50_percent": round(100 * float(flagged[bad].mean()), 1),
            "of_flagged_J_under_50_percent": round(
                100 * float(bad[flagged].mean()) if flagged.any() else 0.0, 1
            ),
        }
    _draw_reliability(options.output_dir / "confidence.png", confidence, scores, rows)
    return {
        "spearman": round(float(spearmanr(confidence, scores).statistic), 3),
        "frames": len(scores),
        "mean_absolute_error": round(float(np.abs(confidence - scores).mean()), 3),
        "by_tenths": rows,
        "flags": flags,
        "by_video": by_video,
    }


def _draw_reliability(
    path: Path, confidence: np.ndarray, scores: np.ndarray, rows: Sequence[Mapping[str, Any]]
) -> None:
    figure = Figure(figsize=(5, 5), dpi=110, layout="constrained")
    axes = figure.subplots()
    axes.plot([0, 1], [0, 1], color="grey", linewidth=0.8)
    axes.scatter(confidence, scores, s=6, alpha=0.3, linewidths=0, label="a frame")
    axes.plot(
        [row["confidence"] for row in rows],
        [row["jaccard"] for row in rows],
        "o-",
        color="C3",
        label="a tenth of the frames",
    )
    axes.set(xlabel="confidence", ylabel="J", xlim=(0, 1.02), ylim=(0, 1.02))
    axes.legend(loc="upper left")
    _save(path, figure)


def study_suggestion(options: argparse.Namespace) -> dict[str, Any]:
    """J gained by a second mask: on the suggested frame, on random ones, in the middle."""
    network = load_network(options)
    random = np.random.default_rng(0)
    gains: dict[str, list[float]] = {"suggested": [], "random": [], "middle": []}
    rows = {}
    for clip in read_clips(options):
        inferer = VideoInferer(working_size=options.working_size, precision=options.precision)
        work = inferer.open(clip.frames, {0: clip.truth[0]}, network)
        list(work.run())
        before = _all_scores(work.result, clip)
        suggested = work.suggest()
        assert suggested is not None
        draws = random.choice(
            np.arange(1, len(clip.frames)), min(options.draws, len(clip.frames) - 1), replace=False
        )
        after = {
            i: np.array(carry(clip, [0, i], network, options)[0])
            for i in {suggested, len(clip.frames) // 2, *draws.tolist()}
        }
        gain = {i: 100 * float((scores - before)[1:].mean()) for i, scores in after.items()}
        gains["suggested"].append(gain[suggested])
        gains["middle"].append(gain[len(clip.frames) // 2])
        gains["random"].append(float(np.mean([gain[int(i)] for i in draws])))
        rows[clip.name] = {
            "jaccard_before": round(100 * float(before[1:].mean()), 2),
            "suggested_frame": int(suggested),
            **{name: round(values[-1], 2) for name, values in gains.items()},
        }
        logger.info("%s: %s", clip.name, rows[clip.name])
    return {
        "gain_of_jaccard": {name: interval(values) for name, values in gains.items()},
        "suggested_minus_random": interval(
            np.subtract(gains["suggested"], gains["random"]).tolist()
        ),
        "suggested_minus_middle": interval(
            np.subtract(gains["suggested"], gains["middle"]).tolist()
        ),
        "by_video": rows,
    }


def _all_scores(result: Callable[[int], Any], clip: Clip) -> np.ndarray:
    """J of each frame; that of a given mask counts as 1 in every variant."""
    return np.array([jaccard(result(i).labels, truth) for i, truth in enumerate(clip.truth)])


def _save(path: Path, figure: Figure) -> None:
    partial = path.with_suffix(".partial")
    FigureCanvasAgg(figure).print_png(str(partial))
    partial.replace(path)


CASES = {
    "directions": study_directions,
    "memory": study_memory,
    "confidence": study_confidence,
    "suggestion": study_suggestion,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--case", choices=CASES, required=True)
    parser.add_argument("--dataset_dir", type=Path, default=ROOT / "data")
    parser.add_argument("--output_dir", type=Path, default=ROOT / "output/study")
    parser.add_argument("--weights", type=Path, help="models/model.pt by default")
    parser.add_argument("--working_size", type=int, default=320, help="shorter side, pixels")
    parser.add_argument("--precision", default="float32")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--every", type=int, default=3, help="of DAVIS, every so many frames")
    parser.add_argument("--videos", type=int, help="of each data set, only so many")
    parser.add_argument("--draws", type=int, default=3, help="suggestion: random frames a video")
    parser.add_argument("--frames", type=int, default=200, help="memory: length")
    parser.add_argument("--capacities", type=int, nargs="+", default=[3, 6, 12])
    options = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    torch.set_num_threads(options.threads)
    options.output_dir.mkdir(parents=True, exist_ok=True)
    result = CASES[options.case](options)
    text = json.dumps(result, indent=1)
    (options.output_dir / f"{options.case}.json").write_text(text + "\n")
    print(text)


if __name__ == "__main__":
    main()
