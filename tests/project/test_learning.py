"""Fine-tuning of a project: who learns, who is compared on, what is taken, what is refused."""

import json
import shutil

import numpy as np
import pytest
import torch
from filelock import SoftFileLease
from PIL import Image

from bundle.cli import main
from bundle.inference.results import FrameResult
from bundle.networks.weights import WeightsDescription, describe_weights, read_description
from bundle.project import learning
from bundle.project.learning import (
    Result,
    choose_videos,
    describe_weights_of,
    fine_tune,
    last_result,
    read_progress,
    split_patients,
    take_back_weights,
    take_weights,
)
from bundle.project.store import Project, create_project
from bundle.utils.atomic_write import DiskFullError

SIZE, COUNT = (32, 48), 3
TINY = {
    "epochs": 2, "iterations_per_epoch": 2, "batch_size": 1, "size": 32, "workers": 0,
    "inference_size": None, "learning_rate": 0.01, "sample_videos": 0,
}  # fmt: skip


def disk(t):
    rows, columns = np.mgrid[: SIZE[0], : SIZE[1]]
    return (np.hypot(rows - 14, columns - 14 - 3 * t) < 8).astype(np.uint8)


@pytest.fixture
def project(tmp_path):
    """Four videos of four patients, all done, with three reviewed masks each."""
    random = np.random.default_rng(0)
    for name in "abcd":
        folder = tmp_path / "cines" / name / "cine"
        folder.mkdir(parents=True)
        for t in range(COUNT):
            picture = random.integers(0, 90, SIZE) + 120 * disk(t)
            Image.fromarray(picture.astype(np.uint8)).save(folder / f"{t}.png")
    project = Project(create_project(tmp_path / "cines"), who="Ann")
    for name in project.videos:
        with project.open(name) as video:
            video.give({t: disk(t) for t in range(COUNT)})
            video.sign()
    return project


@pytest.fixture
def weights(tmp_path, network):
    path = tmp_path / "tiny.pt"
    torch.save(network.state_dict(), path)
    describe_weights(path, WeightsDescription(network.definition, "0"))
    return path


def reopen(project, done=4, frames=COUNT, patients=4):
    """The project with fewer videos that are done, fewer reviewed masks, or fewer patients."""
    for place, (name, video) in enumerate(list(project.videos.items())):
        project.videos[name] = type(video)(name, video.path, f"p{min(place, patients - 1)}")
        with project.open(name) as opened:
            found = [FrameResult(t, disk(t), {1: 0.9}, False) for t in range(frames, COUNT)]
            opened.find(found, propagated_from=[0])
            opened.give(dict.fromkeys(range(frames, COUNT)))
            opened.sign(place < done)
    return project


class TestWhoLearns:
    @pytest.mark.parametrize(
        ("changes", "message"),
        [
            ({"done": 1}, r"1 of 4 videos are done, and fine-tuning needs 2 of 2 patients"),
            ({"frames": 1}, r"0 of 4 videos that are done have two reviewed masks"),
            ({"patients": 1}, r"the 4 videos to learn from are of one patient"),
        ],
    )
    def test_too_little_is_refused_before_anything_is_trained(
        self, project, weights, changes, message
    ):
        with pytest.raises(ValueError, match=message):
            fine_tune(reopen(project, **changes), weights=weights)
        assert not list((project.folder / "trainings").glob("*/plan.json"))

    def test_all_masks_of_videos_that_are_done_will_do_if_asked_for(self, project):
        assert len(choose_videos(reopen(project, frames=1), "all")) == 4

    def test_patients_stay_where_they_were(self, tmp_path):
        sides = split_patients(list("abcd"), tmp_path / "split.json")
        assert sorted(sides.values()) == ["train", "train", "valid", "valid"]
        parts = {part: [p for p in sides if sides[p] == part] for part in ("train", "valid")}
        (tmp_path / "split.json").write_text(json.dumps({"version": 1, **parts}))
        more = split_patients(list("abcdefghij"), tmp_path / "split.json")
        assert {p: more[p] for p in "abcd"} == sides
        assert list(more.values()).count("valid") == 2
        with pytest.raises(ValueError, match=r"are on the side 'train' of .*split.json"):
            split_patients(parts["train"], tmp_path / "split.json")

    def test_a_share_may_be_asked_for(self, tmp_path):
        sides = split_patients(list("abcdefghij"), tmp_path / "split.json", 0.5)
        assert list(sides.values()).count("valid") == 5
        assert sorted(split_patients(list("ab"), tmp_path / "none.json").values()) == [
            "train", "valid"
        ]  # fmt: skip


class TestBadInput:
    def test_a_video_that_vanished(self, project, weights):
        shutil.move(project.videos["b/cine"].path, project.folder.parent / "elsewhere")
        with pytest.raises(FileNotFoundError, match="is not there any more: put it back, its mas"):
            fine_tune(project, weights=weights)
        assert last_result(project) is None

    def test_a_newer_project(self, project, capsys):
        head = json.loads((project.folder / "project.json").read_text())
        (project.folder / "project.json").write_text(json.dumps({**head, "version": 9}))
        assert main(["finetune", str(project.folder)]) == 1
        assert "is a project of version 9, this program reads 1" in capsys.readouterr().err

    def test_a_newer_training(self, project):
        folder = project.folder / "trainings/20260101-000000"
        folder.mkdir(parents=True)
        (folder / "result.json").write_text(json.dumps({"version": 9}))
        with pytest.raises(ValueError, match="is a training of version 9"):
            last_result(project)

    def test_a_full_disk(self, project, weights, monkeypatch):
        def full(*arguments, **options):
            raise OSError(28, "No space left on device")

        monkeypatch.setattr("bundle.project.layouts.encode_mask", full)
        with pytest.raises(DiskFullError, match=r"cannot write .*data_set: No space left"):
            fine_tune(project, weights=weights)
        assert not list(project.folder.rglob("*.partial"))
        assert project.weights_file() is None

    def test_an_unknown_option_and_weights_that_are_not_there(self, project, weights, tmp_path):
        with pytest.raises(ValueError, match="unknown option --epoch: did you mean --epochs"):
            fine_tune(project, weights=weights, values={"epoch": 2})
        with pytest.raises(FileNotFoundError, match="no weights at"):
            fine_tune(project, weights=tmp_path / "none.pt")

    def test_somebody_does_it_already(self, project, weights):
        (project.folder / "trainings").mkdir()
        with (
            SoftFileLease(project.folder / "trainings/training.lock", thread_local=False),
            pytest.raises(OSError, match=r"somebody is fine-tuning .* already"),
        ):
            fine_tune(project, weights=weights)

    def test_missing_weights_of_a_project_are_named(self, project):
        project.use_weights("20260504-130709")
        with pytest.raises(FileNotFoundError, match="that the project uses, are not there any mo"):
            project.weights_file()
        assert take_back_weights(project) == "shipped weights"
        assert project.weights_file() is None

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            (["--take"], "--take, --take-back and --who go with a project"),
            (["--who", "Ben"], "--take, --take-back and --who go with a project"),
            (["PROJECT", "--dataset-dir", "x"], "a project has its own data"),
            (["PROJECT", "--frames", "some"], "unknown --frames some"),
            (["PROJECT", "--take-back"], "there are none to take back"),
            (["--epochs", "2", "nowhere"], "no project in nowhere"),
        ],
    )
    def test_what_the_command_refuses(self, project, arguments, message, capsys):
        given = [str(project.folder) if each == "PROJECT" else each for each in arguments]
        assert main(["finetune", *given]) == 1
        assert message in capsys.readouterr().err


def test_the_interval_decides(project, weights, monkeypatch):
    """Training and scores are put in place; what is taken is what these say."""
    gain = {"mean": 2.0, "low": 0.1, "high": 4.0}

    def compare(training):
        low = gain["low"]
        better = low is not None and low > 0
        return Result(training.folder.name, 2, 2, 80.0, 82.0, dict(gain), better, False)

    def train(training):
        shutil.copy(weights, training.folder / "model.pt")

    monkeypatch.setattr(learning._Training, "train", train)
    monkeypatch.setattr(learning._Training, "compare", compare)
    first = fine_tune(project, weights=weights)
    assert first.taken
    assert "95 % interval +0.1 to +4.0. The project uses the new weights." in str(first)
    used = project.weights_file()
    assert used.parent.name == first.name
    assert Project(project.folder).weights_file() == used
    assert not (used.parent / "data_set").exists()
    assert (used.parent / "manifest.json").is_file()

    for low in (0.0, -1.0, None):
        gain.update(low=low, high=None if low is None else 4.0)
        other = fine_tune(project)
        assert not other.taken
        assert project.weights_file() == used
    assert "no interval from one video. The project keeps the old weights." in str(other)
    forced = fine_tune(project, take=True)
    assert (forced.better, forced.taken) == (False, True)
    assert "since you said so" in str(forced)
    assert project.weights_file().parent.name == forced.name
    assert take_back_weights(project) == describe_weights_of(project)
    assert project.weights_file() == used
    assert take_weights(project).name == forced.name
    with pytest.raises(ValueError, match="has no new weights that wait"):
        take_weights(project)
    take_back_weights(project)
    assert take_back_weights(project) == "shipped weights"
    assert len(list(project.folder.glob("trainings/*/model.pt"))) == 5  # nothing is lost


@pytest.mark.slow
def test_a_training_that_was_interrupted_goes_on(project, weights, monkeypatch):
    seen, evaluate = [], learning._Training._evaluate

    def stop(training, *arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr(learning._Training, "_evaluate", stop)
    with pytest.raises(KeyboardInterrupt):
        fine_tune(project, weights=weights, values=TINY, device="cpu", progress=seen.append)
    assert {each.stage for each in seen} == {"data set", "training"}
    assert read_progress(project) == seen[-1]
    monkeypatch.setattr(learning._Training, "_evaluate", evaluate)
    (folder,) = project.folder.glob("trainings/2*")
    made = (folder / "model.pt").read_bytes()
    seen.clear()
    result = fine_tune(project, weights=weights, values=TINY, device="cpu", progress=seen.append)
    assert [each.stage for each in seen] == ["old weights"] * 2 + ["new weights"] * 2
    assert (folder / "model.pt").read_bytes() == made
    assert (result.name, result.train, result.valid) == (folder.name, 2, 2)
    assert result.after - result.before == pytest.approx(result.gain["mean"])
    assert result.gain["low"] <= result.gain["mean"] <= result.gain["high"]
    assert read_description(folder / "model.pt").sha256 is not None
    assert last_result(project) == result
    assert read_progress(project) is None
    assert not (folder / "run/last.pt").exists()
