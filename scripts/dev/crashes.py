"""Kill runs at random moments, or let their disk fill up; check what is left and what a rerun gives.

python scripts/dev/crashes.py --times 50 --output_dir OUT

Inference, batches, training and evaluation run by the shipped configs with a tiny network on small
videos. Every second kill comes at a moment drawn evenly over the run, the others just after a file of
the results was opened, renamed or removed. Prints and writes JSON; ends with 1 if anything was wrong.

A full disk is a small tmpfs: that needs root, or ``unshare -Urm python scripts/dev/crashes.py ...``.
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

# One thread, and none before a fork: threads do not outlive it.
os.environ["OMP_NUM_THREADS"] = "1"

import numpy as np
from crash_process import IN_PLACE, run
from crash_runs import KINDS, Kind, make_inputs, read_result

ROOT = Path(__file__).resolve().parents[2]
ROOM_KIB = 1 << 20
logger = logging.getLogger(Path(__file__).stem)

Files = dict[str, Any]  # relative path to what the file says


# What it leaves


def read_all(folder: Path) -> Files:
    """All files but those whose name, or whose folder's, begins with a dot."""
    paths = (path for path in sorted(folder.rglob("*")) if path.is_file())
    names = ((path, path.relative_to(folder)) for path in paths)
    return {
        str(name): read_result(path)
        for path, name in names
        if not any(part.startswith(".") for part in name.parts)
    }


def list_hidden(folder: Path) -> list[str]:
    """Names in the folder that begin with a dot."""
    return [str(path.relative_to(folder)) for path in folder.rglob(".*")]


def find_wrong(kind: Kind, out: Path, sound: list[Files]) -> list[str]:
    """What should not lie in a folder after a kill or a full disk.

    Args:
        kind: Of the run.
        out: Its results.
        sound: Results of undisturbed runs; every file, or folder that appears whole, is of one of them.
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
    """Whether a table is the beginning of the whole one; other files of a training change."""
    if not name.endswith(".csv"):
        return name in whole
    return bool(content) and content == whole[name][: len(content)]


def _part(kind: Kind, name: str, files: Files) -> Files:
    """A file, or all of the folder that appears whole and that it lies in."""
    for folder in Path(name).parents:
        if any(folder.match(pattern) for pattern in kind.folders) and folder.name:
            return {each: files[each] for each in files if Path(each).is_relative_to(folder)}
    return {name: files.get(name)}


def _first_other(found: Any, whole: Any) -> str:
    """The first row of a table that is another than it should be."""
    if not isinstance(found, list) or not isinstance(whole, list):
        return "its content"
    pairs = enumerate(itertools.zip_longest(found, whole))
    return next(f"row {i}: {a} in place of {b}" for i, (a, b) in pairs if a != b)


# Studies


@dataclass
class Study:
    """Undisturbed runs of one kind, and what disturbed ones came to."""

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
        """An empty folder of results, or one with earlier results."""
        if not self.kind.earlier or trial % 2 == 0:
            return
        earlier = self.folder / "earlier"
        if not earlier.exists():
            run(self.kind, self.inputs, earlier, "other.pt")
            self.sound.append(read_all(earlier))
        shutil.copytree(earlier, self.out, dirs_exist_ok=True)

    def kill(self, trial: int) -> None:
        """One kill, or some in a row, checked; then a rerun."""
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
        """A disk that is too small, checked; then room and a rerun."""
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
        """The same command once more."""
        ended = run(self.kind, self.inputs, self.out)
        found = read_all(self.out)
        names = set(found) ^ set(self.whole)
        wrong = [f"{name} is there in one of them" for name in names] + list_hidden(self.out)
        for name in set(found) - names:
            if found[name] != self.whole[name]:
                wrong.append(f"{name} differs: {_first_other(found[name], self.whole[name])}")
        if ended.status:
            wrong.append(ended.said)
        self.counts["reruns"] += 1
        self.counts["reruns equal"] += not wrong
        self.note(f"rerun of trial {trial}", wrong)

    def note(self, when: str, wrong: list[str]) -> None:
        self.wrong += [f"{when}: {each}" for each in wrong]


@contextmanager
def small_disk(folder: Path) -> Iterator[Any]:
    """A tmpfs there; gives a function that sets its size in KiB."""
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
    """Counts of one kind, and what was wrong."""
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
    parser.add_argument("--output_dir", type=Path, default=ROOT / "output/crashes")
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=list(KINDS))
    parser.add_argument("--times", type=int, default=50, help="kills of each kind")
    parser.add_argument("--full", type=int, default=0, help="full disks of each kind")
    parser.add_argument("--seed", type=int, default=0)
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
        raise SystemExit("the inputs could not be made")
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
