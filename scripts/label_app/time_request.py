"""Measure how fast the MONAI Label server answers: its start, the first request and later ones.

    python scripts/label_app/time_request.py VIDEO MASK

MASK is a picture, the mask of the first frame of VIDEO. The server uses the shipped weights. The video
is converted by import_video.py first. Prints one line of JSON, times in seconds. Needs the environment
of ``make label-env``.
"""

import argparse
import json
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any

from import_video import import_video

from bundle.apps.monai_label.model import of_monailabel

APP = Path(__file__).resolve().parent


def answers(client: Any) -> bool:
    """Whether the server accepts connections yet."""
    try:
        return bool(client.info())
    except ConnectionError:
        return False


@contextmanager
def serve(folder: Path, bundle: Path = APP.parents[1]) -> Iterator[Any]:
    """Start a server for the studies in ``folder/studies``; stop it when the block ends.

    Args:
        folder: Existing folder; the server writes into it.
        bundle: Folder that holds ``configs`` and ``models``.

    Yields:
        A client of MONAI Label, once the server accepts connections.
    """
    (folder / "app").mkdir()  # the server writes into its app folder
    (folder / "app/main.py").symlink_to(APP / "main.py")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    command = [sys.executable, "-m", "monailabel.main", "start_server", "--host", "127.0.0.1"]
    command += ["--port", port, "--app", str(folder / "app"), "--studies", str(folder / "studies")]
    command += ["--conf", "bundle", str(bundle)]
    client = of_monailabel("client", "MONAILabelClient")(f"http://127.0.0.1:{port}", str(folder))
    with (folder / "log").open("w") as log:
        server = subprocess.Popen(command, cwd=folder, stdout=log, stderr=log)
    try:
        while not answers(client):
            if server.poll() is not None:
                sys.exit((folder / "log").read_text()[-3000:])
            time.sleep(0.05)
        yield client
    finally:
        server.terminate()
        server.wait()


def main(video: Path, mask: Path, runs: int) -> None:
    with tempfile.TemporaryDirectory() as name:
        study = import_video(video, Path(name) / "studies")
        moments = [time.perf_counter()]
        with serve(Path(name)) as client:
            moments.append(time.perf_counter())
            for _ in range(1 + runs):
                client.infer("tcmn", study.name.removesuffix(".nii.gz"), {}, str(mask))
                moments.append(time.perf_counter())
        start, first, *later = (round(b - a, 2) for a, b in pairwise(moments))
        result: dict[str, Any] = {"start_s": start, "first_s": first, "later_s": later}
        print(json.dumps(result | {"median_s": statistics.median(later)}))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("video", type=Path, help="video to segment")
    parser.add_argument("mask", type=Path, help="picture: mask of its first frame")
    parser.add_argument("--runs", type=int, default=3, help="number of requests after the first")
    main(**vars(parser.parse_args()))
