"""Evaluation protocols by name: which videos are scored, and which objects are given.

Seen classes are polyps and the LV wall; the LV cavity and the left atrium are never trained on.
"""

import json
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from bundle.datasets.asu_mayo import asu_mayo
from bundle.datasets.camus import CLASS_NAMES, camus
from bundle.datasets.cvc_clinicdb import cvc_clinicdb
from bundle.datasets.generic import davis, thin
from bundle.datasets.hmc_qu import hmc_qu
from bundle.datasets.records import Video
from bundle.datasets.registry import CAMUS_SEQUENCES
from bundle.datasets.splits import split_videos
from bundle.datasets.video_folder import video_folder
from bundle.datasets.vocal_folds import vocal_folds

Read = Callable[[Path, bool], list[Video]]
DAVIS_HELD_OUT = ("blackswan", "camel", "dog", "parkour", "soapbox")
"""Videos of the DAVIS 2016 validation set that no weights were trained on; used to choose weights."""
DAVIS_TRAIN_HELD_OUT = (
    "bmx-bumps", "bus", "dog-agility", "flamingo", "horsejump-low", "mallard-fly", "motorbike",
    "rollerblade", "stroller", "tennis",
)  # fmt: skip
"""Videos of the DAVIS 2016 training set that no weights were trained on; used to choose weights."""
VOCAL_FOLDS_HELD_OUT = ("patient1_seq4",)
"""The sequence of VocalFolds that is used to choose weights."""
VOS_EXTRA_HELD_OUT = ("dogs_jump", "schoolgirls")
"""Everyday videos of several objects that are used to choose weights."""
SELECTION_PATIENTS = 20
"""Number of CAMUS validation patients, the first by name, that are used to choose weights."""
SELECTION_STEP = 3
"""Step between the frames of an everyday video that are scored to choose weights."""


def _camus_alone(root: Path, whole: bool, labels: Sequence[int], start: str) -> list[Video]:
    """Read each structure as a separate video, so that no mask shows where its neighbours are."""
    sequences = any(any(root.glob(pattern)) for pattern in CAMUS_SEQUENCES)
    split = None if whole else "validation"
    return [
        replace(video, id=f"{video.id} {CLASS_NAMES[label]}")
        for label in labels
        for video in camus(root, split, labels=[label], start=start, sequences=sequences)
    ]


def _selection(root: Path, whole: bool) -> list[Video]:
    """The videos used to choose weights: held-out videos of four domains, from several data sets."""
    walls = camus(root / "CAMUS", "validation", labels=[2])
    patients = sorted({video.patient for video in walls})[:SELECTION_PATIENTS]
    general = [
        *davis(root / "DAVIS-2016-val", DAVIS_HELD_OUT),
        *davis(root / "DAVIS-2016-train", DAVIS_TRAIN_HELD_OUT),
        *davis(root / "VOS-extra", VOS_EXTRA_HELD_OUT),
    ]
    domains = {
        "polyps": cvc_clinicdb(root / "CVC-ClinicDB", "valid"),
        "hearts": [video for video in walls if video.patient in patients],
        "larynx": vocal_folds(root / "VocalFolds", VOCAL_FOLDS_HELD_OUT),
        "general motion": [thin(video, SELECTION_STEP) for video in general],
    }
    return [replace(video, domain=name) for name, videos in domains.items() for video in videos]


PROTOCOLS: dict[str, Read] = {
    "cvc_clinicdb": lambda root, whole: cvc_clinicdb(root, None if whole else "valid"),
    "camus_seen": partial(_camus_alone, labels=(2,), start="ED"),
    "camus_unseen": partial(_camus_alone, labels=(1, 3), start="ED"),
    "camus_seen_from_es": partial(_camus_alone, labels=(2,), start="ES"),
    "camus_unseen_from_es": partial(_camus_alone, labels=(1, 3), start="ES"),
    "hmc_qu": lambda root, whole: hmc_qu(root),
    "asu_mayo": lambda root, whole: asu_mayo(root),
    "davis_held_out": lambda root, whole: davis(root, None if whole else DAVIS_HELD_OUT),
    "davis_train_held_out": lambda root, whole: davis(
        root, None if whole else DAVIS_TRAIN_HELD_OUT
    ),
    "vocal_folds": lambda root, whole: vocal_folds(root),
    "vocal_folds_held_out": lambda root, whole: vocal_folds(
        root, None if whole else VOCAL_FOLDS_HELD_OUT
    ),
    "vos_extra": lambda root, whole: davis(root, None if whole else VOS_EXTRA_HELD_OUT),
    "davis": lambda root, whole: davis(root),
    "video_folder": lambda root, whole: video_folder(root),
    "selection": _selection,
}
"""Name -> reader of (root, whole): the whole data set, or the part that is scored by default."""


def read_protocol(
    name: str, dataset_dir: str | Path, split: str | Path | None = None
) -> list[Video]:
    """The videos of a protocol.

    Args:
        name: ``cvc_clinicdb`` (valid sequences); ``camus_seen`` (LV wall) or ``camus_unseen`` (LV
            cavity, left atrium) of the validation patients from ED to ES, ``..._from_es`` from ES
            to ED, over half sequences where the copy has them, else two frames; ``hmc_qu`` and
            ``asu_mayo`` (all their videos: the shipped weights were trained on neither);
            ``davis_held_out`` and ``davis_train_held_out`` (the two parts of DAVIS 2016 without the
            training videos); ``vocal_folds`` (all sequences) and ``vocal_folds_held_out``;
            ``vos_extra`` (its videos of several objects); ``davis`` (any folder in the DAVIS
            layout); ``video_folder`` (any folder of videos with masks beside them); ``selection``
            (the videos used to choose weights, from several data sets).
        dataset_dir: Root of that data set; for ``selection`` the parent folder of all of them.
        split: A file written by ``bundle.datasets.splits``. Its ``valid`` part of the whole data set
            is then scored, instead of the part above.

    Raises:
        FileNotFoundError: There is no file ``split``; or a reader raises it.
        ValueError: The name is unknown; or a reader or ``split_videos`` raises it.
    """
    if name not in PROTOCOLS:
        raise ValueError(f"unknown protocol {name!r}: expected one of {', '.join(PROTOCOLS)}")
    if split is None:
        return PROTOCOLS[name](Path(dataset_dir), False)
    path = Path(split)
    if not path.is_file():
        raise FileNotFoundError(
            f"no file --split {path}: expected the JSON of a split, as training writes it; leave "
            "the option out for the protocol's own part"
        )
    return split_videos(PROTOCOLS[name](Path(dataset_dir), True), "valid", path, **_drawn(path))


def _drawn(path: Path) -> dict[str, Any]:
    """Seed and fraction of a split file, so that any file is accepted; errors are raised later."""
    try:
        split = json.loads(path.read_text(encoding="utf-8"))
        return {key: split[key] for key in ("seed", "fraction") if key in split}
    except (ValueError, TypeError):
        return {}


def describe_protocol(name: str, videos: Sequence[Video]) -> str:
    """The title of the tables: which frame is given and which frames are scored."""
    if name == "selection":
        counts = Counter(video.domain for video in videos)
        told = ", ".join(f"{count} of {domain}" for domain, count in counts.items())
        return (
            f"selection, first mask to all later annotated frames (hearts: LV wall, ED -> ES, two "
            f"frames; general motion: one frame of {SELECTION_STEP}); {told}"
        )
    if not name.startswith("camus"):
        return f"{name}, first mask to all later annotated frames"
    path = "ES -> ED" if name.endswith("_from_es") else "ED -> ES"
    pairs = all(len(video.frames) == 2 for video in videos)
    return f"{name}, {path}, {'two frames' if pairs else 'half sequences'}"
