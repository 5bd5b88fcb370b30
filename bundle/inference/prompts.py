"""Segment a frame from a user's prompts: boxes, points, scribbles, partial masks.

The Python interface, the command line, the page and MONAI Label all call this, so that the same
prompts give the same masks. H x W is the frame.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from typing import Protocol, runtime_checkable

import cv2
import numpy as np
import torch
from jaxtyping import Bool
from torch import nn

from bundle.inference.confidence import choose_class
from bundle.inference.frame_stream import to_image
from bundle.inference.session import VideoSession
from bundle.inference.settings import InferenceSettings
from bundle.networks.prompts import (
    PartialMask,
    from_box,
    from_points,
    from_rough_mask,
    from_scribble,
    limit_changes,
    point_radius,
)
from bundle.networks.tcmn import VideoNetwork
from bundle.types import Frame, LabelMap

MAX_ID = 255
"""Label maps hold object ids in one byte, 0 is the background."""
UNKNOWN = 255
"""Value of unknown pixels in a partial mask."""
REJECTING_DEPTH = 0.5
"""Least depth of a negative point in a part of a mask that it rejects, as a share of the largest depth
of that part. A point nearer to the rim says that the outline is wrong."""
NEEDS_PARTIAL_MASKS = (
    "boxes, points, scribbles and partial masks need a network that takes them: these weights were "
    "trained without, so give whole masks, or use weights that were trained with prompts"
)

Point = tuple[float, float]
"""(x, y) in pixels of the video: (0, 0) is the top left corner of the top left pixel."""
Box = tuple[float, float, float, float]
"""Left, top, right, bottom in pixels; right and bottom are exclusive."""


@dataclass(frozen=True)
class Scribble:
    """A line drawn on an object or beside it.

    Attributes:
        points: Corners of the line.
        positive: Whether it is on the object.
    """

    points: tuple[Point, ...]
    positive: bool = True


@dataclass(frozen=True, eq=False)
class ObjectPrompt:
    """All prompts of one object in one frame.

    Attributes:
        box: Box that contains the object.
        points: Single pixels.
        positive: For each point, whether it is on the object.
        scribbles: Lines; where two cross, the later one counts.
        mask: (H, W): 1 on the object, 0 beside it, 255 where unknown. Without any 255 it is a rough
            mask, whose outline is not trusted.

    Example:
        >>> prompt = ObjectPrompt().with_box((40, 30, 120, 110)).with_points([(60, 70)], [True])
        >>> prompt.box, prompt.points, prompt.positive
        ((40, 30, 120, 110), ((60, 70),), (True,))
    """

    box: Box | None = None
    points: tuple[Point, ...] = ()
    positive: tuple[bool, ...] = ()
    scribbles: tuple[Scribble, ...] = ()
    mask: LabelMap | None = None

    def with_box(self, box: Box) -> "ObjectPrompt":
        """The same prompt with this box instead of its own."""
        return replace(self, box=box)

    def with_points(
        self, points: Sequence[Point], positive: Sequence[bool | int]
    ) -> "ObjectPrompt":
        """The same prompt with more points.

        Raises:
            ValueError: The numbers of points and signs differ.
        """
        if len(points) != len(positive):
            raise ValueError(
                f"{len(points)} points have {len(positive)} signs: give for each point 1 (on the "
                "object) or 0 (beside it)"
            )
        signs = (*self.positive, *map(bool, positive))
        return replace(self, points=(*self.points, *points), positive=signs)

    def with_scribble(self, points: Sequence[Point], positive: bool | int = True) -> "ObjectPrompt":
        """The same prompt with one more scribble."""
        return replace(self, scribbles=(*self.scribbles, Scribble(tuple(points), bool(positive))))

    def with_mask(self, mask: LabelMap) -> "ObjectPrompt":
        """The same prompt with this mask instead of its own."""
        return replace(self, mask=mask)

    def with_prompt(self, other: "ObjectPrompt") -> "ObjectPrompt":
        """The same prompt with all parts of another one added."""
        joined = self.with_points(other.points, other.positive)
        return replace(
            joined,
            box=self.box if other.box is None else other.box,
            scribbles=(*self.scribbles, *other.scribbles),
            mask=self.mask if other.mask is None else other.mask,
        )


@runtime_checkable
class Segmenter(Protocol):
    """The part of ``bundle.VideoSegmenter`` that ``complete_frame`` needs."""

    @property
    def network(self) -> VideoNetwork: ...

    @property
    def settings(self) -> InferenceSettings: ...

    @property
    def device(self) -> torch.device: ...


@dataclass(frozen=True, eq=False)
class LoadedNetwork:
    """A ``Segmenter`` of a network on its device and the settings of inference."""

    network: VideoNetwork
    settings: InferenceSettings
    device: torch.device


def takes_prompts(network: VideoNetwork | nn.Module) -> bool:
    """Whether a network takes partial masks, which are made of boxes, points and scribbles."""
    return bool(getattr(network, "partial_masks", False))


def require_prompts(network: VideoNetwork | nn.Module) -> None:
    """Check that a network takes partial masks.

    Raises:
        ValueError: It does not.
    """
    if not takes_prompts(network):
        raise ValueError(NEEDS_PARTIAL_MASKS)


def complete_frame(
    segmenter: Segmenter, frame: Frame, prompts: Mapping[int, ObjectPrompt], labels: LabelMap
) -> LabelMap:
    """Segment a frame from prompts.

    The result agrees with every prompt: the pixel of a positive point is in the mask, that of a
    negative one is not, the mask stays within a box, and known pixels of a partial mask are kept.
    Objects without a prompt keep their pixels, except those that a prompt gives to another object.
    Points and scribbles without a box change a mask only in the regions that they touch, unless they
    say that the object is somewhere else altogether. A negative one in the middle of a separate part of
    the mask removes all of that part, if the object's first prompt is a positive one.

    Args:
        segmenter: Network with its settings; it must take partial masks.
        frame: RGB.
        prompts: Object id, 1 to 255 -> its prompts. A box alone replaces the object's mask in
            ``labels``; points and scribbles correct it.
        labels: The frame's label map so far; it is not changed.

    Returns:
        A new label map.

    Raises:
        ValueError: The network takes no partial masks, or a prompt is invalid: an id is out of range,
            a point is outside the frame or its object's box, a box has no area, a mask has another
            size, a pixel is given both as on the object and beside it, or to two objects, or no prompt
            says where the object is.

    Example:
        >>> from bundle import VideoSegmenter
        >>> from bundle.networks import make_network
        >>> network = make_network("resnet18", key_channels=8, partial_masks=True).eval()
        >>> frame, labels = np.full((48, 64, 3), 90, np.uint8), np.zeros((48, 64), np.uint8)
        >>> prompts = {2: ObjectPrompt().with_points([(20, 10)], [True])}
        >>> complete_frame(VideoSegmenter(network), frame, prompts, labels)[10, 20]
        np.uint8(2)
    """
    require_prompts(segmenter.network)
    _check(prompts, frame, labels)
    if not prompts:
        return labels.copy()
    ids = sorted(prompts)
    parts = [draw_prompt(prompts[i], labels == i) for i in ids]
    others = (labels > 0) & ~np.isin(labels, ids)
    if others.any():  # joined: the network sees the union of the other objects only
        parts.append(PartialMask(others.astype(np.float32), np.zeros(labels.shape, np.float32)))
    masks, unknown = (
        torch.from_numpy(np.stack(maps))[None].to(segmenter.device)
        for maps in zip(*parts, strict=True)
    )
    settings = segmenter.settings
    session = VideoSession(settings, segmenter.network, settings.inference_size)
    logits = session.complete(to_image(frame, segmenter.device), masks, unknown)
    logits = logits[:, : 1 + len(ids)].clone()
    for number, i in enumerate(ids, start=1):
        never = torch.from_numpy(_never(prompts[i], labels.shape)).to(logits.device)
        logits[:, number].masked_fill_(never, -torch.inf)
    lookup = np.array([0, *ids], np.uint8)
    found = lookup[choose_class(logits)[0].cpu().numpy()]
    return agree_with_prompts(prompts, labels, found)


def agree_with_prompts(
    prompts: Mapping[int, ObjectPrompt], labels: LabelMap, found: LabelMap
) -> LabelMap:
    """Make the network's answer agree with what was asked; see ``complete_frame``.

    Args:
        prompts: Object id -> its prompts.
        labels: The frame's label map before.
        found: Label map of the prompted objects, as the network found them.

    Returns:
        The frame's new label map.
    """
    others = (labels > 0) & ~np.isin(labels, list(prompts))
    agreed = np.where(others, labels, found)
    for i, prompt in prompts.items():
        agreed[(agreed == i) & _never(prompt, labels.shape)] = 0
    _limit_corrections(prompts, labels, agreed)
    _remove_rejected_parts(prompts, agreed)
    for i in sorted(prompts):
        mask = prompts[i].mask
        if mask is not None:
            agreed[_sure(mask)[0] & ~_never(prompts[i], labels.shape)] = i
    return _kept_to(dict(sorted(prompts.items())), agreed)


def _limit_corrections(
    prompts: Mapping[int, ObjectPrompt], labels: LabelMap, found: LabelMap
) -> None:
    """Undo in ``found`` what points and scribbles changed in ``labels`` far from them, in place."""
    shape = found.shape[0], found.shape[1]
    pen = np.ones((2 * point_radius(shape) + 1,) * 2, np.uint8)
    limited = {}
    for i, prompt in prompts.items():
        before, after = labels == i, found == i
        hints = list(_hints({i: prompt}, shape))
        if not before.any() or not hints or prompt.box is not None or prompt.mask is not None:
            continue
        near = cv2.dilate(np.any([core for _, core, _ in hints], 0).astype(np.uint8), pen) > 0
        if not _moved(before, after, [core for _, core, on in hints if on]):
            limited[i] = limit_changes(before, after, near)
    for i, mask in limited.items():
        found[(found == i) & ~mask] = 0
    for i, mask in limited.items():  # last, where no other object took the place
        found[(found == 0) & mask] = i


def _remove_rejected_parts(prompts: Mapping[int, ObjectPrompt], found: LabelMap) -> None:
    """Remove from ``found`` the separate parts of an object that a negative point rejects, in place.

    Next to a structure that it was taught, a network may answer with that structure, too. Where a
    negative point lies on it, the network then removes only a small disk. So a part is removed if a
    negative point or scribble passes through its middle and no positive one touches it. This holds for
    objects whose first prompt is a positive point or scribble, without a box or a mask.
    """
    shape = found.shape[0], found.shape[1]
    for i, prompt in prompts.items():
        hints = list(_hints({i: prompt}, shape))
        begun = bool(hints) and hints[0][2] and prompt.box is None and prompt.mask is None
        if not begun or all(positive for *_, positive in hints):
            continue
        on = np.any([core for _, core, positive in hints if positive], 0)
        off = np.any([core for _, core, positive in hints if not positive], 0)
        own = found == i
        # The disks fill the holes that the network has made at negative points.
        filled = own | (cv2.dilate(off.astype(np.uint8), _disk(shape)) > 0)
        _, parts = cv2.connectedComponents(filled.astype(np.uint8), connectivity=8)
        for number in np.setdiff1d(parts[off], parts[on]):
            part = parts == number
            depth = cv2.distanceTransform(part.astype(np.uint8), cv2.DIST_L2, 3)
            if depth[off].max() >= REJECTING_DEPTH * depth.max():
                found[part & own] = 0


def _moved(
    before: Bool[np.ndarray, "H W"],
    after: Bool[np.ndarray, "H W"],
    on: Sequence[Bool[np.ndarray, "H W"]],
) -> bool:
    """Whether nothing of the old mask stays, or a point is in a part that it does not touch."""
    if not (before & after).any():
        return True
    _, parts = cv2.connectedComponents((before | after).astype(np.uint8), connectivity=8)
    old = np.unique(parts[before])
    return any(after[core].any() and not np.isin(parts[core & after], old).any() for core in on)


def _check(prompts: Mapping[int, ObjectPrompt], frame: Frame, labels: LabelMap) -> None:
    shape = frame.shape[:2]
    if labels.shape != shape:
        raise ValueError(
            f"the labels are {labels.shape} but the frame is {shape} (rows, columns): give them at "
            "the frame's size"
        )
    for i, prompt in prompts.items():
        check_prompt(i, prompt, (shape[0], shape[1]))
        shows = prompt.box is not None or prompt.mask is not None or (labels == i).any()
        if not shows and not any([*prompt.positive, *(s.positive for s in prompt.scribbles)]):
            raise ValueError(
                f"nothing says where object {i} is: give a box, or a point or scribble on it, before "
                "points beside it"
            )
    masks = [(i, _sure(each.mask)[0]) for i, each in prompts.items() if each.mask is not None]
    for (i, first), (j, second) in combinations(masks, 2):
        if (first & second).any():
            y, x = np.argwhere(first & second)[0]
            raise ValueError(
                f"pixel {x},{y} is given to object {i} and to object {j} by their masks: a pixel "
                "belongs to one object, make one of the masks smaller"
            )
    owners: dict[tuple[int, int], int] = {}
    for i, prompt in prompts.items():
        for (x, y), on in zip(prompt.points, prompt.positive, strict=True):
            if on and owners.setdefault((int(x), int(y)), i) != i:
                raise ValueError(
                    f"point {x:g},{y:g} is given to object {owners[int(x), int(y)]} and to object "
                    f"{i}: a pixel belongs to one object, take one of the points back"
                )


def check_prompt(i: int, prompt: ObjectPrompt, shape: tuple[int, int]) -> None:
    """Check the prompt of one object.

    Args:
        i: Id of the object.
        prompt: Its prompts in the frame.
        shape: (height, width) of the frame.

    Raises:
        ValueError: See ``complete_frame``.
    """
    if not 1 <= i <= MAX_ID:
        raise ValueError(f"object ids must be from 1 to {MAX_ID}, got {i}")
    _check_places(i, prompt, shape)
    _check_mask(i, prompt, shape)


def _check_places(i: int, prompt: ObjectPrompt, shape: tuple[int, int]) -> None:
    """Check that points are in the frame and do not contradict each other or the box."""
    height, width = shape
    if len(prompt.points) != len(prompt.positive):
        raise ValueError(
            f"object {i} has {len(prompt.points)} points and {len(prompt.positive)} signs: give for "
            "each point 1 (on the object) or 0 (beside it)"
        )
    if not all(scribble.points for scribble in prompt.scribbles):
        raise ValueError(f"a scribble of object {i} has no point: give at least one")
    lines = [(x, y, "scribble point") for each in prompt.scribbles for x, y in each.points]
    for x, y, what in [*((x, y, "point") for x, y in prompt.points), *lines]:
        if not (0 <= x < width and 0 <= y < height):
            raise ValueError(
                f"{what} {x:g},{y:g} of object {i} lies outside of the frame, which is "
                f"{width}x{height} pixels"
            )
    if prompt.box is not None:
        from_box(shape, prompt.box)
    signs: dict[tuple[int, int], bool] = {}
    for (x, y), on in zip(prompt.points, prompt.positive, strict=True):
        if signs.setdefault((int(x), int(y)), on) != on:
            raise ValueError(
                f"point {x:g},{y:g} is said to be on object {i} and beside it: take one of the two "
                "back"
            )
        if on and prompt.box is not None and not _inside(shape, prompt.box)[int(y), int(x)]:
            box = ",".join(f"{edge:g}" for edge in prompt.box)
            raise ValueError(
                f"point {x:g},{y:g} on object {i} lies outside of its box {box}: move the point, or "
                "draw the box anew"
            )


def _check_mask(i: int, prompt: ObjectPrompt, shape: tuple[int, int]) -> None:
    mask = prompt.mask
    if mask is None:
        return
    if mask.shape != shape:
        raise ValueError(
            f"the partial mask of object {i} is {mask.shape} but the frame is {shape} (rows, "
            "columns): give it at the frame's size"
        )
    odd = sorted({int(value) for value in np.unique(mask)} - {0, 1, UNKNOWN})
    if odd:
        raise ValueError(
            f"the partial mask of object {i} holds {odd[0]}: expected 1 on the object, 0 beside it "
            f"and {UNKNOWN} where nothing is known"
        )
    if not (mask == UNKNOWN).any() and not mask.any():
        raise ValueError(f"the mask of object {i} is empty: show the object, or leave the mask out")


def draw_prompt(prompt: ObjectPrompt, guess: Bool[np.ndarray, "H W"]) -> PartialMask:
    """Draw an object's prompts over its mask so far: what the network is asked.

    Args:
        prompt: All prompts of the object in the frame.
        guess: Its mask so far; empty if there is none.
    """
    shape = guess.shape[0], guess.shape[1]
    part = PartialMask(guess.astype(np.float32), np.ones(shape, np.float32))
    if prompt.mask is not None:
        must, never = _sure(prompt.mask)
        rough = part.mask if (prompt.mask == UNKNOWN).any() else prompt.mask
        mask = np.where(must, 1, np.where(never, 0, rough)).astype(np.float32)
        part = PartialMask(mask, (~must & ~never).astype(np.float32))
    if prompt.box is not None:
        box = from_box(shape, prompt.box)
        alone = not (prompt.points or prompt.scribbles or prompt.mask is not None)
        guess = part.mask * part.unknown
        if alone or not (box.unknown * part.mask).any():
            guess = box.mask
        mask = np.where(part.unknown > 0, guess, part.mask)
        part = PartialMask(box.unknown * mask, box.unknown * part.unknown)
    for scribble in prompt.scribbles:
        # OpenCV draws nothing for a line of one point.
        line = scribble.points if len(scribble.points) > 1 else scribble.points * 2
        part = from_scribble(shape, line, scribble.positive, part)
    if prompt.points:
        marked = from_points(shape, prompt.points, prompt.positive, part.mask)
        part = PartialMask(marked.mask, np.minimum(marked.unknown, part.unknown))
    return part


def _sure(mask: LabelMap) -> tuple[Bool[np.ndarray, "H W"], Bool[np.ndarray, "H W"]]:
    """Pixels that a partial or rough mask gives as surely object, and as surely not."""
    if (mask == UNKNOWN).any():
        return mask == 1, mask == 0
    part = from_rough_mask(mask)
    sure = part.unknown == 0
    return sure & (mask == 1), sure & (mask == 0)


def _never(prompt: ObjectPrompt, shape: tuple[int, ...]) -> Bool[np.ndarray, "H W"]:
    """Pixels that the box or the mask excludes."""
    never = np.zeros(shape, bool)
    if prompt.mask is not None:
        never |= _sure(prompt.mask)[1]
    if prompt.box is not None:
        never |= ~_inside((shape[0], shape[1]), prompt.box)
    return never


def _inside(shape: tuple[int, int], box: Box) -> Bool[np.ndarray, "H W"]:
    left, top, right, bottom = box
    y, x = (np.arange(side) + 0.5 for side in shape)
    inside: Bool[np.ndarray, "H W"] = np.outer((y > top) & (y < bottom), (x > left) & (x < right))
    return inside


def _kept_to(prompts: Mapping[int, ObjectPrompt], found: LabelMap) -> LabelMap:
    """Change labels so that they agree with all points and scribbles.

    Where the network disagrees with one, a disk around its pixels is changed, so that no single pixels
    are left. Where it agrees, its outline is kept.
    """
    shape = found.shape[0], found.shape[1]
    pen = _disk(shape)
    labels = found.copy()
    hints = list(_hints(prompts, shape))
    for i, core, on in hints:
        wrong = core & ((found == i) != on)
        if wrong.any():
            _mark(labels, cv2.dilate(wrong.astype(np.uint8), pen) > 0, prompts[i], i, on)
    for i, core, on in hints:  # last, so that no pen covers the pixel of another hint
        _mark(labels, core, prompts[i], i, on)
    return labels


def _disk(shape: tuple[int, int]) -> np.ndarray:
    """The disk that a point draws in a frame of this shape, as a structuring element."""
    radius = point_radius(shape)
    pen = np.zeros((2 * radius + 1, 2 * radius + 1), np.uint8)
    return cv2.circle(pen, (radius, radius), radius, 1, thickness=-1)


def _mark(
    labels: LabelMap, where: Bool[np.ndarray, "H W"], prompt: ObjectPrompt, i: int, on: bool
) -> None:
    """Give pixels within its box to an object, or take them from it, in place."""
    if not on:
        labels[where & (labels == i)] = 0
    elif prompt.box is None:
        labels[where] = i
    else:
        labels[where & _inside((labels.shape[0], labels.shape[1]), prompt.box)] = i


def _hints(
    prompts: Mapping[int, ObjectPrompt], shape: tuple[int, int]
) -> Iterator[tuple[int, Bool[np.ndarray, "H W"], bool]]:
    """Yield the object, pixels and sign of each scribble, one pixel wide, and of each point.

    Points come last, since they are exact to the pixel.
    """
    for i, prompt in prompts.items():
        for scribble in prompt.scribbles:
            # OpenCV draws nothing for a line of one point.
            line = scribble.points if len(scribble.points) > 1 else scribble.points * 2
            corners = np.array([(int(x), int(y)) for x, y in line], np.int32)[:, None]
            core = np.zeros(shape, np.uint8)
            cv2.polylines(core, [corners], False, 1)
            yield i, core > 0, scribble.positive
    for i, prompt in prompts.items():
        for (x, y), on in zip(prompt.points, prompt.positive, strict=True):
            core = np.zeros(shape, bool)
            core[int(y), int(x)] = True
            yield i, core, on
