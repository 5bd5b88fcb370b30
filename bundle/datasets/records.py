"""Records of what a data set has on disk: paths, never pixels."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TypeAlias

from bundle.io.reading.frame_refs import FrameRef

Report: TypeAlias = Callable[[Exception], None]
"""Where a reader tells what is wrong with a data set; if it returns, the reader goes on without."""


def stop(problem: Exception) -> None:
    """The ``Report`` of whoever wants a sound data set: raises the first problem."""
    raise problem


@dataclass(frozen=True)
class Video:
    """One video and what is annotated in it; a static image is a video of one frame.

    Attributes:
        id: Unique within its data set.
        frames: In time order.
        masks: Frame index to mask; at least one.
        labels: Ids of the mask files that are objects of this video, with their class names. Other
            ids count as background.
        patient: Who must not appear in two splits; the sequence where patients are not told apart.
        binary: The masks know one object, whatever grey its pixels have: above 127 it is id 1.
        size: (height, width) that frames are resized to, where masks were drawn at another size.
        fps: Frames per second; None if the data set does not say.
        spacing_mm: (row, column) distance of pixels in mm; None unless a file declares units.
        info: Numbers that the data set gives besides, such as ``ejection_fraction_percent``.
        domain: The kind of video, such as polyps, where a protocol averages over kinds; else empty.
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
