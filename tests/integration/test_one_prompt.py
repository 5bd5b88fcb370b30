"""A video and its prompts give the same masks, to the byte, by whichever way they come in."""

import json

import numpy as np
import pytest
import torch
from PIL import Image

from bundle import VideoSegmenter, open_video
from bundle.cli import main
from bundle.inference.prompts import ObjectPrompt
from bundle.networks import TCMN
from bundle.networks.weights import WeightsDescription, describe_weights, file_digest
from bundle.utils.bundle_files import bundle_root
from tests import processes
from tests.tiny import NETWORK, make_prompted

HEIGHT, WIDTH, COUNT = 48, 64, 6
SIZE = 48
BOX, POINTS = (8, 6, 50, 40), [(20, 20, 1), (40, 30, 0)]
pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning"),
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Weights that take partial masks, a video, and a mask of its first frame with unknown pixels."""
    folder = tmp_path_factory.mktemp("in")
    network = make_prompted(2)
    torch.save(network.state_dict(), folder / "model.pt")
    described = WeightsDescription(network.definition, "1.0.0", file_digest(folder / "model.pt"))
    describe_weights(folder / "model.pt", described)
    random = np.random.default_rng(0)
    (folder / "video").mkdir()
    for i in range(COUNT):
        pixels = random.integers(0, 256, (HEIGHT, WIDTH, 3), np.uint8)
        Image.fromarray(pixels).save(folder / "video" / f"{i}.png")
    mask = np.zeros((HEIGHT, WIDTH), np.uint8)
    mask[4:20, 6:30], mask[30:] = 3, 255
    Image.fromarray(mask).save(folder / "mask.png")
    prompts = [
        {"frame": 4, "object": 2, "box": BOX, "points": POINTS},
        {"frame": 1, "object": 3, "scribbles": [{"points": [[5, 40], [30, 44]]}]},
    ]
    (folder / "prompts.json").write_text(json.dumps({"prompts": prompts}))
    return folder


@pytest.fixture(scope="module")
def options(folder):
    return {"device": "cpu", "backend": "torch", "weights": folder / "model.pt"}


@pytest.fixture(scope="module")
def job(folder, options):
    video = open_video(folder / "video")
    return VideoSegmenter.from_pretrained(**options, inference_size=SIZE).start(video)


@pytest.fixture(scope="module")
def expected(job, folder):
    """By the Python interface."""
    job.add_mask(0, np.asarray(Image.open(folder / "mask.png")), unknown=255)
    job.add_scribble(1, [(5, 40), (30, 44)], object_id=3)
    points = [(x, y) for x, y, _ in POINTS]
    prompt = ObjectPrompt(box=BOX).with_points(points, [on for *_, on in POINTS])
    job.add_prompts(4, {2: prompt})
    found = np.stack([result.labels for result in job.results()])
    assert set(np.unique(found[4])) == {0, 2, 3}
    return found


def written(folder):
    files = sorted((folder / "video" / "masks").iterdir())
    return np.stack([np.asarray(Image.open(file)) for file in files])


def command_line(options):
    return [each for name, value in options.items() for each in (f"--{name}", str(value))]


def test_the_command_line_gives_the_same_masks(folder, options, expected, tmp_path):
    given = ["--mask", str(folder / "mask.png"), "--unknown", "255", "-o", str(tmp_path)]
    given += ["--prompts", str(folder / "prompts.json"), "--inference-size", str(SIZE), "-q"]
    status = main(["segment", str(folder / "video"), *given, *command_line(options)])
    assert status == 0
    np.testing.assert_array_equal(written(tmp_path), expected)


def test_options_of_the_command_line_are_the_same_as_a_file(folder, options, tmp_path):
    (tmp_path / "p.json").write_text(
        json.dumps({"prompts": [{"frame": 4, "object": 2, "box": BOX, "points": POINTS}]})
    )
    both = {
        "a": ["--prompts", str(tmp_path / "p.json")],
        "b": ["--box", "8,6,50,40", "--points", "20,20,1,40,30,0", "--frame", "4", "--object", "2"],
    }
    found = []
    for name, given in both.items():
        given = [*given, "-o", str(tmp_path / name), "--inference-size", str(SIZE), "-q"]
        assert main(["segment", str(folder / "video"), *given, *command_line(options)]) == 0
        found.append(written(tmp_path / name))
    np.testing.assert_array_equal(*found)
    assert found[0][4, 20, 20] == 2


def test_the_config_gives_the_same_masks(folder, options, expected, tmp_path):
    config = bundle_root() / "configs" / "inference.yaml"
    command = ["-m", "monai.bundle", "run", "--config_file", config, "--video", folder / "video"]
    command += ["--mask", folder / "mask.png", "--unknown", "255", "--output_dir", tmp_path]
    command += ["--prompts", folder / "prompts.json", "--inference_size", str(SIZE)]
    done = processes.run([*command, *command_line(options)], tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    np.testing.assert_array_equal(written(tmp_path), expected)


def test_weights_without_partial_masks_say_so_and_write_nothing(folder, tmp_path, capsys):
    torch.save(TCMN(**NETWORK).state_dict(), tmp_path / "old.pt")
    network = TCMN(**NETWORK)
    described = WeightsDescription(network.definition, "1.0.0", file_digest(tmp_path / "old.pt"))
    describe_weights(tmp_path / "old.pt", described)
    given = ["--box", "8,6,50,40", "--weights", str(tmp_path / "old.pt"), "--backend", "torch"]
    out = ["-o", str(tmp_path / "out"), "-q"]
    assert main(["segment", str(folder / "video"), *given, *out]) == 1
    assert "need a network that takes them: these weights were trained without" in (
        capsys.readouterr().err
    )
    assert not (tmp_path / "out").exists()
