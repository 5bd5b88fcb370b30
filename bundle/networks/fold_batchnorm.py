"""Fold BatchNorm into the convolutions before it: faster, with the same results."""

import copy
from collections.abc import Iterator
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.utils.fusion import fuse_conv_bn_eval

from bundle.networks.encoders import Backbone

PAIRS = (("conv1", "bn1"), ("conv2", "bn2"), ("conv3", "bn3"), ("downsample.0", "downsample.1"))


Network = TypeVar("Network", bound=nn.Module)


def fold_batch_norm(network: Network) -> Network:
    """A copy whose backbones have their BatchNorm folded into the convolutions before it.

    Exact but for rounding, since the statistics are constants. A pass over each backbone's maps less,
    which counts on CPUs.

    Args:
        network: In evaluation mode; it stays as it is. A copy cannot be trained, nor can weights be
            loaded into it.

    Raises:
        ValueError: The network is in training mode.
    """
    if network.training:
        raise ValueError("BatchNorm can be folded in evaluation mode only: call network.eval()")
    folded = copy.deepcopy(network)
    for convolution, norm in _pairs(network):
        pair: Any = folded.get_submodule(convolution), folded.get_submodule(norm)
        folded.set_submodule(convolution, fuse_conv_bn_eval(*pair))
        folded.set_submodule(norm, nn.Identity())
    return folded


class FoldedTraining(nn.Module):
    """A network to train, with the BatchNorm of its backbones folded anew for each pass.

    The loss and all gradients are the same but for rounding: the scales and shifts of BatchNorm learn
    through the folded weights, its statistics are constants as in ``TCMN``.

    Args:
        network: Holds all weights; its state dict stays as it is.
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network
        mode = network.training
        # In a tuple, so that it is no part of this module; it has shapes only.
        self._folded = (fold_batch_norm(network.eval()).to("meta"),)
        network.train(mode)

    def forward(self, *arguments: Any, **options: Any) -> Any:
        """As the network's."""
        return functional_call(self._folded[0], self._fold(), arguments, options)

    def _fold(self) -> dict[str, Tensor]:
        weights = {**dict(self.network.named_parameters()), **dict(self.network.named_buffers())}
        for convolution, norm in _pairs(self.network):
            bn: Any = self.network.get_submodule(norm)
            scale = bn.weight * torch.rsqrt(bn.running_var + bn.eps)
            weights[f"{convolution}.weight"] = (
                weights[f"{convolution}.weight"] * scale[:, None, None, None]
            )
            weights[f"{convolution}.bias"] = bn.bias - bn.running_mean * scale
            for name in bn.state_dict():
                del weights[f"{norm}.{name}"]
        return weights


def _pairs(network: nn.Module) -> Iterator[tuple[str, str]]:
    """The names of each convolution of the backbones, and of the BatchNorm behind it."""
    modules = dict(network.named_modules())
    for backbone, module in modules.items():
        if not isinstance(module, Backbone):
            continue
        for name in [name for name in modules if f"{name}.".startswith(f"{backbone}.")]:
            for convolution, norm in PAIRS:
                if isinstance(modules.get(f"{name}.{norm}"), nn.BatchNorm2d):
                    yield f"{name}.{convolution}", f"{name}.{norm}"
