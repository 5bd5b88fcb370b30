"""How far a predicted mask can be trusted, from the probabilities that it was made of."""

from collections.abc import Mapping, Sequence

import torch
from jaxtyping import Float
from torch import Tensor


def expected_jaccard(logits: Float[Tensor, "B C H W"]) -> Float[Tensor, "B N"]:
    """The J that each object's mask can expect, were each pixel's probability true and independent.

    The overlap is expected to be the probability inside the mask, the union the mask and the
    probability outside of it. A mask that is empty is right if no pixel belongs to the object: the
    likeliest pixel decides.

    Args:
        logits: Class logits, background first.
    """
    probability = logits.float().softmax(1)
    mask = torch.zeros_like(probability).scatter_(1, logits.argmax(1, keepdim=True), 1.0)
    probability, mask = probability[:, 1:], mask[:, 1:]
    overlap = (probability * mask).sum((2, 3))
    union = mask.sum((2, 3)) + (probability * (1 - mask)).sum((2, 3))
    absent = 1 - probability.amax((2, 3))
    return torch.where(mask.sum((2, 3)) > 0, overlap / union, absent)


def margin(logits: Float[Tensor, "B C H W"]) -> Float[Tensor, "B H W"]:
    """Per pixel, how much likelier the chosen class is than the next, in [0, 1]."""
    best = logits.float().softmax(1).topk(2, dim=1).values
    return best[:, 0] - best[:, 1]


def suggest_frame(
    confidence: Mapping[int, Mapping[int, float]], annotated: Sequence[int]
) -> int | None:
    """The frame whose annotation should help most: the one with the least confidence.

    A frame's confidence is that of its worst object, averaged over the frame and its neighbours, so
    that a whole stretch that drifted counts for more than one blurred frame.

    Args:
        confidence: Frame index to (object id to confidence).
        annotated: Frames that have a mask already.

    Returns:
        The frame's index; None if every frame is annotated.
    """
    worst = {i: min(each.values(), default=1.0) for i, each in confidence.items()}
    smooth = {}
    for i in worst:
        near = [worst[j] for j in range(i - 2, i + 3) if j in worst]
        smooth[i] = sum(near) / len(near)
    candidates = sorted(set(worst) - set(annotated))
    return min(candidates, key=lambda i: smooth[i], default=None)
