"""Which videos an evaluation scores: the named protocols.

Seen classes are polyps and the LV wall; the LV cavity and the left atrium are never trained on.
"""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from bundle.data.camus import CLASS_NAMES, camus
from bundle.data.cvc_clinicdb import cvc_clinicdb
from bundle.data.generic import davis
from bundle.data.records import Video


def _camus_alone(root: Path, labels: tuple[int, ...]) -> list[Video]:
    """Each structure in a clip of its own, so that none is told where its neighbours are."""
    return [
        replace(video, id=f"{video.id} {CLASS_NAMES[label]}")
        for label in labels
        for video in camus(root, "validation", labels=[label])
    ]


PROTOCOLS: dict[str, Callable[[Path], list[Video]]] = {
    "cvc_clinicdb": lambda root: cvc_clinicdb(root, "valid"),
    "camus_seen": lambda root: _camus_alone(root, (2,)),
    "camus_unseen": lambda root: _camus_alone(root, (1, 3)),
    "davis": davis,
}


def read_protocol(name: str, dataset_dir: str | Path) -> list[Video]:
    """The videos of a protocol.

    Args:
        name: ``cvc_clinicdb`` (valid sequences), ``camus_seen`` (LV wall) or ``camus_unseen`` (LV
            cavity, left atrium), both ED -> ES of the validation patients, or ``davis`` (any folder
            in the DAVIS layout).
        dataset_dir: Root of that data set.

    Raises:
        ValueError: The name is unknown.
    """
    if name not in PROTOCOLS:
        raise ValueError(f"unknown protocol {name!r}: expected one of {', '.join(PROTOCOLS)}")
    return PROTOCOLS[name](Path(dataset_dir))
