"""Make a synthetic video of disks that drift over noise. Its content does not change the speed."""

from collections.abc import Iterator, Sequence

import numpy as np

from bundle.types import Frame, LabelMap

DISTINCT = 10
"""Number of different frames. They repeat, so that a long video takes no more memory."""


class DriftingDisks:
    """A synthetic video, with one disk for each object; a ``bundle.inference.frame_stream.Frames``."""

    def __init__(self, height: int, width: int, frame_count: int, objects: int) -> None:
        self.height, self.width, self.frame_count = height, width, frame_count
        self.objects = objects
        self._pictures = [self._draw(i) for i in range(min(DISTINCT, frame_count))]

    def frames(self, indices: Sequence[int]) -> Iterator[Frame]:
        return (self._pictures[i % DISTINCT] for i in indices)

    def labels(self, index: int) -> LabelMap:
        """Return the true mask of a frame: (H, W) uint8, object ids from 1."""
        labels = np.zeros((self.height, self.width), np.uint8)
        rows, columns = np.ogrid[: self.height, : self.width]
        radius = min(self.height, self.width / self.objects) / 4
        for number in range(1, self.objects + 1):
            x = self.width * (number - 0.5) / self.objects + index % DISTINCT
            inside = (rows - self.height / 2) ** 2 + (columns - x) ** 2 < radius**2
            labels[inside] = number
        return labels

    def _draw(self, index: int) -> Frame:
        random = np.random.default_rng(index)
        noise = random.integers(0, 80, (self.height, self.width, 3), dtype=np.uint8)
        shift = (self.labels(index)[..., None] > 0) * np.array([150, 60, 90], np.uint8)
        picture: Frame = noise + shift
        return picture
