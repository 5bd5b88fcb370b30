"""What the writers of all formats have in common."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

from bundle.types import Frame, LabelMap


@dataclass(frozen=True, eq=False)
class Segmented:
    """One frame's result.

    Attributes:
        index: Of the frame, from 0.
        frame: (H, W, 3) uint8 RGB.
        labels: (H, W) uint8 object ids, 0 for background.
        confidence: Object id to confidence, from 0 to 1; objects may lack.
        review: Whether someone should look at the frame.
    """

    index: int
    frame: Frame
    labels: LabelMap
    confidence: Mapping[int, float] = field(default_factory=dict)
    review: bool = False


@runtime_checkable
class FormatWriter(Protocol):
    """Writes the frames of one video in one format, in order, in memory that does not grow much.

    All are made with the folder where their file goes, the video that the frames belong to, and the
    indices of the frames whose mask was given.
    """

    def write(self, result: Segmented) -> None:
        """Append the next frame."""

    def finish(self) -> None:
        """Complete the file; called once, after the last frame."""

    def close(self) -> None:
        """Let go of what is open, whether finished or not; a second call does nothing."""
