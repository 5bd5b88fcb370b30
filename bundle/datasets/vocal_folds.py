"""Vocal folds data set: laryngoscopies with up to five structures a frame, in the DAVIS layout.

By Laves et al. (2019), cut into sequences: ``JPEGImages/patient1_seq1/00000.jpg``,
``Annotations/patient1_seq1/00000.png``. The name of a sequence begins with its patient.
"""

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

from bundle.datasets.generic import davis
from bundle.datasets.records import Report, Video, stop

CLASS_NAMES = {1: "vocal folds", 2: "glottis", 3: "pathology", 4: "tool", 5: "tube"}


def vocal_folds(
    root: str | Path,
    include: Iterable[str] | None = None,
    exclude: Iterable[str] = (),
    report: Report = stop,
) -> list[Video]:
    """Read one video for each sequence.

    Args:
        root: The folder that holds ``JPEGImages`` and ``Annotations``.
        include: Names of the sequences to read, all by default.
        exclude: Names of sequences to leave out.
        report: Called with each problem in the data; the sequence concerned is left out.

    Raises:
        FileNotFoundError: See ``bundle.datasets.generic.davis``.
    """
    return [
        replace(video, labels=CLASS_NAMES, patient=video.id.split("_seq")[0])
        for video in davis(root, include, exclude, report)
    ]
