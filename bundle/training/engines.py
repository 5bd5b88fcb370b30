"""Glue between MONAI's trainer and evaluator and the network: batches in, parameter groups."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from monai.engines import PrepareBatch
from torch import Tensor, nn

from bundle.inference.confidence import choose_class
from bundle.inference.inferers import VideoInferer
from bundle.networks.tcmn import VideoNetwork


class PrepareClips(PrepareBatch):
    """Turns collated clips into what the network takes and the loss compares.

    The network's masks are set at the reference frame only, so no truth can leak from later ones.

    Args:
        training: Ask the network for the value maps too, and give the loss its dictionary.
    """

    def __init__(self, training: bool = True) -> None:
        self.training = training

    def __call__(
        self,
        batchdata: Mapping[str, Any],
        device: str | torch.device | None = None,
        non_blocking: bool = False,
        **kwargs: Any,
    ) -> Any:
        """Clip (B, 3 + N, H, W, T) and targets; for training arguments of the network besides."""
        image: Tensor = batchdata["image"].to(device=device, non_blocking=non_blocking)
        label: Tensor = batchdata["label"].to(device=device, non_blocking=non_blocking).long()
        first = label[..., 0]
        objects = max(1, int(first.max()))
        masks = torch.zeros(image.shape[0], objects, *image.shape[2:], device=image.device)
        one_hot = F.one_hot(first[:, 0].clamp(min=0), objects + 1).movedim(-1, 1)
        masks[..., 0] = one_hot[:, 1:].to(masks)
        clip = torch.cat([image, masks], dim=1)
        if not self.training:
            return clip, label
        # The window may have lost an object in the first frame that is there later: background.
        shown = one_hot[:, 1:].amax((2, 3)) * torch.arange(1, objects + 1, device=image.device)
        known = (label == shown[:, :, None, None, None]).any(1)
        targets = {
            "label": label[:, 0] * known,
            "ordered": batchdata["ordered"].to(device),
            "present": shown > 0,
        }
        options: dict[str, Any] = {"return_values": True}
        if "unknown" in batchdata:  # of RandPromptd
            unknown = batchdata["unknown"][:, :objects].to(clip)
            clip[:, 3:, ..., 0] = batchdata["guess"][:, :objects].to(clip)
            targets["prompted"] = unknown.flatten(1).any(1)
            options |= {
                "unknown": unknown,
                "previous_use": batchdata["previous_use"].to(device),
                "truth": targets["label"][..., 0],
                "clicks": batchdata["clicks"] * targets["prompted"].cpu(),
            }
        return clip, targets, (), options


class LabelInferer(VideoInferer):
    """``VideoInferer`` for whole clips that keeps one label a pixel instead of class logits.

    It takes the same arguments. Of a long video the logits of all frames may not fit in memory.
    """

    def __call__(self, inputs: Any, network: VideoNetwork, *args: Any, **kwargs: Any) -> Any:
        """Label volume (B, 1, H, W, T) uint8 of a clip (B, 3 + N, H, W, T)."""
        labels = [choose_class(logits) for logits in self.propagate(inputs, network)]
        return torch.stack(labels, dim=-1)[:, None]


class PrepareVideo(PrepareBatch):
    """Hands a ``PromptedVideo`` on as it is; its frames move to the device one by one."""

    def __call__(
        self,
        batchdata: Mapping[str, Any],
        device: str | torch.device | None = None,
        non_blocking: bool = False,
        **kwargs: Any,
    ) -> Any:
        return batchdata["image"], None


def parameter_groups(
    network: nn.Module,
    learning_rate: float,
    trunk_factor: float = 0.2,
    frozen: Sequence[str] = (),
) -> list[dict[str, Any]]:
    """Optimiser groups: pretrained trunks learn slower than the parts that start from nothing.

    Args:
        network: A ``TCMN``.
        learning_rate: Of everything but the trunks.
        trunk_factor: The trunks' learning rate is this times ``learning_rate``.
        frozen: Prefixes of parameters that do not learn; gradients are not computed for them.

    Raises:
        ValueError: A prefix fits no parameter.
    """
    names = [name for name, _ in network.named_parameters()]
    for prefix in frozen:
        if not any(name.startswith(prefix) for name in names):
            raise ValueError(
                f"frozen: no parameter's name begins with {prefix!r}, as {names[0]} would"
            )
    trunks: list[nn.Parameter] = []
    others: list[nn.Parameter] = []
    for name, parameter in network.named_parameters():
        if any(name.startswith(prefix) for prefix in frozen):
            parameter.requires_grad_(False)
        else:
            (trunks if ".trunk." in name else others).append(parameter)
    return [
        {"params": trunks, "lr": learning_rate * trunk_factor},
        {"params": others, "lr": learning_rate},
    ]


def to_label_volume(data: dict[str, Any]) -> dict[str, Any]:
    """Postprocessing: class logits (1 + N, H, W, T) in ``pred`` to a label volume (1, H, W, T)."""
    return {**data, "pred": data["pred"].argmax(0, keepdim=True)}
