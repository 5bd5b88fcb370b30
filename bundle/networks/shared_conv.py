"""Convolutions over the joined maps of an object and its frame; the frame's part is computed once.

B clips or frames, BN = clips x objects, flattened.
"""

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn


class JoinedConv2d(nn.Conv2d):
    """A convolution over an object's maps and its frame's maps, concatenated along channels.

    The frame's part is computed once for all of its objects.

    Args:
        own: Number of channels of an object's maps.
        shared: Number of channels of the frame's maps.
        outputs: Number of channels of the result.
        kernel_size: Odd; the maps keep their size.
    """

    def __init__(self, own: int, shared: int, outputs: int, kernel_size: int) -> None:
        super().__init__(own + shared, outputs, kernel_size, padding=kernel_size // 2)
        self.own = own

    def forward(  # type: ignore[override]
        self, own: Float[Tensor, "BN C1 h w"], shared: Float[Tensor, "B C2 h w"]
    ) -> Float[Tensor, "BN D h w"]:
        result = F.conv2d(own, self.weight[:, : self.own], self.bias, padding=self.padding)
        return result + per_object(self.share(shared), own)

    def share(self, shared: Float[Tensor, "B C2 h w"]) -> Float[Tensor, "B D h w"]:
        """Compute the frame's part of the result, for all of its objects."""
        return F.conv2d(shared, self.weight[:, self.own :], padding=self.padding)


def per_object(shared: Tensor, objects: Tensor) -> Tensor:
    """Repeat maps (B, ...) of frames for each of their objects, to (BN, ...).

    It uses ``shape[0]`` since ``len`` would make the number of objects a constant in exported graphs,
    and it repeats since OpenVINO would read a broadcast in the ONNX file as that of one object.
    """
    return shared.repeat_interleave(objects.shape[0] // shared.shape[0], dim=0)
