"""A simulated user who knows the truth, gives a first prompt and then corrects the worst error.

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
from bundle.inference.prompts import Box, ObjectPrompt, agree_with_prompts, draw_prompt
from bundle.networks.prompts import (
    PartialMask,
    click_error,
    largest_region,
)
from bundle.networks.tcmn import VideoNetwork
from bundle.types import Frame, LabelMap

FirstPrompt = Literal["box", "loose_box", "point"]
FIRST_PROMPTS: tuple[FirstPrompt, ...] = get_args(FirstPrompt)
FirstMask = Literal["mask", "box", "points"]
FIRST_MASKS: tuple[FirstMask, ...] = get_args(FirstMask)
Choice = Literal["worst", "suggested"]
CHOICES: tuple[Choice, ...] = get_args(Choice)
Correction = Literal["mask", "point"]
CORRECTIONS: tuple[Correction, ...] = get_args(Correction)

FIRST_POINTS = 3
"""Number of points that stand for an object's first mask; each after the first is put on an error."""
LOOSE_MARGIN = 0.1
"""How far each side of a loose box lies outside of the tight one, as a share of its width or height."""

Mask = Bool[np.ndarray, "H W"]


@runtime_checkable
class FrameMethod(Protocol):
    """A method that makes masks from prompts."""

    def complete(self, frame: Frame, parts: Sequence[PartialMask]) -> Float[np.ndarray, "N H W"]:
        """Probability of each object in a frame, from a partial mask of each."""
        ...


@runtime_checkable
class Found(Protocol):
    """The result of one frame; ``bundle.inference.results.FrameResult`` is one."""

    @property
    def labels(self) -> LabelMap: ...


@runtime_checkable
class VideoJob(Protocol):
    """The segmentation of one video; ``bundle.inference.propagation.Propagation`` is one."""

    def annotate(self, index: int, labels: LabelMap) -> None:
        """Set or correct the mask of a frame."""
        ...

    def run(self) -> Iterator[int]:
        """Segment the frames that have no result yet; yields the index of each."""
        ...

    def result(self, index: int) -> Found:
        """The result of a frame."""
        ...

    def suggest(self) -> int | None:
        """The frame whose correction should help most."""
        ...


@runtime_checkable
class VideoMethod(FrameMethod, Protocol):
    """A method that also propagates masks through a video."""

    def open(self, frames: Sequence[Frame], annotations: Mapping[int, LabelMap]) -> VideoJob:
        """Start a video with the masks of some frames."""
        ...


class NetworkMethod:
    """The network as a ``VideoMethod``.

    Args:
        inferer: Inferer with the settings of inference.
        network: On ``device``, in evaluation mode. A network without partial masks treats the guess
            as the mask.
        device: Device of the network.
    """

    def __init__(
        self, inferer: VideoInferer, network: VideoNetwork, device: torch.device | str = "cpu"
    ) -> None:
        self.inferer, self.network, self.device = inferer, network, torch.device(device)

    def complete(self, frame: Frame, parts: Sequence[PartialMask]) -> Float[np.ndarray, "N H W"]:
        """See ``FrameMethod.complete``."""
        masks, unknown = (
            torch.from_numpy(np.stack([part[i] for part in parts])).to(self.device)[None]
            for i in range(2)
        )
        session = self.inferer.start(self.network)
        logits = session.complete(to_image(frame, self.device), masks, unknown)
        probability: Float[np.ndarray, "N H W"] = logits.softmax(1)[0, 1:].cpu().numpy()
        return probability

    def open(self, frames: Sequence[Frame], annotations: Mapping[int, LabelMap]) -> VideoJob:
        """See ``VideoMethod.open``."""
        return self.inferer.open(frames, annotations, self.network, self.device)


class WithoutNetwork:
    """A baseline without a network: a box becomes its inner ellipse, a point becomes a disk."""

    def complete(self, frame: Frame, parts: Sequence[PartialMask]) -> Float[np.ndarray, "N H W"]:
        """Return the masks that the prompts draw, unchanged."""
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

    The first interaction is a tight box, a loose one, or a point in the object's middle. Each later
    one is a point in the middle of the largest error region, with the mask so far as the guess. A mask
    without an error is kept.

    Args:
        method: Makes the masks.
        frame: RGB.
        truth: The object, not empty.
        first: Kind of the first prompt.
        interactions: Number of interactions, the first included.
    """
    answers = _answers(method, frame, truth, first, interactions)
    return [jaccard(mask, truth) for mask, _ in answers]


def _answers(
    method: FrameMethod, frame: Frame, truth: Mask, first: FirstPrompt, interactions: int
) -> Iterator[tuple[Mask, Float[np.ndarray, "H W"]]]:
    """The object's mask and probability after each interaction, as ``complete_frame`` makes them."""
    prompt, labels = ObjectPrompt(), np.zeros(truth.shape, np.uint8)
    probability: Float[np.ndarray, "H W"] = np.zeros(truth.shape, np.float32)
    for number in range(interactions):
        if number == 0 and first != "point":
            box = tight_box(truth)
            prompt = prompt.with_box(box if first == "box" else loose_box(box))
        else:
            click = click_error(truth, labels == 1)
            if click is None:
                yield labels == 1, probability
                continue
            prompt = prompt.with_points([click[0]], [click[1]])
        probability = method.complete(frame, [draw_prompt(prompt, labels == 1)])[0]
        labels = agree_with_prompts({1: prompt}, labels, (probability > 0.5).astype(np.uint8))
        yield labels == 1, probability


def tight_box(truth: Mask) -> Box:
    """Bounding box of an object: left, top, right, bottom, with right and bottom exclusive.

    Example:
        >>> mask = np.zeros((6, 8), bool)
        >>> mask[2:4, 1:6] = True
        >>> tight_box(mask)
        (1.0, 2.0, 6.0, 4.0)
    """
    rows, columns = np.flatnonzero(truth.any(1)), np.flatnonzero(truth.any(0))
    return float(columns[0]), float(rows[0]), float(columns[-1] + 1), float(rows[-1] + 1)


def loose_box(box: Box) -> Box:
    """A box as a user draws it who is not exact: larger than the tight one by ``LOOSE_MARGIN``.

    It may reach out of the frame.

    Example:
        >>> loose_box((10.0, 20.0, 30.0, 60.0))
        (8.0, 16.0, 32.0, 64.0)
    """
    left, top, right, bottom = box
    across, down = LOOSE_MARGIN * (right - left), LOOSE_MARGIN * (bottom - top)
    return left - across, top - down, right + across, bottom + down


def first_mask(method: FrameMethod, frame: Frame, truth: LabelMap, first: FirstMask) -> LabelMap:
    """The label map that a user begins a video with.

    Args:
        method: Makes the masks.
        frame: RGB.
        truth: Label map of the truth.
        first: ``mask`` is the truth; ``box`` a tight box around each object; ``points`` three points on
            each. Each object is prompted separately; where two overlap, the more probable one wins.
    """
    if first == "mask":
        return truth
    ids = list_ids([truth])
    prompt: FirstPrompt = "box" if first == "box" else "point"
    count = 1 if first == "box" else FIRST_POINTS
    answers = [list(_answers(method, frame, truth == i, prompt, count))[-1] for i in ids]
    found = np.stack([np.where(mask, probability.clip(0.5), 0) for mask, probability in answers])
    likeliest = np.array(ids, np.uint8)[found.argmax(0)]
    labels: LabelMap = np.where(found.max(0) > 0, likeliest, 0).astype(np.uint8)
    return labels


def correct_frame(
    method: FrameMethod, frame: Frame, labels: LabelMap, truth: LabelMap, ids: Sequence[int]
) -> LabelMap:
    """Correct a frame's labels by one point in the middle of their largest error region.

    Args:
        method: Makes the masks.
        frame: RGB.
        labels: Label map so far.
        truth: Label map of the truth.
        ids: The objects that count. The one with the largest error region gets the point; the others
            keep their masks.

    Returns:
        The corrected label map; ``labels`` itself if there is no error.
    """
    worst = max(ids, key=lambda i: largest_region((truth == i) != (labels == i)))
    click = click_error(truth == worst, labels == worst)
    if click is None:
        return labels
    prompt = ObjectPrompt().with_points([click[0]], [click[1]])
    parts = []
    for i in ids:
        mask = labels == i
        known = PartialMask(mask.astype(np.float32), np.zeros(mask.shape, np.float32))
        parts.append(draw_prompt(prompt, mask) if i == worst else known)
    probability = method.complete(frame, parts)[list(ids).index(worst)]
    found = np.where(probability > 0.5, np.uint8(worst), np.uint8(0))
    return agree_with_prompts({worst: prompt}, labels, found)


class Agreement(NamedTuple):
    """Agreement of a video's masks with the truth, 0 to 1.

    Attributes:
        jaccard: Mean J over the annotated frames but the first, then over the objects.
        dice: Mean Dice, averaged the same way.
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

    After each propagation the user corrects one frame, and the video is propagated again.

    Args:
        method: Makes masks and propagates them.
        frames: RGB, at least two.
        truth: Frame index -> label map, of frame 0 and others; the objects are those of frame 0.
        first: See ``first_mask``.
        corrections: Number of corrections.
        choice: ``worst`` corrects the frame with the lowest J; ``suggested`` the one that the method
            suggests, or the nearest with a truth. No frame is corrected twice.
        correction: ``mask`` paints the truth; ``point`` sets one point, see ``correct_frame``.

    Returns:
        ``corrections + 1`` values. A video without an error is not changed.

    Raises:
        ValueError: Frame 0 has no truth or shows no object, or no other frame has a truth.
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
    """The frame to correct next, never one twice; None if there is none."""
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
