"""The config for TensorRT: what can be checked of it without a GPU."""

import numpy as np
import onnxruntime
import pytest
import torch
from monai.bundle import ConfigParser
from monai.networks.trt_compiler import get_dynamic_axes
from monai.networks.utils import convert_to_onnx

from bundle.inference.config import read_inference_config
from bundle.utils.bundle_files import bundle_root

CONFIGS = [
    str(bundle_root() / "configs" / name) for name in ("inference.yaml", "inference_trt.yaml")
]


@pytest.fixture(scope="module")
def config():
    config = ConfigParser(ConfigParser.load_config_files(CONFIGS))
    config["device"] = "cpu"
    return config


@pytest.mark.skipif(torch.cuda.is_available(), reason="there MONAI would build the engines")
def test_without_tensorrt_the_network_is_pytorchs(config):
    plain = read_inference_config({"device": "cpu", "backend": "torch"})
    image = torch.rand(1, 3, 64, 96)
    with torch.inference_mode():
        found = config.get_parsed_content("network").encode(image)
        expected = plain.get_parsed_content("network").encode(image)
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=0)


@pytest.mark.heavy
@pytest.mark.filterwarnings(
    "ignore::UserWarning", "ignore::DeprecationWarning", "ignore::FutureWarning"
)
@pytest.mark.parametrize(
    ("name", "settings"), [("query_encoder", "trt_query"), ("mask_encoder", "trt_mask")]
)
def test_both_backbones_export_for_all_sizes_of_their_profiles(config, name, settings, tmp_path):
    trunk = getattr(config.get_parsed_content("optimized"), name).trunk
    profiles = config.get_parsed_content(settings)["input_profiles"]
    smallest, usual, largest = profiles[0]["x"]
    assert all(a <= b <= c for a, b, c in zip(smallest, usual, largest, strict=True))
    # As MONAI does it when it builds an engine.
    convert_to_onnx(
        trunk,
        {"x": torch.rand(usual)},
        filename=str(tmp_path / "trunk.onnx"),
        input_names=["x"],
        output_names=[],
        dynamic_axes=get_dynamic_axes(profiles),
    )
    session = onnxruntime.InferenceSession(tmp_path / "trunk.onnx")
    for shape in (smallest, [min(2, largest[0]), smallest[1], 96, 176]):
        x = torch.rand(shape)
        with torch.inference_mode():
            expected = trunk(x)
        found = session.run(None, {"x": x.numpy()})
        for one, other in zip(found, expected, strict=True):
            np.testing.assert_allclose(one, other.numpy(), atol=1e-3)
