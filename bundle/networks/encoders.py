"""The query encoder and the mask encoder, on ResNet backbones cut after layer3.

B clips or frames, N objects, K key channels, V value channels, h x w grid at stride 16.
"""

from pathlib import Path
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn

from bundle.networks.shared_conv import JoinedConv2d

BACKBONE_CHANNELS = {"resnet18": (64, 128, 256), "resnet50": (256, 512, 1024)}
"""Number of channels at strides 4, 8 and 16."""


class FrameFeatures(NamedTuple):
    """Output of the query encoder: key and query feature, and the backbone's maps."""

    key: Float[Tensor, "B K h w"]
    query: Float[Tensor, "B V h w"]
    stride16: Float[Tensor, "B C16 h w"]
    stride8: Float[Tensor, "B C8 2h 2w"]
    stride4: Float[Tensor, "B C4 4h 4w"]


class Backbone(nn.Module):
    """torchvision's ResNet up to and including layer3.

    Args:
        name: ``resnet18`` or ``resnet50``.
        weights: ``"imagenet"`` for torchvision's own (downloaded once), the path of a state dict
            with torchvision's key names, or None for random weights.
        stride_in_1x1: ResNet-50 only. Whether the stride of a stage's first block is on its 1x1
            convolution instead of the 3x3. Weights load without error into either layout, so this must
            match the one they were trained in.

    Raises:
        ValueError: The name is unknown, or ``stride_in_1x1`` is set for a ResNet-18.
        FileNotFoundError: The file ``weights`` does not exist.
    """

    def __init__(
        self, name: str, weights: str | Path | None = None, *, stride_in_1x1: bool = False
    ) -> None:
        super().__init__()
        if name not in BACKBONE_CHANNELS:
            raise ValueError(
                f"unknown backbone {name!r}: expected one of {sorted(BACKBONE_CHANNELS)}"
            )
        if stride_in_1x1 and name != "resnet50":
            raise ValueError(f"stride_in_1x1 applies to resnet50 only, got backbone {name!r}")
        self.channels = BACKBONE_CHANNELS[name]
        # Imported here, since it takes more than a second and the 8-bit network does not need it.
        import torchvision

        imagenet = "DEFAULT" if weights == "imagenet" else None
        resnet = torchvision.models.get_model(name, weights=imagenet)
        self.conv1, self.bn1, self.relu = resnet.conv1, resnet.bn1, resnet.relu
        self.maxpool = resnet.maxpool
        self.layer1, self.layer2, self.layer3 = resnet.layer1, resnet.layer2, resnet.layer3
        if stride_in_1x1:
            for stage in (self.layer2, self.layer3):
                stage[0].conv1.stride, stage[0].conv2.stride = stage[0].conv2.stride, (1, 1)
        if weights is not None and weights != "imagenet":
            self._load(Path(weights))

    def _load(self, path: Path) -> None:
        if not path.is_file():
            raise FileNotFoundError(
                f"no backbone weights at {path}: give a file, or 'imagenet' (a download), or leave "
                "the option out"
            )
        state = torch.load(path, map_location="cpu", weights_only=True)
        own = self.state_dict()
        missing = sorted(set(own) - set(state) - {k for k in own if "num_batches" in k})
        if missing:
            raise ValueError(
                f"{path} lacks {len(missing)} tensors of the backbone, such as {missing[0]}"
            )
        self.load_state_dict({k: v.float() for k, v in state.items() if k in own}, strict=False)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Features at strides 4, 8 and 16."""
        x = self.maxpool(self.relu(self.bn1(self.conv1(x))))
        stride4 = self.layer1(x)
        stride8 = self.layer2(stride4)
        return stride4, stride8, self.layer3(stride8)


class QueryEncoder(nn.Module):
    """Encodes a frame to its key, its query feature for the decoder, and skips (TCMN section 2.1).

    Args:
        backbone: ``resnet50`` or ``resnet18``.
        key_channels: Number of channels of the key.
        query_channels: Number of channels of the query feature.
        weights: See ``Backbone``.
        stride_in_1x1: See ``Backbone``.
        pixel_mean: RGB mean in [0, 1] that is subtracted from pixels.
        pixel_std: RGB standard deviation that pixels are divided by.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        backbone: str,
        key_channels: int,
        query_channels: int,
        weights: str | Path | None,
        *,
        stride_in_1x1: bool,
        pixel_mean: tuple[float, ...],
        pixel_std: tuple[float, ...],
    ) -> None:
        super().__init__()
        self.trunk = Backbone(backbone, weights, stride_in_1x1=stride_in_1x1)
        width = self.trunk.channels[-1]
        self.key_head = nn.Conv2d(width, key_channels, 3, padding=1)
        self.query_head = nn.Conv2d(width, query_channels, 3, padding=1)
        nn.init.orthogonal_(self.key_head.weight)
        assert self.key_head.bias is not None
        nn.init.zeros_(self.key_head.bias)
        # The network normalises pixels, as its weights need; the constants are not in the state dict.
        self.register_buffer("mean", torch.tensor(pixel_mean).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(pixel_std).view(1, 3, 1, 1), persistent=False)

    def forward(self, image: Float[Tensor, "B 3 H W"]) -> FrameFeatures:
        stride4, stride8, stride16 = self.trunk((image - self.mean) / self.std)
        key, query = self.key_head(stride16), self.query_head(stride16)
        return FrameFeatures(key, query, stride16, stride8, stride4)


class MaskEncoder(nn.Module):
    """Encodes masks and the frame's stride-16 features to value maps (TCMN section 2.2).

    The backbone has two input channels: the object's mask and the union of the others, without RGB.
    With ``partial_masks`` a third says where the mask is a guess; its weights start at zero.
    """

    def __init__(
        self,
        backbone: str,
        stride16_channels: int,
        value_channels: int,
        weights: str | Path | None,
        *,
        partial_masks: bool = False,
    ) -> None:
        super().__init__()
        self.trunk = Backbone(backbone, weights)
        self.partial_masks = partial_masks
        rgb, inputs = self.trunk.conv1, 3 if partial_masks else 2
        self.trunk.conv1 = nn.Conv2d(inputs, rgb.out_channels, 7, stride=2, padding=3, bias=False)
        with torch.no_grad():
            # At first, the object's mask is like a grey picture to the backbone, and the others are
            # ignored: a network that never saw two objects treats each as if it were alone.
            self.trunk.conv1.weight[:, :1] = rgb.weight.sum(1, keepdim=True)
            self.trunk.conv1.weight[:, 1:] = 0
        self.fuse1 = JoinedConv2d(self.trunk.channels[-1], stride16_channels, value_channels, 3)
        self.fuse2 = nn.Conv2d(value_channels, value_channels, 3, padding=1)

    def forward(
        self,
        masks: Float[Tensor, "B N H W"],
        stride16: Float[Tensor, "B C16 h w"],
        unknown: Float[Tensor, "B N H W"] | None = None,
    ) -> Float[Tensor, "B N V h w"]:
        batch, objects = masks.shape[:2]
        others = (masks.sum(1, keepdim=True) - masks).clamp(0, 1)
        seen = [masks, others]
        if self.partial_masks:
            seen.append(torch.zeros_like(masks) if unknown is None else unknown)
        shape16 = self.trunk(torch.stack(seen, dim=2).flatten(0, 1))[-1]
        value = self.fuse2(torch.relu(self.fuse1(shape16, stride16)))
        return value.unflatten(0, (batch, objects))
