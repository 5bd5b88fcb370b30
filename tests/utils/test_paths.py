"""Names up to the limit of file systems, and what is made of them."""

import os

import pytest

from bundle.project.listing import folder_name
from bundle.utils.atomic_write import LOCK, StagingFolder, sweep, written_beside
from bundle.utils.paths import MAX_NAME_BYTES, fit_name

LONG = [252 * "a", 50 * "ä日" + "xy", 255 * "b"]


@pytest.mark.parametrize("name", [*LONG, "cine", ""])
@pytest.mark.parametrize("more", [0, 18, 40])
def test_names_fit_and_stay_different(name, more):
    fitted = fit_name(name, more)
    size = len(fitted.encode())
    assert size <= MAX_NAME_BYTES - more or size == len(name.encode())
    assert (fitted == name) == (len(name.encode()) <= MAX_NAME_BYTES - more)
    assert fit_name(fitted, more) == fitted
    if fitted != name:
        assert fit_name(name[:-1] + "z", more) != fitted
        assert fitted.startswith(name[:50])


def test_a_video_of_a_project_leaves_room_for_its_exports():
    assert len(folder_name(f"{200 * 'a'}/{200 * 'b'}")) + len("_00000_0000.nii.gz") < 255


@pytest.mark.parametrize("name", LONG)
def test_a_file_with_the_longest_name_appears_whole(tmp_path, name):
    with written_beside(tmp_path / name) as beside:
        beside.write_text("new")
    assert [path.name for path in tmp_path.iterdir()] == [name]
    assert (tmp_path / name).read_text() == "new"


@pytest.mark.parametrize("name", ["short", *LONG])
def test_what_a_killed_run_set_aside_gets_its_name_back(tmp_path, name):
    (tmp_path / name).mkdir()
    (tmp_path / name / "file").touch()
    staging = StagingFolder(tmp_path / name).__enter__()
    (tmp_path / name).rename(staging.folder / "old")  # here it is killed, which lets go of the lock
    os.close(staging._lock)
    assert (staging.folder / LOCK).is_file()
    sweep(tmp_path, name)
    assert [path.name for path in tmp_path.iterdir()] == [name]
    assert (tmp_path / name / "file").is_file()
