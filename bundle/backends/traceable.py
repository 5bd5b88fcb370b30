"""Parts of the network as modules of plain tensors, which converters to other formats want."""

from torch import Tensor, nn

from bundle.networks.encoders import FrameFeatures
from bundle.networks.tcmn import TCMN


class Encode(nn.Module):
    """A frame's features. The pixels' mean and standard deviation are in the graph."""

    def __init__(self, network: TCMN) -> None:
        super().__init__()
        self.encoder = network.query_encoder

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        return tuple(self.encoder(image))


class Decode(nn.Module):
    """Each object's own logit (B, N, H, W) from its readout and the frame's features."""

    def __init__(self, network: TCMN) -> None:
        super().__init__()
        self.decoder = network.decoder

    def forward(self, readout: Tensor, query: Tensor, stride8: Tensor, stride4: Tensor) -> Tensor:
        # The decoder looks neither at the key nor at stride 16.
        return self.decoder(readout, FrameFeatures(query, query, query, stride8, stride4))


class EncodeWithSkips(Encode):
    """The same, but of strides 8 and 4 what the decoder takes, a fourth of what there is."""

    def __init__(self, network: TCMN) -> None:
        super().__init__(network)
        self.decoder = network.decoder

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        key, query, stride16, stride8, stride4 = self.encoder(image)
        return key, query, stride16, *self.decoder.skips(stride8, stride4)


class Memorize(nn.Module):
    """The values (N, V, h, w) to remember of one frame, from its masks (1, N, H, W)."""

    def __init__(self, network: TCMN) -> None:
        super().__init__()
        self.encoder = network.mask_encoder

    def forward(self, masks: Tensor, stride16: Tensor) -> tuple[Tensor]:
        return (self.encoder(masks, stride16)[0],)


class Refine(nn.Module):
    """Logits (N, 1, 4h, 4w) of one frame's objects at stride 4, from readouts (N, V, h, w)."""

    def __init__(self, network: TCMN) -> None:
        super().__init__()
        self.decoder = network.decoder

    def forward(
        self, readout: Tensor, query: Tensor, skip8: Tensor, skip4: Tensor
    ) -> tuple[Tensor]:
        return (self.decoder.refine(readout, query, skip8, skip4),)


class ChannelsLast(nn.Module):
    """A part with the channels of its maps behind, as OpenVINO computes: nothing is rearranged."""

    def __init__(self, part: nn.Module) -> None:
        super().__init__()
        self.part = part

    def forward(self, *maps: Tensor) -> tuple[Tensor, ...]:
        return tuple(x.movedim(1, -1) for x in self.part(*(x.movedim(-1, 1) for x in maps)))
