"""``TCMN``, the Temporal Contrastive Memory Network; shapes as in ``bundle.types``."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol, runtime_checkable

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from bundle.memory.attention import LAST_WEIGHT, read_memory
from bundle.networks.decoder import MaskDecoder
from bundle.networks.encoders import FrameFeatures, MaskEncoder, QueryEncoder
from bundle.types import ClassLogits, Clip

STRIDE = 16


@runtime_checkable
class VideoNetwork(Protocol):
    """The interface of a network that segments videos; see ``TCMN``."""

    def encode(self, image: Float[Tensor, "B 3 H W"]) -> FrameFeatures: ...

    def memorize(
        self,
        features: FrameFeatures,
        masks: Float[Tensor, "B N H W"],
        unknown: Float[Tensor, "B N H W"] | None = None,
    ) -> Float[Tensor, "B N V h w"]: ...

    def segment(
        self,
        features: FrameFeatures,
        readout: Float[Tensor, "B N V h w"],
        previous: Float[Tensor, "B N H W"] | None = None,
    ) -> Float[Tensor, "B 1+N H W"]: ...

    def parameters(self) -> Iterator[nn.Parameter]: ...


class ClipPrediction(NamedTuple):
    """Class logits and value maps of a clip, for the training loss."""

    logits: ClassLogits
    values: Float[Tensor, "B N V T h w"]


class TCMN(nn.Module):
    """One-shot video object segmentation with a memory of keys and values.

    Args:
        backbone: Query backbone, ``resnet50`` or ``resnet18``.
        mask_backbone: Mask backbone.
        key_channels: Number of channels of keys.
        value_channels: Number of channels of values and of the query feature.
        decoder_channels: Numbers of channels of the decoder at strides 16, 8 and 4.
        backbone_weights: ``"imagenet"``, a file, or None; see ``Backbone``.
        mask_backbone_weights: The same for the mask backbone.
        stride_in_1x1: The layout the ResNet-50 weights were trained in; see ``Backbone``.
        pixel_mean: RGB mean in [0, 1] that the query backbone was trained with.
        pixel_std: RGB standard deviation that it was trained with.
        memory_every: In ``forward``, every ``memory_every``-th frame is remembered.
        remember_last: In ``forward``, the last frame is, too, until the next one; not in the paper.
        context_channels: Number of channels of the decoder's context block; 0 for none.
        previous_mask: Whether the decoder sees the mask of the previous frame.
        partial_masks: Whether the network takes partial masks as prompts; see ``complete``.

    The last three are not in the paper. Their weights start at zero: before training, a network that
    has them gives the same result for whole masks as one that does not.

    Attributes:
        definition: The arguments that weights depend on; see ``bundle.networks.weights``.

    Source:
        TCMN, MICCAI 2024; where the paper gives no detail, STCN, arXiv:2106.05210.

    Example:
        >>> network = TCMN("resnet18", key_channels=8, value_channels=16, decoder_channels=(16, 8, 8))
        >>> clip = torch.rand(1, 3 + 2, 32, 48, 4)  # RGB and two masks, four frames
        >>> network.eval()(clip).shape
        torch.Size([1, 3, 32, 48, 4])
    """

    def __init__(
        self,
        backbone: str = "resnet50",
        mask_backbone: str = "resnet18",
        key_channels: int = 64,
        value_channels: int = 256,
        decoder_channels: Sequence[int] = (256, 128, 64),
        backbone_weights: str | Path | None = None,
        mask_backbone_weights: str | Path | None = None,
        stride_in_1x1: bool = False,
        pixel_mean: Sequence[float] = (0.485, 0.456, 0.406),
        pixel_std: Sequence[float] = (0.229, 0.224, 0.225),
        memory_every: int = 5,
        remember_last: bool = True,
        context_channels: int = 0,
        previous_mask: bool = False,
        partial_masks: bool = False,
    ) -> None:
        super().__init__()
        wide, middle, narrow = decoder_channels
        self.memory_every, self.remember_last = memory_every, remember_last
        self.partial_masks = partial_masks
        self.definition: dict[str, Any] = {
            "backbone": backbone,
            "mask_backbone": mask_backbone,
            "key_channels": key_channels,
            "value_channels": value_channels,
            "decoder_channels": list(decoder_channels),
            "stride_in_1x1": stride_in_1x1,
            "pixel_mean": list(pixel_mean),
            "pixel_std": list(pixel_std),
            "context_channels": context_channels,
            "previous_mask": previous_mask,
            "partial_masks": partial_masks,
        }
        self.query_encoder = QueryEncoder(
            backbone,
            key_channels,
            value_channels,
            backbone_weights,
            stride_in_1x1=stride_in_1x1,
            pixel_mean=tuple(pixel_mean),
            pixel_std=tuple(pixel_std),
        )
        stride4, stride8, stride16 = self.query_encoder.trunk.channels
        self.mask_encoder = MaskEncoder(
            mask_backbone,
            stride16,
            value_channels,
            mask_backbone_weights,
            partial_masks=partial_masks,
        )
        self.decoder = MaskDecoder(
            value_channels,
            (stride8, stride4),
            (wide, middle, narrow),
            context_channels,
            previous_mask,
        )

    def train(self, mode: bool = True) -> "TCMN":
        """Set the mode, but keep BatchNorm in evaluation mode, so that its statistics never change.

        MONAI's trainer calls this before every iteration, so freezing it once would not be enough.
        """
        super().train(mode)
        for module in self.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.eval()
        return self

    def __prepare_scriptable__(self) -> nn.Module:
        """The module that ``torch.jit.script``, and so MONAI's ``ckpt_export``, compiles instead."""
        from bundle.networks.scriptable import ScriptableTCMN  # here: it imports this module

        return ScriptableTCMN(self)

    def encode(self, image: Float[Tensor, "B 3 H W"]) -> FrameFeatures:
        """Encode frames.

        Args:
            image: RGB in [0, 1], with H and W multiples of 16.

        Returns:
            Key and query maps at stride 16, and features at strides 16, 8 and 4.

        Example:
            >>> network = TCMN("resnet18", key_channels=8, value_channels=16).eval()
            >>> features = network.encode(torch.rand(2, 3, 32, 48))
            >>> features.key.shape, features.query.shape
            (torch.Size([2, 8, 2, 3]), torch.Size([2, 16, 2, 3]))
        """
        return self.query_encoder(image)

    def memorize(
        self,
        features: FrameFeatures,
        masks: Float[Tensor, "B N H W"],
        unknown: Float[Tensor, "B N H W"] | None = None,
    ) -> Float[Tensor, "B N V h w"]:
        """Compute the value maps to remember for a frame.

        Args:
            features: Features of the frame.
            masks: Masks of its objects, in [0, 1].
            unknown: 1 where ``masks`` is a guess, else 0; by default all 0.

        Returns:
            A value map for each object, at stride 16.

        Example:
            >>> network = TCMN("resnet18", key_channels=8, value_channels=16).eval()
            >>> features = network.encode(torch.rand(1, 3, 32, 48))
            >>> network.memorize(features, torch.zeros(1, 2, 32, 48)).shape  # two objects
            torch.Size([1, 2, 16, 2, 3])
        """
        return self.mask_encoder(masks, features.stride16, unknown)

    def segment(
        self,
        features: FrameFeatures,
        readout: Float[Tensor, "B N V h w"],
        previous: Float[Tensor, "B N H W"] | None = None,
        known: Float[Tensor, " B"] | None = None,
    ) -> Float[Tensor, "B 1+N H W"]:
        """Compute the class logits of a frame.

        Args:
            features: Features of the frame.
            readout: Value maps read from memory.
            previous: Probability of each object in the previous frame, if there is one.
            known: For a batch: 1 for clips with a previous frame, else 0.

        Returns:
            Logits of the background and of each object, float32. Their softmax is the probability.

        Example:
            >>> network = TCMN("resnet18", key_channels=8, value_channels=16).eval()
            >>> features = network.encode(torch.rand(1, 3, 32, 48))
            >>> readout = network.memorize(features, torch.zeros(1, 2, 32, 48))
            >>> network.segment(features, readout).shape  # background and two objects
            torch.Size([1, 3, 32, 48])
        """
        return aggregate(torch.sigmoid(self.decoder(readout, features, previous, known)))

    def complete(
        self,
        features: FrameFeatures,
        masks: Float[Tensor, "B N H W"],
        unknown: Float[Tensor, "B N H W"],
        rounds: int = 2,
    ) -> Float[Tensor, "B 1+N H W"]:
        """Compute the class logits of a frame from partial masks, such as boxes and points.

        Needs a network with ``partial_masks``; see ``complete_masks`` for the arguments.

        Example:
            >>> network = TCMN("resnet18", key_channels=8, value_channels=16, partial_masks=True).eval()
            >>> features = network.encode(torch.rand(1, 3, 32, 48))
            >>> masks, unknown = torch.zeros(1, 1, 32, 48), torch.ones(1, 1, 32, 48)
            >>> masks[..., 10:20, 10:20], unknown[..., 10:20, 10:20] = 1, 0  # these pixels are known
            >>> network.complete(features, masks, unknown).shape
            torch.Size([1, 2, 32, 48])
        """
        return complete_masks(self, features, masks, unknown, rounds)

    def forward(
        self,
        clip: Clip,
        return_values: bool = False,
        unknown: Float[Tensor, "B N H W"] | None = None,
        previous_use: Int[Tensor, "B T"] | None = None,
    ) -> ClassLogits | ClipPrediction:
        """Segment a clip whose first frame is annotated.

        Soft predictions are remembered with their gradients. Frames of any size are padded with zeros
        to a multiple of 16.

        Args:
            clip: RGB in [0, 1] and one mask channel per object, read at frame 0 only.
            return_values: Whether to remember every frame and return the value maps too, for the
                temporal contrastive loss.
            unknown: 1 where the masks of frame 0 are guesses. Clips with such pixels are completed
                first.
            previous_use: The previous mask that each frame gets, for training: 0 none, 1 that of the
                previous frame (the default), 2 that of frame 0, 3 that of the previous frame shifted
                by a sixteenth of the width.

        Returns:
            Class logits (B, 1 + N, H, W, T); with ``return_values`` a ``ClipPrediction``.

        Raises:
            ValueError: The clip has no mask channel.

        Example:
            >>> network = TCMN("resnet18", key_channels=8, value_channels=16).eval()
            >>> clip = torch.rand(1, 3 + 1, 32, 48, 2)
            >>> logits, values = network(clip, return_values=True)
            >>> logits.shape, values.shape
            (torch.Size([1, 2, 32, 48, 2]), torch.Size([1, 1, 16, 2, 2, 3]))
        """
        if clip.ndim != 5 or clip.shape[1] < 4:
            raise ValueError(
                f"expected a clip (B, 3 + N, H, W, T) of RGB and N >= 1 masks, got {tuple(clip.shape)}"
            )
        height, width, frames = clip.shape[2:]
        every = 1 if return_values else self.memory_every
        padding = (0, -width % STRIDE, 0, -height % STRIDE)
        clip = F.pad(clip, (0, 0, *padding))
        images = clip[:, :3].movedim(-1, 1).flatten(0, 1)
        encoded = self.encode(images.contiguous(memory_format=torch.channels_last))
        logits: list[Tensor] = []
        keys: list[Tensor] = []
        values: list[Tensor] = []
        weights: list[float] = []
        for t in range(frames):
            features = FrameFeatures(*(x.unflatten(0, (-1, frames))[:, t] for x in encoded))
            if t == 0:
                logits.append(aggregate(clip[:, 3:, ..., 0].float()))
                if unknown is not None:
                    guesses = F.pad(unknown, padding)
                    logits[0] = self._complete_some(
                        features, clip[:, 3:, ..., 0], guesses, logits[0]
                    )
            else:
                memory = torch.stack(keys, dim=2), torch.stack(values, dim=3)
                factors = clip.new_tensor(weights)
                readout = read_memory(*memory, features.key, weights=factors)
                before, known = _previous(logits, previous_use)
                logits.append(self.segment(features, readout, before, known))
            if weights and weights[-1] < 1:  # the last frame was remembered until now
                keys.pop(), values.pop(), weights.pop()
            found = logits[-1].softmax(1)[:, 1:]
            if t % every == 0:
                keys.append(features.key)
                values.append(self.memorize(features, found))
                weights.append(1.0)
            elif self.remember_last:
                keys.append(features.key)
                values.append(memorize_coarsely(self, features, found))
                weights.append(LAST_WEIGHT)
        stacked = torch.stack(logits, dim=-1)[:, :, :height, :width]
        return ClipPrediction(stacked, torch.stack(values, dim=3)) if return_values else stacked

    def _complete_some(
        self, features: FrameFeatures, masks: Tensor, unknown: Tensor, given: Tensor
    ) -> Tensor:
        """``given``, with the clips that have unknown pixels completed."""
        some = unknown.flatten(1).any(1).nonzero()[:, 0]
        if not len(some):
            return given
        chosen = FrameFeatures(*(x[some] for x in features))
        completed = self.complete(chosen, masks[some], unknown[some])
        return given.index_put((some,), completed.to(given))


def _previous(
    logits: Sequence[Tensor], use: Tensor | None
) -> tuple[Float[Tensor, "B N H W"], Float[Tensor, " B"] | None]:
    """The previous masks for the next frame, without gradients, and which clips get them."""
    before = logits[-1].detach().softmax(1)[:, 1:]
    if use is None:
        return before, None
    kind = use[:, len(logits)][:, None, None, None]
    shift = before.shape[-1] // 16
    before = torch.where(kind == 2, logits[0].detach().softmax(1)[:, 1:], before)
    before = torch.where(kind == 3, before.roll((shift, shift), (-2, -1)), before)
    return before, (kind[:, 0, 0, 0] > 0).to(before)


def complete_masks(
    network: VideoNetwork,
    features: FrameFeatures,
    masks: Float[Tensor, "B N H W"],
    unknown: Float[Tensor, "B N H W"],
    rounds: int = 2,
) -> Float[Tensor, "B 1+N H W"]:
    """Segment a frame from partial masks: boxes, points, scribbles.

    The frame is remembered with the partial masks, and then segmented from that memory. In each further
    round its last result is remembered too.

    Args:
        network: A network that takes partial masks.
        features: Features of the frame.
        masks: Known or guessed mask of each object, in [0, 1]; see ``bundle.networks.prompts``.
        unknown: 1 where the mask is a guess, else 0.
        rounds: Number of rounds, at least 1.

    Returns:
        Class logits.
    """
    values = [network.memorize(features, masks, unknown)]
    before = masks
    for number in range(rounds):
        if number > 0:
            values = [values[0], network.memorize(features, before)]
        keys = torch.stack([features.key] * len(values), dim=2)
        readout = read_memory(keys, torch.stack(values, dim=3), features.key)
        logits = network.segment(features, readout, before)
        before = logits.softmax(1)[:, 1:]
    return logits


def memorize_coarsely(
    network: VideoNetwork, features: FrameFeatures, masks: Float[Tensor, "B N H W"]
) -> Float[Tensor, "B N V h w"]:
    """Compute value maps from masks and features of two thirds of the size, in half the time.

    For the last frame, which is remembered until the next one only and counts little.

    Args:
        network: As in ``complete_masks``.
        features: Features of the frame.
        masks: Masks of its objects, in [0, 1].

    Returns:
        Value maps like those of ``memorize``, at stride 16.

    Source:
        docs/studies/memory.md has what it costs in J.

    Example:
        >>> network = TCMN("resnet18", key_channels=8, value_channels=16).eval()
        >>> features = network.encode(torch.rand(1, 3, 48, 32))
        >>> memorize_coarsely(network, features, torch.zeros(1, 2, 48, 32)).shape
        torch.Size([1, 2, 16, 3, 2])
    """
    height, width = features.stride16.shape[-2:]
    rows, columns = coarse_side(height), coarse_side(width)
    coarse = features._replace(stride16=_resize(features.stride16, rows, columns))
    value = network.memorize(coarse, _resize(masks, STRIDE * rows, STRIDE * columns))
    return _resize(value.flatten(0, 1), height, width).unflatten(0, masks.shape[:2])


def coarse_side(side: int) -> int:
    """Two thirds of a side of the feature grid, rounded."""
    return (2 * side + 1) // 3


def _resize(maps: Float[Tensor, "B C H W"], height: int, width: int) -> Float[Tensor, "B C H2 W2"]:
    # Without antialiasing, which takes as long as what is saved.
    return F.interpolate(maps, (height, width), mode="bilinear", align_corners=False)


def aggregate(probability: Float[Tensor, "B N H W"]) -> Float[Tensor, "B 1+N H W"]:
    """Join independent object probabilities into class logits ("soft aggregation", STCN).

    The probability of the background is that of no object. The softmax of the result gives
    probabilities that sum to 1.

    Args:
        probability: In [0, 1]. It is converted to float32, in which 1 - 1e-7 differs from 1.
    """
    p = probability.float()
    return torch.cat([(1 - p).prod(1, keepdim=True), p], dim=1).logit(eps=1e-7)
