"""A project on disk: what is saved, who may write, what happens when something goes wrong."""

import errno
import json
import multiprocessing
import os
import signal
import socket
import time

import numpy as np
import pytest
from PIL import Image

from bundle.inference.results import FrameResult
from bundle.io.structures import Structure, make_structures
from bundle.project.listing import list_videos
from bundle.project.locks import VideoLock, VideoLockedError
from bundle.project.store import Project, create_project
from bundle.utils.atomic_write import DiskFullError

SIZE, COUNT = (24, 32), 5
POLYP = make_structures([Structure(1, "polyp", "#3ecf8e")])


def make_frames(folder, seed=0):
    folder.mkdir(parents=True)
    random = np.random.default_rng(seed)
    for i in range(COUNT):
        Image.fromarray(random.integers(0, 256, (*SIZE, 3), np.uint8)).save(folder / f"{i}.png")


def square(row=4, object_id=1):
    labels = np.zeros(SIZE, np.uint8)
    labels[row : row + 8, 6:16] = object_id
    return labels


def result(frame, confidence=0.9, row=4):
    return FrameResult(frame, square(row), {1: confidence}, confidence < 0.7)


@pytest.fixture
def videos(tmp_path):
    folder = tmp_path / "cines"
    for seed, name in enumerate(("anna/a", "anna/b", "bert/a")):
        make_frames(folder / name, seed)
    return folder


@pytest.fixture
def project(videos):
    return Project(create_project(videos, structures=POLYP), who="Anna")


def fill(project, name, **confidence):
    with project.open(name) as video:
        video.give({0: square()})
        video.find(
            [result(i, confidence.get(f"f{i}", 0.9)) for i in range(1, COUNT)], propagated_from=[0]
        )


def test_a_project_restores_everything(project):
    with project.open("anna/a") as video:
        video.give({0: square(), 3: square(6)})
        video.find(
            [result(1, 0.4), result(2, row=5)], propagated_from=[0, 3], weights={"model.pt": "ab"}
        )
        video.accept([1])
        video.look_at(2)
        state = video.state
    again = Project(project.folder)
    assert again.state("anna/a") == state
    assert again.structures == POLYP
    np.testing.assert_array_equal(again.read_mask("anna/a", 3), square(6))
    np.testing.assert_array_equal(again.read_mask("anna/a", 2), square(5))
    assert (state.who, state.place, state.reviewed) == ("Anna", 2, {0, 1, 3})
    head = json.loads((project.folder / "project.json").read_text())
    assert [video["path"] for video in head["videos"]] == ["../anna/a", "../anna/b", "../bert/a"]
    assert [video.patient for video in again.videos.values()] == ["anna", "anna", "bert"]


def test_a_video_goes_through_its_stages(project):
    stages = []

    def note(video):
        stages.append(video.state.stage())

    with project.open("anna/b") as video:
        note(video)
        video.give({0: square()})
        note(video)
        video.find([result(i, 0.9 if i != 2 else 0.3) for i in range(1, COUNT)])
        note(video)
        (item,) = video.state.queue()
        video.accept(item.frames)
        note(video)
        video.sign()
        note(video)
        video.give({4: square(5)})
        note(video)
        assert video.state.worst_confidence == 0.9
    assert stages == ["new", "begun", "needs a look", "propagated", "done", "propagated"]


def test_a_mask_that_changes_must_be_accepted_anew(project):
    fill(project, "anna/a", f2=0.3)
    with project.open("anna/a") as video:
        video.accept([2])
        assert video.state.queue() == []
        video.find([result(2, 0.35)])
        assert [item.frame for item in video.state.queue()] == [2]


def test_videos_come_in_the_order_of_work(project):
    fill(project, "anna/b", f3=0.2)
    fill(project, "bert/a")
    lines = project.overview()
    assert [(line.video.name, line.stage) for line in lines] == [
        ("anna/b", "needs a look"), ("bert/a", "propagated"), ("anna/a", "new")
    ]  # fmt: skip
    assert lines[0].worst_confidence == 0.2
    assert lines[0].progress.waiting == 1


def test_time_is_counted_but_not_pauses(project, monkeypatch):
    with project.open("anna/a") as video:
        now = video._last
        for later, act in (
            (10, lambda: video.give({0: square()})),
            (1000, lambda: video.look_at(1)),
        ):
            now += later
            monkeypatch.setattr(video, "_clock", lambda now=now: now)
            act()
        assert video.state.seconds == pytest.approx(70)
        video.find([result(i, 0.3 if i == 2 else 0.9) for i in range(1, COUNT)])
        monkeypatch.setattr(video, "_clock", lambda: now + 6)
        video.accept([2])
        assert (video.state.review_s, video.state.review_count) == (pytest.approx(6), 1)
        video.sign()
    assert project.progress().minutes == pytest.approx(76 / 60)
    assert project.progress().rest_minutes == pytest.approx(2 * 76 / 60)  # two new videos


def hold(folder, name, ready, how):
    with Project(folder, who="Ben").open(name) as video:
        for row in range(10**6 if how == "killed" else 1):
            video.give({0: square(row % 16)})
            ready.set()
        time.sleep(60)


@pytest.fixture
def other(project):
    """Ben's process, which has ``anna/a`` open."""
    context = multiprocessing.get_context("spawn")
    ready = context.Event()
    started = []

    def start(how):
        process = context.Process(target=hold, args=(project.folder, "anna/a", ready, how))
        process.start()
        started.append(process)
        assert ready.wait(120)
        return process

    yield start
    for process in started:
        process.kill()
        process.join()


def test_two_people_do_not_overwrite_each_other_and_a_killed_one_locks_nobody_out(project, other):
    process = other("killed")
    with pytest.raises(VideoLockedError, match=r"anna/a is open by Ben on .* since 2"):
        project.open("anna/a")
    assert project.overview()[0].open_by.who == "Ben"
    with project.open("anna/b") as video:
        video.give({0: square()})
    time.sleep(0.3)  # in the middle of saving
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    with project.open("anna/a") as video:
        assert video.left_by.who == "Ben"
        saved = video.labels(0)
        assert saved.sum() == 80  # whole, whenever it was
        files = {file.name for file in (project.folder / "videos/anna__a/masks").iterdir()}
        assert files == video.state.files()
        video.give({0: square(2)})
        np.testing.assert_array_equal(video.labels(0), square(2))


def test_a_lock_of_a_machine_that_fell_silent_is_taken_over(tmp_path, monkeypatch):
    other, mine = (VideoLock(tmp_path, who, lease_s=1.0) for who in ("Ben", "Anna"))
    other.acquire("a")
    other._lease._stop_heartbeat()  # the machine is off
    lock = tmp_path / "open.lock"
    content = lock.read_text()

    lock.write_text(content.replace(socket.gethostname(), "laptop-2"))
    with pytest.raises(VideoLockedError, match="is open by Ben"):
        mine.acquire("a")
    time.sleep(1.5)
    mine.acquire("a")
    assert mine.left_by.who == "Ben"
    mine.release()


def test_who_was_taken_over_writes_nothing(project, monkeypatch):
    video = project.open("anna/a")
    monkeypatch.setattr(type(video._lock._lease), "compromise", property(lambda self: "evicted"))
    with pytest.raises(VideoLockedError, match="anna/a was taken over by"):
        video.give({0: square()})
    assert not list((project.folder / "videos/anna__a").glob("masks/*"))
    monkeypatch.undo()
    video.close()


def test_a_full_disk_loses_nothing(project, monkeypatch):
    with project.open("anna/a") as video:
        video.give({0: square()})
        before = video.state

        def full(content, *arguments, **options):
            raise OSError(errno.ENOSPC, "No space left on device")

        for place in ("files.json.dump", "opened_video.encode_mask"):
            with monkeypatch.context() as patch:
                patch.setattr(f"bundle.project.{place}", full)
                with pytest.raises(DiskFullError, match=r"No space left .* make room"):
                    video.give({1: square()})
            assert video.state == before
            assert project.state("anna/a") == before
        video.give({1: square()})
        assert set(project.state("anna/a").given) == {0, 1}


def test_a_video_that_vanished(project, videos):
    fill(project, "anna/a")
    (videos / "anna/a").rename(videos / "elsewhere")
    with pytest.raises(
        FileNotFoundError, match="is not there any more: put it back, its masks are"
    ):
        project.open("anna/a")
    (videos / "elsewhere").rename(videos / "anna/a")
    with project.open("anna/a") as video:
        assert len(video.state.masks) == COUNT


def test_a_video_that_changed(project, videos):
    fill(project, "anna/a")
    Image.fromarray(np.zeros((*SIZE, 3), np.uint8)).save(videos / "anna/a/4.png")
    with pytest.raises(ValueError, match="has changed since its masks were made: put the old one"):
        project.open("anna/a")
    assert len(project.state("anna/a").masks) == COUNT


@pytest.mark.parametrize("file", ["project.json", "videos/anna__a/state.json"])
def test_a_newer_version_and_a_damaged_file(project, file):
    fill(project, "anna/a")
    path = project.folder / file
    content = path.read_text()
    for text, message in (
        (
            content.replace('"version": 1', '"version": 2'),
            "version 2, this program reads 1: update",
        ),
        (content[: len(content) // 2], "is damaged .*: put back a copy"),
        (json.dumps({"version": 1}), "is damaged .*: put back a copy"),
    ):
        path.write_text(text)
        with pytest.raises(ValueError, match=message):
            Project(project.folder).open("anna/a")
        assert path.read_text() == text
    path.write_text(content)
    with Project(project.folder).open("anna/a") as video:
        assert len(video.state.masks) == COUNT


def test_a_damaged_mask_is_named(project):
    fill(project, "anna/a")
    path = project.folder / "videos/anna__a/masks" / project.state("anna/a").found[2].file
    path.write_bytes(path.read_bytes()[:40])
    with pytest.raises(ValueError, match="the mask of frame 2, cannot be read"):
        project.read_mask("anna/a", 2)


def test_two_videos_of_one_name_are_refused(videos):
    (videos / "anna__a").mkdir()
    Image.fromarray(np.zeros((*SIZE, 3), np.uint8)).save(videos / "anna__a/0.png")
    with pytest.raises(
        ValueError, match=r"would both be called anna.+a in the project: rename one"
    ):
        create_project(videos)
    assert not (videos / "tcmn-project").exists()


def test_a_folder_without_videos(tmp_path):
    with pytest.raises(FileNotFoundError, match="holds no video"):
        create_project(tmp_path)
    with pytest.raises(FileNotFoundError, match="no such folder or list"):
        create_project(tmp_path / "none")
    with pytest.raises(FileNotFoundError, match="no project in"):
        Project(tmp_path)


def test_a_project_is_made_once(project, videos):
    with pytest.raises(FileExistsError, match="is a project already: open it"):
        create_project(videos)


def test_new_videos_join_and_a_list_may_name_patients(project, videos, tmp_path):
    make_frames(videos / "bert/c", 9)
    assert project.add_videos(videos) == ["bert/c"]
    assert project.add_videos(videos) == []
    (tmp_path / "list.csv").write_text("video,patient\ncines/anna/a,17\ncines/bert/c,\n")
    found = list_videos(tmp_path / "list.csv", "secret")
    assert [(each.name, each.patient) for each in found] == [("a", "17"), ("c", "c")]
    (tmp_path / "list.csv").write_text("file\nx\n")
    with pytest.raises(ValueError, match="has the columns file: expected video"):
        list_videos(tmp_path / "list.csv", "secret")


def test_what_this_program_wrote_is_not_a_video(project, videos):
    fill(project, "anna/a")
    other = create_project(videos, videos / "second project")
    with Project(other).open("bert/a") as video:
        video.give({0: square()})
    results = videos / "results" / "a"
    (results / "masks").mkdir(parents=True)
    (results / "manifest.json").write_text("{}")
    Image.fromarray(square()).save(results / "masks/0.png")
    assert project.add_videos(videos) == []


def test_structures_that_masks_show_stay(project):
    fill(project, "anna/a")
    with pytest.raises(ValueError, match="no structure with the id 1, which anna/a shows"):
        project.set_structures(make_structures([Structure(2, "tool", "#000000")]))
    both = make_structures([*POLYP.values(), Structure(2, "tool", "#000000")])
    project.set_structures(both)
    assert Project(project.folder).structures == both


def test_not_every_frame_and_size_can_be_saved(project):
    with project.open("anna/a") as video:
        with pytest.raises(ValueError, match="for frame 9 of anna/a, which has 5 frames"):
            video.give({9: square()})
        with pytest.raises(ValueError, match=r"a mask of \(2, 2\) for frame 0"):
            video.give({0: np.zeros((2, 2), np.uint8)})
        with pytest.raises(ValueError, match="5 of 5 frames of anna/a have no mask yet"):
            video.sign()
