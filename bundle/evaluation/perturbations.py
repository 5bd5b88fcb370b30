"""Perturb input to test robustness: a careless mask, noise or blur, dropped frames.

A perturbation is written ``kind:amount``; ``PERTURBATIONS`` lists the kinds. Random numbers are seeded
by the video's name, so results repeat. T frames of H x W.
"""

import math
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
import torch
from jaxtyping import Bool, Int
from scipy.ndimage import distance_transform_edt
from torch.utils.data import Dataset

Item = dict[str, Any]

PIXELS = "a whole number of pixels, at least 1"
SHARE = "a share above 0 and below 1"
DEVIATION = "a standard deviation above 0, at most 255"
# Kind to an example, and what its amount is.
PERTURBATIONS = {
    "erode": ("erode:5", PIXELS),
    "dilate": ("dilate:5", PIXELS),
    "shift": ("shift:5", PIXELS),
    "hole": ("hole:0.3", SHARE),
    "noise": ("noise:10", DEVIATION),
    "blur": ("blur:2", DEVIATION),
    "drop": ("drop:0.5", SHARE),
}


@dataclass(frozen=True)
class Perturbation:
    """One kind with its amount.

    Attributes:
        name: As it was written, such as ``erode:5``.
        kind: ``none`` or a key of ``PERTURBATIONS``.
        amount: 0 for ``none``.
    """

    name: str
    kind: str
    amount: float


def parse_perturbation(text: str) -> Perturbation:
    """Parse ``none``, or a kind with its amount.

    - ``erode:5``, ``dilate:5``: shrink or grow the first mask by this many pixels. An object that
      touches the edge of the frame is not eroded there.
    - ``shift:5``: move the first mask by this many pixels up, down, left or right.
    - ``hole:0.3``: cut a disk of this share of each object's area out of its middle.
    - ``noise:10``: add Gaussian noise of this standard deviation, in grey levels, to each channel.
    - ``blur:2``: blur with a Gaussian of this standard deviation, in pixels.
    - ``drop:0.5``: leave out this share of the later frames.

    Raises:
        ValueError: The kind is unknown, or its amount is missing or out of range.

    Example:
        >>> parse_perturbation("hole:0.3")
        Perturbation(name='hole:0.3', kind='hole', amount=0.3)
    """
    kind, colon, amount = text.partition(":")
    if kind == "none":
        if colon:
            raise ValueError(f"perturbation {text!r}: none takes no amount")
        return Perturbation(text, kind, 0.0)
    if kind not in PERTURBATIONS:
        examples = ", ".join(example for example, _ in PERTURBATIONS.values())
        raise ValueError(f"unknown perturbation {text!r}: expected none, or one like {examples}")
    example, expected = PERTURBATIONS[kind]
    if not amount:
        raise ValueError(
            f"perturbation {text!r} has no amount: write it like {example}, with {expected}"
        )
    try:
        number = float(amount)
    except ValueError:
        number = math.nan
    in_range = {
        PIXELS: number >= 1 and number.is_integer(),
        SHARE: 0 < number < 1,
        DEVIATION: 0 < number <= 255,
    }
    if not in_range[expected]:
        raise ValueError(
            f"perturbation {text!r}: {amount!r} is not {expected}; write it like {example}"
        )
    return Perturbation(text, kind, number)


def perturb(item: Item, perturbation: Perturbation) -> Item:
    """Return a perturbed copy of a video.

    Args:
        item: Item of ``bundle.datasets.whole_videos.VideoDataset``. A change of the mask is made in
            frame 0 only, which is never scored. No object of it vanishes: each keeps at least a pixel.
        perturbation: Kind and amount.
    """
    kind, amount = perturbation.kind, perturbation.amount
    random = np.random.default_rng(zlib.crc32(item["name"].encode()))
    if kind in MASK_CHANGES:
        label = item["label"].clone()
        changed = MASK_CHANGES[kind](label[0, ..., 0].numpy(), amount, random)
        label[0, ..., 0] = torch.from_numpy(changed)
        return {**item, "label": label}
    if kind in IMAGE_CHANGES:
        image = item["image"].clone()
        for t in range(image.shape[-1]):
            frame = image[..., t].movedim(0, -1).contiguous().numpy()
            changed = IMAGE_CHANGES[kind](frame, amount, random)
            image[..., t] = torch.from_numpy(changed).movedim(-1, 0).clamp(0, 1)
        return {**item, "image": image}
    return _drop(item, amount, random) if kind == "drop" else dict(item)


def _erode(
    labels: Int[np.ndarray, "H W"], amount: float, random: np.random.Generator
) -> Int[np.ndarray, "H W"]:
    """Keep the pixels of each object that are farther than ``amount`` from pixels outside it."""
    eroded = np.zeros_like(labels)
    for label, mask in _objects(labels):
        depth = np.full(mask.shape, np.inf) if mask.all() else distance_transform_edt(mask)
        radius = min(amount, np.ceil(depth.max()) - 1)
        eroded[depth > radius] = label
    return eroded


def _dilate(
    labels: Int[np.ndarray, "H W"], amount: float, random: np.random.Generator
) -> Int[np.ndarray, "H W"]:
    """Objects grow into the background; where two meet, the nearer one has the pixel."""
    if not labels.any():
        return labels
    distance, (rows, columns) = distance_transform_edt(labels == 0, return_indices=True)
    return np.where(distance <= amount, labels[rows, columns], 0)


def _shift(
    labels: Int[np.ndarray, "H W"], amount: float, random: np.random.Generator
) -> Int[np.ndarray, "H W"]:
    """Move all objects together, less far if one of them would leave the frame entirely."""
    row, column = ((0, 1), (0, -1), (1, 0), (-1, 0))[random.integers(4)]
    height, width = labels.shape
    present = set(np.unique(labels)) - {0}
    for step in range(min(int(amount), max(height, width)), 0, -1):
        padded = np.pad(labels, step)
        top, left = step * (1 - row), step * (1 - column)
        moved = padded[top : top + height, left : left + width]
        if present <= set(np.unique(moved)):
            return moved
    return labels


def _cut_hole(
    labels: Int[np.ndarray, "H W"], amount: float, random: np.random.Generator
) -> Int[np.ndarray, "H W"]:
    """Take away the pixels of each object that are nearest to its deepest one."""
    cut = labels.copy()
    for _, mask in _objects(labels):
        depth = distance_transform_edt(np.pad(mask, 1))[1:-1, 1:-1]
        centre = np.unravel_index(depth.argmax(), depth.shape)
        rows, columns = mask.nonzero()
        order = np.argsort((rows - centre[0]) ** 2 + (columns - centre[1]) ** 2, kind="stable")
        taken = order[: min(round(amount * len(order)), len(order) - 1)]
        cut[rows[taken], columns[taken]] = 0
    return cut


def _objects(labels: Int[np.ndarray, "H W"]) -> list[tuple[int, Bool[np.ndarray, "H W"]]]:
    """Each object's label and mask."""
    return [(int(label), labels == label) for label in np.unique(labels) if label > 0]


def _add_noise(frame: np.ndarray, amount: float, random: np.random.Generator) -> np.ndarray:
    return frame + random.standard_normal(frame.shape, np.float32) * np.float32(amount / 255)


def _blur(frame: np.ndarray, amount: float, random: np.random.Generator) -> np.ndarray:
    return np.asarray(cv2.GaussianBlur(frame, (0, 0), amount))


def _drop(item: Item, amount: float, random: np.random.Generator) -> Item:
    """Leave out later frames, but not the last annotated one: something must be left to score."""
    count = item["image"].shape[-1]
    annotated = (item["label"][0] >= 0).all(0).all(0).nonzero()[:, 0]
    candidates = np.setdiff1d(np.arange(1, count), annotated[-1:].numpy())
    number = min(round(amount * (count - 1)), len(candidates))
    kept = np.setdiff1d(np.arange(count), random.choice(candidates, number, replace=False))
    names = item["frame_names"].split("|")
    return {
        **item,
        "image": item["image"][..., kept],
        "label": item["label"][..., kept],
        "frame_names": "|".join(names[t] for t in kept),
    }


Change = Callable[[np.ndarray, float, np.random.Generator], np.ndarray]
MASK_CHANGES: dict[str, Change] = {
    "erode": _erode,
    "dilate": _dilate,
    "shift": _shift,
    "hole": _cut_hole,
}
IMAGE_CHANGES: dict[str, Change] = {"noise": _add_noise, "blur": _blur}


class PerturbedDataset(Dataset[Item]):
    """Each video of a data set under each perturbation, in the order of the videos.

    Each item gets the key ``perturbation``, its text.

    Args:
        dataset: For example a ``bundle.datasets.whole_videos.VideoDataset``.
        perturbations: Texts as for ``parse_perturbation``.

    Raises:
        ValueError: There is no perturbation, or a text cannot be parsed.
    """

    def __init__(self, dataset: Dataset[Item], perturbations: Sequence[str]) -> None:
        if not perturbations:
            raise ValueError("perturbations is empty: list at least one, such as none")
        self.dataset = dataset
        self.perturbations = [parse_perturbation(text) for text in perturbations]
        self._newest: tuple[int, Item] | None = None  # a video is decoded once for all of them

    def __len__(self) -> int:
        return len(self.dataset) * len(self.perturbations)  # type: ignore[arg-type]

    def __getitem__(self, index: int) -> Item:
        video, which = divmod(index, len(self.perturbations))
        if self._newest is None or self._newest[0] != video:
            self._newest = video, self.dataset[video]
        perturbation = self.perturbations[which]
        return {**perturb(self._newest[1], perturbation), "perturbation": perturbation.name}
