"""The spatial prior: a Gaussian that favours memory at the same place, and the choice of its width.

B clips, K key channels, h x w feature grid.
"""

import torch
from jaxtyping import Float
from torch import Tensor

LOOKS = 8
"""Number of positions along the frame's shorter side from which ``auto`` estimates motion."""


def check_prior(spatial_prior: float | str | None) -> None:
    """Check the value of a spatial prior.

    Raises:
        ValueError: It is neither a positive number, nor ``auto``, nor None.
    """
    usable = spatial_prior in (None, "auto")
    if isinstance(spatial_prior, (int, float)):
        usable = spatial_prior > 0
    if not usable:
        raise ValueError(
            f"spatial_prior must be above 0, auto, or null for none, got {spatial_prior}"
        )


def places(like: Float[Tensor, "B K h w"]) -> Float[Tensor, "B h w 2"]:
    """(row, column) of each position from the frame's middle, as shares of its shorter side."""
    height, width = like.shape[-2:]
    sides = (
        (torch.arange(side, device=like.device) - (side - 1) / 2) / min(height, width)
        for side in (height, width)
    )
    grid = torch.stack(torch.meshgrid(*sides, indexing="ij"), dim=-1)
    return grid.expand(len(like), -1, -1, -1)


def looks(like: Float[Tensor, "B K h w"]) -> tuple[slice, slice, slice]:
    """Index into maps (B, h, w, ...) of the positions from which ``auto`` estimates motion."""
    step = max(1, min(like.shape[-2:]) // LOOKS)
    return slice(None), slice(step // 2, None, step), slice(step // 2, None, step)


def width_for(motion: Tensor) -> Tensor:
    """The spatial prior that ``auto`` uses for a motion; both are shares of the frame's shorter side.

    Source:
        docs/decisions/0009-spatial-prior.md has the evidence for the numbers.
    """
    return (15 * motion.square()).clamp(0.15, 0.5)
