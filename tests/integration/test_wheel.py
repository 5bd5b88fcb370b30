"""The wheel holds what it runs with, and writes nothing where it lies."""

import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

ROOT = Path(__file__).resolve().parents[2]
CONFIGS = sorted((ROOT / "configs").glob("*.yaml"))
LARGEST = 100_000_000


@pytest.fixture(scope="module")
def unpacked(tmp_path_factory):
    """What pip would put into site-packages."""
    pytest.importorskip("hatchling", reason="builds the wheel")
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    (wheel,) = folder.glob("tcmn-*.whl")
    assert wheel.stat().st_size < LARGEST
    assert wheel.name.split("-")[1] == version()
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder / "site")
    return folder / "site"


def version():
    return json.loads((ROOT / "configs/metadata.json").read_text())["version"]


def tracked(*folders):
    """The files of the clone that git knows; where there is no git, those that are there."""
    try:
        command = ["git", "-C", str(ROOT), "ls-files", "-z", *folders]
        names = subprocess.run(command, check=True, capture_output=True, text=True).stdout.split(
            "\0"
        )
    except (OSError, subprocess.CalledProcessError):
        names = [
            str(path.relative_to(ROOT))
            for folder in folders
            for path in (ROOT / folder).rglob("*")
            if path.is_file() and "__pycache__" not in path.parts
        ]
    return {name for name in names if name and (ROOT / name).exists()}


@pytest.mark.heavy
def test_the_wheel_holds_what_the_clone_does(unpacked):
    inside = unpacked / "bundle/_bundle"
    assert tracked("bundle") <= {str(path.relative_to(unpacked)) for path in unpacked.rglob("*")}
    kept_out = {"models/model_protocol.pt", "models/model_protocol.json"}  # only tables need them
    assert tracked("configs", "models") - kept_out <= {
        str(path.relative_to(inside)) for path in inside.rglob("*")
    }
    for name in ("models/model.pt", "scripts/demo/left_ventricle.json", "LICENSE"):
        assert (inside / name).read_bytes() == (ROOT / name).read_bytes()
    assert {path.name for path in unpacked.iterdir()} == {"bundle", f"tcmn-{version()}.dist-info"}


@pytest.mark.heavy
def test_inference_runs_from_it_in_an_empty_folder(unpacked, tmp_path):
    picture = np.zeros((40, 48), np.uint8)
    picture[12:28, 16:32] = 255
    (tmp_path / "video").mkdir()
    for index in range(3):
        Image.fromarray(np.roll(picture, index, axis=1)).save(tmp_path / f"video/{index}.png")
    Image.fromarray(picture).save(tmp_path / "mask.png")
    empty = tmp_path / "empty"
    empty.mkdir()
    before = set(unpacked.rglob("*"))
    command = [sys.executable, "-B", "-W", "ignore", "-m", "monai.bundle", "run", "--config_file"]
    command += [str(unpacked / "bundle/_bundle/configs/inference.yaml"), "--backend", "torch"]
    command += ["--video", str(tmp_path / "video"), "--mask", str(tmp_path / "mask.png")]
    environment = os.environ | {"PYTHONPATH": str(unpacked)}
    done = subprocess.run(
        command, cwd=empty, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    masks = [np.asarray(Image.open(empty / f"output/video/masks/0000{i}.png")) for i in range(3)]
    np.testing.assert_array_equal(masks[0], picture // 255)
    assert set(unpacked.rglob("*")) == before


@pytest.mark.parametrize("config", CONFIGS, ids=lambda path: path.stem)
def test_nothing_is_written_where_the_package_lies(config):
    from monai.bundle import ConfigParser

    base = [] if config.stem == "inference" else [str(ROOT / "configs/train.yaml")]
    parser = ConfigParser(ConfigParser.load_config_files([*base, str(config)]))
    assert not Path(parser.get_parsed_content("output_dir")).is_absolute()
