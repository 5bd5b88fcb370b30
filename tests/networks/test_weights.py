"""The shipped weights: what the file is, and what it does on the demo's echocardiogram."""

import csv
import re
from pathlib import Path

import nibabel as nib
import numpy as np
import pydicom.data
import pytest
import torch
from monai.bundle import ConfigParser

from bundle.networks.definition import make_network
from bundle.networks.tcmn import TCMN
from bundle.networks.weights import (
    WeightsDescription,
    describe_weights,
    file_digest,
    load_weights,
    read_description,
)
from tests.scripts import load_script
from tests.tiny import NETWORK, PROMPTED

ROOT = Path(__file__).resolve().parents[2]
WEIGHTS = ROOT / "models" / "model.pt"
LARGEST_BYTES = {"model.pt": 48e6}


@pytest.mark.parametrize("file", LARGEST_BYTES)
def test_file_is_a_plain_state_dict_in_half_precision(file):
    path = ROOT / "models" / file
    assert path.stat().st_size < LARGEST_BYTES[file]
    for name, tensor in torch.load(path, weights_only=True).items():
        if tensor.is_floating_point():
            statistics = name.endswith(("running_mean", "running_var"))
            assert tensor.dtype == (torch.float32 if statistics else torch.float16), name
        assert tensor.float().isfinite().all(), name


@pytest.mark.parametrize("name", ["inference.yaml", "train.yaml"])
def test_configs_build_the_network_of_the_file(name):
    parser = ConfigParser(ConfigParser.load_config_file(str(ROOT / "configs" / name)))
    parser["network_def#backbone_weights"] = None
    network = load_weights(parser.get_parsed_content("network_def"), WEIGHTS)
    assert network.query_encoder.trunk.layer2[0].conv1.stride == (2, 2)


def test_export_keeps_the_logits(tmp_path):
    """A full-precision checkpoint and the file exported from it give the same masks."""
    full = load_weights(make_network(weights=WEIGHTS), WEIGHTS).eval()
    with torch.no_grad():  # the file's weights are exact halves: make them need rounding again
        for parameter in full.parameters():
            parameter.mul_(1 + 1e-4 * torch.rand_like(parameter))
    torch.save({"ema": full.state_dict(), "trainer": {}}, tmp_path / "last.pt")
    load_script("dev/export_weights").export(tmp_path / "model.pt", [tmp_path / "last.pt"])
    half = load_weights(make_network(), tmp_path / "model.pt").eval()
    clip = torch.rand(1, 4, 64, 64, 3)
    clip[:, 3] = 0
    clip[:, 3, 20:40, 20:40] = 1
    with torch.inference_mode():
        wanted, found = full(clip).softmax(1), half(clip).softmax(1)
    assert (wanted - found).abs().max() < 0.02
    assert [path.name for path in tmp_path.glob("*.partial")] == []


def test_export_averages_several(tmp_path):
    for value in (1.0, 2.0):
        torch.save({"ema": {"w": torch.tensor([value])}}, tmp_path / f"{value}.pt")
    sources = [tmp_path / "1.0.pt", tmp_path / "2.0.pt"]
    load_script("dev/export_weights").export(tmp_path / "model.pt", sources)
    assert torch.load(tmp_path / "model.pt", weights_only=True)["w"].item() == 1.5


def test_export_mixes_in_shares_and_completes_older_weights(tmp_path):
    older, newer = TCMN(**NETWORK), TCMN(**PROMPTED)
    torch.nn.init.normal_(newer.mask_encoder.trunk.conv1.weight)
    torch.save(older.state_dict(), tmp_path / "older.pt")
    torch.save(newer.state_dict(), tmp_path / "newer.pt")
    digest = file_digest(tmp_path / "newer.pt")
    description = WeightsDescription(newer.definition, "1.0.0", digest)
    describe_weights(tmp_path / "newer.pt", description)
    sources = [tmp_path / "newer.pt", tmp_path / "older.pt"]
    load_script("dev/export_weights").export(tmp_path / "model.pt", sources, shares=[0.75, 0.25])
    mixed = load_weights(TCMN(**PROMPTED), tmp_path / "model.pt").state_dict()
    expected = {name: tensor.clone() for name, tensor in newer.state_dict().items()}
    for name, tensor in older.state_dict().items():
        if tensor.is_floating_point():
            part = expected[name][:, : tensor.shape[1]] if tensor.ndim > 1 else expected[name]
            part.mul_(0.75).add_(tensor, alpha=0.25)
    assert set(mixed) == set(expected)
    for name, tensor in expected.items():
        torch.testing.assert_close(mixed[name], tensor, atol=2e-3, rtol=2e-3, msg=name)


def test_export_keeps_the_list_of_protocols_trained_on(tmp_path):
    network = TCMN(**PROMPTED)
    torch.save(network.state_dict(), tmp_path / "first.pt")
    description = WeightsDescription(network.definition, "1.0.0", seen=["cvc_clinicdb"])
    describe_weights(tmp_path / "first.pt", description)
    export = load_script("dev/export_weights").export
    export(tmp_path / "model.pt", [tmp_path / "first.pt"])
    assert list(read_description(tmp_path / "model.pt").seen) == ["cvc_clinicdb"]
    export(tmp_path / "model.pt", [tmp_path / "first.pt"], seen=["camus_unseen", "davis_held_out"])
    assert list(read_description(tmp_path / "model.pt").seen) == ["camus_unseen", "davis_held_out"]


def test_export_needs_a_share_for_each_source(tmp_path):
    torch.save({"w": torch.zeros(1)}, tmp_path / "1.pt")
    with pytest.raises(ValueError, match="got 2 shares for 1 sources: give one share for each"):
        load_script("dev/export_weights").export(
            tmp_path / "model.pt", [tmp_path / "1.pt"], shares=[0.5, 0.5]
        )


def test_export_refuses_different_networks(tmp_path):
    for size in (1, 2):
        torch.save({"w": torch.zeros(size)}, tmp_path / f"{size}.pt")
    sources = [tmp_path / "1.pt", tmp_path / "2.pt"]
    with pytest.raises(ValueError, match=r"2.pt and .*1.pt hold networks of different sizes"):
        load_script("dev/export_weights").export(tmp_path / "model.pt", sources)
    assert not (tmp_path / "model.pt").exists()


@pytest.mark.slow
@pytest.mark.skipif(
    pydicom.data.get_testdata_file("examples_ybr_color.dcm", download=False) is None,
    reason="this pydicom has no examples_ybr_color.dcm",
)
def test_demo_follows_the_ventricle(tmp_path, capfd):
    load_script("demo/make_demo").main(tmp_path)
    said = capfd.readouterr().out
    scores = [float(score) for score in re.findall(r"Dice ([\d.]+)", said)]
    copied = [float(score) for score in re.findall(r"mask: ([\d.]+)", said)]
    assert len(scores) == 2
    assert min(scores) > 87
    assert all(score > copy for score, copy in zip(scores, copied, strict=True))

    results = tmp_path / "examples_ybr_color"
    volume = np.asarray(nib.load(results / "masks.nii.gz").dataobj)
    assert volume.shape == (320, 240, 30)
    with (results / "frames.csv").open() as file:
        areas = [int(row["area_px"]) for row in csv.DictReader(file)]
    assert areas == [int((volume[..., t] == 1).sum()) for t in range(30)]
    # The beat: the ventricle is larger at its end-diastole (frame 20) than at end-systole (6).
    assert areas[20] > 1.2 * areas[6]
