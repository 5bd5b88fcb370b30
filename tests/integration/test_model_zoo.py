"""What the CI of MONAI's Model Zoo asks of a bundle, asked in its way: ``ci/verify_bundle.py`` there.

Properties, the metadata's schema and the data's shape are in ``test_configs.py``.
"""

import hashlib
import json
from pathlib import Path

import jaxtyping
import monai.apps.utils
import pytest
import torch
from monai.bundle import ConfigParser, ckpt_export

from bundle.networks.weights import load_weights
from bundle.utils.bundle_files import bundle_root

ROOT = bundle_root()
CONFIG, META = (str(ROOT / "configs" / name) for name in ("inference.yaml", "metadata.json"))
LARGEST = 25_000_000
"""Bytes of a file that the Zoo takes into its repository."""


def test_the_files_that_are_asked_for_are_there():
    names = (
        "LICENSE configs/metadata.json configs/inference.yaml models/model.pt docs/data_license.txt"
    )
    assert [name for name in names.split() if not (ROOT / name).is_file()] == []


def test_large_files_are_listed_and_are_the_ones_listed(monkeypatch):
    listed = ConfigParser.load_config_file(str(ROOT / "large_files.yml"))["large_files"]
    large = [path for path in (ROOT / "models").rglob("*") if path.stat().st_size > LARGEST]
    assert {entry["path"] for entry in listed} == {
        path.relative_to(ROOT).as_posix() for path in large
    }
    monkeypatch.setattr(monai.apps.utils, "urlretrieve", None)  # nothing is to be fetched
    for entry in listed:
        monai.apps.utils.download_url(
            entry["url"],
            str(ROOT / entry["path"]),
            hash_val=entry["hash_val"],
            hash_type=entry["hash_type"],
        )


def test_checksums_are_those_of_the_files():
    for line in (ROOT / "models/SHA256SUMS").read_text().splitlines():
        digest, name = line.split()
        assert hashlib.sha256((ROOT / "models" / name).read_bytes()).hexdigest() == digest, name


def test_the_version_is_in_the_changelog():
    metadata = json.loads(Path(META).read_text())
    assert metadata["version"] in metadata["changelog"]


@pytest.fixture
def unchecked():
    """No checks of annotations: while a network is traced its sizes are no numbers."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


@pytest.mark.slow
@pytest.mark.usefixtures("unchecked")
@pytest.mark.filterwarnings("ignore:.*deprecated:FutureWarning")
def test_the_weights_export_to_torchscript_without_options(tmp_path):
    ckpt_export(
        net_id="network_def",
        filepath=str(tmp_path / "model.ts"),
        ckpt_file=str(ROOT / "models/model.pt"),
        meta_file=META,
        config_file=CONFIG,
        bundle_root=str(ROOT),
    )
    exported = torch.jit.load(tmp_path / "model.ts")
    parser = ConfigParser(ConfigParser.load_config_file(CONFIG))
    network = load_weights(parser.get_parsed_content("network_def"), ROOT / "models/model.pt")
    clip = torch.rand(1, 5, 40, 64, 3, generator=torch.Generator().manual_seed(0))
    clip[:, 3:] = (clip[:, 3:] > 0.5).float()
    with torch.inference_mode():
        torch.testing.assert_close(exported(clip), network.eval()(clip), atol=1e-3, rtol=1e-3)
