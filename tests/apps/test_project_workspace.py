"""The videos of a project behind the page: opened, saved, closed; no browser."""

import errno
import json
import shutil

import numpy as np
import pytest
from PIL import Image

from bundle.apps.annotate import fine_tuning_process, launch, project_saver
from bundle.apps.annotate.autosave import StateFolder
from bundle.apps.annotate.launch import open_page
from bundle.apps.annotate.project_workspace import ProjectWorkspace
from bundle.apps.annotate.session_file import open_session, resume_session, save_session
from bundle.cli import main
from bundle.inference.settings import InferenceSettings
from bundle.io.reading.video import open_video
from bundle.io.structures import Structure, make_structures
from bundle.project import opened_video
from bundle.project.locks import VideoLockedError
from bundle.project.store import Project, create_project
from bundle.segmenter import VideoSegmenter
from tests.tiny import OWN_SIZE

HEIGHT, WIDTH, COUNT = 32, 48, 6
SQUARE = [(8, 8), (24, 8), (24, 24), (8, 24)]
HEART = make_structures(
    [Structure(1, "left ventricle", "#3ecf8e"), Structure(4, "left atrium", "#102030")]
)


@pytest.fixture
def videos(tmp_path):
    random = np.random.default_rng(0)
    for name in "ab":
        folder = tmp_path / "cines" / name
        folder.mkdir(parents=True)
        for i in range(COUNT):
            picture = random.integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8)
            Image.fromarray(picture).save(folder / f"{i}.png")
    return tmp_path / "cines"


@pytest.fixture(scope="module")
def model(network):
    return VideoSegmenter(network, InferenceSettings(**OWN_SIZE, precision="float32"))


@pytest.fixture
def folder(videos):
    return create_project(videos, structures=HEART)


@pytest.fixture
def start(model, folder, tmp_path):
    """Programs of one or several people on the project."""
    workspaces = []

    def start(who="Ann"):
        weights = {"model.pt": "abc"}
        workspaces.append(
            ProjectWorkspace(model, Project(folder, who), tmp_path / "state", lambda: weights)
        )
        return workspaces[-1]

    yield start
    for workspace in workspaces:
        workspace.close()


def draw(annotation, index=0, object_id=1):
    return annotation.draw(index, "polygon", SQUARE, 1, object_id)


def propagate(annotation):
    annotation.propagate()
    assert annotation.worker.wait(60)
    assert annotation.worker.problem is None


def all_labels(annotation):
    return np.stack([annotation.labels(i) for i in range(annotation.frame_count)])


def test_a_video_has_the_objects_of_the_project_and_is_restored(start, folder):
    workspace = start()
    annotation = workspace.open_video("a")
    assert {i: each.name for i, each in annotation.objects.items()} == {
        1: "left ventricle", 4: "left atrium"
    }  # fmt: skip
    draw(annotation, 1, 4)
    propagate(annotation)
    draw(annotation, 4, 1)  # not propagated yet
    annotation.place = 3
    before, states = all_labels(annotation), annotation.states()
    workspace.close_video()
    assert workspace.annotation is None
    assert workspace.project.state("a").weights == {"model.pt": "abc"}

    again = start("Ben").open_video("a")
    np.testing.assert_array_equal(all_labels(again), before)
    assert (again.states(), again.place, again.changed) == (states, 3, True)
    assert again.propagation.prompts.keys() == {1}
    assert again.worker.total == 0  # nothing was propagated anew


def test_going_on_propagates_only_what_a_correction_touches(start):
    workspace = start()
    annotation = workspace.open_video("a")
    draw(annotation, 0)
    draw(annotation, 3)
    propagate(annotation)
    draw(annotation, 4, 4)
    draw(annotation, 5)
    workspace.saver.write()
    propagate(annotation)
    expected = all_labels(annotation)
    workspace.close_video()

    other = workspace.open_video("b")
    draw(other, 0)
    workspace.close_video()
    annotation = workspace.open_video("a")
    annotation.take_back(5)
    propagate(annotation)
    assert annotation.worker.total < COUNT
    annotation.give({5: expected[5]})
    propagate(annotation)
    np.testing.assert_array_equal(all_labels(annotation)[:5], expected[:5])


def test_each_change_is_on_disk_soon_and_by_itself(start, folder):
    workspace = start()
    annotation = workspace.open_video("a")
    mask = draw(annotation, 2)
    deadline = 200
    while not Project(folder).state("a").given and deadline:
        workspace.saver._end.wait(0.05)
        deadline -= 1
    np.testing.assert_array_equal(Project(folder).read_mask("a", 2), mask)
    annotation.undo()
    assert workspace.saver.write()
    assert not Project(folder).state("a").given


def test_a_program_that_ends_at_any_step_leaves_a_whole_state(start, folder, monkeypatch):
    """After each write of the state, what is on disk can be opened, and goes on to the same masks."""
    monkeypatch.setattr(project_saver, "DELAY_S", 3600)  # it saves when the test says so
    workspace = start()
    annotation = workspace.open_video("a")
    draw(annotation, 0)
    propagate(annotation)
    workspace.saver.write()
    draw(annotation, 3, 4)
    propagate(annotation)
    draw(annotation, 3, 1)  # replaces what was propagated before that is saved
    expected = all_labels(annotation)

    copies, write = [], opened_video.write_json

    def copy_after(path, content):
        write(path, content)
        copies.append(folder.parent.parent / f"copy{len(copies)}" / "cines")
        shutil.copytree(folder.parent, copies[-1])

    monkeypatch.setattr(opened_video, "write_json", copy_after)
    assert workspace.saver.write()
    monkeypatch.undo()
    assert len(copies) >= 4
    propagate(annotation)
    goal = all_labels(annotation)
    for copy in copies:
        other = ProjectWorkspace(workspace.model, Project(copy / "tcmn-project", "Ben"))
        (copy / "tcmn-project/videos/a/open.lock").unlink(missing_ok=True)
        (copy / "tcmn-project/videos/a/open.json").unlink(missing_ok=True)
        again = other.open_video("a")
        if again.propagation is not None and again.propagation.prompts.keys() == {0, 3}:
            for i in set(again._summaries):  # what counts as found is what these masks give
                np.testing.assert_array_equal(again.labels(i), expected[i])
        again.restore_prompts(annotation.prompts)
        propagate(again)
        np.testing.assert_array_equal(all_labels(again), goal)
        other.close()


def test_a_video_is_reviewed_and_signed(start):
    workspace = start()
    annotation = workspace.open_video("a")
    draw(annotation, 0)
    with pytest.raises(ValueError, match="masks have changed: propagate first"):
        workspace.saver.sign(True)
    propagate(annotation)
    workspace.saver.write()
    queue = workspace.opened.state.queue()
    frames = [i for item in queue for i in item.frames] or [1]
    workspace.saver.accept(frames)
    assert workspace.opened.state.queue() == []
    assert set(frames) <= workspace.opened.state.reviewed
    workspace.saver.sign(True)
    assert workspace.project.state("a").signed_by == "Ann"
    assert workspace.project.overview()[-1].stage == "done"
    draw(annotation, 2)
    workspace.saver.write()
    assert workspace.project.state("a").signed_by is None
    annotation.take_back(0)
    with pytest.raises(ValueError, match="frame 9 has no mask yet"):
        workspace.saver.accept([9])


def test_a_video_that_another_user_has_open_names_that_user(start):
    ann, ben = start("Ann"), start("Ben")
    mask = draw(ann.open_video("a"))
    ann.saver.write()
    ben.open_video("b")
    ben.close_video()
    ben.project._locks.clear()
    holder = next(line for line in ben.project.overview() if line.video.name == "a").open_by
    assert holder.who == "Ann"
    with pytest.raises(VideoLockedError, match="a is open by Ann on"):
        ben.open_video("a")
    assert ben.annotation is None
    with pytest.raises(VideoLockedError, match="a is open in this program already"):
        ann.project.open("a")
    ann.close_video()
    np.testing.assert_array_equal(ben.open_video("a").labels(0), mask)


def test_a_video_is_not_left_during_propagation(start):
    workspace = start()
    annotation = workspace.open_video("a")
    draw(annotation)
    propagate(annotation)
    proposal = type("Proposal", (), {"frame": 2})()
    annotation.proposal = proposal
    with pytest.raises(ValueError, match="frame 2 has a proposal: accept it"):
        workspace.close_video()
    annotation.proposal = None
    workspace.close_video()


def test_a_full_disk_keeps_the_video_open_and_at_the_end_a_session(
    start, model, monkeypatch, tmp_path, videos, caplog
):
    workspace = start()
    annotation = workspace.open_video("a")

    def fail(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(opened_video, "encode_mask", fail)
        mask = draw(annotation, 2)
        with pytest.raises(OSError, match=r"No space left on device.* make room"):
            workspace.close_video()
        assert workspace.annotation is annotation
    assert workspace.saver.write()  # there is room again
    assert workspace.saver.problem is None
    np.testing.assert_array_equal(workspace.project.read_mask("a", 2), mask)

    monkeypatch.setattr(opened_video, "encode_mask", fail)
    mask = draw(annotation, 3)
    workspace.close()
    assert "a could not be saved in the project" in caplog.text
    video = open_video(videos / "a")
    slot = StateFolder(tmp_path / "state").find_left(video)
    kept = resume_session(slot.path, model, video)
    np.testing.assert_array_equal(kept.labels(3), mask)
    slot.release(keep=False)


@pytest.mark.parametrize("harm", ["gone", "changed", "newer", "damaged"])
def test_a_video_that_cannot_be_opened_leaves_the_list(start, folder, videos, harm):
    workspace = start()
    draw(workspace.open_video("a"))
    workspace.close_video()
    state = folder / "videos/a/state.json"
    if harm == "gone":
        shutil.move(videos / "a", videos.parent / "elsewhere")
    elif harm == "changed":
        (videos / "a/0.png").write_bytes((videos / "a/1.png").read_bytes() + b"more")
    elif harm == "newer":
        state.write_text(json.dumps({**json.loads(state.read_text()), "version": 99}))
    else:
        next((folder / "videos/a/masks").iterdir()).write_bytes(b"no picture")
    error, message = {
        "gone": (FileNotFoundError, "is not there any more: put it back, its masks are kept"),
        "changed": (ValueError, "has changed since its masks were made: put the old one back"),
        "newer": (ValueError, "is a state of version 99, this program reads 1: update it"),
        "damaged": (ValueError, "the mask of frame 0, cannot be read"),
    }[harm]
    files = {path.name for path in (folder / "videos/a/masks").iterdir()}
    with pytest.raises(error, match=message):
        workspace.open_video("a")
    assert workspace.annotation is None
    assert {path.name for path in (folder / "videos/a/masks").iterdir()} == files
    lines = {line.video.name: line for line in workspace.project.overview()}
    assert lines["a"].open_by is None
    if harm in ("gone", "newer"):
        assert lines["a"].problem
    workspace.open_video("b")


def test_a_video_that_another_user_took_over_can_be_left_after_saving(
    start, model, monkeypatch, tmp_path
):
    workspace = start()
    annotation = workspace.open_video("a")
    lease = type(workspace.opened._lock._lease)
    with monkeypatch.context() as patch:
        patch.setattr(lease, "compromise", property(lambda self: "evicted"))
        mask = draw(annotation, 2)
        with pytest.raises(VideoLockedError, match=r"was taken over by .* save a session file"):
            workspace.close_video()
        assert workspace.annotation is annotation
        save_session(annotation, tmp_path / "mine.tcmn.zip")
        workspace.close_video()
        assert workspace.annotation is None
    assert not workspace.project.state("a").given
    again = open_session(tmp_path / "mine.tcmn.zip", model)
    np.testing.assert_array_equal(again.labels(2), mask)


def test_names_and_new_objects_go_into_the_list_of_all_videos(start):
    ann, ben = start("Ann"), start("Ben")
    annotation = ann.open_video("a")
    annotation.change_object(4, name="LA", colour="#445566")
    new = annotation.add_object("right ventricle")
    annotation.remove_object(1)
    assert ann.saver.write()
    ben.open_video("b")
    structures = ben.project.structures
    assert [(i, each.name) for i, each in structures.items()] == [
        (1, "left ventricle"), (new, "right ventricle"), (4, "LA")
    ]  # fmt: skip
    assert structures[4].colour == "#445566"

    # Both add one at the same time, which then has the same id.
    first, second = annotation.add_object("mitral valve"), ben.annotation.add_object("aorta")
    assert first == second == 3
    assert annotation.labels(0).max() == 0
    assert ann.saver.write()
    mask = draw(ben.annotation, 0, second)
    assert not ben.saver.write()
    assert "the id 3 was given to 'mitral valve' by somebody else" in str(ben.saver.problem)
    np.testing.assert_array_equal(ben.project.read_mask("b", 0), mask)  # nothing is lost
    ben.annotation.change_object(second, name="mitral valve")
    assert ben.saver.write()


class TestCommand:
    def test_options_of_videos_and_of_projects_are_not_mixed(self, videos, tmp_path):
        with pytest.raises(
            ValueError, match=r"--mask goes with one video, .* is a project of many"
        ):
            open_page(videos, tmp_path / "mask.png")
        with pytest.raises(ValueError, match="--structures and --who go with a project"):
            open_page(videos / "a", who="Ann")
        with pytest.raises(ValueError, match="--structures and --who go with a project"):
            open_page(structures=tmp_path / "structures.json")

    def test_a_newer_project_is_refused(self, folder, videos):
        head = json.loads((folder / "project.json").read_text())
        (folder / "project.json").write_text(json.dumps({**head, "version": 9}))
        with pytest.raises(ValueError, match="is a project of version 9, this program reads 1"):
            open_page(videos)

    def test_the_weights_are_described(self, tmp_path):
        (tmp_path / "best.pt").write_bytes(b"weights")
        described = launch._describe_weights(tmp_path / "best.pt")
        assert described.keys() == {"best.pt"}
        assert len(described["best.pt"]) == 64


@pytest.mark.parametrize(("options", "signed"), [([], "Ben"), (["--who", "Ann"], "Ann")])
def test_fine_tuning_is_signed_by_who_works_on_the_project(start, monkeypatch, options, signed):
    """Its process is put in place: the command that would be run is run here."""
    commands, projects = [], []

    class Process:
        def __init__(self, command, **_):
            commands.append(command)

        def poll(self):
            return 0

    def fine_tune(project, **_):
        projects.append(project)
        raise ValueError("enough is known")

    monkeypatch.setattr(fine_tuning_process.subprocess, "Popen", Process)
    monkeypatch.setattr("bundle.commands.finetune.fine_tune", fine_tune)
    workspace = start("Ben")
    workspace.start_fine_tuning(options)
    (command,) = commands
    assert main(command[command.index("finetune") :]) == 1
    assert [(each.folder, each.who) for each in projects] == [(workspace.project.folder, signed)]


def test_the_pause_grows_with_what_saving_takes(start):
    workspace = start()
    workspace.open_video("a")
    workspace.saver.write()
    assert workspace.saver._pause == project_saver.DELAY_S
