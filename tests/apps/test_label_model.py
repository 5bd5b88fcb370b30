"""The network of an annotation server: who shares it, and what becomes of it when its file changes."""

import shutil
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
import yaml

from bundle.apps.monai_label import model as served_model
from bundle.apps.monai_label.model import ServedModel
from bundle.apps.monai_label.options import RequestOptions
from bundle.apps.monai_label.requests import read_request
from bundle.backends.openvino import optimize
from bundle.networks import TCMN
from tests.tiny import NETWORK

ROOT = Path(__file__).resolve().parents[2]
X, Y, T = 24, 16, 6


def save_weights(path, seed):
    torch.manual_seed(seed)
    network = TCMN(**{**NETWORK, "mask_backbone": "resnet18"})
    network.decoder.predict.weight.data *= 40
    path.parent.mkdir(exist_ok=True)
    torch.save(network.state_dict(), path.with_suffix(".partial"))
    path.with_suffix(".partial").replace(path)


@pytest.fixture
def served(tmp_path):
    """The model of a bundle whose network is tiny; weights of a training would be in ``app``."""
    root = tmp_path / "bundle"
    shutil.copytree(ROOT / "configs", root / "configs")
    path = root / "configs/inference.yaml"
    config = yaml.safe_load(path.read_text())
    config["network_def"] |= NETWORK
    config |= {"precision": "float32", "inference_size": None}
    path.write_text(yaml.safe_dump(config, sort_keys=False))
    save_weights(root / "models/model.pt", seed=3)
    return ServedModel(root, tmp_path / "app/model.pt")


@pytest.fixture
def quick(monkeypatch):
    """Without a conversion to OpenVINO for each file of weights."""

    def fold(network, device, backend, folder):
        return optimize(network, device, "torch")

    monkeypatch.setattr(served_model, "optimize", fold)


@pytest.fixture
def ask(tmp_path):
    """Begins to serve somebody's request for a video of their own."""

    def begin(served, number):
        values = np.random.default_rng(number).integers(0, 256, (X, Y, T))
        mask = np.zeros((X, Y, T))
        mask[2:9, 3:7, number] = 1
        paths = tmp_path / f"video{number}.nii.gz", tmp_path / f"mask{number}.nii.gz"
        for path, volume in zip(paths, (values, mask), strict=True):
            nib.save(nib.Nifti1Image(volume.astype(np.uint8), np.eye(4)), path)
        prompts = read_request({"image": str(paths[0]), "label": str(paths[1])})
        return served.inferer.run(prompts, served.network("cpu"), RequestOptions())

    return begin


def labels(results):
    return np.stack([result.labels for result in results])


def test_requests_that_run_side_by_side_do_not_mix(served, ask):
    alone = [labels(ask(served, number)) for number in (0, 4)]
    assert not np.array_equal(*alone)
    together = zip(ask(served, 0), ask(served, 4), strict=True)  # a frame of each in turn
    for expected, found in zip(alone, zip(*together, strict=True), strict=True):
        np.testing.assert_array_equal(labels(found), expected)


def test_new_weights_serve_the_next_request_and_leave_the_one_that_runs(served, quick, ask):
    before = labels(ask(served, 0))
    running = ask(served, 0)
    results = [next(running)]
    save_weights(served.own_weights, seed=4)
    after = labels(ask(served, 0))
    assert not np.array_equal(before, after)
    np.testing.assert_array_equal(labels([*results, *running]), before)
    save_weights(served.own_weights, seed=3)  # changed once more, under the same name
    np.testing.assert_array_equal(labels(ask(served, 0)), before)
    served.own_weights.unlink()
    np.testing.assert_array_equal(labels(ask(served, 0)), before)
    assert served.weights == served.root / "models/model.pt"


def test_a_network_is_loaded_once(served, quick):
    assert served.network("cpu") is served.network("cpu")
