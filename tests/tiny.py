"""The smallest networks that the configs can make, for tests that run them."""

import torch

from bundle.networks import TCMN

NETWORK = {
    "backbone": "resnet18",
    "key_channels": 8,
    "value_channels": 8,
    "decoder_channels": [8, 8, 8],
    "stride_in_1x1": False,
    "context_channels": 0,
    "previous_mask": False,
    "partial_masks": False,
}
PROMPTED = NETWORK | {"context_channels": 8, "previous_mask": True, "partial_masks": True}
"""Likewise, with the parts that boxes, points and scribbles need."""
OPTIONS = {f"network_def#{name}": value for name, value in NETWORK.items()}
PROMPTED_OPTIONS = {f"network_def#{name}": value for name, value in PROMPTED.items()}
"""Likewise, as the command line and ``ConfigWorkflow`` take them."""


def make_prompted(seed, spread=0.5):
    """A network that takes partial masks and whose masks are not empty; not trained.

    Args:
        seed: Of its random weights.
        spread: Standard deviation of the weights of the last layer: the larger, the surer it is.
    """
    torch.manual_seed(seed)
    network = TCMN(**PROMPTED).eval()
    torch.nn.init.kaiming_normal_(network.mask_encoder.trunk.conv1.weight)
    torch.nn.init.normal_(network.decoder.predict.weight, std=spread)
    return network


class Blinded:
    """A network that never sees some objects, and is sure of that.

    Args:
        network: What sees the others.
        objects: Places of the objects among all, from 0.
    """

    def __init__(self, network, *objects):
        self.network, self.objects = network, [i + 1 for i in objects]

    def __getattr__(self, name):
        return getattr(self.network, name)

    def segment(self, *inputs):
        logits = self.network.segment(*inputs)
        logits[:, self.objects] = -16.0
        return logits


OWN_SIZE = {"inference_size": None, "spatial_prior": None}
"""Settings of the paper: frames at their own size, no spatial prior."""
