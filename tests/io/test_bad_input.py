"""What a user may get wrong in the main job: each gets one clear line, and nothing is left behind."""

import sys
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from monai.bundle import ConfigWorkflow
from PIL import Image

from bundle.io.reading.video import open_video
from bundle.networks import TCMN
from bundle.utils.devices import find_device
from bundle.utils.options import print_error
from tests.tiny import OPTIONS

ROOT = Path(__file__).resolve().parents[2]
TINY = {
    **OPTIONS,
    "progress": False,
    "device": "cpu",
    "backend": "torch",  # or each test would convert weights of its own, for some ten seconds
}


@pytest.fixture
def inputs(tmp_path):
    """A volume of 4 frames of 40x24 (width x height), a fitting mask, tiny weights, and faulty ones."""
    pixels = np.random.default_rng(0).integers(0, 255, (40, 24, 4), np.uint8)
    nib.save(nib.Nifti1Image(pixels, np.eye(4)), tmp_path / "echo.nii.gz")
    mask = np.zeros((24, 40), np.uint8)
    mask[6:18, 10:30] = 255
    Image.fromarray(mask).save(tmp_path / "mask.png")
    Image.fromarray(mask[:20]).save(tmp_path / "short.png")
    Image.fromarray(0 * mask).save(tmp_path / "empty.png")
    volume = np.zeros((40, 24, 3), np.uint8)
    volume[10:30, 6:18, 0] = 1
    nib.save(nib.Nifti1Image(volume, np.eye(4)), tmp_path / "three.nii.gz")
    (tmp_path / "notes.txt").write_text("no video\n")
    (tmp_path / "broken.mp4").write_bytes(b"\0" * 200)
    (tmp_path / "frames").mkdir()
    torch.save(TCMN("resnet18", "resnet18", 8, 8, (8, 8, 8)).state_dict(), tmp_path / "tiny.pt")
    (tmp_path / "text.pt").write_text("no weights\n")
    return tmp_path


def segment(folder, **options):
    """Run configs/inference.yaml; options that name files of ``folder`` are made absolute."""
    defaults = {
        "video": "echo.nii.gz",
        "mask": "mask.png",
        "weights": "tiny.pt",
        "output_dir": "out",
    }
    files = {
        name: None if value is None else str(folder / value)
        for name, value in (defaults | options).items()
        if name in defaults
    }
    workflow = ConfigWorkflow(
        config_file=str(ROOT / "configs" / "inference.yaml"),
        workflow_type="infer",
        logging_file=False,
        meta_file=None,
        **(TINY | options | files),
    )
    workflow.initialize()
    workflow.run()


def message(folder, **options):
    """The one line that a failing run prints."""
    with pytest.raises(RuntimeError) as caught:
        segment(folder, **options)
    return str(root_cause(caught.value))


def root_cause(error):
    while isinstance(error, RuntimeError) and error.__cause__ is not None:
        error = error.__cause__
    assert isinstance(error, (ValueError, OSError)), error
    return error


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"video": None}, "add --video PATH"),
        ({"mask": None}, "add --mask PATH"),
        ({"video": "nothing.mp4"}, "nothing.mp4"),
        ({"video": "notes.txt"}, "a video file (avi"),
        ({"video": "broken.mp4"}, "broken.mp4"),
        ({"video": "frames"}, "frames"),
        ({"video": "mask.png"}, "single image"),
        ({"mask": "nothing.png"}, "nothing.png"),
        ({"mask": "short.png"}, "40x20"),
        ({"mask": "empty.png"}, "empty"),
        ({"mask": "three.nii.gz"}, "3"),
        ({"weights": "nothing.pt"}, "no weights at"),
        ({"weights": "text.pt"}, "not a weights file"),
        ({"network_def#value_channels": 16}, "another network"),
        ({"output_dir": "mask.png"}, "mask.png"),
        ({"max_memory_frames": 1}, "max_memory_frames"),
        ({"memory_every": 0}, "memory_every"),
        ({"inference_size": 3}, "inference_size"),
        ({"inference_size": "large"}, "inference_size must be a whole number or null"),
        ({"precision": "half"}, "precision"),
        ({"overwrite": "yes"}, "--overwrite must be true or false"),
        ({"device": "cuda:99"}, "cuda:99"),
    ],
    ids=str,
)
def test_bad_input_is_named_and_leaves_nothing(options, expected, inputs):
    before = sorted(path for path in inputs.rglob("*"))
    said = message(inputs, **options)
    assert expected in said
    assert "\n" not in said
    left = [p for p in inputs.rglob("*") if p not in before and p != inputs / "out"]
    assert left == []


def test_results_are_not_overwritten_unless_asked(inputs):
    segment(inputs)
    summary = inputs / "out" / "echo" / "frames.csv"
    summary.write_text("mine")
    assert "--overwrite true" in message(inputs, overwrite="false")
    assert summary.read_text() == "mine"
    segment(inputs, overwrite="true")
    assert summary.read_text() != "mine"


def test_soft_edges_make_one_object_and_are_reported(inputs, caplog):
    mask = np.zeros((24, 40), np.uint8)
    mask[6:18, 10:30] = 255
    mask[6, 10:30], mask[17, 10:30] = np.linspace(30, 220, 20), 90
    Image.fromarray(mask).save(inputs / "soft.png")
    segment(inputs, mask="soft.png")
    volume = np.asarray(nib.load(inputs / "out" / "echo" / "masks.nii.gz").dataobj)
    assert set(np.unique(volume)) == {0, 1}
    assert "soft edges" in caplog.text


def test_the_inference_size_can_be_switched_off(inputs):
    segment(inputs, inference_size="null")
    assert (inputs / "out" / "echo" / "summary.png").exists()


def test_the_label_volume_lies_over_its_source(inputs):
    segment(inputs)
    source, result = nib.load(inputs / "echo.nii.gz"), nib.load(inputs / "out/echo/masks.nii.gz")
    assert result.shape == source.shape
    np.testing.assert_array_equal(result.affine, source.affine)
    first = np.asarray(result.dataobj)[..., 0]
    assert first[10:30, 6:18].all()
    assert first.sum() == 20 * 12
    assert open_video(inputs / "out/echo/masks.nii.gz").frame_count == 4


def test_an_unknown_device_is_refused():
    with pytest.raises(ValueError, match="unknown device 'gpu'"):
        find_device("gpu")


@pytest.mark.parametrize(
    ("error", "shown"),
    [
        (ValueError("mask is empty"), "error: mask is empty\n"),
        (FloatingPointError("the loss is nan"), "error: the loss is nan\n"),
        (KeyboardInterrupt(), "interrupted"),
    ],
    ids=str,
)
def test_errors_print_as_one_line(error, shown, capsys):
    wrapped = RuntimeError("Failed to evaluate")
    wrapped.__cause__ = error
    print_error(type(wrapped), wrapped, None)
    assert capsys.readouterr().err.startswith(shown)


def test_programming_errors_keep_their_traceback(capsys, monkeypatch):
    for error in (KeyError("x"), ValueError("y")):
        monkeypatch.setenv("TCMN_TRACEBACK", "1")
        try:
            raise error
        except Exception:
            print_error(*sys.exc_info())
        assert "Traceback" in capsys.readouterr().err
