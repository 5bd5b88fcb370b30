"""What the project says of itself in several places is the same in all."""

import json
import re
import tomllib
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
METADATA = json.loads((ROOT / "configs/metadata.json").read_text())
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def read_changelog():
    """Version to the words of its section, as metadata.json puts them."""
    text = (ROOT / "CHANGELOG.md").read_text()
    _, *parts = re.split(r"^## (\S+)(?: \(\d{4}-\d\d-\d\d\))?$", text, flags=re.MULTILINE)
    sections = dict(zip(parts[::2], parts[1::2], strict=True))
    sections.pop("Unreleased", None)
    return {version: normalize("; ".join(read_points(each))) for version, each in sections.items()}


def read_points(section):
    return [point.strip().removesuffix(".") for point in re.split(r"^- ", section, flags=re.M)[1:]]


def normalize(text):
    return " ".join(text.replace("`", "").split()).lower()


def test_the_changelog_is_that_of_the_metadata():
    expected = {version: normalize(text) for version, text in METADATA["changelog"].items()}
    assert read_changelog() == expected
    assert list(read_changelog()) == list(expected)
    assert next(iter(expected)) == METADATA["version"]


def test_the_citation_names_this_version():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert citation["version"] == METADATA["version"]
    released = re.search(
        rf"^## {METADATA['version']} \((.*)\)$", read("CHANGELOG.md"), re.MULTILINE
    )
    assert str(citation["date-released"]) == released[1]
    assert citation["license"] == PROJECT["license"]
    paper = citation["preferred-citation"]
    assert any(paper["title"] in reference for reference in METADATA["references"])
    assert "version" in PROJECT["dynamic"]  # read from the metadata when a wheel is made


def read(name):
    return (ROOT / name).read_text()


@pytest.mark.parametrize("path", sorted((ROOT / ".github").rglob("*.yml")), ids=lambda p: p.name)
def test_github_can_read_its_files(path):
    content = yaml.safe_load(path.read_text())
    if path.parent.name == "workflows":
        commands = " ".join(
            step.get("run", "") for job in content["jobs"].values() for step in job["steps"]
        )
        for script in re.findall(r"\.ci/\w+(?:\.py)?", commands):
            assert (ROOT / script).is_file()
    elif path.name != "config.yml":
        assert {"name", "description", "body"} <= set(content)


def test_contributing_names_what_is_there():
    text = read("CONTRIBUTING.md")
    for path in re.findall(r"`((?:bundle|configs|docs|tests|scripts|\.ci)/[\w./]*)`", text):
        assert (ROOT / path).exists(), path
    targets = set(re.findall(r"^([\w-]+):", read("Makefile"), re.MULTILINE))
    assert set(re.findall(r"`make ([\w-]+)", text)) <= targets
    for link in re.findall(r"\]\(([\w./-]+)\)", text):
        assert (ROOT / link).exists(), link


def test_what_the_metadata_requires_are_the_dependencies():
    names = {re.split(r"[<>=\[]", entry)[0] for entry in PROJECT["dependencies"]}
    apart = {"monai", "torch", "numpy"}  # have keys of their own
    assert set(METADATA["required_packages_version"]) == names - apart
