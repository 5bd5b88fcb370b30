"""Readers of data sets by name, for checks. Each reads everything that is annotated.

See ``bundle.datasets.protocols`` for the parts that are scored, and the configs for those that train.
"""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from bundle.datasets.asu_mayo import asu_mayo
from bundle.datasets.camus import camus
from bundle.datasets.cvc_clinicdb import cvc_clinicdb
from bundle.datasets.generic import davis, image_pairs
from bundle.datasets.hmc_qu import hmc_qu
from bundle.datasets.records import Report, Video, stop
from bundle.datasets.salient import duts, ecssd, hrsod
from bundle.datasets.video_folder import video_folder
from bundle.datasets.vocal_folds import vocal_folds

CAMUS_SEQUENCES = ("database_nifti/*/*_half_sequence.nii.gz", "training/*/*_sequence.mhd")


def _whole_camus(root: Path, report: Report) -> list[Video]:
    """ED and ES of all patients, and the sequences, which are separate files, if the copy has any."""
    videos = camus(root, report=report)
    if any(any(root.glob(pattern)) for pattern in CAMUS_SEQUENCES):
        sequences = camus(root, sequences=True, report=report)
        videos += [replace(video, id=f"{video.id} sequence") for video in sequences]
    return videos


READERS: dict[str, Callable[[Path, Report], list[Video]]] = {
    "asu_mayo": lambda root, report: asu_mayo(root, report=report),
    "busi": lambda root, report: image_pairs(root, report=report, class_name="breast lesion"),
    "camus": _whole_camus,
    "cvc_clinicdb": lambda root, report: cvc_clinicdb(root, report=report),
    "cvc_clinicdb_tif": lambda root, report: cvc_clinicdb(root, files="tif", report=report),
    "davis": lambda root, report: davis(root, report=report),
    "duts": lambda root, report: duts(root, report=report),
    "ecssd": lambda root, report: ecssd(root, report=report),
    "hc18": lambda root, report: image_pairs(root, report=report, class_name="fetal head"),
    "hmc_qu": lambda root, report: hmc_qu(root, report=report),
    "hrsod": lambda root, report: hrsod(root, report=report),
    "image_pairs": lambda root, report: image_pairs(root, report=report),
    "kvasir_seg": lambda root, report: image_pairs(root, report=report, class_name="polyp"),
    "video_folder": lambda root, report: video_folder(root, report=report),
    "vocal_folds": lambda root, report: vocal_folds(root, report=report),
}
"""Name -> reader of (root, report)."""


def read_all(name: str, root: str | Path, report: Report = stop) -> list[Video]:
    """Read a data set by its name in ``READERS``.

    Raises:
        ValueError: The name is unknown, or the reader raises it.
    """
    if name not in READERS:
        raise ValueError(f"unknown data set {name!r}: expected one of {', '.join(sorted(READERS))}")
    return READERS[name](Path(root), report)
