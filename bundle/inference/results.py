"""What was found in one frame of a video."""

from collections.abc import Mapping
from typing import NamedTuple

from bundle.inference.settings import InferenceSettings
from bundle.types import LabelMap


class FrameResult(NamedTuple):
    """What was found in one frame.

    Attributes:
        frame: Its index.
        labels: (H, W) uint8, with the object ids of the given masks; 0 is background.
        confidence: Object id to the expected J of its mask, in [0, 1]; 1 where the mask was given.
        review: A confidence is below ``review_below``: somebody should look at the frame.
    """

    frame: int
    labels: LabelMap
    confidence: Mapping[int, float]
    review: bool


def flag_result(
    settings: InferenceSettings, index: int, labels: LabelMap, confidence: Mapping[int, float]
) -> FrameResult:
    """Make a frame's result, flagged for review where a confidence is low."""
    review = any(value < settings.review_below for value in confidence.values())
    return FrameResult(index, labels, confidence, review)
