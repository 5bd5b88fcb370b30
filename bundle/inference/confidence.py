"""Turn class logits into labels and confidences, and suggest the frame to correct next."""

from collections.abc import Mapping, Sequence

import torch
from jaxtyping import Float, UInt8
from torch import Tensor


def choose_class(logits: Float[Tensor, "B C H W"]) -> UInt8[Tensor, "B H W"]:
    """Choose the most probable class of each pixel, like ``argmax`` (the first of equals).

    It compares class by class, since PyTorch's ``argmax`` over a leading axis is ten times slower on
    CPUs.
    """
    best = logits[:, 0]
    if logits.shape[1] == 1:
        return torch.zeros(best.shape, dtype=torch.uint8, device=logits.device)
    chosen = (logits[:, 1] > best).to(torch.uint8)
    for number in range(2, logits.shape[1]):
        best = torch.maximum(best, logits[:, number - 1])
        chosen.masked_fill_(logits[:, number] > best, number)
    return chosen


def expected_jaccard(
    logits: Float[Tensor, "B C H W"], probability: Float[Tensor, "B C H W"] | None = None
) -> Float[Tensor, "B N"]:
    """Estimate the J of each mask, as if its pixels' probabilities were true and independent.

    The expected overlap is the sum of probabilities inside the mask, the expected union the mask's
    area and the sum of probabilities outside. An empty mask is right if no pixel belongs to the
    object, so the most probable pixel decides.

    Args:
        logits: Class logits, background first.
        probability: Their softmax in float32, if it is known already.

    Returns:
        Confidence of each object, 0 to 1.
    """
    probability = (logits.float().softmax(1) if probability is None else probability)[:, 1:]
    # The same type as the classes: comparing two types is several times slower on CPUs.
    objects = torch.arange(1, logits.shape[1], device=logits.device, dtype=torch.uint8)
    mask = (choose_class(logits)[:, None] == objects[:, None, None]).float()
    area, overlap = mask.sum((2, 3)), (probability * mask).sum((2, 3))
    union = area + probability.sum((2, 3)) - overlap
    return torch.where(area > 0, overlap / union, 1 - probability.amax((2, 3)))


def margin(logits: Float[Tensor, "B C H W"]) -> Float[Tensor, "B H W"]:
    """Difference in probability between the best and the second best class of each pixel, 0 to 1."""
    best = logits.float().softmax(1).topk(2, dim=1).values
    return best[:, 0] - best[:, 1]


def suggest_frame(
    confidence: Mapping[int, Mapping[int, float]], annotated: Sequence[int]
) -> int | None:
    """Suggest the frame whose correction should help most: the one with the lowest confidence.

    The confidence of a frame is that of its worst object, averaged over the frame and two neighbours on
    either side, so that a series of poor frames counts more than a single blurred one.

    Args:
        confidence: Frame index -> object id -> confidence; 0 for an object that vanished.
        annotated: Frames that already have a mask.

    Returns:
        The frame's index; None if every frame is annotated.

    Example:
        >>> suggest_frame({0: {1: 1.0}, 1: {1: 0.9}, 2: {1: 0.2}, 3: {1: 0.8}}, annotated=[0])
        3
    """
    worst = {i: min(each.values(), default=1.0) for i, each in confidence.items()}
    smooth = {}
    for i in worst:
        near = [worst[j] for j in range(i - 2, i + 3) if j in worst]
        smooth[i] = sum(near) / len(near)
    candidates = sorted(set(worst) - set(annotated))
    return min(candidates, key=lambda i: smooth[i], default=None)
