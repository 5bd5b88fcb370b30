"""``tcmn serve``: a MONAI Label server, whose app is this package's."""

import os
import runpy
import sys
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

from bundle.utils.atomic_write import written_beside
from bundle.utils.options import MissingPackageError
from bundle.utils.paths import expand_user

APP = '''"""Made by tcmn serve: the app that MONAI Label loads."""

from bundle.apps.monai_label.app import LabelApp

__all__ = ["LabelApp"]
'''
CALM = {"MONAI_LABEL_TRACKING_ENABLED": "false", "MONAI_LABEL_AUTO_UPDATE_SCORING": "false"}


def serve_label_app(
    studies: str, app_dir: Path, host: str, port: int, options: Sequence[str] = ()
) -> None:
    """Serve until interrupted.

    Args:
        studies: The folder of videos, or the address of a DICOMweb server.
        app_dir: The app's folder, made if it is not there; MONAI Label writes into it.
        host: The address to listen at.
        port: The port.
        options: Options of ``monailabel start_server``, such as ``--conf hosts NAME``.

    Raises:
        MissingPackageError: MONAI Label is not installed.
        FileNotFoundError: There is no such folder of videos.
        FileExistsError: ``app_dir`` holds another app.
    """
    if find_spec("monailabel") is None:
        raise MissingPackageError(
            "the server needs MONAI Label: pip install 'tcmn[label]', in an environment of its own"
        )
    remote = studies.startswith(("http://", "https://"))
    folder = studies if remote else str(expand_user(studies).resolve())
    if not remote and not Path(folder).is_dir():
        raise FileNotFoundError(f"no such folder of videos: --studies {studies}")
    app_dir = expand_user(app_dir).resolve()
    path = app_dir / "main.py"
    if path.exists() and "bundle.apps.monai_label" not in path.read_text(encoding="utf-8"):
        raise FileExistsError(f"{app_dir} holds another app: choose another --app-dir")
    if not path.exists():
        app_dir.mkdir(parents=True, exist_ok=True)
        with written_beside(path) as beside:
            beside.write_text(APP, encoding="utf-8")
    os.environ.update(CALM)
    sys.argv = ["monailabel", "start_server", "--app", str(app_dir), "--studies", folder]
    sys.argv += ["--host", host, "--port", str(port), *options]
    runpy.run_module("monailabel.main", run_name="__main__", alter_sys=True)
