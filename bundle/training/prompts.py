"""Simulate prompts in training: random boxes, points and scribbles, and clicks on the errors.

N objects of a clip, H x W its first frame.
"""

from collections.abc import Collection, Mapping
from typing import Any

import cv2
import numpy as np
import torch
from jaxtyping import Bool, Shaped
from monai.transforms import RandomizableTransform
from torch import Tensor, nn

from bundle.inference.inferers import ClipInferer
from bundle.networks.prompts import (
    PartialMask,
    click_error,
    from_box,
    from_points,
    from_rough_mask,
    from_scribble,
    point_radius,
)

KINDS = ("box", "points", "scribble", "rough")
SMALLEST_PX = 16
"""Objects of fewer pixels keep their whole mask."""


class RandPromptd(RandomizableTransform):
    """Replace the first masks of some clips by prompts, and draw which previous mask each frame gets.

    It adds to a clip ``guess`` and ``unknown`` (N, H, W) float32 for the ids 1 to N, with ``unknown``
    all 0 where the whole mask is given; ``clicks``, the number of points to set on errors of the first
    answer; and ``previous_use`` (T,), see ``TCMN.forward``.

    Args:
        share: Share of the clips that get a prompt.
        objects: N, the largest number of objects of a clip.
        previous: Probabilities of the values 0, 1, 2, 3 of ``previous_use``.
        outlined: Groups of clips whose objects no point can tell, such as superpixels: they get boxes
            and rough masks only.
    """

    def __init__(
        self,
        share: float = 0.35,
        objects: int = 2,
        previous: tuple[float, ...] = (0.3, 0.5, 0.1, 0.1),
        outlined: Collection[str] = (),
    ) -> None:
        super().__init__()
        self.outlined = frozenset(outlined)
        self.share, self.objects, self.previous = share, objects, tuple(previous)

    def __call__(self, data: Mapping[str, Any]) -> dict[str, Any]:
        first = data["label"][0, ..., 0].numpy()
        guess = np.stack([first == i for i in range(1, self.objects + 1)]).astype(np.float32)
        unknown = np.zeros_like(guess)
        clicks = 0
        if self.R.rand() < self.share:
            shares = np.array([0.35, 0.35, 0.1, 0.2])
            if str(data.get("name", "")).split("/")[0] in self.outlined:
                shares *= [kind in ("box", "rough") for kind in KINDS]
            kind = str(self.R.choice(KINDS, p=shares / shares.sum()))
            for number, mask in enumerate(guess):
                if mask.sum() >= SMALLEST_PX:
                    guess[number], unknown[number] = draw_prompt(mask > 0, kind, self.R)
            clicks = int(self.R.choice([0, 1, 2, 3], p=[0.4, 0.3, 0.15, 0.15]))
        uses = self.R.choice(len(self.previous), data["label"].shape[-1], p=self.previous)
        return {
            **data,
            "guess": torch.from_numpy(guess),
            "unknown": torch.from_numpy(unknown),
            "clicks": clicks,
            "previous_use": torch.from_numpy(uses),
        }


def draw_prompt(
    mask: Bool[np.ndarray, "H W"], kind: str, random: np.random.RandomState
) -> PartialMask:
    """Draw one prompt of an object.

    Args:
        mask: The object, not empty.
        kind: One of ``KINDS``.
        random: Source of random numbers.
    """
    height, width = mask.shape
    if kind == "box":
        rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
        edges = np.array([columns[0], rows[0], columns[-1] + 1, rows[-1] + 1], float)
        size = np.tile([edges[2] - edges[0], edges[3] - edges[1]], 2)
        edges += np.clip(random.normal(0, 0.05, 4), -0.12, 0.12) * size
        edges = np.clip(edges, 0, np.tile([width, height], 2))
        if min(edges[2] - edges[0], edges[3] - edges[1]) >= 2:
            return from_box(mask.shape, tuple(edges.tolist()))
        kind = "points"
    if kind == "points":
        points, signs = [_inside(mask, random)], [True]
        for _ in range(random.choice([0, 1, 2, 4], p=[0.6, 0.15, 0.15, 0.1])):
            on = bool(random.rand() < 0.5)
            near = cv2.dilate(mask.astype(np.uint8), np.ones((31, 31))) > 0
            beside = near & ~_grown(mask, point_radius(mask.shape))
            if on or not beside.any():
                points.append(_inside(mask, random))
                signs.append(True)
            else:
                points.append(_any(beside, random))
                signs.append(False)
        return from_points(mask.shape, points, signs)
    if kind == "scribble":
        line = [_inside(mask, random) for _ in range(random.randint(2, 5))]
        part = from_scribble(mask.shape, line)
        part = PartialMask(part.mask * mask, part.unknown)  # a line may leave a curved object
        off = (part.unknown == 0) & ~mask
        unknown = np.where(off, 1, part.unknown).astype(np.float32)
        beside = ~_grown(mask, 3 * point_radius(mask.shape))
        if beside.any() and random.rand() < 0.5:
            outside = [_any(beside, random)]
            return from_scribble(mask.shape, outside * 2, False, PartialMask(part.mask, unknown))
        return PartialMask(part.mask, unknown)
    rough = mask.astype(np.uint8)
    reach = max(1, round(random.uniform(0.03, 0.15) * 2 * np.sqrt(mask.sum() / np.pi)))
    pen = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * reach + 1, 2 * reach + 1))
    change = random.randint(4)
    if change == 0:
        rough = cv2.dilate(rough, pen)
    elif change == 1:
        rough = cv2.erode(rough, pen)
    elif change == 2:
        right, down = random.choice([-reach, reach]), random.choice([-reach, 0, reach])
        shift = np.array([[1, 0, right], [0, 1, down]], np.float32)
        rough = cv2.warpAffine(rough, shift, (width, height), flags=cv2.INTER_NEAREST)
    else:
        x, y = _inside(mask, random)
        cv2.circle(rough, (int(x), int(y)), 2 * reach, 0, thickness=-1)
    if not rough.any():
        rough = mask.astype(np.uint8)
    if random.rand() < 0.5:
        return from_rough_mask(rough, 0.15)
    return PartialMask(rough.astype(np.float32), np.ones(mask.shape, np.float32))


class PromptedClipInferer(ClipInferer):
    """A ``ClipInferer`` that adds clicks where the network's first answer to a prompt is wrong.

    Args:
        precision: See ``bundle.utils.devices.autocast``.
    """

    def __call__(
        self,
        inputs: Tensor,
        network: nn.Module,
        *args: Any,
        truth: Shaped[Tensor, "B H W"] | None = None,
        clicks: Shaped[Tensor, " B"] | None = None,
        **kwargs: Any,
    ) -> Any:
        """Run the network, with clicks added to the prompts.

        Args:
            inputs: Clip (B, 3 + N, H, W, T).
            network: The network.
            args: Other arguments of the network.
            truth: Class of each pixel of frame 0.
            clicks: Number of clicks for each clip of the batch.
            kwargs: Keyword arguments of the network; clicks change ``unknown`` (B, N, H, W).
        """
        if truth is not None and clicks is not None and bool((clicks > 0).any()):
            some = (clicks > 0).nonzero()[:, 0]
            with torch.no_grad():
                answer = super().__call__(
                    inputs[some][..., :1], network, unknown=kwargs["unknown"][some]
                )
            inputs, kwargs["unknown"] = inputs.clone(), kwargs["unknown"].clone()
            for logits, number in zip(answer[..., 0], some.tolist(), strict=True):
                self._click(
                    logits,
                    inputs[number],
                    kwargs["unknown"][number],
                    truth[number],
                    int(clicks[number]),
                )
        return super().__call__(inputs, network, *args, **kwargs)

    @staticmethod
    def _click(logits: Tensor, clip: Tensor, unknown: Tensor, truth: Tensor, clicks: int) -> None:
        """Write clicks, and the answer that they correct, into a clip's masks, in place."""
        probability = logits.float().softmax(0)[1:].cpu().numpy()
        classes = truth.cpu().numpy()
        for i in range(len(unknown)):
            true = classes == i + 1
            if not bool(unknown[i].any()) or not true.any():
                continue
            found = probability[i] > 0.5
            points, signs = [], []
            for _ in range(clicks):
                click = click_error(true, found)
                if click is None:
                    break
                points.append(click[0])
                signs.append(click[1])
                found = _painted(found, click[0], click[1])
            if points:
                part = from_points(true.shape, points, signs, probability[i])
                clip[3 + i, ..., 0] = torch.from_numpy(part.mask).to(clip)
                unknown[i] = torch.from_numpy(part.unknown).to(unknown)


def _painted(found: np.ndarray, point: tuple[float, float], on: bool) -> np.ndarray:
    """The answer with a disk set at a click, so that the next click goes elsewhere."""
    changed = found.astype(np.uint8)
    radius = 4 * point_radius(found.shape)
    cv2.circle(changed, (int(point[0]), int(point[1])), radius, int(on), thickness=-1)
    return changed > 0


def _grown(mask: np.ndarray, reach: int) -> np.ndarray:
    pen = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * reach + 1, 2 * reach + 1))
    return cv2.dilate(mask.astype(np.uint8), pen) > 0


def _inside(mask: np.ndarray, random: np.random.RandomState) -> tuple[float, float]:
    """A random pixel of the mask, preferably away from its edge, as (x, y)."""
    depth = cv2.distanceTransform(np.pad(mask.astype(np.uint8), 1), cv2.DIST_L2, 3)[1:-1, 1:-1]
    return _any(depth >= random.uniform(0, 0.9) * depth.max(), random, mask)


def _any(
    mask: np.ndarray, random: np.random.RandomState, within: np.ndarray | None = None
) -> tuple[float, float]:
    pixels = np.argwhere(mask if within is None else mask & within)
    row, column = pixels[random.randint(len(pixels))]
    return float(column), float(row)
