"""``tcmn quantize``: makes the 8-bit network for ``--backend int8``.

Its ranges come from training clips, whose kinds are mixed as in training. Do it again when the weights
have changed.
"""

import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from monai.bundle import ConfigParser
from torch import Tensor

from bundle.backends.openvino import quantize
from bundle.networks.definition import make_network
from bundle.networks.weights import load_weights
from bundle.training.engines import PrepareClips


def quantize_weights(
    weights: Path,
    dataset_dir: Path,
    output_dir: Path,
    config_files: Sequence[Path],
    clips: int = 64,
    size: int = 320,
) -> None:
    """Quantise a network with the ranges that its layers see in training clips.

    Args:
        weights: A plain state dict.
        dataset_dir: The parent of the data sets' folders.
        output_dir: Must not exist; it appears when all is written.
        config_files: Config files of a training, whose clips are taken.
        clips: How many.
        size: Their sides, in pixels.

    Raises:
        FileExistsError: ``output_dir`` exists.
        FileNotFoundError: A config or data set is not there.
        MissingPackageError: OpenVINO or NNCF is not installed.
    """
    if output_dir.exists():  # before the minutes that the rest takes
        raise FileExistsError(f"{output_dir} exists: remove it or name another folder")
    config = ConfigParser()
    config.read_config([str(file) for file in config_files])
    config["dataset_dir"] = str(dataset_dir)
    config["size"], config["iterations_per_epoch"] = size, clips
    network = load_weights(make_network(weights=weights), weights).eval()
    with tempfile.TemporaryDirectory() as scratch:
        config["output_dir"] = scratch
        dataset = config.get_parsed_content("train#dataset")
        quantize(network, (make_clip(dataset[i]) for i in range(clips)), output_dir)


def make_clip(item: Mapping[str, Any]) -> Tensor:
    """A training clip (1, 3 + N, H, W, T) as the network takes it."""
    batch = {name: torch.as_tensor(item[name])[None] for name in ("image", "label")}
    return PrepareClips(training=False)(batch, "cpu")[0]
