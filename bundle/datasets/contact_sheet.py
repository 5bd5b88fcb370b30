"""Draw a contact sheet of a data set: one annotated frame, with its mask, of up to 24 videos."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from bundle.datasets.frames import read_frames, read_masks
from bundle.datasets.records import Video
from bundle.utils.atomic_write import written_beside
from bundle.visualization.overlay import blend

CELLS = 24
COLUMNS = 6
CELL_WIDTH, CELL_HEIGHT = 240, 200
TEXT_HEIGHT = 20
GAP = 8


def write_contact_sheet(path: Path, shown: Sequence[tuple[Video, int]]) -> int:
    """Draw up to 24 of the videos, evenly chosen, each in its true aspect with its id below.

    Args:
        path: The PNG file, renamed into place when it is complete.
        shown: Videos, and which annotated frame of each to draw.

    Returns:
        The number of videos that were drawn.

    Raises:
        ValueError: There is nothing to draw.
    """
    if not shown:
        raise ValueError(f"nothing to draw in {path}: no video has a readable mask with an object")
    count = min(CELLS, len(shown))
    picks = np.linspace(0, len(shown) - 1, count).round().astype(int)
    columns = min(COLUMNS, count)
    rows = -(-count // columns)
    width, height = CELL_WIDTH + GAP, CELL_HEIGHT + TEXT_HEIGHT + GAP
    sheet = Image.new("RGB", (columns * width + GAP, rows * height + GAP), "white")
    pen, font = ImageDraw.Draw(sheet), ImageFont.load_default(13)
    for place, pick in enumerate(picks):
        video, index = shown[pick]
        left, top = GAP + place % columns * width, GAP + place // columns * height
        cell = draw_cell(video, index)
        offset = (CELL_WIDTH - cell.width) // 2, (CELL_HEIGHT - cell.height) // 2
        sheet.paste(cell, (left + offset[0], top + offset[1]))
        middle = left + CELL_WIDTH // 2, top + CELL_HEIGHT + TEXT_HEIGHT // 2
        pen.text(middle, _shorten(video.id, font), "black", font, anchor="mm")
    with written_beside(path) as beside:
        sheet.save(beside, format="PNG")
    return count


def draw_cell(video: Video, index: int) -> Image.Image:
    """One annotated frame with its mask, scaled to fit a cell."""
    frame = Image.fromarray(read_frames(video, [index])[0])
    labels = Image.fromarray(read_masks(video, [index])[0])
    down, across = video.spacing_mm or (1.0, 1.0)
    true_width, true_height = frame.width * across, frame.height * down
    scale = min(CELL_WIDTH / true_width, CELL_HEIGHT / true_height)
    size = max(1, round(true_width * scale)), max(1, round(true_height * scale))
    # Drawn after resizing, which would lose a thin outline.
    small = np.asarray(frame.resize(size, Image.Resampling.BILINEAR))
    return Image.fromarray(blend(small, np.asarray(labels.resize(size, Image.Resampling.NEAREST))))


def _shorten(text: str, font: ImageFont.FreeTypeFont | ImageFont.ImageFont) -> str:
    """Shorten a name that is too long for a cell by leaving out its middle."""
    short, keep = text, len(text)
    while font.getlength(short) > CELL_WIDTH:
        keep -= 1
        short = f"{text[: -(-keep // 2)]}...{text[len(text) - keep // 2 :]}"
    return short
