"""Turn the pixel values of mask files into object ids, from 1 to 255.

What a value means is decided over all masks of a video together. Masks are (H, W). Files are read by
``mask_pictures`` and ``mask_volumes``.
"""

import logging
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import scipy  # whose ndimage is imported when used: most masks need it not

from bundle.types import LabelMap

logger = logging.getLogger(__name__)

MAX_OBJECTS = 32
ROUNDING = 1e-3
"""How far a stored value may lie from the whole number that it means, after slope and offset."""
SOFT_LEVELS = 3
"""So many levels that occur on edges only make a grey picture one with soft edges."""
SOFT_SHARE = 0.9
CLOSE = 3
MAIN_SHARE, NOISY_LEVELS = 0.1, 6
NOISE = 24
"""How far lossy compression moves a value, about."""
WHITE = 255

Colour = tuple[int, int, int]
Kind = Literal["exact", "grey", "lossy", "colour"]


@dataclass(frozen=True, eq=False)
class StoredMask:
    """One mask with the values that its file stores.

    Attributes:
        values: (H, W) uint8; (H, W, 3) in colour.
        kind: ``exact`` if each value is an id (volumes, palette pictures); ``grey`` if soft edges are
            possible; ``lossy`` if compression changed the values; ``colour`` if colours stand for ids.
        source: Name for messages.
        colours: RGB to id, if a file beside a coloured mask lists its colours.
    """

    values: np.ndarray
    kind: Kind
    source: str
    colours: Mapping[Colour, int] | None = None


def whole_numbers(values: np.ndarray, source: str) -> LabelMap:
    """Convert numbers to ids. Values that are whole up to rounding errors are rounded.

    Args:
        values: (H, W), integer or float.
        source: Name for messages.

    Example:
        >>> whole_numbers(np.array([[0.0, 1.00000006]]), "mask.nii")
        array([[0, 1]], dtype=uint8)

    Raises:
        ValueError: Values are negative, above 255 or fractional.
    """
    if values.dtype.kind not in "bui":
        whole = np.rint(values)
        if not np.isfinite(values).all() or (np.abs(values - whole) > ROUNDING).any():
            raise ValueError(
                f"{source} holds fractional values: expected whole label numbers, 0 to 255"
            )
        values = whole
    if values.size and (values.min() < 0 or values.max() > 255):
        raise ValueError(
            f"{source} holds values from {values.min()} to {values.max()}: expected labels 0 to 255"
        )
    return values.astype(np.uint8)


@dataclass(frozen=True, eq=False)
class Meaning:
    """What the values of a video's masks mean.

    Attributes:
        solid: Ids in grey pictures with soft edges; None if edges are hard.
        levels: Ids in lossy pictures.
        grey_is_lossy: Whether grey pictures are lossy ones that were saved again as PNG or similar.
        colours: Packed colour to id; None if no mask is in colour.
        white_only: Whether 255 is the only value, so that it means id 1.
    """

    solid: Sequence[int] | None
    levels: Sequence[int]
    grey_is_lossy: bool
    colours: Mapping[int, int] | None
    white_only: bool


def settle_labels(masks: Sequence[StoredMask]) -> list[LabelMap]:
    """Turn the masks of one video into label maps: ``find_meaning`` and ``to_labels``.

    Args:
        masks: All masks of one video, since another frame may show what a value means.

    Returns:
        (H, W) uint8 each, 0 for background.

    Raises:
        ValueError: A mask has more than 32 objects, or its colours or levels cannot be labels.
    """
    meaning = find_meaning(masks)
    return [to_labels(mask, meaning) for mask in masks]


def find_meaning(masks: Iterable[StoredMask]) -> Meaning:
    """Find out what the values of a video's masks mean.

    - Ids stay as they are, however thin or small what they label is.
    - A grey picture has soft edges if three levels or more lie only between a lower and a higher
      one. Lossy pictures always have soft edges.
    - Colours become ids by the file beside them, by the palette of DAVIS, or in the order of their
      red, green and blue; black is background. A warning says which.
    - 255 becomes 1 if no mask holds another id.

    Args:
        masks: All masks of one video, in an iterable that can be read several times.

    Raises:
        ValueError: Colours or levels cannot be labels.
    """
    exact, grey = np.zeros(256, dtype=np.int64), np.zeros(256, dtype=np.int64)
    coloured = has_lossy = False
    first: dict[str, str] = {}
    for mask in masks:
        first.setdefault(mask.kind, mask.source)
        if mask.kind == "colour":
            coloured = True
        else:
            counts = np.bincount(mask.values.ravel(), minlength=256)
            exact += counts if mask.kind == "exact" else 0
            grey += counts if mask.kind == "grey" else 0
            has_lossy |= mask.kind == "lossy"
    colours = _judge_colours(masks, first["colour"]) if coloured else None
    solid, grey_is_lossy = None, False
    if not coloured:
        solid, grey_is_lossy = _judge_grey(masks, grey, first.get("grey", ""))
    levels: Sequence[int] = ()
    if has_lossy or grey_is_lossy:
        kinds = ("lossy", "grey") if grey_is_lossy else ("lossy",)
        levels = _judge_lossy(masks, kinds, first["grey" if grey_is_lossy else "lossy"])
    ids = {*np.flatnonzero(exact).tolist(), *levels, *(colours or {}).values()}
    if not coloured and not grey_is_lossy:
        ids |= set(np.flatnonzero(grey).tolist() if solid is None else solid)
    return Meaning(solid, levels, grey_is_lossy, colours, ids - {0} == {WHITE})


def to_labels(mask: StoredMask, meaning: Meaning) -> LabelMap:
    """Convert one of the masks of ``find_meaning`` to a label map, (H, W) uint8.

    In a picture with soft edges, a pixel above half of the id of the nearest solid object gets that id.
    All others become background.

    Raises:
        ValueError: The mask has more than 32 objects.
    """
    values, kind = mask.values, mask.kind
    if meaning.colours is not None and kind in ("colour", "grey"):
        values = _number(mask, meaning.colours)
    elif kind == "lossy" or (kind == "grey" and meaning.grey_is_lossy):
        values = _cut_lossy(values, meaning.levels)
    elif kind == "grey" and meaning.solid is not None:
        values = _cut(values, np.isin(values, np.array(meaning.solid)))
    count = np.count_nonzero(np.unique(values))
    if count > MAX_OBJECTS:
        raise ValueError(
            f"{mask.source} holds {count} different labels: expected at most {MAX_OBJECTS} objects"
        )
    return (values > 0).astype(np.uint8) if meaning.white_only else values


# Soft edges


def _judge_grey(
    masks: Iterable[StoredMask], count: np.ndarray, source: str
) -> tuple[list[int] | None, bool]:
    """Find the solid levels of grey pictures (None without soft edges), and whether they are lossy."""
    levels = np.flatnonzero(count[1:]) + 1
    if len(levels) <= SOFT_LEVELS or levels[-1] == len(levels):  # ids 1 to k
        return None, False
    core, between = np.zeros(256, dtype=np.int64), np.zeros(256, dtype=np.int64)
    for mask in masks:
        if mask.kind == "grey":
            values = mask.values
            low, high = (
                scipy.ndimage.minimum_filter(values, 3),
                scipy.ndimage.maximum_filter(values, 3),
            )
            core += np.bincount(values[low == high], minlength=256)
            between += np.bincount(values[(low < values) & (values < high)], minlength=256)
    solid, coreless = levels[core[levels] > 0], levels[core[levels] == 0]
    if _is_noisy(levels, core):
        return None, True
    soft = coreless[between[coreless] >= SOFT_SHARE * count[coreless]]
    if len(soft) < SOFT_LEVELS:
        return None, False
    if not len(solid):
        solid = levels[-1:]
    if len(soft) + len(solid) > MAX_OBJECTS and np.diff([0, *solid]).min() <= CLOSE:
        # Values that differ by so little were not drawn: a lossy picture that was saved again.
        return None, True
    logger.warning(
        "%s has soft edges: %d in-between values cut at half of the nearest of the labels %s",
        source,
        len(levels) - len(solid),
        solid.tolist(),
    )
    return solid.tolist(), False


def _cut(picture: np.ndarray, owned: np.ndarray) -> LabelMap:
    """Give each pixel the id of the nearest solid pixel, if it is above half of that id."""
    if not owned.any():
        return np.zeros_like(picture)
    nearest = scipy.ndimage.distance_transform_edt(
        ~owned, return_distances=False, return_indices=True
    )
    owner = picture[tuple(nearest)]
    return np.where(picture > owner // 2, owner, 0).astype(np.uint8)


# Lossy compression


def _is_noisy(levels: np.ndarray, core: np.ndarray) -> bool:
    """Whether a picture was once lossy: each main level has a few pixels of neighbouring levels."""
    main = levels[core[levels] >= MAIN_SHARE * core[levels].sum()]
    rest = np.setdiff1d(levels, main)
    if len(rest) < NOISY_LEVELS or 2 * (core[rest] == 0).sum() < len(rest):
        return False
    beside = np.abs(main[:, None] - rest) <= CLOSE
    return bool(len(main) and (beside.sum(axis=1) > 1).all())


def _judge_lossy(masks: Iterable[StoredMask], kinds: Sequence[str], source: str) -> list[int]:
    """Find the values that objects had before compression: those of flat areas, else the brightest."""
    flat, brightest = np.zeros(256, dtype=np.int64), 0
    for mask in masks:
        if mask.kind in kinds:
            values = mask.values
            low, high = (
                scipy.ndimage.minimum_filter(values, 3),
                scipy.ndimage.maximum_filter(values, 3),
            )
            flat += np.bincount(values[high - low <= NOISE // 2], minlength=256)
            brightest = max(brightest, int(values.max()))
    levels: list[int] = []
    for value in np.argsort(-flat, kind="stable").tolist():
        apart = all(abs(value - level) > NOISE for level in (0, *levels))
        if (flat[value] and apart) and any(
            mask.kind in kinds and _has_area(mask.values, value) for mask in masks
        ):
            levels.append(value)
    if not levels and brightest > NOISE:
        levels = [brightest]
    if not levels and brightest:
        raise ValueError(
            f"{source} holds values up to {brightest}, which lossy compression does not tell from "
            "background: save masks as PNG"
        )
    if len(levels) == 1 and levels[0] > WHITE // 2:
        levels = [WHITE]
    levels = sorted(WHITE if value >= WHITE - NOISE // 2 else value for value in levels)
    if levels:
        logger.warning(
            "%s was compressed with loss: each pixel takes the nearest of the labels %s",
            source,
            levels,
        )
    return levels


def _has_area(picture: np.ndarray, value: int) -> bool:
    """Whether values near this one fill a 5x5 square. Soft edges and ringing do not."""
    near = np.abs(picture.astype(np.int16) - value) <= NOISE // 2
    return bool(scipy.ndimage.minimum_filter(near, 5).any())


def _cut_lossy(picture: np.ndarray, levels: Sequence[int]) -> LabelMap:
    ids = np.array(levels)
    away = np.abs(picture.astype(np.int16)[..., None] - ids)
    nearest = ids[away.argmin(axis=-1)].astype(np.uint8)
    near = scipy.ndimage.minimum_filter(away.min(axis=-1) <= NOISE, 3)
    # Something too small to have an inside has the level that its brightest pixel is nearest to.
    parts, count = scipy.ndimage.label(picture > ids[0] // 2, np.ones((3, 3)))
    owned, values = near.copy(), np.where(near, nearest, picture)
    for part in range(1, count + 1):
        inside = parts == part
        if not near[inside].any():
            peak = int(picture[inside].max())
            level = ids[np.abs(ids - peak).argmin()]
            owned |= inside & (picture > level // 2)
            values[inside & (picture > level // 2)] = level
    if not owned.any():
        return np.zeros_like(picture)
    where = scipy.ndimage.distance_transform_edt(
        ~owned, return_distances=False, return_indices=True
    )
    owner = values[tuple(where)]
    return np.where(owned | (picture > owner // 2), owner, 0).astype(np.uint8)


# Colours


def _judge_colours(masks: Iterable[StoredMask], source: str) -> dict[int, int]:
    """Find the id of each packed colour."""
    present: set[int] = set()
    solid: set[int] = set()
    border: Counter[int] = Counter()
    names: dict[Colour, int] = {}
    for mask in masks:
        picture = _packed(mask)
        if picture is not None:
            names |= mask.colours or {}
            present.update(np.unique(picture).tolist())
            core = scipy.ndimage.minimum_filter(picture, 3) == scipy.ndimage.maximum_filter(
                picture, 3
            )
            solid.update(np.unique(picture[core]).tolist())
            edges = np.concatenate([picture[0], picture[-1], picture[:, 0], picture[:, -1]])
            border.update(edges.tolist())
    soft = _blends(present - solid, solid)
    if len(soft) >= SOFT_LEVELS:
        present -= soft
    if len(present) > MAX_OBJECTS + 1:
        present = solid
    if not 1 < len(present) <= MAX_OBJECTS + 1:
        raise ValueError(
            f"{source} is a colour picture with {len(present)} areas of one colour: expected label "
            "indices, or one colour for each object, save it as a palette PNG"
        )
    ids, how = _ids_of_colours(sorted(present), border, names, source)
    shown = ", ".join(f"{_hex(colour)} is {number}" for colour, number in ids.items())
    logger.warning("%s is a colour picture, read %s: %s", source, how, shown)
    return ids


def _blends(colours: set[int], solid: set[int]) -> set[int]:
    """Find colours that are a mixture of two solid ones, as on a soft edge."""
    if not colours or not 1 < len(solid) <= MAX_OBJECTS + 1:
        return set()
    ends = _unpack(solid)
    starts, ways = ends[:, None], ends[None] - ends[:, None]
    lengths = (ways**2).sum(axis=-1)
    found = set()
    for colour in colours:
        offsets = _unpack({colour}) - starts
        along = (offsets * ways).sum(axis=-1) / np.maximum(lengths, 1)
        aside = np.abs(offsets - along[..., None] * ways).max(axis=-1)
        if ((aside <= CLOSE) & (along > 0) & (along < 1)).any():
            found.add(colour)
    return found


def _unpack(colours: set[int]) -> np.ndarray:
    """Unpack colours to (colours, 3) float."""
    packed = np.array(sorted(colours))
    return np.stack([packed >> 16, packed >> 8 & 255, packed & 255], axis=-1).astype(float)


def _ids_of_colours(
    colours: Sequence[int], border: Counter[int], names: Mapping[Colour, int], source: str
) -> tuple[dict[int, int], str]:
    """Find the id of each colour, and say how: by a list, by the DAVIS palette, or in order."""
    if names:
        known = {red << 16 | green << 8 | blue: i for (red, green, blue), i in names.items()}
        known.setdefault(0, 0)
        for colour in colours:
            if colour not in known:
                raise ValueError(
                    f"{source} has the colour {_hex(colour)}, which the list of colours beside it "
                    "lacks: add it there"
                )
        return {colour: known[colour] for colour in colours}, "by the list of colours beside it"
    palette = {int(colour): number for number, colour in enumerate(_pack(_davis_palette()))}
    if 0 in colours and all(colour in palette for colour in colours):
        return {colour: palette[colour] for colour in colours}, "by the palette of DAVIS"
    background = 0 if 0 in colours else border.most_common(1)[0][0]
    objects = [colour for colour in colours if colour != background]
    ids = {background: 0} | {colour: number for number, colour in enumerate(objects, start=1)}
    return ids, "in the order of red, green and blue"


def _number(mask: StoredMask, colours: Mapping[int, int]) -> LabelMap:
    """Convert colours to ids. A pixel of an unknown colour takes the nearest known one."""
    picture = _packed(mask)
    assert picture is not None
    known = np.array(sorted(colours))
    ids = np.array([colours[colour] for colour in known.tolist()], dtype=np.uint8)
    owned = np.isin(picture, known)
    if not owned.any():
        return np.zeros(picture.shape, np.uint8)
    if not owned.all():
        where = scipy.ndimage.distance_transform_edt(
            ~owned, return_distances=False, return_indices=True
        )
        picture = picture[tuple(where)]
    return ids[np.searchsorted(known, picture)]


def _packed(mask: StoredMask) -> np.ndarray | None:
    """Pack the colours of a mask into one number each, (H, W). Grey pictures are expanded to RGB."""
    if mask.kind == "colour":
        return _pack(mask.values)
    return _pack(np.repeat(mask.values[..., None], 3, axis=2)) if mask.kind == "grey" else None


def _pack(rgb: np.ndarray) -> np.ndarray:
    """Pack (..., 3) uint8 into one number each, red first."""
    wide = rgb.astype(np.uint32)
    return wide[..., 0] << 16 | wide[..., 1] << 8 | wide[..., 2]


def _hex(colour: int) -> str:
    return f"#{colour:06x}"


def _davis_palette() -> np.ndarray:
    # Matplotlib comes with it, which few masks need.
    from bundle.visualization.overlay import PALETTE

    return PALETTE
