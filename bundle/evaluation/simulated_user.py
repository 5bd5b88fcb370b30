"""A simulated user, who knows the truth: a first prompt, then corrections of the worst error.

N objects, T frames of H x W.
"""

from collections.abc import Iterator, Mapping, Sequence
from statistics import fmean
from typing import Literal, NamedTuple, Protocol, get_args, runtime_checkable

import numpy as np
import torch
from jaxtyping import Bool, Float

from bundle.inference.frame_stream import list_ids, to_image
from bundle.inference.inferers import VideoInferer
from bundle.networks.prompts import (
    PartialMask,
    click_error,
    from_box,
    from_points,
    largest_region,
)
from bundle.networks.tcmn import VideoNetwork
from bundle.types import Frame, LabelMap

FirstPrompt = Literal["box", "point"]
FIRST_PROMPTS: tuple[FirstPrompt, ...] = get_args(FirstPrompt)
FirstMask = Literal["mask", "box", "points"]
FIRST_MASKS: tuple[FirstMask, ...] = get_args(FirstMask)
Choice = Literal["worst", "suggested"]
CHOICES: tuple[Choice, ...] = get_args(Choice)
Correction = Literal["mask", "point"]
CORRECTIONS: tuple[Correction, ...] = get_args(Correction)

FIRST_POINTS = 3
"""Points on each object that stand for its first mask: the later ones where the answer is wrong."""

Mask = Bool[np.ndarray, "H W"]


@runtime_checkable
class FrameMethod(Protocol):
    """Something that makes masks out of prompts."""

    def complete(self, frame: Frame, parts: Sequence[PartialMask]) -> Float[np.ndarray, "N H W"]:
        """The probability of each object in a frame of which partial masks are known."""
        ...


@runtime_checkable
class Found(Protocol):
    """What a job found in a frame; ``bundle.inference.results.FrameResult`` is one."""

    @property
    def labels(self) -> LabelMap: ...


@runtime_checkable
class VideoJob(Protocol):
    """One video under way; ``bundle.inference.propagation.Propagation`` is one."""

    def annotate(self, index: int, labels: LabelMap) -> None:
        """Give the mask of a frame, or correct it."""
        ...

    def run(self) -> Iterator[int]:
        """Segment what is not yet; yields the index of each frame."""
        ...

    def result(self, index: int) -> Found:
        """What was found in a frame."""
        ...

    def suggest(self) -> int | None:
        """The frame whose mask should help most."""
        ...


@runtime_checkable
class VideoMethod(FrameMethod, Protocol):
    """Something that also propagates masks through a video."""

    def open(self, frames: Sequence[Frame], annotations: Mapping[int, LabelMap]) -> VideoJob:
        """Begin a video whose masks of some frames are known."""
        ...


class NetworkMethod:
    """The network, as ``VideoMethod``.

    Args:
        inferer: Its settings are those of inference.
        network: On ``device``, in evaluation mode. One without partial masks takes a guess for the
            mask.
        device: Where the network is.
    """

    def __init__(
        self, inferer: VideoInferer, network: VideoNetwork, device: torch.device | str = "cpu"
    ) -> None:
        self.inferer, self.network, self.device = inferer, network, torch.device(device)

    def complete(self, frame: Frame, parts: Sequence[PartialMask]) -> Float[np.ndarray, "N H W"]:
        """As ``FrameMethod``."""
        masks, unknown = (
            torch.from_numpy(np.stack([part[i] for part in parts])).to(self.device)[None]
            for i in range(2)
        )
        session = self.inferer.start(self.network)
        logits = session.complete(to_image(frame, self.device), masks, unknown)
        probability: Float[np.ndarray, "N H W"] = logits.softmax(1)[0, 1:].cpu().numpy()
        return probability

    def open(self, frames: Sequence[Frame], annotations: Mapping[int, LabelMap]) -> VideoJob:
        """As ``VideoMethod``."""
        return self.inferer.open(frames, annotations, self.network, self.device)


class WithoutNetwork:
    """A baseline without a network: a box becomes its ellipse, a point its disk."""

    def complete(self, frame: Frame, parts: Sequence[PartialMask]) -> Float[np.ndarray, "N H W"]:
        """The guesses of the prompts, as they are."""
        return np.stack([part.mask for part in parts])


def jaccard(found: Mask, truth: Mask) -> float:
    """Intersection over union, 1 where both are empty."""
    union = np.count_nonzero(found | truth)
    return np.count_nonzero(found & truth) / union if union else 1.0


def dice(found: Mask, truth: Mask) -> float:
    """Dice, 1 where both are empty."""
    total = np.count_nonzero(found) + np.count_nonzero(truth)
    return 2 * np.count_nonzero(found & truth) / total if total else 1.0


def prompt_frame(
    method: FrameMethod, frame: Frame, truth: Mask, first: FirstPrompt, interactions: int
) -> list[float]:
    """J of one object in one frame after each interaction of a user.

    The first is a tight box, or a point in the object's middle. Each later one is a point in the middle
    of the largest region where the answer is wrong, with the answer so far as the guess. An answer
    without an error is left alone.

    Args:
        method: Answers.
        frame: RGB.
        truth: The object, not empty.
        first: The first prompt.
        interactions: How many, the first included.
    """
    answers = _answers(method, frame, truth, first, interactions)
    return [jaccard(probability > 0.5, truth) for probability in answers]


def _answers(
    method: FrameMethod, frame: Frame, truth: Mask, first: FirstPrompt, interactions: int
) -> Iterator[Float[np.ndarray, "H W"]]:
    """The object's probability after each interaction."""
    points: list[tuple[float, float]] = []
    positive: list[bool] = []
    guess: Float[np.ndarray, "H W"] | None = None
    for number in range(interactions):
        if number == 0 and first == "box":
            part = from_box(truth.shape, tight_box(truth))
        else:
            found = np.zeros_like(truth) if guess is None else guess > 0.5
            click = click_error(truth, found)
            if click is None:
                assert guess is not None, "the truth is not empty"
                yield guess
                continue
            points.append(click[0])
            positive.append(click[1])
            part = from_points(truth.shape, points, positive, guess)
        guess = method.complete(frame, [part])[0]
        yield guess


def tight_box(truth: Mask) -> tuple[float, float, float, float]:
    """Left, top, right and bottom of an object's pixels; right and bottom lie outside.

    Example:
        >>> mask = np.zeros((6, 8), bool)
        >>> mask[2:4, 1:6] = True
        >>> tight_box(mask)
        (1.0, 2.0, 6.0, 4.0)
    """
    rows, columns = np.flatnonzero(truth.any(1)), np.flatnonzero(truth.any(0))
    return float(columns[0]), float(rows[0]), float(columns[-1] + 1), float(rows[-1] + 1)


def first_mask(method: FrameMethod, frame: Frame, truth: LabelMap, first: FirstMask) -> LabelMap:
    """The label map that a user begins a video with.

    Args:
        method: Answers.
        frame: RGB.
        truth: Ids of the objects.
        first: ``mask`` is the truth; ``box`` a tight box around each object; ``points`` three points on
            each. Each object is asked for alone; where two overlap, the likelier one stays.
    """
    if first == "mask":
        return truth
    ids = list_ids([truth])
    prompt: FirstPrompt = "box" if first == "box" else "point"
    count = 1 if first == "box" else FIRST_POINTS
    found = np.stack([list(_answers(method, frame, truth == i, prompt, count))[-1] for i in ids])
    likeliest = np.array(ids, np.uint8)[found.argmax(0)]
    labels: LabelMap = np.where(found.max(0) > 0.5, likeliest, 0).astype(np.uint8)
    return labels


def correct_frame(
    method: FrameMethod, frame: Frame, labels: LabelMap, truth: LabelMap, ids: Sequence[int]
) -> LabelMap:
    """A frame's labels after one point in the middle of their largest region of error.

    Args:
        method: Answers.
        frame: RGB.
        labels: The answer so far.
        truth: Ids of the objects.
        ids: The objects that count. The one with the largest region of error gets the point; the
            others are given as they are, and keep all pixels but those that it takes.

    Returns:
        ``labels`` themselves if nothing is wrong.
    """
    worst = max(ids, key=lambda i: largest_region((truth == i) != (labels == i)))
    click = click_error(truth == worst, labels == worst)
    if click is None:
        return labels
    parts = []
    for i in ids:
        guess = (labels == i).astype(np.float32)
        if i == worst:
            parts.append(from_points(truth.shape, [click[0]], [click[1]], guess))
        else:
            parts.append(PartialMask(guess, np.zeros_like(guess)))
    found = method.complete(frame, parts)[list(ids).index(worst)] > 0.5
    corrected = np.where(labels == worst, 0, labels).astype(np.uint8)
    corrected[found] = worst
    return corrected


class Agreement(NamedTuple):
    """How well the masks of a video agree with the truth, 0 to 1.

    Attributes:
        jaccard: Mean J over the annotated frames but the first, then over the objects.
        dice: Dice likewise.
    """

    jaccard: float
    dice: float


def correct_video(
    method: VideoMethod,
    frames: Sequence[Frame],
    truth: Mapping[int, LabelMap],
    first: FirstMask = "mask",
    corrections: int = 3,
    choice: Choice = "worst",
    correction: Correction = "point",
) -> list[Agreement]:
    """Agreement after the first mask and after each correction of a user.

    After each pass the user looks at one frame, corrects it, and has the video propagated again.

    Args:
        method: Answers and propagates.
        frames: RGB, two at least.
        truth: Frame index to ids, of the first frame and others; objects are those of the first.
        first: See ``first_mask``.
        corrections: How many.
        choice: The frame with the lowest J, or the one that the method suggests; where that has no
            truth, the nearest that has. No frame is corrected twice.
        correction: ``mask`` paints the truth; ``point`` sets one point, see ``correct_frame``.

    Returns:
        ``corrections + 1`` values. A video without an error stays as it is.

    Raises:
        ValueError: The first frame has no truth or shows no object, or no other frame has any.
    """
    ids = list_ids([truth[0]]) if 0 in truth else []
    scored = sorted(set(truth) - {0})
    if not ids or not scored:
        raise ValueError(
            "expected the truth of the first frame, with an object, and of a later one; got that of "
            f"frames {sorted(truth)} with objects {ids} in the first"
        )
    labels = first_mask(method, frames[0], truth[0], first)
    if not labels.any():  # nothing to propagate
        return [_agreement({t: np.zeros_like(labels) for t in scored}, truth, ids)] * (
            corrections + 1
        )
    job = method.open(frames, {0: labels})
    found = _run(job, scored)
    rounds = [_agreement(found, truth, ids)]
    corrected: set[int] = set()
    for _ in range(corrections):
        frame = _choose(job, found, truth, ids, choice, corrected)
        if frame is not None:
            labels = truth[frame]
            if correction == "point":
                labels = correct_frame(method, frames[frame], found[frame], truth[frame], ids)
            labels = np.where(np.isin(labels, ids), labels, 0).astype(np.uint8)
            corrected.add(frame)
            job.annotate(frame, labels)
            found = _run(job, scored)
        rounds.append(_agreement(found, truth, ids))
    return rounds


def _run(job: VideoJob, scored: Sequence[int]) -> dict[int, LabelMap]:
    for _ in job.run():
        pass
    return {t: job.result(t).labels for t in scored}


def _choose(
    job: VideoJob,
    found: Mapping[int, LabelMap],
    truth: Mapping[int, LabelMap],
    ids: Sequence[int],
    choice: Choice,
    corrected: set[int],
) -> int | None:
    """The frame to correct, none twice; None if there is none."""
    open_frames = [t for t in found if t not in corrected]
    scores = {t: fmean(jaccard(found[t] == i, truth[t] == i) for i in ids) for t in open_frames}
    if choice == "worst":
        wrong = [t for t in open_frames if scores[t] < 1]
        return min(wrong, key=lambda t: scores[t], default=None)
    suggested = job.suggest()
    if suggested is None:
        return None
    return min(open_frames, key=lambda t: abs(t - suggested), default=None)


def _agreement(
    found: Mapping[int, LabelMap], truth: Mapping[int, LabelMap], ids: Sequence[int]
) -> Agreement:
    pairs = [[(found[t] == i, truth[t] == i) for t in found] for i in ids]
    return Agreement(
        fmean(fmean(jaccard(*pair) for pair in each) for each in pairs),
        fmean(fmean(dice(*pair) for pair in each) for each in pairs),
    )
