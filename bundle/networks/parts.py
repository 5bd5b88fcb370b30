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
