"""The network by OpenVINO in floating point gives what PyTorch gives, and is converted once."""

import copy
import os
import shutil

import pytest
import torch

from bundle.backends import conversion
from bundle.backends.openvino import OpenVINONetwork, number_type, optimize
from bundle.memory.attention import read_memory
from bundle.networks.fold_batchnorm import fold_batch_norm
from bundle.networks.tcmn import TCMN
from bundle.utils.atomic_write import written_beside
from bundle.utils.user_folders import CACHE

pytest.importorskip("openvino", reason="pip install openvino")
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")


@pytest.fixture
def copied(network, monkeypatch):
    """Instead of a conversion, which takes seconds, a copy of what one has written."""
    made = conversion.convert(network)

    def write(network, folder):
        with written_beside(folder) as beside:
            shutil.copytree(made, beside)

    monkeypatch.setattr(conversion, "_write", write)


@pytest.mark.parametrize(("objects", "height", "width"), [(1, 64, 64), (3, 48, 96)])
@pytest.mark.parametrize(("dtype", "tolerance"), [(None, 1e-3), (torch.bfloat16, 0.15)])
@torch.no_grad()
def test_each_part_gives_the_same_for_any_size_and_count(
    network, objects, height, width, dtype, tolerance
):
    draw = torch.Generator().manual_seed(4)
    image = torch.rand(1, 3, height, width, generator=draw)
    masks = (torch.rand(1, objects, height, width, generator=draw) > 0.5).float()

    def segment(network):
        features = network.encode(image)
        value = network.memorize(features, masks)
        readout = read_memory(
            features.key.float()[:, :, None], value.float()[:, :, :, None], features.key.float()
        )
        return [x.clone() for x in (features.key, value, network.segment(features, readout))]

    expected = segment(fold_batch_norm(network))
    with torch.autocast("cpu", dtype=dtype, enabled=dtype is not None):
        found = segment(optimize(network, backend="openvino"))
    for one, other in zip(found, expected, strict=True):
        assert one.shape == other.shape
        assert (one - other).norm() <= tolerance * other.norm()


def test_networks_are_converted_once_by_their_weights(network, copied, tmp_path, monkeypatch):
    monkeypatch.setenv(CACHE, str(tmp_path / "cache"))
    first = conversion.convert(network)
    assert first.parent == tmp_path / "cache"
    written = {path: path.stat().st_mtime_ns for path in first.iterdir()}
    assert conversion.convert(copy.deepcopy(network)) == first
    assert {path: path.stat().st_mtime_ns for path in first.iterdir()} == written
    other = copy.deepcopy(network)
    torch.nn.init.ones_(other.decoder.predict.bias)
    assert conversion.convert(other) != first
    darker = copy.deepcopy(network)
    darker.query_encoder.mean += 0.1  # no weight, yet another network
    assert conversion.convert(darker) != first


@pytest.mark.skipif(os.name == "nt", reason="a folder may be anywhere")
def test_without_a_writable_cache_conversion_still_works(
    network, copied, tmp_path, monkeypatch, caplog
):
    (tmp_path / "file").touch()
    monkeypatch.setenv(CACHE, str(tmp_path / "file" / "cache"))
    folder = conversion.convert(network)
    assert isinstance(OpenVINONetwork(folder), OpenVINONetwork)
    assert "cannot be written" in caplog.text
    assert conversion.convert(network) == folder


@torch.no_grad()
def test_prompts_and_the_mask_before_are_converted():
    torch.manual_seed(3)
    network = TCMN(
        "resnet18",
        key_channels=8,
        value_channels=16,
        decoder_channels=(16, 8, 8),
        context_channels=8,
        previous_mask=True,
        partial_masks=True,
    ).eval()
    decoder = network.decoder
    for each in (decoder.context.leave, decoder.previous.conv, network.mask_encoder.trunk.conv1):
        torch.nn.init.kaiming_normal_(each.weight)
    made = optimize(network, backend="openvino")
    assert isinstance(made, OpenVINONetwork)
    draw = torch.Generator().manual_seed(4)
    image = torch.rand(1, 3, 48, 80, generator=draw)  # a grid of odd sides
    masks, unknown = (torch.rand(2, 1, 3, 48, 80, generator=draw) > 0.5).float()
    expected, found = (
        each.complete(each.encode(image), masks, unknown) for each in (network, made)
    )
    assert (found - expected).norm() <= 1e-3 * expected.norm()
    whole = made.complete(made.encode(image), masks, torch.zeros_like(unknown))
    assert (whole - found).norm() > 1e-3 * found.norm()


def test_networks_that_openvino_cannot_run_are_reported(network):
    with pytest.raises(ValueError, match="backend openvino runs on CPUs, not on cuda:0: use"):
        optimize(network, "cuda:0", "openvino")


def test_reports_name_the_precision_of_the_computation(network):
    made, cpu = optimize(network, backend="openvino"), torch.device("cpu")
    assert number_type(made, "float32", cpu) == "float32"
    assert number_type(made, "bfloat16", cpu) == "bfloat16"
