"""Read ``configs/inference.yaml`` from Python, and check the command line of a config run."""

import inspect
from collections.abc import Mapping, MutableMapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

from monai.bundle import ConfigParser

from bundle.inference.settings import GONE, OLD_NAMES
from bundle.networks.tcmn import TCMN
from bundle.utils.bundle_files import bundle_root
from bundle.utils.options import check_command_line

OLD_TRAINING_NAMES = {
    "trunk_factor": "backbone_factor",
    "made_up": "augmentation_strength",
    "pulse": "radial_warp",
    "gain": "illumination",
}
"""Old name -> new name of options of the training configs, up to version 0.11."""


def read_inference_config(
    values: Mapping[str, object] = MappingProxyType({}), *, root: Path | None = None
) -> ConfigParser:
    """Read the inference config; call ``get_parsed_content`` to make its parts.

    Args:
        values: Name -> value that replaces the file's: weights, device, inference_size ...
        root: The folder with ``configs`` and ``models``; by default that of the package.
    """
    root = bundle_root() if root is None else root
    config = ConfigParser()
    config.read_config(str(root / "configs/inference.yaml"))
    for name, value in {"bundle_root": str(root), **values}.items():
        config[name] = value
    return config


def check_run(resolved: MutableMapping[str, Any]) -> None:
    """Check the command line of ``monai.bundle run``; see ``check_command_line``.

    Args:
        resolved: ``__local_refs``, which expressions in a config can use.

    Raises:
        ValueError: An option is unknown.
    """
    network = tuple(inspect.signature(TCMN).parameters)
    check_command_line(
        resolved,
        old_names={**OLD_NAMES, **OLD_TRAINING_NAMES},
        gone=GONE,
        open_ended={"network_def": network},
    )
