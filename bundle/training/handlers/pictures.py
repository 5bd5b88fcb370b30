"""Draw pictures during training: loss and score curves, and predictions on validation videos."""

from pathlib import Path

import ignite.distributed as idist
import numpy as np
import numpy.typing as npt
import torch
from ignite.engine import Engine, Events
from PIL import Image
from skimage.segmentation import find_boundaries
from torchvision.utils import make_grid

from bundle.evaluation.saved_masks import file_name
from bundle.types import Frame
from bundle.utils.atomic_write import written_beside
from bundle.visualization.curves import draw_curves
from bundle.visualization.overlay import blend

FRAMES = 6
COLUMNS = 3
LONGEST_SIDE_PX = 320
GAP_PX = 4


class CurvesPicture:
    """Draws the curves of a training after each epoch and at its end; a missing table is left out.

    Args:
        path: The PNG file to write.
        losses: CSV file of ``LossTable``.
        metrics: CSV file of ``MetricTable``.
    """

    def __init__(self, path: str | Path, losses: str | Path, metrics: str | Path) -> None:
        self.path, self.losses, self.metrics = Path(path), Path(losses), Path(metrics)

    def attach(self, engine: Engine) -> None:
        if idist.get_rank() == 0:
            engine.add_event_handler(Events.EPOCH_COMPLETED, self._draw)
            engine.add_event_handler(Events.TERMINATE, self._draw)

    def _draw(self) -> None:
        losses = [self.losses] if self.losses.exists() else []
        metrics = self.metrics if self.metrics.exists() else None
        if losses or metrics:  # a first epoch may be shorter than a row of losses
            draw_curves(self.path, losses, metrics)


class SampleOverlays:
    """Draws the first videos of each validation, to ``folder/epoch_0001/<video>.png``.

    With several processes the first one draws, from its share of the videos. A sheet has frames evenly
    spread over the video, row by row. The prediction is coloured, the truth a white contour; a frame
    without a contour is not annotated or shows no object.

    Args:
        folder: Folder with a subfolder for each validation.
        videos: Number of videos; 0 for none.
    """

    def __init__(self, folder: str | Path, videos: int = 4) -> None:
        self.folder, self.videos = Path(folder), videos
        self.names: list[str] = []

    def attach(self, engine: Engine) -> None:
        if idist.get_rank() == 0:
            engine.add_event_handler(Events.EPOCH_STARTED, self.names.clear)
            engine.add_event_handler(Events.ITERATION_COMPLETED, self._draw)

    def _draw(self, engine: Engine) -> None:
        for clip, item in zip(engine.state.batch, engine.state.output, strict=True):
            if len(self.names) >= self.videos:
                return
            self.names.append(file_name(clip["name"], self.names))
            folder = self.folder / f"epoch_{engine.state.epoch:04d}"
            sheet = draw_sheet(
                (255 * clip["image"]).round().to(torch.uint8).movedim(0, 2).cpu().numpy(),
                item["pred"][0].to(torch.uint8).cpu().numpy(),
                item["label"][0].clamp(min=0).to(torch.uint8).cpu().numpy(),
            )
            with written_beside(folder / f"{self.names[-1]}.png") as beside:
                Image.fromarray(sheet).save(beside, format="PNG")


def draw_sheet(
    frames: npt.NDArray[np.uint8],
    prediction: npt.NDArray[np.uint8],
    truth: npt.NDArray[np.uint8],
) -> Frame:
    """Draw up to six frames of a video on one sheet, each shrunk to ``LONGEST_SIDE_PX``.

    Args:
        frames: (H, W, 3, T).
        prediction: Object ids, (H, W, T), filled with half their palette colour.
        truth: Object ids, (H, W, T), drawn as a white contour inside each object.
    """
    count = frames.shape[-1]
    picks = np.linspace(0, count - 1, min(FRAMES, count)).round().astype(int)
    tiles = [_draw_tile(frames[..., t], prediction[..., t], truth[..., t]) for t in picks]
    stack = torch.from_numpy(np.stack(tiles)).movedim(3, 1)
    grid = make_grid(stack, nrow=COLUMNS, padding=GAP_PX)
    return np.ascontiguousarray(grid.movedim(0, 2).numpy())


def _draw_tile(
    frame: npt.NDArray[np.uint8], prediction: npt.NDArray[np.uint8], truth: npt.NDArray[np.uint8]
) -> Frame:
    height, width = truth.shape
    scale = min(1.0, LONGEST_SIDE_PX / max(height, width))
    size = max(1, round(scale * width)), max(1, round(scale * height))
    # Shrunk first: a contour of one pixel would not survive.
    shrunk = Image.fromarray(frame).resize(size, Image.Resampling.BILINEAR)
    predicted, true = (
        np.asarray(Image.fromarray(labels).resize(size, Image.Resampling.NEAREST))
        for labels in (prediction, truth)
    )
    tile = blend(np.asarray(shrunk), predicted)
    tile[find_boundaries(true, mode="inner")] = 255
    return tile
