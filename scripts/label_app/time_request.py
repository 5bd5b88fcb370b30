"""Time this app's server: its start, the first request and later ones; prints a line of JSON.

    python scripts/label_app/time_request.py VIDEO MASK

VIDEO is what inference takes, MASK a picture of its first frame's mask. The server has the shipped
weights and shows the video as import_video.py makes it. Needs the environment of ``make label-env``.
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
    try:
        return bool(client.info())
    except ConnectionError:
        return False


@contextmanager
def serve(folder: Path, bundle: Path = APP.parents[1]) -> Iterator[Any]:
    """A client of a server that has just begun to answer, with the studies in ``folder/studies``.

    Args:
        folder: For all that the server writes.
        bundle: Folder of configs and models.
    """
    (folder / "app").mkdir()  # of its own, since the server writes into it
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
    parser.add_argument("video", type=Path)
    parser.add_argument("mask", type=Path)
    parser.add_argument("--runs", type=int, default=3, help="requests after the first")
    main(**vars(parser.parse_args()))
