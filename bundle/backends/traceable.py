"""Parts of the network as modules of plain tensors, which converters to other formats want."""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from bundle.networks.context import shrink_mask
from bundle.networks.decoder import enlarge
from bundle.networks.encoders import FrameFeatures
from bundle.networks.tcmn import TCMN, aggregate, complete_masks


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

    def forward(
        self,
        readout: Tensor,
        query: Tensor,
        stride8: Tensor,
        stride4: Tensor,
        previous: Tensor | None = None,
    ) -> Tensor:
        # The decoder looks neither at the key nor at stride 16.
        features = FrameFeatures(query, query, query, stride8, stride4)
        return self.decoder(readout, features, previous)


class EncodeWithSkips(Encode):
    """The same, but of strides 8 and 4 what the decoder takes, a fourth of what there is."""

    def __init__(self, network: TCMN) -> None:
        super().__init__(network)
        self.decoder = network.decoder

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        key, query, stride16, stride8, stride4 = self.encoder(image)
        return key, query, stride16, *self.decoder.skips(stride8, stride4)


class Memorize(nn.Module):
    """The values (N, V, h, w) to remember of one frame, from its masks (1, N, H, W).

    A network that takes partial masks wants to know where they are guesses, in a third map.
    """

    def __init__(self, network: TCMN) -> None:
        super().__init__()
        self.encoder = network.mask_encoder

    def forward(self, masks: Tensor, stride16: Tensor, *unknown: Tensor) -> tuple[Tensor]:
        return (self.encoder(masks, stride16, *unknown)[0],)


class Refine(nn.Module):
    """Logits (N, 1, 4h, 4w) of one frame's objects at stride 4, from readouts (N, V, h, w).

    A network that looks at the masks of the frame before wants them (N, 2, h, w), as ``shrink_mask``
    makes them.
    """

    def __init__(self, network: TCMN) -> None:
        super().__init__()
        self.decoder = network.decoder

    def forward(
        self, readout: Tensor, query: Tensor, skip8: Tensor, skip4: Tensor, *previous: Tensor
    ) -> tuple[Tensor]:
        before: Tensor | None = None
        for each in previous:  # one, in a network that is told the mask before
            assert self.decoder.previous is not None
            before = self.decoder.previous.conv(each)
        return (self.decoder.refine(readout, query, skip8, skip4, before),)


class NetworkOfParts(nn.Module):
    """Stands in for ``TCMN``; each part is run one frame at a time by whatever runs it.

    Args:
        partial_masks: As of ``TCMN``; ``memorize`` then has one input more.
        previous_mask: Likewise, of ``decode``.
    """

    def __init__(self, *, partial_masks: bool, previous_mask: bool) -> None:
        super().__init__()
        self.partial_masks, self.previous_mask = partial_masks, previous_mask

    def encode(self, image: Float[Tensor, "B 3 H W"]) -> FrameFeatures:
        """As ``TCMN.encode``, but the maps at strides 8 and 4 are the decoder's skips already."""
        key, *maps = self._run("encode", image)
        return FrameFeatures(key.clone(), *maps)

    def memorize(
        self,
        features: FrameFeatures,
        masks: Float[Tensor, "B N H W"],
        unknown: Float[Tensor, "B N H W"] | None = None,
    ) -> Float[Tensor, "B N V h w"]:
        """As ``TCMN.memorize``."""
        inputs = [masks[:, None], features.stride16[:, None]]
        if self.partial_masks:
            unknown = torch.zeros_like(masks) if unknown is None else unknown
            inputs.append(unknown[:, None])
        frames = zip(*inputs, strict=True)
        return torch.stack([self._run("memorize", *each)[0].clone() for each in frames])

    def segment(
        self,
        features: FrameFeatures,
        readout: Float[Tensor, "B N V h w"],
        previous: Float[Tensor, "B N H W"] | None = None,
    ) -> Float[Tensor, "B 1+N H W"]:
        """As ``TCMN.segment``."""
        maps = (features.query, features.stride8, features.stride4)
        inputs = [readout, *(x[:, None] for x in maps)]
        if self.previous_mask:
            batch, objects, _, height, width = readout.shape
            if previous is None:
                before = readout.new_zeros(batch * objects, 2, height, width)
            else:
                before = shrink_mask(previous)
            inputs.append(before.unflatten(0, (batch, objects)))
        frames = zip(*inputs, strict=True)
        logits = [enlarge(self._run("decode", *each)[0]) for each in frames]
        return aggregate(torch.sigmoid(torch.stack(logits)[:, :, 0]))

    def complete(
        self,
        features: FrameFeatures,
        masks: Float[Tensor, "B N H W"],
        unknown: Float[Tensor, "B N H W"],
        rounds: int = 2,
    ) -> Float[Tensor, "B 1+N H W"]:
        """As ``TCMN.complete``."""
        return complete_masks(self, features, masks, unknown, rounds)

    def _run(self, part: str, *inputs: Tensor) -> list[Tensor]:
        """The outputs of ``encode``, ``memorize`` or ``decode``: of the modules above."""
        raise NotImplementedError


class ChannelsLast(nn.Module):
    """A part with the channels of its maps behind, as OpenVINO computes: nothing is rearranged."""

    def __init__(self, part: nn.Module) -> None:
        super().__init__()
        self.part = part

    def forward(self, *maps: Tensor) -> tuple[Tensor, ...]:
        return tuple(x.movedim(1, -1) for x in self.part(*(x.movedim(-1, 1) for x in maps)))
