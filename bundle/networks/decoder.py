"""The decoder: from the memory readout and the frame's features to one mask logit per object.

BN = clips x objects, flattened; H8 x W8 and H4 x W4 the grids at strides 8 and 4.
"""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from bundle.networks.context import ContextBlock, PreviousMask
from bundle.networks.encoders import FrameFeatures
from bundle.networks.shared_conv import JoinedConv2d, per_object


class ResidualConv(nn.Module):
    """Two 3x3 convolutions with a shortcut around them."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.conv2(torch.relu(self.conv1(torch.relu(x))))


class JoinedResidualConv(nn.Module):
    """``ResidualConv`` of an object's maps and its frame's maps, joined; its shortcut is 1x1."""

    def __init__(self, own: int, shared: int, outputs: int) -> None:
        super().__init__()
        self.conv1 = JoinedConv2d(own, shared, outputs, 3)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1)
        self.shortcut = JoinedConv2d(own, shared, outputs, 1)

    def forward(self, own: Tensor, shared: Tensor) -> Tensor:
        hidden = self.conv1(torch.relu(own), torch.relu(shared))
        return self.shortcut(own, shared) + self.conv2(torch.relu(hidden))


class MaskDecoder(nn.Module):
    """Decodes readout and query feature from stride 16 over 8 to 4, with skips (TCMN section 2.3).

    Args:
        value_channels: Number of channels of the readout, and of the query feature.
        skip_channels: Channels of the query backbone at strides 8 and 4.
        decoder_channels: Channels of the decoder at strides 16, 8 and 4.
        context_channels: Channels of the context block; 0 for none, as in the paper.
        previous_mask: Whether to use the mask of the previous frame; the paper's network does not.
    """

    def __init__(
        self,
        value_channels: int,
        skip_channels: tuple[int, int],
        decoder_channels: tuple[int, int, int],
        context_channels: int = 0,
        previous_mask: bool = False,
    ) -> None:
        super().__init__()
        wide, middle, narrow = decoder_channels
        self.compress = JoinedResidualConv(value_channels, value_channels, wide)
        # Widths change at the lower resolution, where it costs a quarter.
        self.reduce8, self.reduce4 = nn.Conv2d(wide, middle, 1), nn.Conv2d(middle, narrow, 1)
        self.skip8 = nn.Conv2d(skip_channels[0], middle, 1)
        self.skip4 = nn.Conv2d(skip_channels[1], narrow, 1)
        self.refine8 = ResidualConv(middle)
        self.refine4 = ResidualConv(narrow)
        self.predict = nn.Conv2d(narrow, 1, 3, padding=1)
        self.context = ContextBlock(wide, context_channels) if context_channels else None
        self.previous = PreviousMask(wide) if previous_mask else None

    def forward(
        self,
        readout: Float[Tensor, "B N V h w"],
        features: FrameFeatures,
        previous: Float[Tensor, "B N H W"] | None = None,
        known: Float[Tensor, " B"] | None = None,
    ) -> Float[Tensor, "B N H W"]:
        """Compute the logit of each object.

        Args:
            readout: Value maps read from memory for the frame.
            features: Features of the frame.
            previous: Probability of each object in the previous frame, if there is one.
            known: For a batch: 1 for clips with a previous frame, else 0.
        """
        batch, objects = readout.shape[:2]
        skips = self.skips(features.stride8, features.stride4)
        before = None
        if self.previous is not None and previous is not None:
            before = self.previous(previous.to(readout), known)
        logit = self.refine(readout.flatten(0, 1), features.query, *skips, before)
        return enlarge(logit).unflatten(0, (batch, objects))[:, :, 0]

    def skips(
        self, stride8: Float[Tensor, "B C8 H8 W8"], stride4: Float[Tensor, "B C4 H4 W4"]
    ) -> tuple[Float[Tensor, "B D8 H8 W8"], Float[Tensor, "B D4 H4 W4"]]:
        """Compute the skips of a frame, which all of its objects share."""
        return self.skip8(stride8), self.skip4(stride4)

    def refine(
        self,
        readout: Float[Tensor, "BN V h w"],
        query: Float[Tensor, "B V h w"],
        skip8: Float[Tensor, "B D8 H8 W8"],
        skip4: Float[Tensor, "B D4 H4 W4"],
        before: Float[Tensor, "BN D16 h w"] | None = None,
    ) -> Float[Tensor, "BN 1 H4 W4"]:
        """Compute each object's logit at stride 4; ``before`` is the output of ``PreviousMask``."""
        x = self.compress(readout, query)
        if before is not None:
            x = x + before
        if self.context is not None:
            x = self.context(x)
        x = self.refine8(_add_skip(self.reduce8(x), skip8))
        x = self.refine4(_add_skip(self.reduce4(x), skip4))
        return self.predict(torch.relu(x))


def enlarge(logit: Float[Tensor, "BN 1 H4 W4"]) -> Float[Tensor, "BN 1 H W"]:
    """Upsample logits from stride 4 to the frame's size, in float32."""
    return F.interpolate(logit.float(), scale_factor=4, mode="bilinear", align_corners=False)


def _add_skip(x: Tensor, skip: Tensor) -> Tensor:
    """Upsample by 2 and add the frame's skip to the maps of each of its objects."""
    x = F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=False)
    return x + per_object(skip, x)
