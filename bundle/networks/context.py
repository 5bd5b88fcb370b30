"""Two optional inputs of the decoder: context by attention over a coarse grid, and the previous mask.

BN = clips x objects, flattened; h x w the grid at stride 16.
"""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

HEADS = 4


class ContextBlock(nn.Module):
    """Let each position of an object's stride-16 maps attend to all others.

    Memory matches each position separately. Here each position of the stride-32 grid (144 for a frame
    of 384x384) attends to all others, so that holes in an object are filled and distant patches are
    not. The weights of the last layer start at zero: an untrained block changes nothing.

    Args:
        channels: Number of channels of the maps.
        hidden: Number of channels of the tokens; a multiple of 4.

    Source:
        Positions are encoded by a depthwise convolution, which works for any frame size: Chu et al.
        2021, arXiv:2102.10882.

    Example:
        >>> block = ContextBlock(16, hidden=8)
        >>> maps = torch.randn(2, 16, 6, 5)
        >>> torch.equal(block(maps), maps)  # untrained: an identity
        True
    """

    def __init__(self, channels: int, hidden: int = 128) -> None:
        super().__init__()
        if hidden % HEADS:
            raise ValueError(f"context needs channels in multiples of {HEADS}, got {hidden}")
        self.enter = nn.Conv2d(channels, hidden, 1)
        self.place = nn.Conv2d(hidden, hidden, 3, padding=1, groups=hidden)
        self.norm1, self.norm2 = nn.LayerNorm(hidden), nn.LayerNorm(hidden)
        self.qkv = nn.Linear(hidden, 3 * hidden)
        self.join = nn.Linear(hidden, hidden)
        self.feed = nn.Sequential(
            nn.Linear(hidden, 2 * hidden), nn.GELU(), nn.Linear(2 * hidden, hidden)
        )
        self.conv = nn.Conv2d(hidden, hidden, 3, padding=1)
        self.leave = nn.Conv2d(hidden, channels, 1)
        nn.init.zeros_(self.leave.weight)
        assert self.leave.bias is not None
        nn.init.zeros_(self.leave.bias)

    def forward(self, x: Float[Tensor, "BN C h w"]) -> Float[Tensor, "BN C h w"]:
        """Return the maps with the context added."""
        size = x.shape[-2:]
        coarse = self.enter(F.avg_pool2d(torch.relu(x), 2, ceil_mode=True, count_include_pad=False))
        coarse = coarse + self.place(coarse)
        height, width = coarse.shape[-2:]
        tokens = coarse.flatten(2).transpose(1, 2)
        tokens = tokens + self._attend(self.norm1(tokens))
        tokens = tokens + self.feed(self.norm2(tokens))
        coarse = tokens.transpose(1, 2).unflatten(-1, (height, width))
        coarse = self.leave(torch.relu(coarse + self.conv(torch.relu(coarse))))
        return x + F.interpolate(coarse, size, mode="bilinear", align_corners=False)

    def _attend(self, tokens: Float[Tensor, "BN P D"]) -> Float[Tensor, "BN P D"]:
        query, key, value = (
            each.unflatten(-1, (HEADS, -1)).transpose(1, 2)
            for each in self.qkv(tokens).chunk(3, dim=-1)
        )
        read = F.scaled_dot_product_attention(query, key, value)
        return self.join(read.transpose(1, 2).flatten(2))


class PreviousMask(nn.Module):
    """Encodes the object's mask in the previous frame for the decoder.

    It sees two channels at stride 16: the object's probability in the previous frame, and a channel of
    1, which distinguishes an empty mask from no previous frame. Its weights start at zero.

    Args:
        channels: Number of channels of the decoder's maps at stride 16.

    Example:
        >>> previous = PreviousMask(16)
        >>> previous(torch.rand(1, 2, 64, 48)).shape
        torch.Size([2, 16, 4, 3])
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(2, channels, 3, padding=1, bias=False)
        nn.init.zeros_(self.conv.weight)

    def forward(
        self,
        probability: Float[Tensor, "B N H W"],
        known: Float[Tensor, " B"] | None = None,
    ) -> Float[Tensor, "BN C h w"]:
        """Compute the maps to add to each object's maps.

        Args:
            probability: Probability of each object in the previous frame.
            known: 1 for clips with a previous frame, 0 for others, whose probability is ignored. By
                default all have one.
        """
        return self.conv(shrink_mask(probability, known))


def shrink_mask(
    probability: Float[Tensor, "B N H W"], known: Float[Tensor, " B"] | None = None
) -> Float[Tensor, "BN 2 h w"]:
    """The two channels for ``PreviousMask``; all 0 for clips without a previous frame.

    Example:
        >>> shrink_mask(torch.ones(1, 1, 16, 16), torch.tensor([0.0])).flatten().tolist()
        [0.0, 0.0]
    """
    coarse = F.avg_pool2d(probability.flatten(0, 1)[:, None], 16)
    there = torch.ones_like(coarse)
    if known is not None:
        there = there * known.repeat_interleave(probability.shape[1])[:, None, None, None]
    return torch.cat([coarse * there, there], dim=1)
