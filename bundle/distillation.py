"""A smaller query trunk for a trained network, taught what the large one makes of single frames.

All that memory, mask encoder and decoder take of a frame are five maps. A student that gives these can
have the teacher's other parts as they are: no masks are needed, and no loop over a clip.

B frames, N objects, h x w grid at stride 16.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from monai.engines import PrepareBatch
from torch import Tensor, nn

from bundle.networks.fold_batchnorm import FoldedTraining, fold_batch_norm
from bundle.networks.tcmn import TCMN
from bundle.training.losses import LossOfTerms


class FrameMaps(NamedTuple):
    """All that the rest of the network takes of a frame."""

    key: Float[Tensor, "B K h w"]
    query: Float[Tensor, "B V h w"]
    value: Float[Tensor, "B V h w"]
    """The frame's share of a value, which is the same for all its objects."""
    skip8: Float[Tensor, "B D8 2h 2w"]
    skip4: Float[Tensor, "B D4 4h 4w"]


class FrameMapper(nn.Module):
    """The part of a network that sees frames.

    Args:
        network: Its weights are this module's.
    """

    def __init__(self, network: TCMN) -> None:
        super().__init__()
        self.network = network

    def forward(self, image: Float[Tensor, "B 3 H W"]) -> FrameMaps:
        """Of frames in RGB in [0, 1], H and W multiples of 16."""
        features = self.network.encode(image)
        value = self.network.mask_encoder.fuse1.share(features.stride16)
        skips = self.network.decoder.skips(features.stride8, features.stride4)
        return FrameMaps(features.key, features.query, value, *skips)


class Distillation(nn.Module):
    """Student and teacher side by side, for a trainer.

    Args:
        student: Learns.
        teacher: Does not, and is no part of this module's state.
    """

    def __init__(self, student: TCMN, teacher: TCMN) -> None:
        super().__init__()
        self.student = FoldedTraining(FrameMapper(student))
        self._teacher = (fold_batch_norm(FrameMapper(teacher).eval()),)

    def forward(self, image: Float[Tensor, "B 3 H W"]) -> tuple[FrameMaps, FrameMaps]:
        """The maps of both."""
        with torch.no_grad():
            wanted = self._teacher[0](image)
        return self.student(image), wanted


class DistillationLoss(LossOfTerms):
    """How far the student's maps are from the teacher's, as a share of the teacher's variance.

    Mean over the maps, so that none counts more for its scale. 1 is what the best constant gives.
    """

    names = FrameMaps._fields

    def forward(
        self, prediction: tuple[FrameMaps, FrameMaps], target: object = None
    ) -> Float[Tensor, ""]:
        """The loss of a batch; its terms, one for each map, are left in ``terms``.

        Args:
            prediction: The maps of student and teacher.
            target: None; engines give one.
        """
        shares = [_unexplained(*maps) for maps in zip(*prediction, strict=True)]
        self.terms = {name: share.item() for name, share in zip(self.names, shares, strict=True)}
        return torch.stack(shares).mean()


def _unexplained(found: Tensor, wanted: Tensor) -> Tensor:
    error = (found - wanted).square().mean()
    return error / (wanted - wanted.mean((0, 2, 3), keepdim=True)).square().mean()


class PrepareFrames(PrepareBatch):
    """Turns collated clips into single frames."""

    def __call__(
        self,
        batchdata: Mapping[str, Any],
        device: str | torch.device | None = None,
        non_blocking: bool = False,
        **kwargs: Any,
    ) -> tuple[Float[Tensor, "B 3 H W"], None]:
        image: Tensor = batchdata["image"].to(device=device, non_blocking=non_blocking)
        frames = image.movedim(-1, 1).flatten(0, 1)
        return frames.contiguous(memory_format=torch.channels_last), None


def adopt(student: TCMN, teacher: TCMN) -> TCMN:
    """Give a student all of the teacher's weights that do not see the query trunk's own maps.

    Args:
        student: Of the teacher's widths but for the query trunk; it is changed and given back.
        teacher: Stays as it is.

    Raises:
        ValueError: A part behind the frame's maps is of another size.
    """
    own, others = student.state_dict(), teacher.state_dict()
    sees_trunk = ("query_encoder.", "decoder.skip8.", "decoder.skip4.", "mask_encoder.fuse1.weight")
    for name, tensor in own.items():
        if name.startswith(sees_trunk):
            continue
        if name not in others or others[name].shape != tensor.shape:
            found = tuple(others[name].shape) if name in others else "nothing"
            raise ValueError(
                f"the teacher's {name} should be {tuple(tensor.shape)}, found {found}: student and "
                "teacher may differ in the query trunk only"
            )
        tensor.copy_(others[name])
    objects = student.mask_encoder.fuse1.own
    own["mask_encoder.fuse1.weight"][:, :objects] = others["mask_encoder.fuse1.weight"][:, :objects]
    return student
