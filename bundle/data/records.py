"""What exists on disk: records that hold paths, never pixels."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Video:
    """One video and what is annotated in it; a static image is a video of one frame.

    Attributes:
        id: Unique within its data set.
        frames: One file per frame, in time order.
        masks: Frame index to mask file; at least one.
        labels: Ids of the mask files that are objects of this video, with their class names. Other
            ids count as background.
        patient: Who must not appear in two splits; the sequence where patients are not told apart.
        binary: The masks know one object, whatever grey its pixels have: above 127 it is id 1.
    """

    id: str
    frames: tuple[Path, ...]
    masks: Mapping[int, Path]
    labels: Mapping[int, str]
    patient: str
    binary: bool = False

    def __post_init__(self) -> None:
        if not self.masks:
            raise ValueError(f"video {self.id} has no mask: one annotated frame is the least")
        outside = [i for i in self.masks if not 0 <= i < len(self.frames)]
        if outside:
            raise ValueError(
                f"video {self.id} has {len(self.frames)} frames but a mask for frame {outside[0]}"
            )
