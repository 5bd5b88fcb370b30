"""Write ``masks.nii.gz``: a uint8 label volume in the geometry of the source."""

import gzip
from collections.abc import Collection
from pathlib import Path
from typing import IO, cast

import numpy as np

from bundle.io.reading.video import VideoSource
from bundle.io.writing.nifti_header import label_header
from bundle.io.writing.writer import Segmented


class NiftiWriter:
    """Writes a label volume; see ``bundle.io.writing.writer``. Equal masks give equal files."""

    def __init__(self, folder: Path, video: VideoSource, given: Collection[int]) -> None:
        header = label_header(video)
        self._file = gzip.GzipFile(folder / "masks.nii.gz", "wb", compresslevel=6, mtime=0)
        header.write_to(cast(IO[bytes], self._file))

    def write(self, result: Segmented) -> None:
        self._file.write(np.ascontiguousarray(result.labels).data)

    def finish(self) -> None:
        self.close()

    def close(self) -> None:
        self._file.close()
