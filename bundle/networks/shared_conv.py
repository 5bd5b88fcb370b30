"""Convolutions over the maps of an object and of its frame; objects share the frame's part.

B clips or frames, BN = clips x objects, flattened.
"""

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn


class JoinedConv2d(nn.Conv2d):
    """A convolution over both, one behind the other; the frame's part is computed once for all objects.

    Args:
        own: Channels of an object's maps.
        shared: Channels of the frame's.
        outputs: Channels of the result.
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
    """Repeat (B, ...) maps of frames for the (BN, ...) of their objects.

    Exporters need ``shape[0]``: ``len`` would fix the number of objects. Broadcast instead, OpenVINO
    would take the sum for one object's when it reads the ONNX file.
    """
    return shared.repeat_interleave(objects.shape[0] // shared.shape[0], dim=0)
