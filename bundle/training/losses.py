"""The paper's losses (equations 1 to 3), and a soft Dice term that the paper does not have.

B clips, N objects, C = 1 + N classes, V value channels, T frames.
"""

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from bundle.types import ClassLogits


def temporal_contrastive_loss(
    values: Float[Tensor, "B N V T h w"], epsilon: float
) -> Float[Tensor, "B N"]:
    """Equation 1: the values of adjacent frames should be closer than those of frames two apart.

    Summed over inner frames t: ``(d(t-1, t) + d(t, t+1)) / (d(t-1, t+1) + epsilon)`` with
    ``d = 1 - cosine`` of the flattened value maps of one object, in float32. Evenly spaced values
    score about 0.5. Frozen values score 0, which is the minimum, as soon as ``epsilon`` dominates:
    keep it well below the median of ``value_distance``.

    Args:
        values: Value maps of all frames of a clip, in time order.
        epsilon: Keeps the quotient finite.

    Raises:
        ValueError: There are fewer than 3 frames.
    """
    if values.shape[3] < 3:
        raise ValueError(f"expected the values of at least 3 frames, got {values.shape[3]}")
    near = value_distance(values, 1)
    return ((near[..., :-1] + near[..., 1:]) / (value_distance(values, 2) + epsilon)).sum(-1)


def value_distance(
    values: Float[Tensor, "B N V T h w"], step: int
) -> Float[Tensor, "B N T-{step}"]:
    """One minus the cosine between the value maps of frames that lie ``step`` apart, float32."""
    flat = F.normalize(values.float().movedim(3, 2).flatten(3), dim=-1)
    return 1 - (flat[:, :, :-step] * flat[:, :, step:]).sum(-1)


def bootstrapped_cross_entropy(
    logits: ClassLogits, target: Int[Tensor, "B H W T"], eta: float, first: int = 1
) -> Float[Tensor, " B"]:
    """Equation 2: cross entropy of the pixels whose true class has a probability below ``eta``.

    Mean over the pixels that count, per frame, then over the frames from ``first`` on. A frame without
    such pixels gives 0. With ``eta`` above 1 it is plain cross entropy.
    """
    entropy = F.cross_entropy(logits[..., first:].float(), target[..., first:], reduction="none")
    counted = (torch.exp(-entropy) < eta).float()
    per_frame = (entropy * counted).sum((1, 2)) / counted.sum((1, 2)).clamp(min=1)
    return per_frame.mean(-1)


def soft_dice_loss(
    logits: ClassLogits, target: Int[Tensor, "B H W T"], first: int = 1
) -> Float[Tensor, "B N"]:
    """One minus the soft Dice of each object over the frames from ``first`` on."""
    probability = logits[..., first:].float().softmax(1)[:, 1:]
    truth = F.one_hot(target[..., first:], logits.shape[1]).movedim(-1, 1)[:, 1:].to(probability)
    overlap = (probability * truth).sum((2, 3, 4))
    total = probability.sum((2, 3, 4)) + truth.sum((2, 3, 4))
    return 1 - (2 * overlap + 1) / (total + 1)


def mean_over_objects(
    scores: Float[Tensor, "B N"], present: Bool[Tensor, "B N"]
) -> Float[Tensor, " B"]:
    """Mean over the objects that each clip has; in a batch, clips are padded to the same number."""
    return torch.where(present, scores, 0.0).sum(1) / present.sum(1).clamp(min=1)


class LossOfTerms(nn.Module):
    """A loss that stores the terms of its last batch, for tables, progress bars and trackers.

    Attributes:
        names: Names of all terms that a batch may have.
        terms: Name -> value, for the terms of the last batch.
    """

    names: tuple[str, ...]

    def __init__(self) -> None:
        super().__init__()
        self.terms: dict[str, float] = {}


class TCMNLoss(LossOfTerms):
    """Equation 3, ``alpha * L_bce + beta * L_tc``, plus ``dice * L_dice`` which is not in the paper.

    The paper gives no values of these weights. Those in the configs have their reasons beside them.

    Args:
        alpha: Weight of the bootstrapped cross entropy.
        beta: Weight of the temporal contrastive loss; 0 turns it off. Clips whose frames are not in
            time order have no such loss.
        dice: Weight of the soft Dice loss; 0 for the paper's loss.
        eta: Only pixels whose true class has a probability below this count.
        epsilon: See ``temporal_contrastive_loss``.
        warm_up: Number of calls with plain cross entropy before ``eta`` applies. The count is part of
            the state dict.
    """

    names = ("cross_entropy", "dice", "prompted", "contrastive", "value_distance", "collapsed")
    calls: Tensor

    def __init__(
        self,
        alpha: float = 1.0,
        beta: float = 0.05,
        dice: float = 0.0,
        eta: float = 0.9,
        epsilon: float = 1e-3,
        warm_up: int = 0,
    ) -> None:
        super().__init__()
        self.alpha, self.beta, self.dice = alpha, beta, dice
        self.eta, self.epsilon, self.warm_up = eta, epsilon, warm_up
        self.register_buffer("calls", torch.zeros((), dtype=torch.long))

    def forward(
        self,
        prediction: tuple[ClassLogits, Float[Tensor, "B N V T h w"]],
        target: dict[str, Tensor],
    ) -> Float[Tensor, ""]:
        """Compute the total loss of a batch, and store its terms in ``terms``.

        Each term is a mean over all clips, so that processes that share a batch can average it.

        Args:
            prediction: The network's ``ClipPrediction``.
            target: ``label``, class indices (B, H, W, T); ``ordered`` (B,), whether a clip's frames
                are in time order; ``present`` (B, N), which objects a clip has; optionally
                ``prompted`` (B,), the clips whose first frame the network segments from a prompt.
        """
        logits, values = prediction
        label: Int[Tensor, "B H W T"] = target["label"]
        ordered: Bool[Tensor, " B"] = target["ordered"]
        present: Bool[Tensor, "B N"] = target["present"]
        eta = self.eta if int(self.calls) >= self.warm_up else 2.0
        self.calls += 1
        entropy = bootstrapped_cross_entropy(logits, label, eta).mean()
        total = self.alpha * entropy
        self.terms = {"cross_entropy": entropy.item()}
        if self.dice:
            dice = mean_over_objects(soft_dice_loss(logits, label), present).mean()
            total = total + self.dice * dice
            self.terms["dice"] = dice.item()
        prompted = target.get("prompted")
        if prompted is not None and prompted.any():
            answers, truth = logits[prompted][..., :1], label[prompted][..., :1]
            asked = bootstrapped_cross_entropy(answers, truth, eta, first=0)
            if self.dice:
                asked = asked + self.dice * mean_over_objects(
                    soft_dice_loss(answers, truth, first=0), present[prompted]
                )
            total = total + asked.sum() / len(logits)
            self.terms["prompted"] = asked.mean().item()
        if ordered.any():
            counted = present & ordered[:, None]
            if self.beta:
                scores = temporal_contrastive_loss(values, self.epsilon)
                total = total + self.beta * mean_over_objects(scores, counted).mean()
                self.terms["contrastive"] = scores.detach()[counted].mean().item()
            # A collapse of the values shows here, even without L_tc: their distance nears epsilon.
            apart = value_distance(values.detach(), 2)[counted]
            self.terms["value_distance"] = apart.median().item()
            self.terms["collapsed"] = (apart < 10 * self.epsilon).float().mean().item()
        return total
