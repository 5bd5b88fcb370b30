"""The result of one frame, and its flag for review."""

from collections.abc import Mapping
from typing import NamedTuple

from bundle.inference.settings import InferenceSettings
from bundle.types import LabelMap


class FrameResult(NamedTuple):
    """The result of one frame.

    Attributes:
        frame: Index of the frame, from 0.
        labels: (H, W) uint8, with the object ids of the given masks; 0 is background.
        confidence: Object id -> expected J of its mask, 0 to 1; 1 if the mask was given.
        review: Whether a confidence is below ``review_below``, so that the frame should be checked.

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


def flag_result(
    settings: InferenceSettings, index: int, labels: LabelMap, confidence: Mapping[int, float]
) -> FrameResult:
    """Make a frame's result, flagged for review if a confidence is low."""
    review = any(value < settings.review_below for value in confidence.values())
    return FrameResult(index, labels, confidence, review)
