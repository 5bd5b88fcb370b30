"""Exported protocols: what another method sees is what the evaluation scores."""

import sys

import numpy as np
import pytest
from PIL import Image

from bundle.datasets.protocols import read_protocol
from bundle.datasets.whole_videos import VideoDataset
from bundle.evaluation.saved_masks import folder_names, load_masks
from tests.scripts import load_script


@pytest.fixture(scope="module")
def script():
    return load_script("dev/export_protocol")


@pytest.fixture
def data(tmp_path):
    """Two videos of ten frames, numbered without leading zeros, which plain text sorts wrongly."""
    random = np.random.default_rng(0)
    for video in ("one", "two words"):
        for t in range(1, 11):
            labels = np.zeros((20, 24), np.uint8)
            labels[2:10, t : t + 8], labels[12:18, t : t + 6] = 2, 5
            frame = random.integers(0, 255, (20, 24, 3), np.uint8)
            for kind, pixels in (("JPEGImages", frame), ("Annotations", labels)):
                path = tmp_path / "data" / kind / video / f"{t}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(pixels).save(path)
    return tmp_path / "data"


def run(script, data, out, *more):
    return script.main(
        ["--protocol", "davis", "--dataset_dir", str(data), "--output_dir", str(out), *more]
    )


def test_an_export_with_all_masks_is_the_same_data_set(script, data, tmp_path, capsys):
    assert run(script, data, tmp_path / "out", "--all_masks") == 0
    assert capsys.readouterr().out == f"2 videos are in {tmp_path / 'out'}\n"
    before = VideoDataset(read_protocol("davis", data))
    after = VideoDataset(read_protocol("davis", tmp_path / "out"))
    assert [after[i]["name"] for i in range(2)] == ["one", "two_words"]
    for one, other in zip(before, after, strict=False):
        assert (one["image"] == other["image"]).all()
        assert (one["label"] == other["label"]).all()
        assert one["ids"] == other["ids"] == "2|5"
        assert one["frame_names"] == other["frame_names"]
        # The true masks, were they predictions, are found under the names that were exported.
        name = folder_names(before.data)[one["name"]]
        masks = load_masks(tmp_path / "out" / "Annotations", name, one, range(10))
        assert (masks == one["label"][0].numpy()).all()


def test_only_the_first_mask_is_exported(script, data, tmp_path):
    run(script, data, tmp_path / "out")
    for name in ("one", "two_words"):
        frames = sorted(path.name for path in (tmp_path / "out/JPEGImages" / name).iterdir())
        assert frames == [f"{t:05d}.png" for t in range(10)]
        masks = [path.name for path in (tmp_path / "out/Annotations" / name).iterdir()]
        assert masks == ["00000.png"]


def test_an_existing_folder_is_refused(script, data, tmp_path, capsys):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "old").touch()
    assert run(script, data, tmp_path / "out") == 1
    assert "out is not empty: choose another --output_dir" in capsys.readouterr().err
    assert "export_protocol" not in sys.modules
