"""Soak test: do memory, open files or threads grow over many videos or many requests to a server?

python scripts/dev/soak.py --case videos --count 200 --output_dir OUT
.venv-label/bin/python scripts/dev/soak.py --case requests --count 500 --output_dir OUT

Segments small synthetic videos of several kinds and sizes, with the shipped weights at a small
inference size. Measures resident memory, open files and threads after each. Also compares every result
with that of the same video on its own. Prints and writes JSON. The case ``requests`` asks a MONAI Label
server; it needs the environment of ``make label-env``.
"""

import argparse
import filecmp
import functools
import gzip
import importlib
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import av
import nibabel as nib
import numpy as np
import psutil
import SimpleITK as sitk
from ignite.engine import Events
from PIL import Image
from torch import nn

from bundle.inference.config import read_inference_config

ROOT = Path(__file__).resolve().parents[2]
FRAMES = 6
KINDS = ("avi", "mp4", "folder", "nii.gz", "mha")
WORKING_SIZE = 64
FIXED = {"progress": False, "inference_size": WORKING_SIZE, "device": "cpu"}
WARM_UP = 0.25
"""Share of the samples that the line fit leaves out, in which libraries fill their caches."""

Sample = dict[str, int]


def make_video(folder: Path, number: int, kinds: Iterable[str] = KINDS) -> tuple[Path, Path]:
    """Write a video of a disk that moves over noise, and the mask of its first frame.

    Args:
        folder: Folder to write to.
        number: Seed, which also decides the size and the kind.
        kinds: File formats to choose from, by turns.

    Returns:
        Paths of the video and of the mask.
    """
    random, kinds = np.random.default_rng(number), tuple(kinds)
    kind = kinds[number % len(kinds)]
    height, width = (int(side) for side in 2 * random.integers(24, 64, 2))
    rows, columns = np.ogrid[:height, :width]
    frames, radius = random.integers(0, 80, (FRAMES, height, width, 3), dtype=np.uint8), height / 5
    masks = np.zeros((FRAMES, height, width), dtype=np.uint8)
    for t in range(FRAMES):
        masks[t] = (rows - height / 2) ** 2 + (columns - width / 3 - 2 * t) ** 2 < radius**2
        frames[t] += 150 * masks[t][..., None]
    name = folder / f"video{number:03d}"
    mask = folder / f"{name.name}_mask.png"
    Image.fromarray(masks[0] * 255).save(mask)
    return write_video(name, kind, frames), mask


def write_video(name: Path, kind: str, frames: np.ndarray) -> Path:
    """Write frames (T, H, W, 3) as a file, or a folder of pictures. Returns its path."""
    path = name if kind == "folder" else name.with_name(f"{name.name}.{kind}")
    if kind == "folder":
        path.mkdir()
        for index, frame in enumerate(frames):
            Image.fromarray(frame).save(path / f"{index}.png")
    elif kind == "nii.gz":
        nib.save(nib.Nifti1Image(frames[..., 0].T.copy(), np.diag([0.5, 0.7, 1, 1])), path)
    elif kind == "mha":
        sitk.WriteImage(sitk.GetImageFromArray(frames[..., 0]), str(path))
    else:
        codec, form = ("ffv1", "bgr0") if kind == "avi" else ("mpeg4", "yuv420p")
        with av.open(str(path), "w") as container:
            stream: Any = container.add_stream(codec, rate=25)
            stream.height, stream.width, stream.pix_fmt = *frames.shape[1:3], form
            for frame in frames:
                container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
            container.mux(stream.encode())
    return path


def sample(process: psutil.Process) -> Sample:
    """Read the resident memory in KiB, the open files, threads and child processes of a process."""
    return {
        "rss_kib": process.memory_info().rss // 1024,
        "open_files": process.num_fds(),
        "threads": process.num_threads(),
        "children": len(process.children(recursive=True)),
    }


def summarize(samples: list[Sample]) -> dict[str, Any]:
    """Summarise samples after the warm-up: first, largest, last values, and slope of the memory."""
    begin = int(WARM_UP * len(samples))
    rss = np.array([each["rss_kib"] for each in samples])
    half = len(samples) // 2
    return {
        "count": len(samples),
        "rss_mib": {
            name: round(float(rss[index]) / 1024, 1)
            for name, index in (("first", 0), ("warm", begin), ("half", half), ("last", -1))
        },
        "slope_kib_each": round(float(np.polyfit(range(begin, len(rss)), rss[begin:], 1)[0]), 2),
        "slope_kib_each_2nd_half": round(float(np.polyfit(range(half, len(rss)), rss[half:], 1)[0]), 2),
        **{
            name: [samples[begin][name], max(s[name] for s in samples[begin:]), samples[-1][name]]
            for name in ("open_files", "threads", "children")
        },
    }  # fmt: skip


def segment(
    options: Mapping[str, Any],
    network: nn.Module | None = None,
    after_each: Callable[[], object] = lambda: None,
) -> nn.Module:
    """Run configs/inference.yaml in this process. Returns its network, so that it can be used again."""
    config = read_inference_config({**FIXED, **options})
    if network is not None:
        config["network"] = network
    evaluator = config.get_parsed_content("evaluator")
    evaluator.add_event_handler(Events.ITERATION_COMPLETED, after_each)
    evaluator.run()
    return evaluator.network


def list_files(folder: Path) -> list[str]:
    """List all files below a folder, sorted, relative to it."""
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def study_videos(options: argparse.Namespace) -> dict[str, Any]:
    """Segment many videos in one run, then each on its own, and some of these in new processes."""
    with tempfile.TemporaryDirectory() as scratch:
        videos, batch, single = (Path(scratch) / name for name in ("videos", "batch", "single"))
        videos.mkdir()
        pairs = [make_video(videos, number) for number in range(options.count)]
        samples: list[Sample] = []
        take = functools.partial(sample, psutil.Process())
        given = {"backend": options.backend, "formats": options.formats}
        network = segment(
            {**given, "input_dir": str(videos), "output_dir": str(batch)},
            after_each=lambda: samples.append(take()),
        )
        every = max(1, options.count // (options.twins or options.count))
        for video, mask in reversed(pairs[::every]):
            alone = {"video": str(video), "mask": str(mask), "output_dir": str(single)}
            segment({**given, **alone}, network)
        names = [path.name for path in single.iterdir()]
        same = [name for name in names if equal_folders(single / name, batch / name)]
        processes = pairs[:: max(1, options.count // max(1, options.alone))][: options.alone]
        own = [compare_with_process(*pair, batch, Path(scratch), given) for pair in processes]
        return {
            **summarize(samples),
            "results": len(list(batch.iterdir())),
            "run_again_alone": len(names),
            "equal_in_all_files": len(same),
            "run_again_in_a_process_of_their_own": len(own),
            "equal_to_these": sum(own),
        }


def equal_folders(first: Path, second: Path) -> bool:
    """Whether two folders hold the same files, byte for byte."""
    names = list_files(first)
    equal, _, _ = filecmp.cmpfiles(first, second, names, shallow=False)
    return names == list_files(second) == sorted(equal)


def compare_with_process(
    video: Path, mask: Path, batch: Path, scratch: Path, given: Mapping[str, Any]
) -> bool:
    """Whether a new process gives the same files for one video."""
    command = [sys.executable, "-W", "ignore", "-m", "monai.bundle", "run"]
    command += ["--config_file", str(ROOT / "configs/inference.yaml")]
    folder = scratch / f"own_{video.name}"
    named = {"video": video, "mask": mask, "output_dir": folder, **given}
    for name, value in {**named, **FIXED}.items():
        command += [f"--{name}", str(value)]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    (found,) = folder.iterdir()
    return equal_folders(found, batch / found.name)


def study_requests(options: argparse.Namespace) -> dict[str, Any]:
    """Send requests of a few kinds by turns, sometimes two at once, sometimes one that is refused."""
    sys.path.append(str(ROOT / "scripts/label_app"))
    serve = importlib.import_module("time_request").serve
    with tempfile.TemporaryDirectory() as scratch:
        folder, temporary = Path(scratch), Path(scratch) / "tmp"
        for name in ("studies", "masks", "uploads", "tmp", "bundle/configs"):
            (folder / name).mkdir(parents=True)
        os.environ["TMPDIR"] = str(temporary)
        os.environ["MONAI_LABEL_SESSION_PATH"] = str(folder / "sessions")
        os.environ["MONAI_LABEL_TRACKING_ENABLED"] = "false"
        jobs = make_jobs(folder)
        with serve(folder, folder / "bundle") as client:
            (server,) = psutil.Process().children()
            return run_requests(client, server, jobs, options.count, temporary)


def make_jobs(folder: Path) -> list[tuple[Path, Path]]:
    """Write a bundle with a small inference size, eight studies, four videos to upload, and masks.

    Returns:
        Paths of the video and of the mask for each request.
    """
    for path in (ROOT / "configs").iterdir():
        text = path.read_text().replace("inference_size: 320", f"inference_size: {WORKING_SIZE}")
        (folder / "bundle/configs" / path.name).write_text(text)
    (folder / "bundle/models").symlink_to(ROOT / "models")
    kinds = ("nii.gz", "mha", "avi", "mp4")
    places = ["studies"] * 8 + ["uploads"] * 4
    jobs = [make_video(folder / place, n, kinds) for n, place in enumerate(places)]
    for _, mask in jobs:
        mask.rename(folder / "masks" / mask.name)
    return [(video, folder / "masks" / mask.name) for video, mask in jobs]


def ask(client: Any, job: tuple[Path, Path]) -> tuple[bytes, str]:
    """Send one request. Returns the bytes of its label volume, and its confidences as JSON."""
    video, mask = job
    if video.parent.name == "uploads":
        session = client.create_session(str(video))["session_id"]
        path, answer = client.infer("tcmn", "", {}, str(mask), session_id=session)
        client.remove_session(session)
    else:
        path, answer = client.infer("tcmn", video.name.split(".")[0], {}, str(mask))
    labels = gzip.decompress(Path(path).read_bytes())
    Path(path).unlink()
    return labels, json.dumps(answer["confidence"])


def refused(client: Any, mask: Path) -> bool:
    """Whether the server refuses a request for an image that does not exist."""
    try:
        client.infer("tcmn", "nobody", {}, str(mask))
    except Exception as error:
        return "there is no such image" in str(getattr(error, "msg", error))
    return False


def run_requests(
    client: Any, server: psutil.Process, jobs: list[tuple[Path, Path]], count: int, temporary: Path
) -> dict[str, Any]:
    """Send ``count`` requests. Compare each answer with the first one of the same job, sent alone."""
    first = {job: ask(client, job) for job in jobs}
    samples: list[Sample] = []
    equal = refusals = asked = 0
    with ThreadPoolExecutor(2) as pool:
        while asked < count:
            step = len(samples)
            together = [jobs[step % len(jobs)]]
            if step % 10 == 9 and count - asked > 1:
                together.append(jobs[(step + 5) % len(jobs)])
            answers = list(pool.map(functools.partial(ask, client), together))
            equal += sum(first[j] == a for j, a in zip(together, answers, strict=True))
            asked += len(together)
            if step % 20 == 19:
                refusals += refused(client, jobs[0][1])
            samples.append(sample(server))
    time.sleep(2)  # the server deletes the file of an answer after sending it
    left = list_files(temporary)
    different = len({labels for labels, _ in first.values()})
    return {
        **summarize(samples),
        "requests": asked,
        "answers_as_the_first_time": equal,
        "different_answers": f"{different} of {len(jobs)}",
        "refused_besides": refusals,
        "temporary_files_left": len(left),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument(
        "--case", choices=("videos", "requests"), required=True, help="what to repeat"
    )
    parser.add_argument("--count", type=int, default=200, help="number of videos or requests")
    parser.add_argument(
        "--backend", default="auto", help="for videos: torch, openvino, int8 or auto"
    )
    parser.add_argument("--formats", default="auto", help="for videos: formats of the results")
    parser.add_argument(
        "--twins", type=int, help="number of videos to run again on their own (default: all)"
    )
    parser.add_argument(
        "--alone", type=int, default=2, help="number of videos to run again in new processes"
    )
    parser.add_argument(
        "--output_dir", type=Path, default=ROOT / "output/soak", help="folder of the results"
    )
    options = parser.parse_args()
    options.output_dir.mkdir(parents=True, exist_ok=True)
    study = {"videos": study_videos, "requests": study_requests}[options.case]
    text = json.dumps(study(options), indent=1)
    (options.output_dir / f"{options.case}.json").write_text(text + "\n")
    print(text)


if __name__ == "__main__":
    main()
