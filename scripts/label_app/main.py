"""Entry point of the MONAI Label app, for ``monailabel start_server --app scripts/label_app``.

The app itself is ``bundle.apps.monai_label.app``. This file makes sure that it comes from this clone.
"""

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

import bundle  # noqa: E402

if Path(bundle.__file__ or "nowhere").resolve().parent != ROOT / "bundle":
    raise ImportError(
        f"the package bundle was imported from {bundle.__file__}, expected it in {ROOT}: another "
        "package of that name was found first; uninstall it or remove it from PYTHONPATH"
    )

from bundle.apps.monai_label.app import LabelApp  # noqa: E402

__all__ = ["LabelApp"]
