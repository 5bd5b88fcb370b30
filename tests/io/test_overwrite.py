"""An overwrite replaces what was written here and nothing else."""

import json
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from bundle.io.reading.video import open_video
from bundle.io.writing import ResultWriter, manifest
from bundle.io.writing.results import KNOWN

FORMATS = "png,csv,rle"


@pytest.fixture
def video(tmp_path):
    (tmp_path / "frames").mkdir()
    for index in range(6):
        picture = np.random.default_rng(index).integers(0, 255, (12, 16), dtype=np.uint8)
        Image.fromarray(picture).save(tmp_path / "frames" / f"{index}.png")
    return open_video(tmp_path / "frames")


def write(output_dir, video, formats=FORMATS, **options):
    with ResultWriter(output_dir, video, formats=formats, **options) as writer:
        for frame in video:
            writer.write(frame, (frame[..., 0] > 127).astype(np.uint8))
    return writer.folder


def shorter(video, count=3):
    geometry = replace(video.geometry, shape=(16, 12, count))
    return replace(video, frame_count=count, geometry=geometry)


def contents(folder):
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


def test_the_manifest_lists_every_file_but_itself(tmp_path, video):
    folder = write(tmp_path / "out", video)
    listed = json.loads((folder / "manifest.json").read_text())
    assert listed["manifest"] == 1
    assert listed["video"] == "frames"
    assert sorted(listed["files"]) == sorted(set(contents(folder)) - {"manifest.json"})


def test_what_a_user_put_beside_results_stays(tmp_path, video):
    folder = write(tmp_path / "out", video)
    mine = ["notes.txt", "masks/notes.txt", "masks/00002_mine.png", "deep/er/a.csv", "masks.nii.gz"]
    for name in mine:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(name)
    (folder / "empty").mkdir()
    (folder / "link").symlink_to("notes.txt")
    (folder / "dead").symlink_to("/nowhere/at/all")
    write(tmp_path / "out", shorter(video), overwrite=True)
    assert {name: (folder / name).read_text() for name in mine} == {name: name for name in mine}
    assert (folder / "empty").is_dir()
    assert os.readlink(folder / "link") == "notes.txt"
    assert os.readlink(folder / "dead") == "/nowhere/at/all"
    # Results of ours that are stale have gone.
    assert not (folder / "masks" / "00003.png").exists()
    assert (folder / "masks" / "00002.png").exists()
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["frames"]


def test_they_stay_through_many_overwrites(tmp_path, video):
    folder = write(tmp_path / "out", video)
    (folder / "masks" / "notes.txt").write_text("mine")
    for formats in ("csv", "rle", FORMATS):
        write(tmp_path / "out", video, formats, overwrite=True)
        assert (folder / "masks" / "notes.txt").read_text() == "mine"
    assert not (folder / "kept").exists()


@pytest.mark.parametrize("name", ["masks/00002.png", "frames.csv"])
def test_what_a_user_changed_is_kept_aside(tmp_path, video, caplog, name):
    folder = write(tmp_path / "out", video)
    for text in ("first", "second"):
        (folder / name).write_text(text)
        write(tmp_path / "out", video, overwrite=True)
        assert (folder / name).read_bytes() != text.encode()
    assert (folder / "kept" / name).read_text() == "first"
    assert (folder / "kept_2" / name).read_text() == "second"
    assert (
        f"1 files that may have been changed by hand are kept in kept, such as {name}"
        in caplog.text
    )


@pytest.mark.parametrize("name", ["masks.json", "frames.csv", "masks"])
def test_a_file_whose_name_the_results_need_is_kept_aside(tmp_path, video, name):
    folder = write(tmp_path / "out", video, "overlay")
    (folder / name).write_text("mine")
    write(tmp_path / "out", video, overwrite=True)
    assert (folder / "kept" / name).read_text() == "mine"


def test_results_of_a_version_without_manifests(tmp_path, video):
    folder = write(tmp_path / "out", video)
    (folder / "manifest.json").unlink()
    (folder / "notes.txt").write_text("mine")
    before = contents(folder)
    write(tmp_path / "out", shorter(video), overwrite=True)
    after = contents(folder)
    assert after["notes.txt"] == b"mine"
    assert "masks/00004.png" not in after
    assert {after[f"kept/{name}"] for name in before if name != "notes.txt"} == {
        content for name, content in before.items() if name != "notes.txt"
    }


@pytest.mark.parametrize("name", ["masks.nii.gz", "masks/00000.png", "masks.json", "frames.csv"])
def test_a_folder_that_only_has_files_of_these_names_is_nobodys_results(tmp_path, video, name):
    path = tmp_path / "out" / "frames" / name
    path.parent.mkdir(parents=True)
    path.write_text("mine")
    with pytest.raises(FileExistsError, match="exists and is not a results folder"):
        ResultWriter(tmp_path / "out", video, overwrite=True)
    assert path.read_text() == "mine"


@pytest.mark.parametrize("name", ["../outside.txt", "/etc/passwd", "a/../../outside.txt"])
def test_a_manifest_that_names_files_elsewhere_is_not_believed(tmp_path, video, name):
    folder = write(tmp_path / "out", video)
    listed = json.loads((folder / "manifest.json").read_text())
    listed["files"][name] = {"bytes": 0, "sha256": ""}
    (folder / "manifest.json").write_text(json.dumps(listed))
    assert manifest.read_manifest(folder) is None


def test_without_hard_links_files_are_copied(tmp_path, video, monkeypatch):
    folder = write(tmp_path / "out", video)
    (folder / "notes.txt").write_text("mine")

    def refuse(*args, **options):
        raise OSError("no links here")

    monkeypatch.setattr(os, "link", refuse)
    write(tmp_path / "out", video, overwrite=True)
    assert (folder / "notes.txt").read_text() == "mine"


@pytest.mark.parametrize("moment", ["link", "rename"])
def test_a_failure_at_any_moment_leaves_the_old_folder_as_it_was(
    tmp_path, video, monkeypatch, moment
):
    folder = write(tmp_path / "out", video)
    (folder / "notes.txt").write_text("mine")
    before = contents(folder)
    rename = Path.rename

    def fail(path, target):
        if path.name == "new":
            raise OSError("disk is gone")
        return rename(path, target)

    def stop(source, target):
        raise OSError("disk is gone")

    if moment == "rename":
        monkeypatch.setattr(Path, "rename", fail)
    else:
        monkeypatch.setattr(manifest, "_link", stop)
    with pytest.raises(OSError, match="disk is gone"):
        write(tmp_path / "out", shorter(video), overwrite=True)
    assert contents(folder) == before
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["frames"]


def test_what_comes_during_the_last_step_stays_too(tmp_path, video):
    folder = write(tmp_path / "out", video)
    new = tmp_path / "new"
    new.mkdir()
    keeper = manifest.Keeper(folder, new, KNOWN)
    keeper.link()
    (folder / "late.txt").write_text("late")
    folder.rename(tmp_path / "old")
    new.rename(folder)
    keeper.move_late(tmp_path / "old")
    assert (folder / "late.txt").read_text() == "late"


def test_a_mask_in_the_results_it_replaces_stays(tmp_path, video):
    folder = write(tmp_path / "out", video)
    correction = folder / "my_correction.png"
    Image.fromarray(np.eye(12, 16, dtype=np.uint8)).save(correction)
    before = correction.read_bytes()
    write(tmp_path / "out", video, overwrite=True)
    assert correction.read_bytes() == before
