"""The bundle's files are found in a clone and in an installed wheel."""

import pytest

from bundle.utils.bundle_files import bundle_root


def make_bundle(folder):
    (folder / "configs").mkdir(parents=True)
    (folder / "configs/metadata.json").write_text("{}")
    return folder


def test_a_clone_has_them_beside_the_package(tmp_path):
    (tmp_path / "bundle").mkdir()
    assert bundle_root(make_bundle(tmp_path) / "bundle") == tmp_path


def test_a_wheel_has_them_in_the_package(tmp_path):
    make_bundle(tmp_path)  # of somebody else: site-packages may hold anything
    assert (
        bundle_root(make_bundle(tmp_path / "bundle/_bundle").parent) == tmp_path / "bundle/_bundle"
    )


def test_a_package_without_them_is_reported(tmp_path):
    with pytest.raises(
        FileNotFoundError, match="came without its configs and weights; install the"
    ):
        bundle_root(tmp_path / "bundle")
