"""Parts of the network as modules of plain tensors, for conversion; a network made of such parts."""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from bundle.networks.context import shrink_mask
from bundle.networks.decoder import enlarge
from bundle.networks.encoders import FrameFeatures
from bundle.networks.tcmn import TCMN, aggregate, complete_masks


class Encode(nn.Module):
    """A frame's features as a tuple. Pixel normalisation is part of the graph."""

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
        # The decoder uses neither the key nor stride 16.
        features = FrameFeatures(query, query, query, stride8, stride4)
        return self.decoder(readout, features, previous)


class EncodeWithSkips(Encode):
    """``Encode`` with the decoder's skips, a quarter of the size, as maps at strides 8 and 4."""

    def __init__(self, network: TCMN) -> None:
        super().__init__(network)
        self.decoder = network.decoder

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        key, query, stride16, stride8, stride4 = self.encoder(image)
        return key, query, stride16, *self.decoder.skips(stride8, stride4)


class Memorize(nn.Module):
    """The value maps (N, V, h, w) to remember for one frame, from its masks (1, N, H, W).

    A network that takes partial masks has a third input: where they are guesses.
    """

    def __init__(self, network: TCMN) -> None:
        super().__init__()
        self.encoder = network.mask_encoder

    def forward(self, masks: Tensor, stride16: Tensor, *unknown: Tensor) -> tuple[Tensor]:
        return (self.encoder(masks, stride16, *unknown)[0],)


class Refine(nn.Module):
    """Logits (N, 1, 4h, 4w) of one frame's objects at stride 4, from readouts (N, V, h, w).

    A network that uses the previous masks has them as another input, (N, 2, h, w) from ``shrink_mask``.
    """

    def __init__(self, network: TCMN) -> None:
        super().__init__()
        self.decoder = network.decoder

    def forward(
        self, readout: Tensor, query: Tensor, skip8: Tensor, skip4: Tensor, *previous: Tensor
    ) -> tuple[Tensor]:
        before: Tensor | None = None
        for each in previous:  # at most one
            assert self.decoder.previous is not None
            before = self.decoder.previous.conv(each)
        return (self.decoder.refine(readout, query, skip8, skip4, before),)


class NetworkOfParts(nn.Module):
    """A replacement for ``TCMN`` whose subclasses run the parts, one frame at a time.

    Args:
        partial_masks: See ``TCMN``; the part ``memorize`` then has one more input.
        previous_mask: See ``TCMN``; the part ``decode`` then has one more input.
    """

    def __init__(self, *, partial_masks: bool, previous_mask: bool) -> None:
        super().__init__()
        self.partial_masks, self.previous_mask = partial_masks, previous_mask

    def encode(self, image: Float[Tensor, "B 3 H W"]) -> FrameFeatures:
        """See ``TCMN.encode``; here the maps at strides 8 and 4 are the decoder's skips."""
        key, *maps = self._run("encode", image)
        return FrameFeatures(key.clone(), *maps)

    def memorize(
        self,
        features: FrameFeatures,
        masks: Float[Tensor, "B N H W"],
        unknown: Float[Tensor, "B N H W"] | None = None,
    ) -> Float[Tensor, "B N V h w"]:
        """See ``TCMN.memorize``."""
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
        """See ``TCMN.segment``."""
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
        """See ``TCMN.complete``."""
        return complete_masks(self, features, masks, unknown, rounds)

    def _run(self, part: str, *inputs: Tensor) -> list[Tensor]:
        """Run ``encode``, ``memorize`` or ``decode``, and return the outputs of that module."""
        raise NotImplementedError


class ChannelsLast(nn.Module):
    """A part whose maps have channels last, as OpenVINO computes, so that nothing is rearranged."""

    def __init__(self, part: nn.Module) -> None:
        super().__init__()
        self.part = part

    def forward(self, *maps: Tensor) -> tuple[Tensor, ...]:
        return tuple(x.movedim(1, -1) for x in self.part(*(x.movedim(-1, 1) for x in maps)))
