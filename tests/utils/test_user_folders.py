"""Folders of the user: named by variables, or the system's."""

import sys

import pytest

from bundle.utils.user_folders import CACHE, STATE, cache_folder, state_folder


@pytest.mark.parametrize(
    ("find", "variable", "system"),
    [(cache_folder, CACHE, "XDG_CACHE_HOME"), (state_folder, STATE, "XDG_STATE_HOME")],
)
def test_a_variable_names_the_folder_or_else_the_system(
    monkeypatch, tmp_path, find, variable, system
):
    monkeypatch.setenv(variable, str(tmp_path))
    assert find() == tmp_path
    monkeypatch.setenv(system, str(tmp_path / "system"))
    for unset in (lambda: monkeypatch.setenv(variable, ""), lambda: monkeypatch.delenv(variable)):
        unset()
        if sys.platform == "linux":
            assert find() == tmp_path / "system" / "tcmn"
        assert find().name in ("tcmn", "Cache")
