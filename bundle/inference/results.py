"""What was found in one frame of a video."""

from collections.abc import Mapping
from typing import NamedTuple

from bundle.inference.settings import InferenceSettings
from bundle.types import LabelMap


class FrameResult(NamedTuple):
    """What was found in one frame.

    Attributes:
        frame: Its index.
        labels: (H, W), in the ids of the prompts.
        confidence: Object id to the J that its mask can expect, in [0, 1]; 1 where it was given.
        review: A confidence is below the inferer's threshold: somebody should look.
    """

    frame: int
    labels: LabelMap
    confidence: Mapping[int, float]
    review: bool


def judge(
    settings: InferenceSettings, index: int, labels: LabelMap, confidence: Mapping[int, float]
) -> FrameResult:
    """A frame's result, with the flag that asks for a look at it."""
    review = any(value < settings.review_below for value in confidence.values())
    return FrameResult(index, labels, confidence, review)
