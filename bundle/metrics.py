"""How well predicted masks agree with the truth: region similarity J and Dice.

Each score belongs to one object in one frame; the annotated reference frame is never scored.
"""

from typing import Any, Literal

import torch
from jaxtyping import Float, Int
from monai.metrics import CumulativeIterationMetric
from torch import Tensor

Score = Literal["jaccard", "dice"]


def region_scores(
    prediction: Int[Tensor, "*shape H W"],
    truth: Int[Tensor, "*shape H W"],
    label: int,
    score: Score,
) -> Float[Tensor, "*shape"]:
    """J (intersection over union) or Dice of one object in each frame, 1 where both are empty."""
    predicted, true = prediction == label, truth == label
    overlap = (predicted & true).sum((-2, -1)).double()
    total = predicted.sum((-2, -1)).double() + true.sum((-2, -1)).double()
    size = total - overlap if score == "jaccard" else total / 2
    return torch.where(size > 0, overlap / size.clamp(min=0.5), 1.0)


def score_objects(
    prediction: Int[Tensor, "H W T"], truth: Int[Tensor, "H W T"], score: Score
) -> dict[int, Float[Tensor, " scored"]]:
    """Score each object of frame 0, the reference, in every later frame that is annotated.

    Args:
        prediction: Label volume.
        truth: Label volume; a frame that is not annotated is filled with -1.
        score: ``jaccard`` or ``dice``.

    Returns:
        Object id to one score per scored frame; empty if no later frame is annotated.
    """
    scored = (truth >= 0).all(0).all(0)
    scored[0] = False
    if not scored.any():
        return {}
    predicted, true = (volume[..., scored].movedim(-1, 0) for volume in (prediction, truth))
    objects = [int(label) for label in truth[..., 0].unique() if label > 0]
    return {label: region_scores(predicted, true, label, score) for label in objects}


class VideoScore(CumulativeIterationMetric):
    """Mean of J or Dice over the frames of each object, then over the objects of all videos.

    Call it with lists of label volumes (1, H, W, T): predictions, and truths in which a frame that is
    not annotated is filled with -1. Frame 0 is the reference.

    Args:
        score: ``jaccard`` or ``dice``.
    """

    def __init__(self, score: Score = "jaccard") -> None:
        super().__init__()
        self.score = score

    def _compute_tensor(self, y_pred: Tensor, y: Tensor | None = None, **kwargs: Any) -> Tensor:
        """(B, 1, H, W, T) to (objects, 1), one mean over frames each; NaN if there is none."""
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
