"""What ``monailabel start_server --app scripts/label_app`` starts: ``bundle.apps.monai_label.app``."""

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

import bundle  # noqa: E402

if Path(bundle.__file__ or "nowhere").resolve().parent != ROOT / "bundle":
    raise ImportError(
        f"the package bundle was taken from {bundle.__file__}, expected it in {ROOT}: another package "
        "of that name came first, uninstall it or take it off PYTHONPATH"
    )

from bundle.apps.monai_label.app import LabelApp  # noqa: E402

__all__ = ["LabelApp"]
