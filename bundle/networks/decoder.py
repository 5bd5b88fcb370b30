"""From the memory readout to one mask logit per object. BN = clips x objects, flattened."""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from bundle.networks.encoders import FrameFeatures


class ResidualConv(nn.Module):
    """Two 3x3 convolutions around a shortcut, which is a 1x1 convolution if the width changes."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, padding=1)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1)
        self.shortcut = nn.Identity() if inputs == outputs else nn.Conv2d(inputs, outputs, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.shortcut(x) + self.conv2(torch.relu(self.conv1(torch.relu(x))))


class MaskDecoder(nn.Module):
    """Readout and query feature, up from stride 16 over 8 and 4 with skips (TCMN section 2.3).

    Args:
        value_channels: Width of the readout and of the query feature each.
        skip_channels: Widths of the query trunk at strides 8 and 4.
        decoder_channels: Widths of the decoder at strides 16, 8 and 4.
    """

    def __init__(
        self,
        value_channels: int,
        skip_channels: tuple[int, int],
        decoder_channels: tuple[int, int, int],
    ) -> None:
        super().__init__()
        wide, middle, narrow = decoder_channels
        self.compress = ResidualConv(2 * value_channels, wide)
        # Widths change at the lower resolution, where it costs a quarter.
        self.reduce8, self.reduce4 = nn.Conv2d(wide, middle, 1), nn.Conv2d(middle, narrow, 1)
        self.skip8 = nn.Conv2d(skip_channels[0], middle, 1)
        self.skip4 = nn.Conv2d(skip_channels[1], narrow, 1)
        self.refine8 = ResidualConv(middle, middle)
        self.refine4 = ResidualConv(narrow, narrow)
        self.predict = nn.Conv2d(narrow, 1, 3, padding=1)

    def forward(
        self, readout: Float[Tensor, "B N V h w"], features: FrameFeatures
    ) -> Float[Tensor, "B N H W"]:
        batch, objects = readout.shape[:2]
        query = features.query.repeat_interleave(objects, dim=0)
        x = self.compress(torch.cat([readout.flatten(0, 1), query], dim=1))
        x = self.refine8(_add_skip(self.reduce8(x), self.skip8(features.stride8)))
        x = self.refine4(_add_skip(self.reduce4(x), self.skip4(features.stride4)))
        logit = self.predict(torch.relu(x)).float()
        logit = F.interpolate(logit, scale_factor=4, mode="bilinear", align_corners=False)
        return logit.unflatten(0, (batch, objects))[:, :, 0]


def _add_skip(x: Tensor, skip: Tensor) -> Tensor:
    """Upsample x2 and add the frame's skip, which its objects share, to each of them."""
    x = F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=False)
    return x + skip.repeat_interleave(x.shape[0] // skip.shape[0], dim=0)
