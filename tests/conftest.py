"""Checks every annotation of the package while its tests run, tensor shapes included."""

import logging
import os
import sys
from pathlib import Path

import pytest
from jaxtyping import install_import_hook

# As the package does, for tests that import OpenVINO themselves: reporting takes as long as converting.
sys.modules.setdefault("openvino_telemetry", None)
# The tower: an int passes for a float, as type checkers allow.
CHECKER = "beartype.beartype(conf=beartype.BeartypeConf(is_pep484_tower=True))"
PACKAGE = Path(__file__).resolve().parents[1] / "bundle"
# Typer hands commands another class of context than the one that it tells them to declare.
UNCHECKED = ("__init__", "__pycache__", "cli", "py")
install_import_hook(
    [f"bundle.{path.stem}" for path in PACKAGE.iterdir() if path.stem not in UNCHECKED], CHECKER
)


@pytest.fixture(scope="session", autouse=True)
def cache_and_state_of_their_own(tmp_path_factory):
    """Nothing is left in the user's own. All processes of a session share converted networks."""
    cache = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        cache = cache.parent
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TCMN_CACHE_DIR", str(cache / "networks"))
        patch.setenv("TCMN_STATE_DIR", str(tmp_path_factory.mktemp("state")))
        yield


@pytest.fixture(scope="module")
def network():
    """A tiny network whose masks are not empty; not trained."""
    import torch  # after the hook, like all of the package

    from bundle.networks import TCMN

    torch.manual_seed(0)
    network = TCMN(
        "resnet18", key_channels=8, value_channels=16, decoder_channels=(16, 8, 8)
    ).eval()
    torch.nn.init.kaiming_normal_(network.mask_encoder.trunk.conv1.weight)
    # An untrained decoder is sure of "no object" everywhere; this one draws patterns.
    torch.nn.init.normal_(network.decoder.predict.weight, std=0.3)
    return network


@pytest.fixture(autouse=True)
def log_level_as_before():
    """Commands such as ``tcmn segment --quiet`` change it for their whole process."""
    logger = logging.getLogger("bundle")
    level = logger.level
    yield
    logger.setLevel(level)
