"""Metrics of predicted masks against the truth: region similarity J, Dice and boundary F.

A score belongs to one object in one frame. Implementations differ in two rules. Here:

- **Which frames count.** Every annotated frame but the reference. DAVIS, and vos-benchmark by default,
  leave out the last frame too. Half a heart cycle, of which only the first and last frame are
  annotated, would then have no scored frame.
- **Empty masks.** An object that neither mask shows in a frame scores 1 there; one that only one mask
  shows scores 0. F compares outlines: an object that fills the frame has none, so it counts as
  empty. vos-benchmark does the same, but counts an object from the first frame where the truth or the
  prediction shows it, and averages over the truth's objects; here the objects are those of the
  reference frame. Both treat label 255 as an object like any other.
"""

import math
from typing import Any, Literal, get_args

import cv2
import numpy as np
import torch
from jaxtyping import Bool, Float, Int, UInt8
from monai.metrics import CumulativeIterationMetric
from torch import Tensor

RegionScore = Literal["jaccard", "dice"]
Score = Literal["jaccard", "boundary", "dice"]
SCORES: tuple[Score, ...] = get_args(Score)

BOUNDARY_TOLERANCE = 0.008  # of the frame's diagonal


def region_scores(
    prediction: Int[Tensor, "*shape H W"],
    truth: Int[Tensor, "*shape H W"],
    label: int,
    score: RegionScore,
) -> Float[Tensor, "*shape"]:
    """J (intersection over union) or Dice of one object in each frame, 1 where both are empty."""
    predicted, true = prediction == label, truth == label
    overlap = (predicted & true).sum((-2, -1)).double()
    total = predicted.sum((-2, -1)).double() + true.sum((-2, -1)).double()
    size = total - overlap if score == "jaccard" else total / 2
    return torch.where(size > 0, overlap / size.clamp(min=0.5), 1.0)


def boundary_scores(
    prediction: Int[Tensor, "*shape H W"], truth: Int[Tensor, "*shape H W"], label: int
) -> Float[Tensor, "*shape"]:
    """Boundary F of one object in each frame: how well the outlines agree.

    A point of an outline agrees if the other outline passes within 0.008 of the frame's diagonal,
    rounded up to whole pixels. F is the harmonic mean of precision (the share of the predicted
    outline that agrees) and recall (the share of the true one): DAVIS (Perazzi et al., 2016).

    Args:
        prediction: Label maps.
        truth: Label maps.
        label: The object.

    Returns:
        A score per frame: 1 where neither mask has an outline, 0 where only one has.
    """
    frames, size = truth.shape[:-2], truth.shape[-2:]
    predicted, true = (
        (labels == label).reshape(math.prod(frames), *size).contiguous().cpu().numpy()
        for labels in (prediction, truth)
    )
    scores = [_boundary_score(p, t) for p, t in zip(predicted, true, strict=True)]
    found = torch.tensor(scores, dtype=torch.float64, device=truth.device)
    return found.reshape(frames)


def _boundary_score(predicted: Bool[np.ndarray, "H W"], true: Bool[np.ndarray, "H W"]) -> float:
    """F of one object in one frame."""
    height, width = true.shape
    radius = math.ceil(BOUNDARY_TOLERANCE * math.sqrt(height**2 + width**2))
    offsets = np.arange(-radius, radius + 1)
    disk = (offsets[:, None] ** 2 + offsets**2 <= radius**2).astype(np.uint8)

    # Only the part around the masks matters. Outlines reach at most one pixel beyond them.
    left, top, columns, rows = cv2.boundingRect((predicted | true).astype(np.uint8))
    box = np.s_[max(top - 1, 0) : top + rows + 1, max(left - 1, 0) : left + columns + 1]
    predicted_outline, true_outline = _outline(predicted[box]), _outline(true[box])

    predicted_length, true_length = predicted_outline.sum(), true_outline.sum()
    if not predicted_length or not true_length:
        return float(predicted_length == true_length)
    precision = (predicted_outline & cv2.dilate(true_outline, disk)).sum() / predicted_length
    recall = (true_outline & cv2.dilate(predicted_outline, disk)).sum() / true_length
    if precision + recall == 0:
        return 0.0
    return float(2 * precision * recall / (precision + recall))


def _outline(mask: Bool[np.ndarray, "H W"]) -> UInt8[np.ndarray, "H W"]:
    """1 at each pixel that differs from its right, lower or lower right neighbour, as in DAVIS."""
    # Repeated border: the last row looks to the right only, the last column down only.
    padded = np.pad(mask, ((0, 1), (0, 1)), mode="edge")
    here, right = padded[:-1, :-1], padded[:-1, 1:]
    below, lower_right = padded[1:, :-1], padded[1:, 1:]
    return ((here != right) | (here != below) | (here != lower_right)).astype(np.uint8)


def scored_frames(truth: Int[Tensor, "H W T"]) -> Int[Tensor, " scored"]:
    """Indices of the frames that count: annotated, after frame 0, which is the reference.

    Args:
        truth: Label volume; a frame that is not annotated is filled with -1.
    """
    scored = (truth >= 0).all(0).all(0)
    scored[0] = False
    return scored.nonzero()[:, 0]


def score_objects(
    prediction: Int[Tensor, "H W T"], truth: Int[Tensor, "H W T"], score: Score
) -> dict[int, Float[Tensor, " scored"]]:
    """Score each object of frame 0, the reference, in every later frame that is annotated.

    Args:
        prediction: Label volume.
        truth: Label volume; a frame that is not annotated is filled with -1.
        score: ``jaccard``, ``boundary`` or ``dice``.

    Returns:
        Object id to one score per frame of ``scored_frames``; empty if there is no such frame.
    """
    frames = scored_frames(truth)
    if not len(frames):
        return {}
    predicted, true = (volume[..., frames].movedim(-1, 0) for volume in (prediction, truth))
    objects = [int(label) for label in truth[..., 0].unique() if label > 0]
    if score == "boundary":
        return {label: boundary_scores(predicted, true, label) for label in objects}
    return {label: region_scores(predicted, true, label, score) for label in objects}


class VideoScore(CumulativeIterationMetric):
    """Mean of J, F or Dice over the frames of each object, then over the objects of all videos.

    Call it with lists of label volumes (1, H, W, T): predictions, and truths in which a frame that is
    not annotated is filled with -1. Frame 0 is the reference.

    Args:
        score: ``jaccard``, ``boundary`` or ``dice``.
    """

    def __init__(self, score: Score = "jaccard") -> None:
        super().__init__()
        self.score = score

    def _compute_tensor(self, y_pred: Tensor, y: Tensor | None = None, **kwargs: Any) -> Tensor:
        """Mean over frames of each object, (objects, 1), from (B, 1, H, W, T); NaN if there is none."""
        assert y is not None
        means = [
            scores.mean()
            for prediction, truth in zip(y_pred[:, 0], y[:, 0], strict=True)
            for scores in score_objects(prediction, truth, self.score).values()
        ]
        # MONAI refuses an empty result.
        return torch.stack(means or [torch.tensor(torch.nan).double()])[:, None]

    def aggregate(self, *args: Any, **kwargs: Any) -> Tensor:
        """The mean over all objects, a scalar; NaN if nothing was scored."""
        return self.get_buffer().nanmean()
