"""Split videos into training and validation by patient; the split is stored in a JSON file."""

import json
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from bundle.datasets.records import Video
from bundle.io.reading.decode import natural_key
from bundle.utils.atomic_write import written_beside

logger = logging.getLogger(__name__)

PARTS = ("train", "valid")


def split_videos(
    videos: Sequence[Video], part: str, path: str | Path, fraction: float = 0.8, seed: int = 0
) -> list[Video]:
    """The videos of one part of a split by patient (``Video.patient``).

    The split is drawn once and written to ``path``. After that the file decides, so it can be edited
    or shared. The draw depends only on the set of patients and the seed, so several processes that
    write the file at once write the same.

    Args:
        videos: All videos of the data set.
        part: ``train`` or ``valid``.
        path: A JSON file: ``{"seed": 0, "fraction": 0.8, "train": [patients], "valid": [patients]}``.
            One written by hand may leave out ``seed`` and ``fraction``.
        fraction: Share of the patients for training, between 0 and 1; each part gets at least one.
        seed: Seed of the draw.

    Returns:
        The videos of the part, in the order of ``videos``. A patient in the file without a video only
        gives a warning, since copies of a part of a data set are common.

    Raises:
        ValueError: ``part`` is unknown or ``fraction`` out of range; there are fewer than two patients
            to draw from; the file is damaged, was drawn with another seed or fraction, has a patient
            in both parts, or does not list the patient of a video; or no video is in the part.
    """
    path = Path(path)
    if part not in PARTS:
        raise ValueError(f"unknown part {part!r} of {path}: expected {' or '.join(PARTS)}")
    if not 0 < fraction < 1:
        raise ValueError(f"expected a fraction between 0 and 1 for {path}, got {fraction}")
    patients = sorted({video.patient for video in videos}, key=natural_key)
    if path.exists():
        split = _load(path, fraction, seed)
    else:
        split = _draw(patients, path, fraction, seed)
        _write(split, path)
    _check(split, videos, path)
    absent = sorted({*split["train"], *split["valid"]} - set(patients), key=natural_key)
    if absent:
        logger.warning(
            "%s lists %d patients without a video, the first is %s: is the data set complete?",
            path,
            len(absent),
            absent[0],
        )
    members = set(split[part])
    chosen = [video for video in videos if video.patient in members]
    if not chosen:
        raise ValueError(
            f"no video of the {len(videos)} is of a patient in {part!r} of {path}: "
            "delete the file to draw anew, or add patients to that part"
        )
    return chosen


def _draw(patients: Sequence[str], path: Path, fraction: float, seed: int) -> dict[str, Any]:
    if len(patients) < 2:
        raise ValueError(
            f"cannot draw {path}: expected at least 2 patients to split, found {len(patients)}"
        )
    order = np.random.default_rng(seed).permutation(len(patients))
    count = min(max(round(fraction * len(patients)), 1), len(patients) - 1)
    train, valid = ([patients[i] for i in np.sort(half)] for half in np.split(order, [count]))
    return {"seed": seed, "fraction": fraction, "train": train, "valid": valid}


def _write(split: dict[str, Any], path: Path) -> None:
    with written_beside(path) as beside:
        beside.write_text(json.dumps(split, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def _load(path: Path, fraction: float, seed: int) -> dict[str, Any]:
    try:
        split = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(
            f"cannot read {path} as JSON ({error}): mend the file, or delete it to draw anew"
        ) from error
    for part in PARTS:
        listed = split.get(part) if isinstance(split, dict) else None
        if not isinstance(listed, list) or not all(isinstance(name, str) for name in listed):
            raise ValueError(
                f"{path} has no list of patients (texts) called {part!r}: mend the file, or delete "
                "it to draw anew"
            )
    for name, asked in (("seed", seed), ("fraction", fraction)):
        if split.get(name, asked) != asked:
            raise ValueError(
                f"{path} was drawn with {name} {split[name]} but {name} {asked} was asked for: "
                "delete the file to draw anew, or ask for what it has"
            )
    return split


def _check(split: dict[str, Any], videos: Sequence[Video], path: Path) -> None:
    both = sorted(set(split["train"]) & set(split["valid"]), key=natural_key)
    if both:
        raise ValueError(
            f"{path} has patient {both[0]} in both train and valid ({len(both)} such in all): "
            "a patient must be in one part only"
        )
    listed = {*split["train"], *split["valid"]}
    unlisted = [video for video in videos if video.patient not in listed]
    if unlisted:
        raise ValueError(
            f"{path} does not list patient {unlisted[0].patient} of video {unlisted[0].id} "
            f"({len(unlisted)} such videos): delete the file to draw anew, or add its patients to "
            "one part"
        )
