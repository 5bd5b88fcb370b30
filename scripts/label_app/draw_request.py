"""Draw a request to the MONAI Label server: the mask that is sent, and masks that it returns.

    python scripts/label_app/draw_request.py VIDEO MASK docs/monai_label.png

VIDEO and MASK as in time_request.py, in the same environment (``make label-env``).
"""

import argparse
import tempfile
from pathlib import Path

import numpy as np
from import_video import import_video
from PIL import Image, ImageDraw, ImageOps
from time_request import serve

from bundle.io.reading.masks import read_annotations
from bundle.io.reading.video import open_video
from bundle.visualization.overlay import blend

COLUMNS, ROWS = 3, 2
CELL = 320, 240
TEXT_HEIGHT = 20


def draw(path: Path, study: Path, mask: Path, answer: Path) -> None:
    """Write a contact sheet of six frames.

    Args:
        path: PNG to write.
        study: The volume that was segmented.
        mask: Mask of its first frame, as it was sent. It is shown first.
        answer: Label volume that the server returned. It is shown on five evenly spaced frames.
    """
    video, labels = open_video(study), open_video(answer)
    picks = np.linspace(0, video.frame_count - 1, COLUMNS * ROWS).round().astype(int).tolist()
    shown = [read_annotations(mask, video)[0], *labels.pixels(picks[1:])]
    width, height = CELL[0], CELL[1] + TEXT_HEIGHT
    sheet = Image.new("RGB", (COLUMNS * width, ROWS * height), "black")
    pen = ImageDraw.Draw(sheet)
    for place, (index, frame) in enumerate(zip(picks, video.frames(picks), strict=True)):
        left, top = place % COLUMNS * width, place // COLUMNS * height
        cell = ImageOps.pad(Image.fromarray(blend(frame, shown[place])), CELL)
        sheet.paste(cell, (left, top + TEXT_HEIGHT))
        what = "returned" if place else "sent"
        pen.text((left + 6, top + 4), f"frame {index}, {what}", "white")
    sheet.quantize(128).save(path, optimize=True)


def main(video: Path, mask: Path, picture: Path) -> None:
    with tempfile.TemporaryDirectory() as name:
        study = import_video(video, Path(name) / "studies")
        with serve(Path(name)) as client:
            answer, _ = client.infer("tcmn", study.name.removesuffix(".nii.gz"), {}, str(mask))
        draw(picture, study, mask, Path(answer))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for argument, about in (
        ("video", "video to segment"),
        ("mask", "picture: mask of its first frame"),
        ("picture", "PNG to write"),
    ):
        parser.add_argument(argument, type=Path, help=about)
    main(**vars(parser.parse_args()))
