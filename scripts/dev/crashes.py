"""Kill runs at random moments, or fill up their disk. Check what they leave, and that a rerun succeeds.

python scripts/dev/crashes.py --times 50 --output_dir OUT

Inference, batches, training and evaluation run by the shipped configs, with a tiny network on small
videos. Half of the kills come at a random moment of the run, the others just after a file of the
results was opened, renamed or removed. Prints and writes JSON. The exit status is 1 if a check failed.

A full disk is a small tmpfs. To mount it needs root, or ``unshare -Urm python scripts/dev/crashes.py
...``.
"""

import argparse
import itertools
import json
import logging
import os
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

# One thread, since a fork copies no other threads.
os.environ["OMP_NUM_THREADS"] = "1"

import numpy as np
from crash_process import IN_PLACE, run
from crash_runs import KINDS, Kind, make_inputs, read_result

ROOT = Path(__file__).resolve().parents[2]
ROOM_KIB = 1 << 20
logger = logging.getLogger(Path(__file__).stem)

Files = dict[str, Any]  # relative path to what the file says


# Checks of the results


def read_all(folder: Path) -> Files:
    """Read all files of a folder, except hidden ones (their name or a folder's begins with a dot)."""
    paths = (path for path in sorted(folder.rglob("*")) if path.is_file())
    names = ((path, path.relative_to(folder)) for path in paths)
    return {
        str(name): read_result(path)
        for path, name in names
        if not any(part.startswith(".") for part in name.parts)
    }


def list_hidden(folder: Path) -> list[str]:
    """List the hidden files and folders: names that begin with a dot."""
    return [str(path.relative_to(folder)) for path in folder.rglob(".*")]


def find_wrong(kind: Kind, out: Path, sound: list[Files]) -> list[str]:
    """Find files that should not be there after a kill or a full disk.

    Args:
        kind: Kind of the run.
        out: Folder of its results.
        sound: Results of undisturbed runs. Every file, or folder that appears whole, must equal that of
            one of them.

    Returns:
        A description of each wrong file.
    """
    try:
        found = read_all(out)
    except Exception as error:
        return [f"not whole: {error!r}"]
    if kind.grows:
        return [name for name, content in found.items() if not _has_begun(name, content, sound[0])]
    return [
        name
        for name in found
        if not any(_part(kind, name, found) == _part(kind, name, one) for one in sound)
    ]


def _has_begun(name: str, content: Any, whole: Files) -> bool:
    """Whether a table holds the first rows of the full one. Other files need only be known by name."""
    if not name.endswith(".csv"):
        return name in whole
    return bool(content) and content == whole[name][: len(content)]


def _part(kind: Kind, name: str, files: Files) -> Files:
    """The file alone, or all files of the folder around it, if that must appear whole."""
    for folder in Path(name).parents:
        if any(folder.match(pattern) for pattern in kind.folders) and folder.name:
            return {each: files[each] for each in files if Path(each).is_relative_to(folder)}
    return {name: files.get(name)}


def _first_other(found: Any, whole: Any) -> str:
    """Describe the first row in which two tables differ."""
    if not isinstance(found, list) or not isinstance(whole, list):
        return "its content"
    pairs = enumerate(itertools.zip_longest(found, whole))
    return next(f"row {i}: {a} in place of {b}" for i, (a, b) in pairs if a != b)


# Trials


@dataclass
class Study:
    """Disturbs runs of one kind and compares their results with an undisturbed run.

    Attributes:
        kind: Kind of the runs.
        inputs: Folder that ``make_inputs`` filled.
        folder: Folder to work in.
        seed: Seed of the random moments.
    """

    kind: Kind
    inputs: Path
    folder: Path
    seed: int

    def __post_init__(self) -> None:
        self.draw = np.random.default_rng(self.seed)
        self.counts: Counter[str] = Counter()
        self.wrong: list[str] = []
        self.out = self.folder / "out"
        self.normal = run(self.kind, self.inputs, self.folder / "whole")
        if self.normal.status != 0:
            raise ValueError(f"the undisturbed run failed: {self.normal.said}")
        said = self.normal.said.splitlines()
        self.note("undisturbed", [line for line in said if line.startswith(IN_PLACE)])
        self.whole = read_all(self.folder / "whole")
        self.sound = [self.whole]

    def begin(self, trial: int) -> None:
        """Put earlier results into the folder of results, in every second trial if the kind has any."""
        if not self.kind.earlier or trial % 2 == 0:
            return
        earlier = self.folder / "earlier"
        if not earlier.exists():
            run(self.kind, self.inputs, earlier, "other.pt")
            self.sound.append(read_all(earlier))
        shutil.copytree(earlier, self.out, dirs_exist_ok=True)

    def kill(self, trial: int) -> None:
        """Kill a run, once or a few times in a row; check what is left each time; then rerun."""
        self.begin(trial)
        for _ in range(int(self.draw.integers(self.kind.in_a_row)) + 1):
            moment: dict[str, Any] = {"kill_s": self.draw.random() * self.normal.seconds}
            if self.counts["kills"] % 2:
                moment = {"kill_write": int(self.draw.integers(1, self.normal.writes + 1))}
            ended = run(self.kind, self.inputs, self.out, **moment)
            if ended.status is not None:
                self.counts["came too late"] += 1
                break
            self.counts["kills"] += 1
            self.counts["kills in mid-write"] += bool(list_hidden(self.out))
            self.note(
                f"trial {trial}, killed by {moment}", find_wrong(self.kind, self.out, self.sound)
            )
        self.rerun(trial)
        shutil.rmtree(self.out)

    def fill(self, trial: int) -> None:
        """Run on a disk that is too small and check what is left; then make room and rerun."""
        size = sum(path.stat().st_size // 4096 + 1 for path in (self.folder / "whole").rglob("*"))
        with small_disk(self.out) as resize:
            self.begin(trial)
            used = ROOM_KIB - shutil.disk_usage(self.out).free // 1024
            resize(used + 4 * int(self.draw.integers(1, size + 8)))
            ended = run(self.kind, self.inputs, self.out)
            self.counts["disks full" if ended.status else "disks large enough"] += 1
            wrong = find_wrong(self.kind, self.out, self.sound) + list_hidden(self.out)
            errors = [line for line in ended.said.splitlines() if line.startswith("error: ")]
            if ended.status and (
                len(errors) != 1
                or "Traceback" in ended.said
                or str(self.out) not in errors[0]
                or "make room" not in errors[0]
            ):
                wrong.append(ended.said)
            self.note(f"full disk {trial}", wrong)
            resize(ROOM_KIB)
            self.rerun(trial)

    def rerun(self, trial: int) -> None:
        """Run once more, to the end, and compare all results with the undisturbed run."""
        ended = run(self.kind, self.inputs, self.out)
        found = read_all(self.out)
        names = set(found) ^ set(self.whole)
        wrong = [f"{name} is in one of both only" for name in names] + list_hidden(self.out)
        for name in set(found) - names:
            if found[name] != self.whole[name]:
                wrong.append(f"{name} differs: {_first_other(found[name], self.whole[name])}")
        if ended.status:
            wrong.append(ended.said)
        self.counts["reruns"] += 1
        self.counts["reruns equal"] += not wrong
        self.note(f"rerun of trial {trial}", wrong)

    def note(self, when: str, wrong: list[str]) -> None:
        """Add to the list of what was wrong."""
        self.wrong += [f"{when}: {each}" for each in wrong]


@contextmanager
def small_disk(folder: Path) -> Iterator[Any]:
    """Mount a tmpfs at ``folder`` while the block runs. Yields a function that sets its size in KiB."""
    folder.mkdir()
    size = f"size={ROOM_KIB}k"
    subprocess.run(["mount", "-t", "tmpfs", "-o", size, "tmpfs", str(folder)], check=True)

    def resize(kib: int) -> None:
        subprocess.run(["mount", "-o", f"remount,size={kib}k", str(folder)], check=True)

    try:
        yield resize
    finally:
        subprocess.run(["umount", str(folder)], check=True)
        folder.rmdir()


def study(name: str, options: argparse.Namespace, inputs: Path) -> dict[str, Any]:
    """Run all trials of one kind. Returns counts, and what was wrong."""
    folder = options.output_dir / "runs" / name
    folder.mkdir()
    one = Study(KINDS[name], inputs, folder, options.seed)
    trial = 0
    while one.counts["kills"] < options.times:
        one.kill(trial)
        trial += 1
    for trial in range(options.full):
        one.fill(trial)
    shutil.rmtree(folder)
    return {
        "undisturbed_s": round(one.normal.seconds, 2),
        "writes": one.normal.writes,
        "disks": options.full,
        **one.counts,
        "wrong": one.wrong,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument(
        "--output_dir", type=Path, default=ROOT / "output/crashes", help="folder of crashes.json"
    )
    parser.add_argument(
        "--kinds",
        nargs="+",
        choices=KINDS,
        default=list(KINDS),
        help="kinds of runs (default: all)",
    )
    parser.add_argument("--times", type=int, default=50, help="kills of each kind")
    parser.add_argument("--full", type=int, default=0, help="full disks of each kind")
    parser.add_argument("--seed", type=int, default=0, help="seed of the random moments")
    options = parser.parse_args()
    logging.basicConfig(level=logging.INFO)
    options.output_dir = options.output_dir.resolve()
    runs = options.output_dir / "runs"
    shutil.rmtree(runs, ignore_errors=True)
    inputs = runs / "inputs"
    inputs.mkdir(parents=True)
    child = os.fork()
    if not child:
        make_inputs(inputs)
        os._exit(0)
    if os.waitpid(child, 0)[1]:
        raise SystemExit("error: the inputs could not be written; see the message above")
    result = {}
    for name in options.kinds:
        result[name] = study(name, options, inputs)
        logger.info("%s: %s", name, result[name])
    shutil.rmtree(runs)
    text = json.dumps(result, indent=1)
    (options.output_dir / "crashes.json").write_text(text + "\n")
    print(text)
    sys.exit(any(one["wrong"] for one in result.values()))


if __name__ == "__main__":
    main()
