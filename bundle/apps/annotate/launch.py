"""``tcmn annotate``: opens a page in the browser to annotate a video in, on this machine alone."""

import secrets
import socket
import threading
import webbrowser
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from bundle.utils.options import MissingPackageError

EVERYWHERE = ("0.0.0.0", "::")
LOOPBACK = ("127.0.0.1", "localhost", "::1")


def open_page(
    video: Path | None = None,
    mask: Path | None = None,
    *,
    host: str = "127.0.0.1",
    port: int = 0,
    token: bool = False,
    browser: bool = True,
    **options: Any,
) -> None:
    """Serve the page until interrupted.

    Args:
        video: What to open at once: a video, a folder of frames, or a saved session.
        mask: Masks to begin with.
        host: The address to listen at. One that other machines reach asks for a token.
        port: 0 takes a free one.
        token: Ask for a token on this machine as well.
        browser: Open the page in the browser.
        options: Of ``VideoSegmenter.from_pretrained``.

    Raises:
        MissingPackageError: NiceGUI is not installed.
        ValueError: A value is out of range, or a mask is given without a video.
        FileNotFoundError: There is no such video, mask or weights.
    """
    if find_spec("nicegui") is None:
        raise MissingPackageError("the page needs NiceGUI: pip install 'tcmn[annotate]'")
    if mask is not None and video is None:
        raise ValueError("--mask goes with a video: tcmn annotate VIDEO --mask MASK")
    # Here, since they take seconds, which refusals need not.
    from bundle.apps.annotate.autosave import state_folder
    from bundle.apps.annotate.server import bind, make_app, make_server
    from bundle.apps.annotate.workspace import Workspace
    from bundle.segmenter import VideoSegmenter

    workspace = Workspace(VideoSegmenter.from_pretrained(**options), state_folder())
    try:
        if video is not None:
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
        print("Ctrl-C ends it; masks that were not saved are there again the next time", flush=True)
        if browser:
            threading.Timer(0.5, webbrowser.open, [address]).start()
        make_server(app).run(sockets=[taken])
    finally:
        workspace.close()


def make_address(host: str, port: int, token: str | None) -> str:
    """What to open in a browser.

    >>> make_address("127.0.0.1", 8000, None)
    'http://127.0.0.1:8000/'
    """
    host = socket.gethostname() if host in EVERYWHERE else host
    shown = f"[{host}]" if ":" in host else host
    return f"http://{shown}:{port}/" + (f"?token={token}" if token else "")
