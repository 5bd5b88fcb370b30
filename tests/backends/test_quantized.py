"""The quantised network gives nearly what the network gives, and is taken where it fits."""

import copy
import json
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch

from bundle.backends import openvino as quantized
from bundle.backends.openvino import (
    OpenVINONetwork,
    QuantizedTCMN,
    number_type,
    optimize,
    quantize,
)
from bundle.memory.attention import read_memory
from bundle.networks.fold_batchnorm import fold_batch_norm
from bundle.networks.tcmn import TCMN, VideoNetwork

pytest.importorskip("openvino", reason="pip install openvino")
ROOT = Path(__file__).resolve().parents[2]
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")


def make_clip(objects=1, height=64, width=64, seed=0):
    """Smooth noise that moves, and boxes as masks."""
    draw = torch.Generator().manual_seed(seed)
    coarse = torch.rand(1, 3, height // 8, width // 8, generator=draw)
    image = torch.nn.functional.interpolate(coarse, (height, width), mode="bilinear")
    frames = torch.stack([image.roll(4 * t, -1) for t in range(3)], dim=-1)
    masks = torch.zeros(1, objects, height, width, 3)
    for number in range(objects):
        masks[:, number, 8:40, 16 * number : 16 * number + 16] = 1
    return torch.cat([frames, masks], dim=1)


@pytest.fixture(scope="module")
def network(network):
    """The tiny network with all that the paper's has not, with weights that count."""
    torch.manual_seed(1)
    grown = TCMN(
        "resnet18",
        key_channels=8,
        value_channels=16,
        decoder_channels=(16, 8, 8),
        context_channels=8,
        previous_mask=True,
        partial_masks=True,
    )
    state, first = {**grown.state_dict(), **network.state_dict()}, "mask_encoder.trunk.conv1.weight"
    state[first] = torch.nn.functional.pad(state[first], (0, 0, 0, 0, 0, 1))
    grown.load_state_dict(state)
    new = (grown.decoder.context.leave, grown.decoder.previous.conv)
    for each in (*new, grown.mask_encoder.trunk.conv1):
        torch.nn.init.kaiming_normal_(each.weight)
    return grown.eval()


@pytest.fixture(scope="module")
def folder(network, tmp_path_factory):
    pytest.importorskip("nncf", reason="pip install nncf")
    folder = tmp_path_factory.mktemp("quantized") / "int8"
    quantize(network, [make_clip(seed=seed) for seed in range(4)], folder)
    return folder


SIGNALLED = """
import gc, os, signal, sys
import torch
from bundle.backends.openvino import QuantizedTCMN
signal.signal(signal.SIGTERM, lambda *_: print("caught"))
networks = [QuantizedTCMN(sys.argv[1], 1) for _ in range(2)]
for network in networks:
    network.encode(torch.zeros(1, 3, 32, 32))
del network
while networks:
    del networks[0]
    gc.collect()
os.kill(os.getpid(), signal.SIGTERM)
print("alive")
"""


def alike(found, expected):
    """Their correlation."""
    pair = torch.stack([found.flatten(), expected.flatten()])
    return float(torch.corrcoef(pair)[0, 1])


@pytest.mark.heavy
def test_signals_are_handled_after_networks_were_deleted(folder):
    done = subprocess.run(
        [sys.executable, "-c", SIGNALLED, folder], cwd=ROOT, capture_output=True, text=True
    )
    assert (done.returncode, done.stdout.split()) == (0, ["caught", "alive"]), done.stderr


@pytest.mark.parametrize(("objects", "height", "width"), [(1, 64, 64), (3, 48, 96), (3, 48, 80)])
@torch.no_grad()
def test_each_part_gives_nearly_the_same_for_any_size_and_count(
    folder, network, objects, height, width
):
    small = QuantizedTCMN(folder)
    clip = make_clip(objects, height, width, seed=9)
    expected, found = network.encode(clip[:, :3, ..., 1]), small.encode(clip[:, :3, ..., 1])
    skips = network.decoder.skips(expected.stride8, expected.stride4)
    for one, other in zip(found, (*expected[:3], *skips), strict=True):
        assert one.shape == other.shape
        assert alike(one, other) > 0.98
    masks, unknown = clip[:, 3:, ..., 1], clip[:, 3:, ..., 1].roll(8, -2)
    value = network.memorize(expected, masks, unknown)
    other = small.memorize(found, masks, unknown)
    assert value.shape == other.shape
    assert alike(other, value) > 0.97
    assert not torch.equal(other, small.memorize(found, masks))
    readout = read_memory(expected.key[:, :, None], value[:, :, :, None], expected.key)
    # Without a mask before it is less alike (0.7 here): the clips that set the ranges have one.
    logits, other = network.segment(expected, readout, masks), small.segment(found, readout, masks)
    assert logits.shape == other.shape == (1, 1 + objects, height, width)
    assert alike(other, logits) > 0.97
    other = other.clone()
    assert not torch.equal(small.segment(found, readout), other)
    logits = network.complete(expected, masks, unknown)
    assert alike(small.complete(found, masks, unknown), logits) > 0.95


def test_a_folder_without_its_description_is_refused(folder, tmp_path):
    for file in folder.glob("*.xml"):
        (tmp_path / file.name).write_bytes(file.read_bytes())
    with pytest.raises(FileNotFoundError, match=r"no .*network.json: make it with `tcmn quan"):
        QuantizedTCMN(tmp_path)


@torch.no_grad()
def test_frames_of_a_batch_do_not_see_each_other(folder):
    small = QuantizedTCMN(folder)
    clip = torch.cat([make_clip(objects=2, seed=seed) for seed in (7, 8)])

    def segment(clip):
        features = small.encode(clip[:, :3, ..., 0])
        value = small.memorize(features, clip[:, 3:, ..., 0])
        readout = read_memory(features.key[:, :, None], value[:, :, :, None], features.key)
        return small.segment(features, readout).clone()

    alone = torch.cat([segment(clip[:1]), segment(clip[1:])])
    torch.testing.assert_close(segment(clip), alone, rtol=1e-4, atol=1e-4)


@torch.no_grad()
def test_keys_and_values_outlive_the_next_frame(folder):
    small = QuantizedTCMN(folder)
    clip = make_clip()
    features = small.encode(clip[:, :3, ..., 0])
    value = small.memorize(features, clip[:, 3:, ..., 0])
    kept = features.key.clone(), value.clone()
    features = small.encode(1 - clip[:, :3, ..., 0])
    small.memorize(features, 1 - clip[:, 3:, ..., 0])
    assert not torch.equal(features.key, kept[0])
    torch.testing.assert_close(value, kept[1])


@torch.no_grad()
def test_threads_do_not_disturb_each_other(folder):
    small = QuantizedTCMN(folder, threads=1)
    images = [make_clip(seed=seed)[:, :3, ..., 0] for seed in range(8)]
    alone = [small.encode(image).stride4.clone() for image in images]

    def encode(image):
        with torch.no_grad():
            return small.encode(image).stride4.clone()

    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(encode, images))
    for one, other in zip(together, alone, strict=True):
        torch.testing.assert_close(one, other)


def test_auto_takes_8_bits_only_for_the_weights_they_were_made_from(folder, network):
    taken = optimize(network, backend="auto", folder=folder)
    assert isinstance(taken, QuantizedTCMN)
    assert isinstance(taken, VideoNetwork)
    assert next(taken.parameters()).device.type == "cpu"


def other_weights(network):
    other = copy.deepcopy(network)
    torch.nn.init.ones_(other.decoder.predict.bias)
    return other


def test_auto_falls_back_where_8_bits_do_not_fit(folder, network, tmp_path, monkeypatch):
    monkeypatch.setattr(quantized, "convert", lambda network: folder)  # a conversion takes seconds
    for taken in (
        optimize(other_weights(network), backend="auto", folder=folder),
        optimize(network, backend="auto", folder=tmp_path),
    ):
        assert isinstance(taken, OpenVINONetwork)
        assert not isinstance(taken, QuantizedTCMN)
    assert isinstance(optimize(network, "meta", "auto", folder), TCMN)
    monkeypatch.setitem(sys.modules, "openvino", None)
    assert isinstance(optimize(network, backend="auto", folder=folder), TCMN)


def test_the_torch_backend_is_the_folded_network(folder, network):
    image = make_clip()[:, :3, ..., 0]
    with torch.no_grad():
        found = optimize(network, folder=folder).encode(image)
        expected = fold_batch_norm(network).encode(image)
    torch.testing.assert_close(found.key, expected.key)


def test_what_keeps_int8_from_running_is_reported(folder, network, tmp_path, monkeypatch):
    with pytest.raises(ValueError, match=r"backend must be one of .*, got 'onnx'"):
        optimize(network, backend="onnx")
    with pytest.raises(ValueError, match="runs on CPUs, not on cuda:0: use --backend torch"):
        optimize(network, "cuda:0", "int8", folder)
    with pytest.raises(ValueError, match=r"int8 was made from other weights: make it anew"):
        optimize(other_weights(network), backend="int8", folder=folder)
    with pytest.raises(FileNotFoundError, match=r"no .*network.json: make it with `tcmn quantize"):
        optimize(network, backend="int8", folder=tmp_path)
    (tmp_path / "network.json").write_text((folder / "network.json").read_text())
    with pytest.raises(FileNotFoundError, match=r"no .*encode.xml: make it with `tcmn quantize"):
        optimize(network, backend="int8", folder=tmp_path)
    (tmp_path / "network.json").write_text('{"weights": "0"}')
    with pytest.raises(ValueError, match="was made by another version of this program: make it"):
        optimize(network, backend="int8", folder=tmp_path)
    monkeypatch.setitem(sys.modules, "openvino", None)
    message = r"needs openvino: pip install 'tcmn\[fast\]', or use"
    with pytest.raises(ModuleNotFoundError, match=message):
        optimize(network, backend="int8", folder=folder)


def test_reports_name_the_precision_of_the_computation(folder, network):
    cpu = torch.device("cpu")
    assert number_type(QuantizedTCMN(folder), "float32", cpu) == "8-bit integers"
    assert number_type(network, "float32", cpu) == "float32"
    assert number_type(network, "bfloat16", cpu) == "bfloat16"


def test_a_quantised_network_is_not_written_over(folder, network):
    before = json.loads((folder / "network.json").read_text())
    with pytest.raises(FileExistsError, match="int8 exists: remove it or name another"):
        quantize(network, [make_clip()], folder)
    assert json.loads((folder / "network.json").read_text()) == before


@pytest.mark.heavy
def test_a_failure_leaves_nothing_behind(network, tmp_path, monkeypatch):
    def fail(module):
        raise OSError("disk full")

    monkeypatch.setattr(quantized, "describe", fail)
    with pytest.raises(OSError, match="disk full"):
        quantize(network, [make_clip()], tmp_path / "int8")
    assert list(tmp_path.iterdir()) == []
