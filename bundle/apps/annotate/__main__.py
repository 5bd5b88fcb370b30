"""``tcmn annotate VIDEO``: opens a page in the browser to annotate a video in.

python -m bundle.apps.annotate colonoscopy.mp4
"""

import argparse
import secrets
import socket
import sys
import threading
import webbrowser
from collections.abc import Sequence
from importlib.util import find_spec

from bundle.utils.options import USER_ERRORS

EVERYWHERE = ("0.0.0.0", "::")
LOOPBACK = ("127.0.0.1", "localhost", "::1")


def parse_arguments(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="tcmn annotate", description="A page to annotate videos in, on this machine alone."
    )
    parser.add_argument("video", nargs="?", help="a video, folder of frames, or saved session")
    parser.add_argument("--mask", help="masks to begin with: a picture, volume or folder")
    parser.add_argument("--weights", help="a plain state dict (default: models/model.pt)")
    parser.add_argument("--device", help="auto, cpu, cuda, cuda:N, mps (default: auto)")
    parser.add_argument(
        "--working_size", help="shorter side in pixels that the network sees, or null"
    )
    parser.add_argument("--memory_every", type=int, help="frames: every so many are remembered")
    parser.add_argument("--capacity", help="most frames remembered: a number, auto or null")
    parser.add_argument(
        "--spatial_prior",
        help="how far to look for what is remembered, of the shorter side, or auto or null",
    )
    parser.add_argument(
        "--review_below", type=float, help="confidence below which a frame is marked"
    )
    parser.add_argument("--port", type=int, default=0, help="0 takes a free one (default)")
    parser.add_argument(
        "--host", default="127.0.0.1", help="an address other machines reach; asks for a token"
    )
    parser.add_argument("--token", action="store_true", help="ask for a token here as well")
    parser.add_argument("--no_browser", action="store_true", help="only print the address")
    return parser.parse_args(arguments)


def settings_of(options: argparse.Namespace) -> dict[str, object]:
    """What was given of the values in ``configs/inference.yaml``."""
    names = (
        "weights", "device", "working_size", "memory_every", "capacity", "spatial_prior", "review_below"
    )  # fmt: skip
    return {name: value for name in names if (value := getattr(options, name)) is not None}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run until interrupted.

    Returns:
        The exit status.
    """
    options = parse_arguments(arguments)
    try:
        return _serve(options)
    except USER_ERRORS as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130


def _serve(options: argparse.Namespace) -> int:
    if find_spec("nicegui") is None:
        raise ValueError("the page needs NiceGUI: pip install -e '.[annotate]'")
    # Here, since they take seconds, which --help need not.
    from bundle.apps.annotate.desk import Desk
    from bundle.apps.annotate.model import load_model
    from bundle.apps.annotate.server import bind, make_app, make_server

    desk = Desk(load_model(settings_of(options)))
    try:
        if options.video is not None:
            desk.open(options.video, options.mask)
        elif options.mask is not None:
            raise ValueError("--mask goes with a video: tcmn annotate VIDEO --mask MASK")
        local = options.host in LOOPBACK
        token = None if local and not options.token else secrets.token_urlsafe(24)
        app = make_app(desk, token, LOOPBACK if local else ())
        taken = bind(options.host, options.port)
        address = make_address(options.host, taken.getsockname()[1], token)
        print(f"annotate at {address}\nCtrl-C ends it; what was not saved is gone then", flush=True)
        if not options.no_browser:
            threading.Timer(0.5, webbrowser.open, [address]).start()
        make_server(app).run(sockets=[taken])
        return 0
    finally:
        desk.close()


def make_address(host: str, port: int, token: str | None) -> str:
    """What to open in a browser.

    >>> make_address("127.0.0.1", 8000, None)
    'http://127.0.0.1:8000/'
    """
    host = socket.gethostname() if host in EVERYWHERE else host
    shown = f"[{host}]" if ":" in host else host
    return f"http://{shown}:{port}/" + (f"?token={token}" if token else "")


if __name__ == "__main__":
    sys.exit(main())
