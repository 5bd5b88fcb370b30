"""The network and inferer of configs/inference.yaml, for use without its evaluator."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch

from bundle.inference.config import read_inference_config
from bundle.inference.inferers import VideoInferer
from bundle.utils.devices import find_device


@dataclass(frozen=True)
class Model:
    """What carries masks.

    Attributes:
        inferer: With its settings.
        network: On ``device``, in evaluation mode.
        device: Where it is.
    """

    inferer: VideoInferer
    network: Any
    device: torch.device


def load_model(options: Mapping[str, object]) -> Model:
    """Read network, weights and settings as ``configs/inference.yaml`` has them.

    Args:
        options: Instead of the values there, by name: weights, device, working_size ...

    Raises:
        ValueError: A value is out of range, or the weights do not fit.
        FileNotFoundError: There are no such weights.
    """
    config = read_inference_config(options)
    try:
        inferer = config.get_parsed_content("inferer")
        network = config.get_parsed_content("network")
    except RuntimeError as error:  # MONAI wraps what a config's expression raises
        root: BaseException = error
        while root.__cause__ is not None and isinstance(root, RuntimeError):
            root = root.__cause__
        raise root from None
    return Model(inferer, network, find_device(config["device"]))
