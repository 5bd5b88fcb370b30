"""``tcmn segment`` goes on where it was interrupted."""

import functools
import logging

import numpy as np
import pytest
import torch
from PIL import Image

from bundle.commands import segment
from bundle.inference.checkpoint import RunCheckpoint
from bundle.io.writing import ResultWriter
from bundle.networks import TCMN
from bundle.networks.weights import WeightsDescription, describe_weights, file_digest
from tests.tiny import NETWORK

HEIGHT, WIDTH, COUNT, STOP = 48, 64, 10, 6
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Weights, and two videos with the masks of their first frames."""
    folder = tmp_path_factory.mktemp("in")
    torch.manual_seed(2)
    network = TCMN(**NETWORK)
    torch.nn.init.kaiming_normal_(network.mask_encoder.trunk.conv1.weight)
    torch.nn.init.normal_(network.decoder.predict.weight, std=0.5)
    torch.save(network.state_dict(), folder / "model.pt")
    described = WeightsDescription(network.definition, "1.0.0", file_digest(folder / "model.pt"))
    describe_weights(folder / "model.pt", described)
    random = np.random.default_rng(0)
    for name in ("a", "b"):
        (folder / "videos" / name).mkdir(parents=True)
        for i in range(COUNT):
            pixels = random.integers(0, 256, (HEIGHT, WIDTH, 3), np.uint8)
            Image.fromarray(pixels).save(folder / "videos" / name / f"{i}.png")
        mask = np.zeros((HEIGHT, WIDTH), np.uint8)
        mask[4:30, 6:40] = 3
        Image.fromarray(mask).save(folder / "videos" / f"{name}_mask.png")
    return folder


@pytest.fixture
def run(folder, monkeypatch):
    """The command; ``stop`` interrupts it in the second video."""
    monkeypatch.setattr(segment, "RunCheckpoint", functools.partial(RunCheckpoint, every_s=0))

    def run(output, stop=False, **options):
        written, write = [], ResultWriter.write

        def write_some(writer, *frame):
            written.append(writer)
            if stop and len(written) == COUNT + STOP:
                raise KeyboardInterrupt
            write(writer, *frame)

        with monkeypatch.context() as patch:
            patch.setattr(ResultWriter, "write", write_some)
            segment.segment_videos(
                folder / "videos",
                None,
                output,
                progress=False,
                formats="png",
                device="cpu",
                backend="torch",
                weights=folder / "model.pt",
                inference_size=HEIGHT,
                **options,
            )

    return run


def masks(output):
    return {
        path.relative_to(output).as_posix(): path.read_bytes() for path in output.rglob("*.png")
    }


def test_an_interrupted_video_is_resumed_in_its_middle(run, tmp_path, caplog):
    caplog.set_level(logging.INFO)
    run(tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "cut", stop=True)
    assert "interrupted; the same command goes on from here" in caplog.text
    assert sorted(path.name for path in (tmp_path / "cut").iterdir()) == [".b.checkpoint", "a"]
    run(tmp_path / "cut")
    given = 1  # the frame of the mask counts as no work
    assert f"resuming: {STOP - given} of {COUNT} frames are already done" in caplog.text
    assert masks(tmp_path / "cut") == masks(tmp_path / "whole")
    assert len(masks(tmp_path / "cut")) >= 2 * COUNT
    assert sorted(path.name for path in (tmp_path / "cut").iterdir()) == ["a", "b"]


def test_no_resume_starts_again(run, tmp_path, caplog):
    caplog.set_level(logging.INFO)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "cut", stop=True)
    run(tmp_path / "cut", resume=False)
    assert "going on" not in caplog.text
    assert sorted(path.name for path in (tmp_path / "cut").iterdir()) == ["a", "b"]
