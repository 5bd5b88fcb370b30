"""Make the quantised network of ``backend: int8``.

python scripts/quantize.py --dataset_dir DATA

Its ranges come from training clips, whose kinds are mixed as in training. Do it again when the weights
have changed. Needs ``pip install openvino nncf``.
"""

import argparse
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from monai.bundle import ConfigParser
from torch import Tensor

from bundle.backends.openvino import quantize
from bundle.networks.tcmn import load_weights
from bundle.training.engines import PrepareClips

ROOT = Path(__file__).resolve().parents[1]


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--config_file", nargs="+", default=[str(ROOT / "configs/train.yaml")])
    parser.add_argument("--dataset_dir", type=Path, default=ROOT / "data")
    parser.add_argument("--weights", type=Path, default=ROOT / "models/model.pt")
    parser.add_argument("--output_dir", type=Path, default=ROOT / "models/int8")
    parser.add_argument("--clips", type=int, default=64)
    parser.add_argument("--size", type=int, default=320, help="side of the clips, pixels")
    options = parser.parse_args()
    if options.output_dir.exists():  # before the minutes that the rest takes
        parser.error(f"{options.output_dir} exists: remove it or name another folder")
    config = ConfigParser()
    config.read_config(options.config_file)
    config["dataset_dir"] = str(options.dataset_dir)
    config["size"], config["iterations_per_epoch"] = options.size, options.clips
    with tempfile.TemporaryDirectory() as scratch:
        config["output_dir"] = scratch
        network = load_weights(config.get_parsed_content("network_def"), options.weights).eval()
        dataset = config.get_parsed_content("train#dataset")
        clips = (make_clip(dataset[i]) for i in range(options.clips))
        quantize(network, clips, options.output_dir)


def make_clip(item: Mapping[str, Any]) -> Tensor:
    """A training clip (1, 3 + N, H, W, T) as the network takes it."""
    batch = {name: torch.as_tensor(item[name])[None] for name in ("image", "label")}
    return PrepareClips(training=False)(batch, "cpu")[0]


if __name__ == "__main__":
    main()
