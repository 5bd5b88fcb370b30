"""Scripts as modules, whose functions tests call."""

import importlib.util
from pathlib import Path

SCRIPTS = Path(__file__).resolve().parents[1] / "scripts"


def load_script(name):
    """A fresh copy of ``scripts/NAME.py``, one that imports no other script."""
    path = SCRIPTS / f"{name}.py"
    specification = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    return module
