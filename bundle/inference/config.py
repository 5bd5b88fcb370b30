"""``configs/inference.yaml`` for use from Python, without its evaluator."""

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

from monai.bundle import ConfigParser

from bundle.utils.bundle_files import bundle_root


def read_inference_config(
    values: Mapping[str, object] = MappingProxyType({}), *, root: Path | None = None
) -> ConfigParser:
    """Read the config; its parts are made by ``get_parsed_content``.

    Args:
        values: Instead of those in the file, by name: weights, device, working_size ...
        root: The bundle's folder; by default the one that the package came with.
    """
    root = bundle_root() if root is None else root
    config = ConfigParser()
    config.read_config(str(root / "configs/inference.yaml"))
    for name, value in {"bundle_root": str(root), **values}.items():
        config[name] = value
    return config
