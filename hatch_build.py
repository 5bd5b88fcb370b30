"""Puts the configs, the weights and the demo's outline into the wheel; see ``pyproject.toml``.

The protocol's weights, which only tables need, stay in the repository: a wheel of at most 100 MB.
"""

from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

FILES = (
    "configs",
    "models/model.pt",
    "models/model.json",
    "models/int8",
    "models/SHA256SUMS",
    "scripts/demo/left_ventricle.json",
    "docs/data_license.txt",
    "LICENSE",
)


class BundleFiles(BuildHookInterface):
    """They lie beside the package in a clone and inside it in a wheel: bundle.utils.bundle_files."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        if version == "standard":  # an editable installation uses those of the clone
            build_data["force_include"].update({name: f"bundle/_bundle/{name}" for name in FILES})
