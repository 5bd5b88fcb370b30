"""Connect the network to MONAI's trainer and evaluator: batches, inferer, optimiser groups."""

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
    """Turns collated clips into the network's input and the loss's target.

    The input has masks in the reference frame only, so that no truth leaks from later frames.

    Args:
        training: Whether to ask the network for its value maps too, and to make a target for
            ``TCMNLoss``; otherwise the target is the label.
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
        """Return the clip (B, 3 + N, H, W, T) and target; for training also the network's arguments."""
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
        # An object may be outside the window in the first frame but not later: it is background.
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
    """``VideoInferer`` for whole clips that returns labels and confidence instead of class logits.

    The logits of all frames of a long video may not fit in memory. It takes the same arguments.
    """

    def __call__(self, inputs: Any, network: VideoNetwork, *args: Any, **kwargs: Any) -> Any:
        """Segment a clip (B, 3 + N, H, W, T).

        Returns:
            ``labels``, a volume (B, 1, H, W, T) uint8, and ``confidence`` (B, N, T) of each object's
            mask, 1 in the first frame, whose masks are given.
        """
        session = self.start(network)
        masks = inputs[:, 3:, ..., 0]
        labels = [choose_class(session.prompt(inputs[:, :3, ..., 0], masks))]
        confidence = [masks.new_ones(masks.shape[:2])]
        for t in range(1, inputs.shape[-1]):
            found = session.step(inputs[:, :3, ..., t])
            labels.append(choose_class(found.logits))
            confidence.append(found.confidence.to(masks))
        return {
            "labels": torch.stack(labels, dim=-1)[:, None],
            "confidence": torch.stack(confidence, dim=-1),
        }


class PrepareVideo(PrepareBatch):
    """Passes a ``PromptedVideo`` on unchanged; its frames are moved to the device one by one."""

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
    backbone_factor: float = 0.2,
    frozen: Sequence[str] = (),
    factors: Mapping[str, float] | None = None,
) -> list[dict[str, Any]]:
    """Optimiser groups with their own learning rates: pretrained parts learn slower than new ones.

    Args:
        network: A ``TCMN``.
        learning_rate: Learning rate of all parts that are not named below.
        backbone_factor: The backbones' learning rate is this times ``learning_rate``.
        frozen: Prefixes of parameters that do not learn; gradients are not computed for them.
        factors: Prefix of parameter names -> learning-rate factor: with ``{"decoder.context": 5}``
            the context block learns five times as fast.

    Returns:
        The groups: the backbones, everything else, then one for each of ``factors``.

    Raises:
        ValueError: A prefix matches no parameter.
    """
    factors = {} if factors is None else factors
    names = [name for name, _ in network.named_parameters()]
    for argument, prefixes in (("frozen", frozen), ("factors", factors)):
        for prefix in prefixes:
            if not any(name.startswith(prefix) for name in names):
                raise ValueError(
                    f"{argument}: no parameter's name begins with {prefix!r}, as {names[0]} would"
                )
    backbones: list[nn.Parameter] = []
    others: list[nn.Parameter] = []
    own: dict[str, list[nn.Parameter]] = {prefix: [] for prefix in factors}
    for name, parameter in network.named_parameters():
        if any(name.startswith(prefix) for prefix in frozen):
            parameter.requires_grad_(False)
            continue
        part = next((prefix for prefix in factors if name.startswith(prefix)), None)
        if part is not None:
            own[part].append(parameter)
        else:
            (backbones if ".trunk." in name else others).append(parameter)
    return [
        {"params": backbones, "lr": learning_rate * backbone_factor},
        {"params": others, "lr": learning_rate},
        *({"params": own[prefix], "lr": learning_rate * factors[prefix]} for prefix in factors),
    ]


def to_label_volume(data: dict[str, Any]) -> dict[str, Any]:
    """Postprocess: turn class logits (1 + N, H, W, T) in ``pred`` into a label volume (1, H, W, T)."""
    return {**data, "pred": data["pred"].argmax(0, keepdim=True)}
