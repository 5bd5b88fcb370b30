"""Simulate users whose interactions cost time: Jaccard index (J) by minutes, with and without network.

    python scripts/studies/minutes.py --data_dir DATA --output_dir output/minutes

DATA is the folder that holds CVC-ClinicDB, DAVIS-2016-val and VocalFolds. Writes minutes.png,
minutes.csv and minutes.json. There are five users. The first paints every frame. The second paints
every tenth frame; masks between are interpolated, with motion. The third paints the first frame, and
the network propagates it. The fourth begins with a box and the fifth with three points on each object;
both then set points in frames that the program suggests. The time of the machine is not counted.
"""

import argparse
import json
import logging
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter
from scipy.ndimage import center_of_mass, distance_transform_edt, shift
from tqdm import tqdm

from bundle.datasets.frames import read_frames, read_masks
from bundle.datasets.protocols import read_protocol
from bundle.datasets.records import Video
from bundle.datasets.whole_videos import first_shown
from bundle.evaluation.simulated_user import (
    FIRST_POINTS,
    FirstMask,
    NetworkMethod,
    correct_video,
    jaccard,
)
from bundle.evaluation.tables import write_csv
from bundle.inference.frame_stream import list_ids
from bundle.inference.inferers import VideoInferer
from bundle.segmenter import VideoSegmenter
from bundle.types import LabelMap
from bundle.utils.atomic_write import written_beside
from bundle.utils.bundle_files import program_version
from bundle.utils.options import print_error

MASK_S = 54.0
"""Seconds to paint one object. The literature says 54 to 79 s, see docs/studies/minutes.md."""
BOX_S = 7.0
"""Seconds to draw a box."""
POINT_S = 7.0
"""Seconds to find an error and click on it. As much as a box, though a click alone takes less."""
FIRST_POINT_S = BOX_S / 4
"""Seconds of one click: a quarter of a box, which takes four."""
STEP = 10
DATA = {
    "polyps (CVC-ClinicDB valid)": ("cvc_clinicdb", "CVC-ClinicDB"),
    "everyday video (DAVIS, held out)": ("davis_held_out", "DAVIS-2016-val"),
    "larynx (VocalFolds, held out)": ("vocal_folds_held_out", "VocalFolds"),
}


@dataclass(frozen=True)
class Point:
    """J, from 0 to 1, that a user reaches after some minutes in one way of working."""

    group: str
    video: str
    way: str
    step: int
    minutes: float
    jaccard: float


def interpolate(masks: Mapping[int, LabelMap], index: int, ids: Sequence[int]) -> LabelMap:
    """Interpolate the mask of a frame between two painted ones.

    Each object moves evenly from its centroid in one to that in the other. Its shape changes by the
    weighted mean of the signed distances to both outlines.
    """
    before = max(i for i in masks if i <= index)
    after = min((i for i in masks if i >= index), default=before)
    if index in masks or before == after:
        return masks[before]
    share = (index - before) / (after - before)
    inside = np.stack([_between(masks[before] == i, masks[after] == i, share) for i in ids])
    nearest = np.array(ids, np.uint8)[inside.argmax(0)]
    labels: LabelMap = np.where(inside.max(0) > 0, nearest, 0).astype(np.uint8)
    return labels


def _between(first: np.ndarray, last: np.ndarray, share: float) -> np.ndarray:
    """Signed distance to the outline of the mask at ``share`` of the way between two."""
    if not first.any() or not last.any():
        return (1 - share) * _distance(first) + share * _distance(last)
    middles = [np.array(center_of_mass(mask)) for mask in (first, last)]
    move = middles[1] - middles[0]
    moved = (
        shift(_distance(mask), by, order=1, mode="nearest")
        for mask, by in ((first, share * move), (last, (share - 1) * move))
    )
    return (1 - share) * next(moved) + share * next(moved)


def _distance(mask: np.ndarray) -> np.ndarray:
    """Signed distance to the outline in pixels, positive inside; -1000 if there is no object."""
    if not mask.any():
        return np.full(mask.shape, -1e3)
    distance: np.ndarray = distance_transform_edt(mask) - distance_transform_edt(~mask)
    return distance


def score(
    found: Mapping[int, LabelMap], truth: Mapping[int, LabelMap], ids: Sequence[int]
) -> float:
    """Mean J over all frames but the first, averaged over objects."""
    frames = [t for t in truth if t]
    return fmean(fmean(jaccard(found[t] == i, truth[t] == i) for t in frames) for i in ids)


def play(
    video: Video, group: str, method: NetworkMethod, corrections: int, max_frames: int
) -> Iterator[Point]:
    """Simulate all users on the first ``max_frames`` frames of one video."""
    start = first_shown(video)
    indices = range(start, min(start + max_frames, len(video.frames)))
    frames = read_frames(video, indices)
    annotated = [i for i in indices if i in video.masks]
    known = np.array([i if i in video.labels else 0 for i in range(256)], np.uint8)
    stored = zip(annotated, read_masks(video, annotated), strict=True)
    truth = {i - start: known[mask] for i, mask in stored}
    ids = list_ids([truth[0]])
    truth = {t: np.where(np.isin(mask, ids), mask, 0).astype(np.uint8) for t, mask in truth.items()}
    if len(truth) < 2:
        return

    def point(way: str, step: int, seconds: float, reached: float) -> Point:
        return Point(group, video.id, way, step, seconds / 60, reached)

    per_mask = MASK_S * len(ids)
    yield point("paint every frame", 0, per_mask * len(truth), 1.0)
    painted = {t: truth[t] for t in truth if t % STEP == 0 or t == max(truth)}
    between = {t: interpolate(painted, t, ids) for t in truth}
    yield point(
        f"paint every {STEP}th, interpolate", 0, per_mask * len(painted), score(between, truth, ids)
    )
    begins: tuple[tuple[str, FirstMask, float, int], ...] = (
        ("one mask", "mask", per_mask, 0),
        ("box, then points", "box", BOX_S * len(ids), corrections),
        ("points, then points", "points", FIRST_POINT_S * FIRST_POINTS * len(ids), corrections),
    )
    for way, first, seconds, count in begins:
        found = correct_video(method, frames, truth, first, count, "suggested", "point")
        for step, agreement in enumerate(found):
            yield point(way, step, seconds + POINT_S * step, agreement.jaccard)


def summarise(points: Sequence[Point]) -> list[dict[str, Any]]:
    """Average minutes and J (in percent) over the videos of a group, for each way and step."""
    keys = dict.fromkeys((each.group, each.way, each.step) for each in points)
    rows: list[dict[str, Any]] = []
    for group, way, step in keys:
        same = [each for each in points if (each.group, each.way, each.step) == (group, way, step)]
        rows.append(
            {
                "group": group, "way": way, "step": step, "videos": len(same),
                "minutes": fmean(each.minutes for each in same),
                "jaccard": 100 * fmean(each.jaccard for each in same),
            }
        )  # fmt: skip
    return rows


def draw(path: Path, rows: Sequence[Mapping[str, Any]], frames: int) -> None:
    """Draw J by minutes as a PNG, with a panel for each group."""
    groups, ways = (list(dict.fromkeys(row[key] for row in rows)) for key in ("group", "way"))
    figure = Figure(figsize=(4.2 * len(groups), 3.8), dpi=120, layout="constrained")
    panels = figure.subplots(1, len(groups), squeeze=False)[0]
    for axes, group in zip(panels, groups, strict=True):
        for number, way in enumerate(ways):
            chosen = [row for row in rows if (row["group"], row["way"]) == (group, way)]
            x, y = ([row[key] for row in chosen] for key in ("minutes", "jaccard"))
            marker = "s" if str(way).startswith("paint") else "o"
            axes.plot(x, y, marker=marker, color=f"C{number}", label=str(way))
        count = next(row["videos"] for row in rows if row["group"] == group)
        axes.set_title(f"{group}, {count} video{'s' if count != 1 else ''}", fontsize=10)
        axes.set_xscale("log")
        axes.xaxis.set_major_formatter(FuncFormatter(lambda minutes, _: f"{minutes:g}"))
        axes.grid(alpha=0.3, which="both")
        axes.set_ylim(0, 102)
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=len(ways), fontsize=9)
    middle = panels[len(panels) // 2]
    middle.set_xlabel(f"minutes of a simulated user, a video of up to {frames} frames")
    panels[0].set_ylabel("mean J (%)")
    with written_beside(path) as beside:
        FigureCanvasAgg(figure).print_png(str(beside))


def evaluate(options: argparse.Namespace) -> list[dict[str, Any]]:
    """Simulate all users on all videos and write the results. Returns the rows of ``summarise``."""
    segmenter = VideoSegmenter.from_pretrained(options.weights, device="cpu")
    method = NetworkMethod(VideoInferer(), segmenter.network)
    points: list[Point] = []
    for group, (protocol, folder) in DATA.items():
        videos = read_protocol(protocol, options.data_dir / folder)
        for video in tqdm(videos, desc=group, unit="video", disable=None):
            points += play(video, group, method, options.corrections, options.max_frames)
    rows = summarise(points)
    output = options.output_dir
    output.mkdir(parents=True, exist_ok=True)
    write_csv(output / "minutes.csv", [asdict(each) for each in points])
    costs = {"mask_s": MASK_S, "box_s": BOX_S, "point_s": POINT_S, "first_point_s": FIRST_POINT_S}
    settings = {"version": program_version(), "max_frames": options.max_frames, "costs": costs}
    with written_beside(output / "minutes.json") as beside:
        beside.write_text(json.dumps({**settings, "rows": rows}, indent=1) + "\n", encoding="utf-8")
    draw(output / "minutes.png", rows, options.max_frames)
    return rows


def make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--data_dir", type=Path, required=True, help="folder that holds the data sets"
    )
    parser.add_argument(
        "--output_dir", type=Path, default=Path("output/minutes"), help="folder of the results"
    )
    parser.add_argument("--weights", type=Path, help="weights file (default: the shipped weights)")
    parser.add_argument("--max_frames", type=int, default=21, help="most frames of each video")
    parser.add_argument(
        "--corrections", type=int, default=3, help="correction points, one after each propagation"
    )
    parser.add_argument(
        "--threads", type=int, default=torch.get_num_threads(), help="threads of PyTorch"
    )
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    options = make_parser().parse_args(arguments)
    logging.basicConfig(level=logging.ERROR)
    torch.set_num_threads(options.threads)
    try:
        for row in evaluate(options):
            print("{group} | {way} {step} | {minutes:.2f} min | J {jaccard:.1f}".format(**row))
    except (OSError, ValueError) as error:
        print_error(type(error), error, error.__traceback__)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
