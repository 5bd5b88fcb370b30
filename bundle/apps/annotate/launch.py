"""Run ``tcmn annotate``: load the network, serve the page, and open it in the browser."""

import secrets
import socket
import threading
import webbrowser
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from bundle.utils.bundle_files import bundle_root
from bundle.utils.options import MissingPackageError
from bundle.utils.paths import expand_user

EVERYWHERE = ("0.0.0.0", "::")
KEPT = "masks that were not saved are there again the next time"
LOOPBACK = ("127.0.0.1", "localhost", "::1")


def open_page(
    video: Path | None = None,
    mask: Path | None = None,
    *,
    host: str = "127.0.0.1",
    port: int = 0,
    token: bool = False,
    browser: bool = True,
    as_project: bool | None = None,
    structures: Path | None = None,
    who: str | None = None,
    **options: Any,
) -> None:
    """Serve the page until interrupted.

    Args:
        video: Opened at the start: a video, a folder of frames or a saved session; or a project: a
            folder or a list of videos.
        mask: Masks to start with.
        host: Address to listen at. If other machines can reach it, the page asks for a token.
        port: Port; 0 takes a free one.
        token: Whether to ask for a token on this machine too.
        browser: Whether to open the page in the browser.
        as_project: Whether a folder is a project of many videos, or one video; None to find out.
        structures: File with the names of object ids, for the project.
        who: Name of the person who works on the project; by default the user of this process.
        options: Options of ``VideoSegmenter.from_pretrained``.

    Raises:
        MissingPackageError: NiceGUI is not installed.
        ValueError: A value is out of range, a mask is given without a video, an option of projects
            without a project; or the project is damaged or of a newer version.
        FileNotFoundError: A video, mask or weights do not exist.
    """
    if find_spec("nicegui") is None:
        raise MissingPackageError("the page needs NiceGUI: pip install 'tcmn[annotate]'")
    if mask is not None and video is None:
        raise ValueError("--mask goes with a video: tcmn annotate VIDEO --mask MASK")
    # Imported here, since they take seconds, and errors above should come at once.
    from bundle.apps.annotate.project_workspace import ProjectWorkspace
    from bundle.apps.annotate.server import bind, make_app, make_server
    from bundle.apps.annotate.workspace import Workspace
    from bundle.project.opening import holds_project, open_project
    from bundle.segmenter import VideoSegmenter
    from bundle.utils.user_folders import state_folder

    project = None
    if video is not None:
        video = expand_user(video)
        is_project, note = holds_project(video, as_project)
        if is_project:
            if mask is not None:
                raise ValueError(f"--mask goes with one video, {video} is a project of many")
            project, notes = open_project(video, who, structures)
            note = "\n".join([*notes, f"you work on it as {project.who} (--who)"])
        if note:
            print(note, flush=True)
    if project is None and (structures is not None or who is not None):
        raise ValueError(
            "--structures and --who go with a project: tcmn annotate FOLDER, a folder of videos"
        )
    given = options.pop("weights", None)

    def load(weights: Path | None) -> VideoSegmenter:
        return VideoSegmenter.from_pretrained(weights, **options)

    workspace: Workspace
    if project is None:
        workspace = Workspace(load(given), state_folder())
    else:
        if given is not None and project.trainings:
            print("the project's own weights are not used, since --weights names others")
        in_use = ProjectWorkspace(
            load(given or project.weights_file()), project, state_folder(),
            lambda: _describe_weights(given or in_use.weights_file),
            load if given is None else None, given,
        )  # fmt: skip
        workspace = in_use
    try:
        if video is not None and project is None:
            workspace.open(video, mask)
        local = host in LOOPBACK
        secret = None if local and not token else secrets.token_urlsafe(24)
        app = make_app(workspace, secret, LOOPBACK if local else ())
        taken = bind(host, port)
        address = make_address(host, taken.getsockname()[1], secret)
        print(f"annotate at {address}", flush=True)
        if workspace.resumed is not None:
            print(
                f"going on with masks that were not saved ({workspace.resumed:%d %b, %H:%M})",
                flush=True,
            )
        kept = "everything is saved as you work" if project is not None else KEPT
        print(f"Ctrl-C ends it; {kept}", flush=True)
        if browser:
            threading.Timer(0.5, webbrowser.open, [address]).start()
        make_server(app).run(sockets=[taken])
    finally:
        workspace.close()


@cache
def _describe_weights(weights: Path | None) -> dict[str, str]:
    """File name and SHA-256 of weights, the shipped ones by default; read once."""
    from bundle.networks.weights import file_digest

    path = bundle_root() / "models" / "model.pt" if weights is None else Path(weights)
    return {path.name: file_digest(path)}


def make_address(host: str, port: int, token: str | None) -> str:
    """What to open in a browser.

    >>> make_address("127.0.0.1", 8000, None)
    'http://127.0.0.1:8000/'
    """
    host = socket.gethostname() if host in EVERYWHERE else host
    shown = f"[{host}]" if ":" in host else host
    return f"http://{shown}:{port}/" + (f"?token={token}" if token else "")
