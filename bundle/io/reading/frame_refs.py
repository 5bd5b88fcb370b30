"""References to frames on disk: a picture, or a frame of a file with many."""

from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias


@dataclass(frozen=True)
class FrameOf:
    """One frame of a file that holds many: a video, a volume, a ``.mat`` of masks."""

    path: Path
    index: int

    def __str__(self) -> str:
        return f"frame {self.index} of {self.path}"


FrameRef: TypeAlias = Path | FrameOf
"""A picture with a file of its own, or one of many in a file."""
