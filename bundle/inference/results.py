"""The result of one frame, and its flag for review."""

from collections.abc import Collection, Mapping
from typing import NamedTuple

from bundle.inference.settings import InferenceSettings
from bundle.types import LabelMap


class FrameResult(NamedTuple):
    """The result of one frame.

    Attributes:
        frame: Index of the frame, from 0.
        labels: (H, W) uint8, with the object ids of the given masks; 0 is background.
        confidence: Object id -> expected J of its mask, 0 to 1, halved in a frame of another scene (see
            ``bundle.inference.scene``); 1 if the mask was given.
        review: Whether the frame should be checked: a confidence is below ``review_below``, or an
            object vanished.
        vanished: Ids of the objects that this frame does not show, though the given mask that it was
            propagated from does. They are gone or lost: the confidence cannot tell which.

    Example:
        >>> import numpy as np
        >>> result = FrameResult(7, np.zeros((48, 64), np.uint8), {1: 0.4}, review=True)
        >>> result.frame, result.labels.shape, result.confidence[1]
        (7, (48, 64), 0.4)
    """

    frame: int
    labels: LabelMap
    confidence: Mapping[int, float]
    review: bool
    vanished: frozenset[int] = frozenset()


def find_vanished(
    labels: LabelMap, sought: Collection[int], absent: Collection[int]
) -> frozenset[int]:
    """The objects that were looked for in a frame and are not in it.

    Args:
        labels: (H, W) uint8.
        sought: The ids that were looked for.
        absent: Those that the given mask which the frame is propagated from says are not there.

    Example:
        >>> import numpy as np
        >>> find_vanished(np.array([[0, 1]], np.uint8), sought=[1, 2, 3], absent=[3])
        frozenset({2})
    """
    return frozenset(i for i in sought if i not in absent and not (labels == i).any())


def flag_result(
    settings: InferenceSettings,
    index: int,
    labels: LabelMap,
    confidence: Mapping[int, float],
    vanished: frozenset[int] = frozenset(),
) -> FrameResult:
    """Make a frame's result, flagged for review if a confidence is low or an object vanished."""
    review = bool(vanished) or any(value < settings.review_below for value in confidence.values())
    return FrameResult(index, labels, confidence, review, vanished)


def trust_by_object(confidence: Mapping[int, float], vanished: Collection[int]) -> dict[int, float]:
    """Confidence of each object, 0 for those that vanished; to choose where a look helps most."""
    return {**confidence, **dict.fromkeys(vanished, 0.0)}
