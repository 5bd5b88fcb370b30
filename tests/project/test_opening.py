"""What a path stands for, and the command that exports a project."""

import json

import numpy as np
import pytest
from PIL import Image
from pydicom.uid import generate_uid

from bundle.cli import main
from bundle.inference.results import FrameResult
from bundle.io.writing.mask_png import decode_mask
from bundle.project.opening import find_project, holds_project, open_project
from bundle.project.store import Project, create_project
from tests.dicom_files import new_cine, put_pixels

SIZE, COUNT = (24, 32), 3


def make_frames(folder, seed=0):
    folder.mkdir(parents=True)
    random = np.random.default_rng(seed)
    for i in range(COUNT):
        Image.fromarray(random.integers(0, 256, (*SIZE, 3), np.uint8)).save(folder / f"{i}.png")
    return folder


def make_gif(path, seed=0):
    random = np.random.default_rng(seed)
    frames = [Image.fromarray(random.integers(0, 256, (*SIZE, 3), np.uint8)) for _ in range(COUNT)]
    path.parent.mkdir(parents=True, exist_ok=True)
    frames[0].save(path, save_all=True, append_images=frames[1:], duration=100)
    return path


def make_dicom(path, series, frames=1, patient="Ann"):
    cine = new_cine((frames, *SIZE))
    put_pixels(cine, np.random.default_rng(0).integers(0, 256, (frames, *SIZE), np.uint8))
    cine.SeriesInstanceUID, cine.PatientID = series, patient
    if frames == 1:
        del cine.NumberOfFrames
    path.parent.mkdir(parents=True, exist_ok=True)
    cine.save_as(path, enforce_file_format=True)
    return path


def square():
    labels = np.zeros(SIZE, np.uint8)
    labels[4:12, 6:16] = 1
    return labels


class TestWhatAFolderIs:
    def test_frames_are_one_video_whatever_lies_below(self, tmp_path):
        frames = make_frames(tmp_path / "polyp")
        assert holds_project(frames) == (False, f"{frames} is one video, a folder of 3 pictures")
        make_frames(frames / "masks")
        is_project, note = holds_project(frames)
        assert not is_project
        assert "whatever is in the folders below" in note

    def test_a_dicom_series_is_one_video_and_several_recordings_are_a_project(self, tmp_path):
        series = generate_uid()
        for i in range(3):
            make_dicom(tmp_path / "series" / f"{i}.dcm", series)
            make_dicom(tmp_path / "cines" / f"{i}.dcm", series, frames=2, patient=f"patient {i}")
        is_project, note = holds_project(tmp_path / "series")
        assert (is_project, "one video, a DICOM series of 3 files" in note) == (False, True)
        assert holds_project(tmp_path / "cines") == (True, "")
        make_dicom(tmp_path / "single" / "0.dcm", series, frames=2)
        assert holds_project(tmp_path / "single")[0] is False
        # The series is one video of a project, not each of its files.
        project = open_project(tmp_path).project
        assert list(project.videos) == [
            "cines/0", "cines/1", "cines/2", "series", "single/0"
        ]  # fmt: skip
        patients = [video.patient for video in project.videos.values()]
        assert len(set(patients)) == 4  # that of the series is Ann, as is the single one
        assert patients[3] == patients[4]

    def test_videos_are_a_project_with_masks_beside_them(self, tmp_path):
        make_gif(tmp_path / "a.gif")
        Image.fromarray(square()).save(tmp_path / "a_mask.png")
        assert holds_project(tmp_path) == (True, "")
        assert list(open_project(tmp_path).project.videos) == ["a"]

    def test_both_must_be_told_apart_by_who_asks(self, tmp_path):
        frames = make_frames(tmp_path / "mixed")
        make_gif(frames / "a.gif")
        with pytest.raises(
            ValueError, match=r"3 pictures and videos such as a\.gif: say --project"
        ):
            holds_project(frames)
        assert holds_project(frames, True)[0]
        assert not holds_project(frames, False)[0]

    def test_a_folder_with_a_project_is_a_project(self, tmp_path):
        frames = make_frames(tmp_path / "polyp")
        make_gif(frames / "below/a.gif")
        made = create_project(frames)
        assert holds_project(frames)[0]
        assert holds_project(made)[0]
        assert find_project(frames) == find_project(made) == made

    def test_a_list_is_a_project(self, tmp_path):
        make_gif(tmp_path / "a.gif")
        table = tmp_path / "list.csv"
        table.write_text("video,patient\na.gif,7\n")
        assert holds_project(table)[0]
        project = open_project(table, who="Ann").project
        assert (project.who, project.videos["a"].patient) == ("Ann", "7")

    def test_nothing_is_no_project(self, tmp_path):
        assert not holds_project(tmp_path)[0]


class TestOpening:
    def test_what_came_since_is_taken_in(self, tmp_path):
        make_gif(tmp_path / "a.gif")
        first = open_project(tmp_path)
        assert first.notes == [
            f"{tmp_path} holds 1 video: new project in {tmp_path / 'tcmn-project'}"
        ]
        make_gif(tmp_path / "b.gif", 1)
        again = open_project(tmp_path / "tcmn-project")
        assert again.notes[1] == "new in the project: b"
        assert list(again.project.videos) == ["a", "b"]

    def test_a_name_twice_does_not_close_the_project(self, tmp_path):
        make_gif(tmp_path / "a.gif")
        open_project(tmp_path)
        make_gif(tmp_path / "b.gif", 1).rename(tmp_path / "a.avi")
        opened = open_project(tmp_path)
        assert "would both be called a in the project: rename one" in opened.notes[1]
        assert list(opened.project.videos) == ["a"]

    def test_structures_are_replaced_if_masks_allow_it(self, tmp_path):
        make_gif(tmp_path / "a.gif")
        table = tmp_path / "structures.json"
        table.write_text(json.dumps({"1": "polyp", "2": "tool"}))
        project = open_project(tmp_path, structures=table).project
        assert [each.name for each in project.structures.values()] == ["polyp", "tool"]
        with project.open("a") as video:
            video.give({0: square()})
        table.write_text(json.dumps({"2": "tool"}))
        with pytest.raises(ValueError, match="no structure with the id 1, which a shows"):
            open_project(tmp_path, structures=table)
        assert list(open_project(tmp_path).project.structures) == [1, 2]


@pytest.fixture
def finished(tmp_path):
    """A folder whose videos a and b are done, and c is not."""
    for seed, name in enumerate("abc"):
        make_gif(tmp_path / "cines" / f"{name}.gif", seed)
    project = Project(create_project(tmp_path / "cines"), who="Ann")
    for name in "ab":
        with project.open(name) as video:
            video.give({0: square()})
            video.find(
                [FrameResult(i, square(), {1: 0.9}, False) for i in (1, 2)], propagated_from=[0]
            )
            video.sign()
    return tmp_path / "cines"


class TestCommand:
    def test_a_data_set_with_a_split(self, finished, tmp_path, capsys):
        target = tmp_path / "set"
        command = ["export-project", str(finished), str(target), "--layout", "davis"]
        assert main([*command, "--unfinished", "leave-out", "--valid-fraction", "0.5"]) == 0
        said = capsys.readouterr().out
        assert "2 videos (1 to train, 1 to validate), 6 masks" in said
        assert "left out c: it is not done: new" in said
        mask = (target / "Annotations/a/00002.png").read_bytes()
        np.testing.assert_array_equal(decode_mask(mask, SIZE), square())

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ([], "1 of 3 videos are not done, the first is c (new)"),
            (["--frames", "good"], "unknown --frames good"),
            (["--unfinished", "drop"], "unknown --unfinished drop"),
            (["--layout", "ade20k"], "unknown layout 'ade20k'"),
        ],
    )
    def test_wrong_options_are_refused_with_a_reason(
        self, finished, tmp_path, capsys, options, message
    ):
        assert main(["export-project", str(finished), str(tmp_path / "set"), *options]) == 1
        assert message in capsys.readouterr().err
        assert not (tmp_path / "set").exists()

    def test_without_a_project(self, tmp_path, capsys):
        assert main(["export-project", str(tmp_path), str(tmp_path / "set")]) == 1
        assert f"no project in {tmp_path}: make one with tcmn annotate" in capsys.readouterr().err
