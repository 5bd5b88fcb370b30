"""``configs/inference.yaml`` for use from Python, without its evaluator."""

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

from monai.bundle import ConfigParser

import bundle

ROOT = Path(bundle.__file__ or "").resolve().parents[1]


def read_inference_config(
    values: Mapping[str, object] = MappingProxyType({}), *, root: Path = ROOT
) -> ConfigParser:
    """Read the config; its parts are made by ``get_parsed_content``.

    Args:
        values: Instead of those in the file, by name: weights, device, working_size ...
        root: The bundle's folder.
    """
    config = ConfigParser()
    config.read_config(str(root / "configs/inference.yaml"))
    for name, value in {"bundle_root": str(root), **values}.items():
        config[name] = value
    return config
