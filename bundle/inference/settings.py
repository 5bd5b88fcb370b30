"""The settings of inference: their defaults, their limits, and how they are read from text.

All interfaces use them: Python, the command line, the configs, the annotation page, MONAI Label,
evaluation, and validation in training. The module imports nothing heavy, so that the command line
starts quickly.
"""

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, fields
from typing import Any, get_args

DIRECTIONS = ("both", "forward", "backward")
PRECISIONS = ("auto", "float32", "bfloat16", "float16")
SMALLEST_SIZE = 16
"""Smallest inference size in pixels: the stride of the network's coarsest map."""
DEFAULT = "default"
"""Text in configs that means a setting's default."""
OLD_NAMES = {
    "working_size": "inference_size",
    "capacity": "max_memory_frames",
}
"""Old name -> new name, of settings up to version 0.10."""
GONE = dict.fromkeys(
    ("eviction", "policy"), "the oldest remembered frame is dropped when memory is full"
)
"""Removed settings up to version 0.11 -> what applies instead."""


@dataclass(frozen=True)
class InferenceSettings:
    """How masks are propagated through a video.

    Args:
        memory_every: Every ``memory_every``-th frame is remembered, and all whose mask was given.
        remember_last: Whether the last frame is remembered, too, until the next one is segmented; not
            in the paper.
        max_memory_frames: Largest number of remembered frames, at least 2, so that long videos take no
            more time per frame than short ones; None for no limit (the paper); ``auto`` for as many as
            fit into half of the device's free memory.
        inference_size: Shorter side in pixels at which frames pass through the network, at least 16;
            None for their own size (the paper). Masks are returned at the frames' size.
        precision: ``float32``, ``bfloat16``, ``float16`` or ``auto``; see
            ``bundle.utils.devices.autocast``.
        direction: ``both`` ways from each mask, ``forward`` or ``backward``.
        spatial_prior: Standard deviation of a Gaussian that favours memory at the same place, as a
            share of the shorter side, above 0; ``auto`` to adapt it to each frame's motion; None for
            none (the paper). See ``bundle.memory.bank``.
        review_below: Frames with an object whose confidence is below this, 0 to 1, are flagged for
            review; 0 flags none for it. Frames in which an object vanished are flagged in any case, see
            ``bundle.inference.results``.

    Raises:
        ValueError: A setting is out of range.

    Example:
        >>> InferenceSettings(inference_size=256).inference_size
        256
    """

    memory_every: int = 5
    remember_last: bool = True
    max_memory_frames: int | str | None = 12
    inference_size: int | None = 320
    precision: str = "auto"
    direction: str = "both"
    spatial_prior: float | str | None = "auto"
    review_below: float = 0.7

    def __post_init__(self) -> None:
        limit, size, prior = self.max_memory_frames, self.inference_size, self.spatial_prior
        _check(self.memory_every >= 1, "memory_every must be at least 1 frame", self.memory_every)
        _check(
            limit in (None, "auto") or (isinstance(limit, int) and limit >= 2),
            "max_memory_frames must be at least 2, the first frame and one more, or auto or null",
            limit,
        )
        _check(
            size is None or size >= SMALLEST_SIZE,
            f"inference_size must be at least {SMALLEST_SIZE} pixels",
            size,
        )
        _check(
            prior in (None, "auto") or (isinstance(prior, (int, float)) and prior > 0),
            "spatial_prior must be above 0, auto, or null for none",
            prior,
        )
        _check(
            0 <= self.review_below <= 1, "review_below must be between 0 and 1", self.review_below
        )
        for name, choices in (("precision", PRECISIONS), ("direction", DIRECTIONS)):
            value = getattr(self, name)
            _check(value in choices, f"{name} must be one of {', '.join(choices)}", repr(value))


def parse_settings(**values: Any) -> InferenceSettings:
    """Read settings that may be text, from command lines and configs.

    Args:
        values: Name -> value. A number may be text; ``null`` and ``none`` mean None; ``default``
            means the default, as does a missing name.

    Raises:
        ValueError: A value has the wrong type or is out of range.
        TypeError: A setting does not exist.

    Example:
        >>> parse_settings(inference_size="null", review_below="0.5", direction="default")
        InferenceSettings(memory_every=5, remember_last=True, max_memory_frames=12,
        inference_size=None, precision='auto', direction='both', spatial_prior='auto',
        review_below=0.5)
    """
    types = {
        field.name: [each.__name__ for each in get_args(field.type) or (field.type,)]
        for field in fields(InferenceSettings)
    }
    read = {
        name: _read(name, value, types[name]) if name in types else value
        for name, value in values.items()
        if value != DEFAULT
    }
    return InferenceSettings(**read)


def _read(name: str, value: Any, kinds: Sequence[str]) -> Any:
    """Convert a value to one of the types of its field."""
    if value is None or (isinstance(value, str) and value.lower() in ("null", "none")):
        value = None
    elif isinstance(value, str) and "int" in kinds:
        with suppress(ValueError):
            value = int(value)
    elif isinstance(value, str) and "float" in kinds:
        with suppress(ValueError):
            value = float(value)
    elif isinstance(value, str) and "bool" in kinds:
        value = {"true": True, "false": False}.get(value.lower(), value)
    fits = {
        "NoneType": value is None,
        "bool": isinstance(value, bool),
        "int": isinstance(value, int) and not isinstance(value, bool),
        "float": isinstance(value, (int, float)) and not isinstance(value, bool),
        # The only text that a field of numbers may have is ``auto``.
        "str": isinstance(value, str) and (len(kinds) == 1 or value == "auto"),
    }
    if not any(fits[each] for each in kinds):
        words = {
            "int": "a whole number",
            "float": "a number",
            "NoneType": "null",
            "bool": "true or false",
        }
        words["str"] = "text" if len(kinds) == 1 else "auto"
        expected = " or ".join(words[each] for each in kinds)
        raise ValueError(f"{name} must be {expected}, got {value!r}")
    return value


def _check(sound: bool, expected: str, value: object) -> None:
    if not sound:
        raise ValueError(f"{expected}, got {value}")
