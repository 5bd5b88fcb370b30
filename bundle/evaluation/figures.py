"""Draw the pictures of an evaluation: example videos, worst frames, J over distance, area curves.

The given mask is green, the prediction red, the truth a white contour. T frames of H x W.
"""

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import fmean

import numpy as np
from jaxtyping import Integer, UInt8
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from PIL import Image, ImageDraw, ImageFont
from skimage.segmentation import find_boundaries

from bundle.evaluation.records import UNCHANGED, VideoScores, runs_of, select
from bundle.evaluation.review import Reviewed
from bundle.evaluation.statistics import by_video
from bundle.utils.atomic_write import written_beside

COLUMNS = 6
CELL_WIDTH, CELL_HEIGHT = 240, 200
TEXT_HEIGHT = 20
GAP = 6
WORST_FRAMES = 12
WORST_OF_A_VIDEO = 4
BINS = 12
CURVES = 12
GREEN, RED, WHITE = (0, 200, 0), (230, 0, 0), (255, 255, 255)

Load = Callable[[str], Reviewed]
Cell = tuple[Image.Image, str]


def draw_examples(path: Path, scores: Sequence[VideoScores], load: Load) -> None:
    """Draw the best, median and worst video by the network's J, a row each, as the paper's figure 2.

    A row shows the first frame with the given mask, then later frames.
    """
    means = {
        video: fmean(one.mean("jaccard") for one in members)
        for video, members in by_video(select(scores)).items()
    }
    order = sorted(means, key=lambda video: -means[video])
    picks = {"best": 0, "median": len(order) // 2, "worst": len(order) - 1}
    rows: list[list[Cell]] = []
    for title, place in picks.items():
        if title != "best" and place == 0:
            continue  # of one video, or the first of two
        video = load(order[place])
        scored = [t for t in video.annotated if t > 0]
        chosen = np.linspace(0, len(scored) - 1, min(COLUMNS - 1, len(scored))).round().astype(int)
        score = f"J {100 * means[order[place]]:.1f}"
        cells = [(draw_cell(video, 0), f"{title}, {score}: {order[place]}")]
        cells += [(draw_cell(video, scored[i]), f"frame {scored[i]}") for i in chosen]
        rows.append(cells)
        if len(order) == 2 and title == "median":
            break
    _save_sheet(path, rows)


def draw_worst_frames(path: Path, scores: Sequence[VideoScores], load: Load) -> None:
    """Draw the frames with the network's lowest J, lowest first, at most four of each video."""
    found = sorted(
        (
            (jaccard, one.video, one.class_name, one.distance[i])
            for one in select(scores)
            for i, jaccard in enumerate(one.jaccard)
        ),
        key=lambda frame: frame[0],
    )
    taken: list[tuple[float, str, str, int]] = []
    for frame in found:
        if sum(other[1] == frame[1] for other in taken) < WORST_OF_A_VIDEO:
            taken.append(frame)
        if len(taken) == WORST_FRAMES:
            break
    cells: dict[int, Cell] = {}
    for video_id in dict.fromkeys(frame[1] for frame in taken):  # each is read once
        video = load(video_id)
        for place, (jaccard, name, class_name, t) in enumerate(taken):
            if name == video_id:
                text = f"J {100 * jaccard:.0f}, frame {t}, {class_name}: {name}"
                cells[place] = (draw_cell(video, t), text)
    ordered = [cells[place] for place in range(len(taken))]
    _save_sheet(path, [ordered[i : i + COLUMNS] for i in range(0, len(ordered), COLUMNS)])


def draw_distance(path: Path, scores: Sequence[VideoScores]) -> None:
    """Plot J against the distance from the annotated frame, for each method, with its quartiles."""
    figure = Figure(figsize=(8, 4.5), dpi=120, layout="constrained")
    axes = figure.add_subplot()
    methods = [method for method, perturbation in runs_of(scores) if perturbation == UNCHANGED]
    farthest = max(one.distance[-1] for one in scores)
    edges = np.unique(np.linspace(1, farthest + 1, BINS + 1).round().astype(int))
    for number, method in enumerate(methods):
        chosen = select(scores, method)
        distance = np.concatenate([one.distance for one in chosen])
        jaccard = 100 * np.concatenate([one.jaccard for one in chosen])
        places = np.digitize(distance, edges)
        bins = [place for place in range(1, len(edges)) if (places == place).any()]
        centres = [distance[places == place].mean() for place in bins]
        means = [jaccard[places == place].mean() for place in bins]
        quartiles = np.array([np.percentile(jaccard[places == p], (25, 75)) for p in bins]).T
        colour = f"C{number}"
        axes.plot(centres, means, color=colour, marker=".", label=method)
        if len(bins) > 1:
            axes.fill_between(centres, *quartiles, color=colour, alpha=0.15, linewidth=0)
        else:
            axes.vlines(centres, *quartiles, color=colour, alpha=0.4, linewidth=4)
    axes.set_xlabel("distance from the annotated frame (frames)")
    axes.set_ylabel("J (%), mean and quartiles")
    axes.set_ylim(0, 102)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.grid(alpha=0.3)
    axes.legend(fontsize=9)
    _save_figure(path, figure)


def draw_areas(path: Path, curves: Sequence[tuple[str, np.ndarray, np.ndarray]]) -> None:
    """Plot the area over time of up to twelve videos: predicted as a line, annotated as circles.

    Args:
        path: The PNG file.
        curves: Name, predicted pixels (T,), and annotated pixels (T,), NaN where not annotated.
    """
    picks = np.linspace(0, len(curves) - 1, min(CURVES, len(curves))).round().astype(int)
    columns = min(3, len(picks))
    rows = -(-len(picks) // columns)
    figure = Figure(figsize=(4 * columns, 2.4 * rows), dpi=120, layout="constrained")
    panels: list[Axes] = list(figure.subplots(rows, columns, squeeze=False).ravel())
    for axes, pick in zip(panels, picks, strict=False):
        name, predicted, true = curves[pick]
        axes.plot(predicted, color="C3", label="network")
        axes.plot(true, "o", color="black", markersize=4, fillstyle="none", label="annotated")
        axes.set_title(name, fontsize=8, parse_math=False)
        axes.set_ylim(bottom=0)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.grid(alpha=0.3)
    for axes in panels[len(picks) :]:
        axes.set_axis_off()
    panels[0].legend(fontsize=8)
    figure.supxlabel("frame", fontsize=9)
    figure.supylabel("area (px)", fontsize=9)
    _save_figure(path, figure)


def draw_cell(video: Reviewed, t: int) -> Image.Image:
    """One frame: the given mask in green, or the prediction in red and the truth as a contour."""
    down, across = video.spacing_mm or (1.0, 1.0)
    height, width = video.truth.shape[:2]
    scale = min(CELL_WIDTH / (width * across), CELL_HEIGHT / (height * down))
    size = max(1, round(width * across * scale)), max(1, round(height * down * scale))
    frame = Image.fromarray(np.ascontiguousarray(video.frames[..., t]))
    shown = np.array(frame.resize(size, Image.Resampling.BILINEAR))
    if t == 0:
        return Image.fromarray(_fill(shown, _shrink(video.truth[..., 0], size) > 0, GREEN))
    shown = _fill(shown, _shrink(video.prediction[..., t], size) > 0, RED)
    # Drawn after resizing, which would lose a thin contour.
    shown[find_boundaries(_shrink(video.truth[..., t], size), mode="inner")] = WHITE
    return Image.fromarray(shown)


def _shrink(labels: Integer[np.ndarray, "H W"], size: tuple[int, int]) -> np.ndarray:
    picture = Image.fromarray(np.maximum(labels, 0).astype(np.uint8))  # -1: not annotated
    return np.asarray(picture.resize(size, Image.Resampling.NEAREST))


def _fill(
    frame: UInt8[np.ndarray, "h w 3"], inside: np.ndarray, colour: tuple[int, int, int]
) -> UInt8[np.ndarray, "h w 3"]:
    filled = frame.copy()
    filled[inside] = frame[inside] // 2 + np.array(colour, np.uint8) // 2
    return filled


def _save_sheet(path: Path, rows: Sequence[Sequence[Cell]]) -> None:
    """Save a grid of cells with a line of text below each; a long text is cut."""
    columns = max(len(row) for row in rows)
    width, height = CELL_WIDTH + GAP, CELL_HEIGHT + TEXT_HEIGHT + GAP
    sheet = Image.new("RGB", (columns * width + GAP, len(rows) * height + GAP), "white")
    pen, font = ImageDraw.Draw(sheet), ImageFont.load_default(12)
    for y, row in enumerate(rows):
        for x, (cell, text) in enumerate(row):
            left, top = GAP + x * width, GAP + y * height
            sheet.paste(cell, (left, top + CELL_HEIGHT - cell.height))
            while font.getlength(text) > CELL_WIDTH:
                text = text[:-2].rstrip(".") + "."
            pen.text((left, top + CELL_HEIGHT + 3), text, "black", font)
    with written_beside(path) as beside:
        sheet.save(beside, format="PNG")


def _save_figure(path: Path, figure: Figure) -> None:
    with written_beside(path) as beside:
        FigureCanvasAgg(figure).print_png(str(beside))


def nan_curve(areas: Sequence[float | None]) -> np.ndarray:
    """Areas as an array with NaN where there is none, which leaves a gap in a plot."""
    return np.array([math.nan if area is None else area for area in areas])
