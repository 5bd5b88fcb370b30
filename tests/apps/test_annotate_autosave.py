"""Annotations that are kept on disk until they are saved, and programs that end before that."""

import json
import os
import re
import signal
import subprocess
import sys
import time
import urllib.request
import zipfile
import zlib
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from bundle.apps.annotate import session_file
from bundle.apps.annotate.autosave import Autosave, StateFolder
from bundle.apps.annotate.session_file import EncodedMasks, save_session, write_session
from bundle.apps.annotate.workspace import Workspace
from bundle.inference.settings import InferenceSettings
from bundle.io.reading.video import open_video
from bundle.segmenter import VideoSegmenter
from tests.tiny import OWN_SIZE

ROOT = Path(__file__).resolve().parents[2]
HEIGHT, WIDTH, COUNT = 32, 48, 6
SQUARE = [(8, 8), (24, 8), (24, 24), (8, 24)]


@pytest.fixture
def folder(tmp_path):
    return make_video(tmp_path / "polyp", 0)


def make_video(folder, seed):
    folder.mkdir(parents=True)
    random = np.random.default_rng(seed)
    for index in range(COUNT):
        picture = random.integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8)
        Image.fromarray(picture).save(folder / f"{index}.png")
    return folder


@pytest.fixture(scope="module")
def model(network):
    return VideoSegmenter(network, InferenceSettings(**OWN_SIZE, precision="float32"))


@pytest.fixture
def state(tmp_path):
    return tmp_path / "state"


@pytest.fixture
def start(model, state):
    """Programs that share the state folder."""
    desks = []

    def start():
        desks.append(Workspace(model, state))
        return desks[-1]

    yield start
    for workspace in desks:
        workspace.close()


def draw(annotation, index=0):
    return annotation.draw(index, "polygon", SQUARE, 1, 1)


def crash(workspace):
    """What is left of a program that is killed: what is on disk, held by nobody."""
    workspace.autosave.write()
    workspace.autosave._end.set()
    workspace.autosave._thread.join()
    workspace.autosave.slot.release(keep=True)
    workspace.autosave = None


def kept(state):
    return sorted(path for path in state.rglob("*") if path.is_file())


class TestKeeping:
    def test_an_edit_is_on_disk_soon_and_by_itself(self, start, folder, state):
        annotation = start().open(folder)
        assert kept(state / "annotate")[0].suffix == ".lock"
        mask = draw(annotation)
        end = time.monotonic() + 20
        while not list(state.rglob("*.zip")):
            assert time.monotonic() < end
            time.sleep(0.05)
        (file,) = state.rglob("*.zip")
        again = session_file.resume_session(file, annotation.model, annotation.video)
        np.testing.assert_array_equal(again.labels(0), mask)
        assert again.unsaved

    def test_nothing_is_kept_of_what_was_not_touched(self, start, folder, state):
        workspace = start()
        workspace.open(folder)
        workspace.autosave.write()
        workspace.close()
        assert kept(state) == []

    def test_only_this_user_can_look_into_it(self, start, folder, state):
        start().open(folder)
        assert (state / "annotate").stat().st_mode & 0o077 == 0

    def test_only_masks_that_changed_are_encoded_again(self, model, folder, tmp_path, monkeypatch):
        workspace = Workspace(model)
        annotation = workspace.open(folder)
        for index in range(3):
            draw(annotation, index)
        annotation.propagate()
        assert annotation.worker.wait(60)
        encoded, seen, encode = EncodedMasks(), [], session_file.encode_mask
        monkeypatch.setattr(
            session_file, "encode_mask", lambda labels: (seen.append(1), encode(labels))[1]
        )
        write_session(annotation, tmp_path / "a.zip", encoded)
        assert len(seen) == COUNT
        annotation.draw(1, "eraser", [(20, 16)], 8, 1)
        write_session(annotation, tmp_path / "b.zip", encoded)
        assert len(seen) == COUNT + 2  # the mask, and the one that was propagated in its place
        write_session(annotation, tmp_path / "c.zip")
        with zipfile.ZipFile(tmp_path / "b.zip") as b, zipfile.ZipFile(tmp_path / "c.zip") as c:
            assert sorted(b.namelist()) == sorted(c.namelist())
            assert all(b.read(name) == c.read(name) for name in c.namelist())
        workspace.close()

    def test_a_folder_that_cannot_be_written_is_reported_and_stops_nobody(
        self, model, folder, tmp_path, caplog
    ):
        (tmp_path / "state").write_text("a file in the way")
        workspace = Workspace(model, tmp_path / "state")
        annotation = workspace.open(folder)
        draw(annotation)
        assert workspace.autosave is None
        assert "annotations are not kept on disk until they are saved" in caplog.text
        workspace.close()

    def test_a_full_disk_is_reported_once_and_the_next_change_is_kept(
        self, start, folder, monkeypatch, caplog
    ):
        workspace = start()
        annotation = workspace.open(folder)

        def fail(*_):
            raise OSError("no space left")

        with monkeypatch.context() as patch:
            patch.setattr("bundle.apps.annotate.autosave.write_session", fail)
            draw(annotation)
            workspace.autosave.write()
            workspace.autosave.write()
            assert str(workspace.autosave.problem) == "no space left"
        assert caplog.text.count("the annotation cannot be kept on disk") == 1
        workspace.autosave.write()
        assert workspace.autosave.problem is None
        assert workspace.autosave.time is not None


class TestGoingOn:
    def test_after_a_crash_everything_is_restored(self, start, folder):
        first = start()
        annotation = first.open(folder)
        annotation.change_object(1, name="polyp")
        draw(annotation, 2)
        annotation.propagate()
        assert annotation.worker.wait(60)
        draw(annotation, 4)
        crash(first)
        second = start()
        again = second.open(folder)
        assert second.resumed is not None
        assert again.objects == annotation.objects
        assert again.states() == annotation.states()
        for index in range(COUNT):
            np.testing.assert_array_equal(again.labels(index), annotation.labels(index))
        crash(second)  # before anything was done with it
        assert start().open(folder).prompts.keys() == {2, 4}

    def test_ctrl_c_does_not_count_as_saving(self, start, folder):
        first = start()
        mask = draw(first.open(folder))
        first.close()
        np.testing.assert_array_equal(start().open(folder).labels(0), mask)

    def test_what_was_saved_is_not_offered_again(self, start, folder, tmp_path, state):
        first = start()
        annotation = first.open(folder)
        draw(annotation)
        first.autosave.write()
        save_session(annotation, tmp_path / "mine.tcmn.zip")
        first.close()
        assert kept(state) == []
        second = start()
        assert not second.open(folder).prompts
        assert second.resumed is None
        # Saved, then killed.
        draw(second.annotation)
        save_session(second.annotation, tmp_path / "mine.tcmn.zip")
        crash(second)
        assert not start().open(folder).prompts

    def test_another_video_of_that_name_is_another_one(self, start, folder, tmp_path):
        first = start()
        draw(first.open(folder))
        first.close()
        assert not start().open(make_video(tmp_path / "other" / "polyp", 1)).prompts

    def test_a_video_that_moved_is_the_same(self, start, folder, tmp_path):
        first = start()
        draw(first.open(folder))
        first.close()
        (tmp_path / "other").mkdir()
        folder.rename(tmp_path / "other" / "polyp")
        assert start().open(tmp_path / "other" / "polyp").prompts

    def test_two_programs_at_once_keep_apart(self, start, folder, state):
        first, second = start(), start()
        draw(first.open(folder), 1)
        draw(second.open(folder), 3)
        assert second.resumed is None
        for workspace in (first, second):
            workspace.autosave.write()
        assert len(list(state.rglob("*.zip"))) == 2
        crash(first)
        third = start()
        assert third.open(folder).prompts.keys() == {1}
        crash(second)
        assert start().open(folder).prompts.keys() == {3}

    def test_starting_again_can_be_undone(self, start, folder):
        first = start()
        draw(first.open(folder), 1)
        first.close()
        workspace = start()
        workspace.open(folder)
        number = workspace.number
        workspace.start_anew()
        assert not workspace.annotation.prompts
        assert (workspace.resumed, workspace.number) == (None, number + 1)
        assert workspace.left is not None
        draw(workspace.annotation, 4)
        workspace.go_on()
        assert workspace.annotation.prompts.keys() == {1}
        workspace.go_on()
        assert workspace.annotation.prompts.keys() == {4}
        workspace.forget_left()
        with pytest.raises(ValueError, match="there are no other masks of this video"):
            workspace.go_on()
        workspace.close()
        last = start()
        assert last.open(folder).prompts.keys() == {4}
        assert last.left is None

    def test_masks_that_the_user_did_not_resume_are_offered_again(self, start, folder):
        first = start()
        draw(first.open(folder), 1)
        first.close()
        second = start()
        second.open(folder)
        second.start_anew()
        second.close()
        assert start().open(folder).prompts.keys() == {1}

    def test_masks_newer_than_an_opened_session_are_offered(self, start, folder, tmp_path):
        first = start()
        annotation = first.open(folder)
        draw(annotation, 1)
        save_session(annotation, tmp_path / "mine.tcmn.zip")
        draw(annotation, 3)
        crash(first)
        second = start()
        assert second.open(tmp_path / "mine.tcmn.zip").prompts.keys() == {1}
        assert second.resumed is None
        second.go_on()
        assert second.annotation.prompts.keys() == {1, 3}

    def test_a_video_opened_again_in_the_same_program_has_its_masks(self, start, folder, tmp_path):
        workspace = start()
        draw(workspace.open(folder), 1)
        workspace.open(make_video(tmp_path / "other", 1))
        assert not workspace.annotation.prompts
        assert workspace.open(folder).prompts.keys() == {1}

    def test_an_unreadable_autosave_is_left_in_place(self, start, folder, state, caplog):
        first = start()
        draw(first.open(folder), 1)
        first.close()
        (file,) = state.rglob("*.zip")
        with zipfile.ZipFile(file) as archive:
            head = json.loads(archive.read("session.json"))
        with zipfile.ZipFile(file, "w") as archive:
            archive.writestr("session.json", json.dumps({**head, "version": 99}))
        second = start()
        annotation = second.open(folder)
        assert not annotation.prompts
        assert "the session is of version 99" in caplog.text
        draw(annotation, 2)
        second.close()
        assert file.is_file()
        assert len(list(state.rglob("*.zip"))) == 2

    def test_a_damaged_first_frame_is_no_obstacle(self, start, model, folder, state):
        video = open_video(folder)
        slot = StateFolder(state).new_slot(video)
        (folder / "0.png").write_bytes(b"no picture")
        other = StateFolder(state).new_slot(video)
        assert slot.path.name.split("-")[0] != other.path.name.split("-")[0]
        for each in (slot, other):
            each.release(keep=False)


@pytest.mark.heavy
@pytest.mark.parametrize("end", [signal.SIGKILL, signal.SIGINT, signal.SIGTERM])
def test_a_terminated_program_loses_nothing(tmp_path, end):
    pytest.importorskip("nicegui", reason="needs the extra annotate")
    folder, state = make_video(tmp_path / "polyp", 0), tmp_path / "state"
    drawing = {"tool": "polygon", "points": SQUARE, "size": 1, "object": 1}
    with annotate(folder, state) as (process, address, _):
        mask = request(f"{address}draw/1/2", drawing)
        assert any(mask)
        wait_until(lambda: list(state.rglob("*.zip")))
        process.send_signal(end)
        process.wait(30)
    with annotate(folder, state) as (_, address, said):
        assert "going on with masks that were not saved" in said
        assert request(f"{address}labels/1/2") == mask
    assert not list(tmp_path.rglob("*.partial"))


@contextmanager
def annotate(folder, state):
    """``tcmn annotate VIDEO``: the process, its address, and what it said; killed in the end."""
    command = [sys.executable, "-W", "ignore", "-m", "bundle.cli", "annotate", str(folder)]
    command += ["--no-browser", "--device", "cpu", "--backend", "torch", "--inference-size", "32"]
    process = subprocess.Popen(
        command, cwd=ROOT, env={**os.environ, "TCMN_STATE_DIR": str(state)}, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip
    try:
        said = ""
        while not said.endswith("the next time\n"):
            line = process.stdout.readline()
            assert line, said
            said += line
        yield process, re.search(r"annotate at (\S+)", said)[1], said
    finally:
        process.kill()
        process.wait(30)
        process.stdout.close()


def request(address, body=None):
    """The answer's bytes, unpacked; the server may not be up yet."""
    data = None if body is None else json.dumps(body).encode()
    asked = urllib.request.Request(address, data, {"Content-Type": "application/json"})
    with urllib.request.urlopen(asked, timeout=60) as answer:
        return zlib.decompress(answer.read())


def wait_until(true, seconds=30):
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, "it never came"
        time.sleep(0.05)


def test_autosave_ends_with_its_thread(model, folder, state):
    workspace = Workspace(model, state)
    workspace.open(folder)
    assert isinstance(workspace.autosave, Autosave)
    thread = workspace.autosave._thread
    workspace.close()
    assert not thread.is_alive()
