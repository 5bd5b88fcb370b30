"""Runs that are killed, or whose disk fills up: nothing half-written is left, a rerun ends the same.

TCMN_CRASH_TIMES sets how often each kind of run is killed.
"""

import errno
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from ignite.engine import Engine, Events

from bundle.inference.inputs import OpenPromptedVideod
from bundle.inference.result_saver import ResultSaver
from bundle.training.handlers import BestWeights, LossTable
from bundle.training.losses import TCMNLoss
from bundle.utils.atomic_write import DiskFullError, StagingFolder, room_for, sweep, written_beside

ROOT = Path(__file__).resolve().parents[2]
TIMES = int(os.environ.get("TCMN_CRASH_TIMES", "1"))
# Others take long: only where the number is asked for. test_handlers.py breaks trainings off, too.
KINDS = ["inference", "shared", "evaluation"] + ["batch", "training"] * (TIMES > 1)


# The harness


def mounts(folder, *start):
    """Whether a tmpfs can be mounted there."""
    command = [*start, "sh", "-c", 'mount -t tmpfs tmpfs "$1" && umount "$1"', "sh", folder]
    try:
        return subprocess.run(command, capture_output=True, check=False).returncode == 0
    except OSError:
        return False


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    """What scripts/dev/crashes.py finds, by kind; disks are filled where it may mount one."""
    out = tmp_path_factory.mktemp("crashes")
    ways = [start for start in ([], ["unshare", "-Urm"]) if mounts(out, *start)]
    script = [sys.executable, "-W", "ignore", ROOT / "scripts/dev/crashes.py"]
    options = ["--times", str(TIMES), "--full", str(TIMES if ways else 0), "--output_dir", out]
    options += ["--kinds", *KINDS]
    command = [*(ways[0] if ways else []), *script, *options]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (out / "crashes.json").is_file(), done.stderr
    return json.loads((out / "crashes.json").read_text())


@pytest.mark.heavy
@pytest.mark.parametrize("kind", KINDS)
def test_a_killed_run_leaves_nothing_half_written_and_a_rerun_ends_the_same(study, kind):
    found = study[kind]
    assert found["wrong"] == []
    assert found["kills"] >= TIMES
    assert found["reruns equal"] == found["reruns"] > 0


@pytest.mark.heavy
@pytest.mark.parametrize("kind", KINDS)
def test_a_full_disk_is_reported_in_one_line_and_a_rerun_with_room_ends_the_same(study, kind):
    found = study[kind]
    if not found["disks"]:
        pytest.skip("a small tmpfs needs root or user namespaces")
    assert found["wrong"] == []


# Written beside and renamed


def names(folder):
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


def test_a_file_appears_whole_and_alone(tmp_path):
    with written_beside(tmp_path / "new" / "a.txt") as beside:
        beside.write_text("half")
        assert not (tmp_path / "new" / "a.txt").exists()
    assert names(tmp_path) == ["new", "new/a.txt"]
    (tmp_path / "ordinary").touch()
    mode = (tmp_path / "new" / "a.txt").stat().st_mode
    assert mode == (tmp_path / "ordinary").stat().st_mode


def test_an_error_leaves_the_old_file(tmp_path):
    (tmp_path / "a").write_text("old")
    with pytest.raises(KeyboardInterrupt), written_beside(tmp_path / "a") as beside:  # noqa: PT012
        beside.write_text("half")
        raise KeyboardInterrupt
    assert (tmp_path / "a").read_text() == "old"
    assert names(tmp_path) == ["a"]


KILLED = """
import os, signal, sys
from pathlib import Path
from bundle.utils.atomic_write import StagingFolder
with StagingFolder(sys.argv[1]) as staging:
    staging.new.mkdir()
    (staging.new / "half").write_text("half")
    if sys.argv[2] == "renaming":
        Path.rename(staging.target, staging.folder / "old")
    os.kill(os.getpid(), signal.SIGKILL)
"""


def die(target, moment="writing"):
    command = [sys.executable, "-c", KILLED, target, moment]
    done = subprocess.run(command, cwd=ROOT, check=False)
    assert done.returncode == -signal.SIGKILL


def test_what_a_killed_run_left_is_removed_by_the_next_for_the_same(tmp_path):
    die(tmp_path / "a")
    (left,) = tmp_path.iterdir()
    assert names(left) == ["lock", "new", "new/half"]
    with written_beside(tmp_path / "b") as beside:
        beside.touch()
    assert left.exists()
    with written_beside(tmp_path / "a") as beside:
        beside.touch()
    assert names(tmp_path) == ["a", "b"]


def test_results_that_a_killed_run_had_set_aside_come_back(tmp_path):
    (tmp_path / "a.b").mkdir()
    (tmp_path / "a.b" / "old").touch()
    die(tmp_path / "a.b", "renaming")
    assert not (tmp_path / "a.b").exists()
    sweep(tmp_path)
    assert names(tmp_path) == ["a.b", "a.b/old"]


def test_what_others_work_in_or_own_is_not_removed(tmp_path):
    (tmp_path / ".a.mine.partial").mkdir()
    (tmp_path / ".a.mine.partial" / "file").touch()
    with StagingFolder(tmp_path / "a") as first, StagingFolder(tmp_path / "a") as second:
        sweep(tmp_path)
        assert first.folder.exists()
        assert second.folder.exists()
    assert names(tmp_path) == [".a.mine.partial", ".a.mine.partial/file"]


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT, errno.EFBIG])
def test_a_full_disk_names_the_file_and_what_to_do(code):
    message = f"cannot write a.csv: {os.strerror(code)}.* make room and run the same command again"
    with pytest.raises(DiskFullError, match=message), room_for("a.csv"):
        raise OSError(code, "whatever")


def test_other_errors_are_not_taken_for_a_full_disk():
    with pytest.raises(PermissionError, match="whatever"), room_for("a.csv"):
        raise PermissionError(errno.EACCES, "whatever")


# What writes


def test_a_full_disk_ends_a_batch_that_goes_on_after_other_failures(tmp_path, monkeypatch):
    saver = ResultSaver(tmp_path, keep_going=True)
    errors = iter([ValueError("broken"), DiskFullError("cannot write b"), AssertionError])

    def fail(*_):
        raise next(errors)

    monkeypatch.setattr(saver, "_write", fail)
    monkeypatch.setattr(saver, "_is_done", lambda video: False)
    item = {"image": Path("a.avi"), "label": Path("a_mask.png")}
    video = OpenPromptedVideod()(item)["image"]
    engine = Engine(lambda engine, batch: {"image": video, "pred": (each for each in ())})
    saver.attach(engine)
    with pytest.raises(DiskFullError, match="cannot write b"):
        engine.run([0, 1, 2])
    assert (tmp_path / "failures.csv").read_text().splitlines() == ["video,error", "a.avi,broken"]


def test_the_best_weights_are_whole_at_every_moment(tmp_path, monkeypatch):
    weights = torch.nn.Linear(1, 1)
    scores = iter([0.5, 0.4, 0.6])

    def validate(engine, batch):
        score = next(scores)
        torch.nn.init.constant_(weights.weight, score)
        engine.state.metrics["score"], engine.state.key_metric_name = score, "score"

    def kept():
        return torch.load(tmp_path / "best.pt", weights_only=True)["weight"].item()

    def check(*arguments):
        during.append(kept() if (tmp_path / "best.pt").exists() else None)
        save(*arguments)

    during, save = [], torch.save
    monkeypatch.setattr(torch, "save", check)
    engine = Engine(validate)
    BestWeights(tmp_path, {"network": weights}).attach(engine)
    for _ in range(3):
        engine.run([0])
    assert during == [None, 0.5]
    assert kept() == pytest.approx(0.6)
    assert names(tmp_path) == ["best.pt"]


def test_a_finished_training_that_is_run_again_keeps_its_table(tmp_path):
    path = tmp_path / "losses.csv"
    path.write_text("iteration,loss\n20,1.5\n")
    engine = Engine(lambda engine, batch: None)
    LossTable(TCMNLoss(), path).attach(engine)
    engine.add_event_handler(Events.STARTED, engine.terminate)  # as where all epochs are done
    engine.run([0], max_epochs=1)
    assert path.read_text() == "iteration,loss\n20,1.5\n"
