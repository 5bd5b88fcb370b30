"""The smallest network that the configs can make, for tests that run them."""

NETWORK = {
    "backbone": "resnet18",
    "key_channels": 8,
    "value_channels": 8,
    "decoder_channels": [8, 8, 8],
    "stride_in_1x1": False,
}
OPTIONS = {f"network_def#{name}": value for name, value in NETWORK.items()}
"""Likewise, as the command line and ``ConfigWorkflow`` take it."""

OWN_SIZE = {"inference_size": None, "spatial_prior": None}
"""Settings of the paper: frames at their own size, no spatial prior."""
