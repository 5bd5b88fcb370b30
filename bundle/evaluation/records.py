"""The record of one object's scores in one video, and how to select from many."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from bundle.evaluation.metrics import Score

NETWORK = "network"
"""Name of the method that is evaluated; other methods are named by what they do."""
UNCHANGED = "none"
"""Name of the perturbation that changes nothing."""


@dataclass(frozen=True)
class VideoScores:
    """One object of one video under one method and perturbation, a value for each scored frame.

    Attributes:
        video: Id of the video.
        class_name: Class of the object.
        object_id: Id in the data set's masks.
        method: ``NETWORK``, a baseline, or the name given to ``--predictions``.
        perturbation: ``UNCHANGED`` or another, see ``bundle.evaluation.perturbations``.
        frame_names: Names of the scored frames, in time order.
        distance: Distance of each frame from the annotated one, in frames.
        jaccard: J, 0 to 1.
        boundary: F, 0 to 1.
        dice: Dice, 0 to 1.
        shown: Whether the truth shows the object.
        frames_per_second: Speed over the whole video with all its objects; None if not timed.
        together: Number of objects that were given together in the video.
        domain: Kind of video, if the protocol averages over kinds; else empty.
        answered: Whether the method shows the object.
        confidence: The network's confidence in its mask, 0 to 1; None if the method gives none.
    """

    video: str
    class_name: str
    object_id: int
    method: str
    perturbation: str
    frame_names: tuple[str, ...]
    distance: tuple[int, ...]
    jaccard: tuple[float, ...]
    boundary: tuple[float, ...]
    dice: tuple[float, ...]
    shown: tuple[bool, ...]
    frames_per_second: float | None
    together: int
    domain: str = ""
    answered: tuple[bool, ...] = ()
    confidence: tuple[float, ...] | None = None

    def values(self, score: Score) -> tuple[float, ...]:
        """The score in each frame."""
        found: tuple[float, ...] = getattr(self, score)
        return found

    def mean(self, score: Score, only_shown: bool = False) -> float:
        """Mean over the scored frames, or over those that show the object; NaN if there is none."""
        chosen = [
            value
            for value, shown in zip(self.values(score), self.shown, strict=True)
            if shown or not only_shown
        ]
        return sum(chosen) / len(chosen) if chosen else math.nan


def select(
    scores: Sequence[VideoScores],
    method: str = NETWORK,
    perturbation: str = UNCHANGED,
    class_name: str | None = None,
) -> list[VideoScores]:
    """The scores of one method and perturbation, of one class or of all."""
    return [
        one
        for one in scores
        if (one.method, one.perturbation) == (method, perturbation)
        and class_name in (None, one.class_name)
    ]


def runs_of(scores: Sequence[VideoScores]) -> list[tuple[str, str]]:
    """Pairs of method and perturbation, each once, unperturbed ones first."""
    found = dict.fromkeys((one.method, one.perturbation) for one in scores)
    return sorted(found, key=lambda run: run[1] != UNCHANGED)


def domains_of(scores: Sequence[VideoScores]) -> list[str]:
    """Names of the domains, each once; none where videos have no domain."""
    return [name for name in dict.fromkeys(one.domain for one in scores) if name]


def classes_of(scores: Sequence[VideoScores]) -> list[str]:
    """Names of the classes, each once."""
    return list(dict.fromkeys(one.class_name for one in scores))
