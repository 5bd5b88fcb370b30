"""Readers of DUTS, ECSSD and HRSOD: everyday pictures, each with a mask of its salient object.

The paper pretrains on these.
"""

from pathlib import Path

from bundle.datasets.generic import image_pairs
from bundle.datasets.records import Report, Video, stop
from bundle.datasets.roots import check_root


def duts(root: str | Path, part: str = "DUTS-TR", report: Report = stop) -> list[Video]:
    """Read ``DUTS-TR/DUTS-TR-Image`` with ``DUTS-TR/DUTS-TR-Mask``.

    Args:
        root: The folder that holds ``DUTS-TR``.
        part: ``DUTS-TR`` (training) or ``DUTS-TE`` (test).
        report: Called with each picture without mask and each mask without picture.

    Raises:
        FileNotFoundError: A folder is missing or empty; by default also an incomplete pair.
    """
    root = check_root(root, [f"{part}/{part}-Image"], "DUTS")
    return image_pairs(root / part, f"{part}-Image", f"{part}-Mask", report)


def ecssd(root: str | Path, report: Report = stop) -> list[Video]:
    """Read ``images`` with ``ground_truth_mask``.

    Args:
        root: The folder that holds both.
        report: Called with each picture without mask and each mask without picture.

    Raises:
        FileNotFoundError: A folder is missing or empty; by default also an incomplete pair.
    """
    root = check_root(root, ["ground_truth_mask"], "ECSSD")
    return image_pairs(root, "images", "ground_truth_mask", report)


def hrsod(root: str | Path, report: Report = stop) -> list[Video]:
    """Read ``HRSOD_train`` with ``HRSOD_train_mask``, or ``images`` with ``masks``.

    Args:
        root: The folder that holds both; the name of the masks' folder may vary a little.
        report: Called with each picture without mask and each mask without picture.

    Raises:
        FileNotFoundError: A folder is missing or empty; by default also an incomplete pair.
    """
    root = check_root(root, ["HRSOD_train", "images"], "HRSOD")
    images, pattern = "images", "*[Mm]ask*"
    if (root / "HRSOD_train").is_dir():
        images, pattern = "HRSOD_train", "HRSOD_train*[Mm]ask*"
    masks = next((path for path in sorted(root.glob(pattern)) if path.is_dir()), None)
    if masks is None:
        raise FileNotFoundError(f"no folder {pattern} in {root}: expected the masks of {images}")
    return image_pairs(root, images, masks.name, report)
