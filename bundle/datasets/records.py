"""The record of one video of a data set: paths of its frames and masks, without pixels."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TypeAlias

from bundle.io.reading.frame_refs import FrameRef

Report: TypeAlias = Callable[[Exception], None]
"""A function that a reader calls with each problem; if it returns, the item concerned is left out."""


def stop(problem: Exception) -> None:
    """The default ``Report``: raises the first problem."""
    raise problem


@dataclass(frozen=True)
class Video:
    """One video with its annotations; a static image is a video of one frame.

    Attributes:
        id: Unique within its data set.
        frames: Where each frame is, in time order.
        masks: Frame index -> where its mask is; at least one.
        labels: Id in the mask files -> class name, for the objects of this video. Other ids count as
            background.
        patient: Name of the patient, who must not be in two splits; the sequence where a data set
            does not name patients.
        binary: Whether the masks show a single object, as grey values: above 127 is id 1.
        size: (height, width) that frames are resized to, if masks were drawn at another size.
        fps: Frames per second; None if the data set does not say.
        spacing_mm: (row, column) pixel spacing in mm; None unless a file declares units.
        info: Other numbers from the data set, such as ``ejection_fraction_percent``.
        domain: Kind of video, such as polyps, if a protocol averages over kinds; else empty.

    Raises:
        ValueError: There is no mask, or one is of a frame that does not exist.
    """

    id: str
    frames: tuple[FrameRef, ...]
    masks: Mapping[int, FrameRef]
    labels: Mapping[int, str]
    patient: str
    binary: bool = False
    size: tuple[int, int] | None = None
    fps: float | None = None
    spacing_mm: tuple[float, float] | None = None
    info: Mapping[str, float] = field(default_factory=dict)
    domain: str = ""

    def __post_init__(self) -> None:
        if not self.masks:
            raise ValueError(f"video {self.id} has no mask: one annotated frame is the least")
        outside = [i for i in self.masks if not 0 <= i < len(self.frames)]
        if outside:
            raise ValueError(
                f"video {self.id} has {len(self.frames)} frames but a mask for frame {outside[0]}"
            )
