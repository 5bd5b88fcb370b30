"""One video and one mask give the same masks, to the byte, by whichever way they come in."""

import csv
import itertools
import json
from pathlib import Path

import numpy as np
import pydicom.data
import pytest
import torch
from PIL import Image, ImageDraw
from pydicom import encaps

from bundle import VideoSegmenter, open_video, read_masks
from bundle.apps.annotate.workspace import Workspace
from bundle.apps.monai_label.model import ServedModel
from bundle.apps.monai_label.options import RequestOptions
from bundle.apps.monai_label.requests import read_request
from bundle.cli import main
from bundle.utils.bundle_files import bundle_root
from tests import processes

WHOLE = pydicom.data.get_testdata_file("examples_ybr_color.dcm", download=False)
COUNT = 12
OUTLINES = Path(__file__).resolve().parents[2] / "scripts" / "demo" / "left_ventricle.json"

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(WHOLE is None, reason="this pydicom has no examples_ybr_color.dcm"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning"),
]


@pytest.fixture(scope="module", autouse=True)
def _one_thread():
    """The commands have one, too; sums in another order may move a pixel."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def cine(tmp_path_factory):
    """The first frames of an echocardiogram, enough to remember some of them."""
    file = pydicom.dcmread(WHOLE)
    whole = int(file.NumberOfFrames)
    if hasattr(encaps, "generate_frames"):
        frames = encaps.generate_frames(file.PixelData, number_of_frames=whole)
    else:  # pydicom 2
        frames = encaps.generate_pixel_data_frame(file.PixelData, whole)
    frames = list(itertools.islice(frames, COUNT))
    file.PixelData, file.NumberOfFrames = encaps.encapsulate(frames), COUNT
    path = tmp_path_factory.mktemp("video") / "echo.dcm"
    file.save_as(path)
    return str(path)


@pytest.fixture(scope="module")
def mask(tmp_path_factory):
    """The left ventricle of the first frame, drawn by hand, in a path that is no plain word.

    Beside it is an object of three pixels, which may well be lost.
    """
    folder = tmp_path_factory.mktemp("in") / "patient #12, 50 % $x 'left'"
    folder.mkdir()
    picture = Image.new("L", (320, 240))
    outline = json.loads(OUTLINES.read_text())["0"]
    ImageDraw.Draw(picture).polygon([(x, y) for x, y in outline], fill=1)
    ImageDraw.Draw(picture).point([(300, 20), (301, 20), (300, 21)], fill=2)
    picture.save(folder / "mask.png")
    return folder / "mask.png"


@pytest.fixture(scope="module")
def expected(cine, mask):
    """By the Python interface."""
    video = open_video(cine)
    results = list(VideoSegmenter.from_pretrained().segment(video, read_masks(mask, video)))
    assert [result.frame for result in results] == list(range(COUNT))
    assert all(0.01 < (result.labels == 1).mean() < 0.2 for result in results)
    assert all(result.review for result in results if 2 not in result.labels)
    return results


def assert_same(found, expected):
    """The same masks, to the byte, and the same frames flagged for review."""
    labels, flags = zip(*found, strict=True)
    np.testing.assert_array_equal(labels, [result.labels for result in expected])
    assert list(flags) == [result.review for result in expected]


def of_results(results):
    return [(result.labels, result.review) for result in results]


def written(folder):
    folder = folder / "echo"
    with (folder / "frames.csv").open() as file:
        flags = {int(row["frame"]): row["review"] == "true" for row in csv.DictReader(file)}
    files = sorted((folder / "masks").iterdir())
    return [(np.asarray(Image.open(each)), flags[i]) for i, each in enumerate(files)]


def test_a_job_gives_the_same_masks(cine, mask, expected):
    job = VideoSegmenter.from_pretrained().start(open_video(cine))
    job.add_mask(0, np.asarray(Image.open(mask)))
    assert_same(of_results(job.results()), expected)


def test_the_command_line_gives_the_same_masks(cine, mask, expected, tmp_path):
    assert main(["segment", cine, "--mask", str(mask), "--output", str(tmp_path), "-q"]) == 0
    assert_same(written(tmp_path), expected)


def test_the_config_gives_the_same_masks(cine, mask, expected, tmp_path):
    out = mask.parent / "out"
    config = bundle_root() / "configs" / "inference.yaml"
    command = ["-m", "monai.bundle", "run", "--config_file", config, "--video", cine]
    done = processes.run([*command, "--mask", mask, "--output_dir", out], tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert_same(written(out), expected)


def test_the_annotation_page_gives_the_same_masks(cine, mask, expected):
    workspace = Workspace(VideoSegmenter.from_pretrained())
    try:
        annotation = workspace.open(cine, mask)
        annotation.propagate()
        assert annotation.worker.wait(250)
        assert annotation.worker.problem is None
        red = {i for i in range(COUNT) if annotation.state(i) == "r"}
        assert_same([(annotation.labels(i), i in red) for i in range(COUNT)], expected)
    finally:
        workspace.close()


def test_a_request_to_monai_label_gives_the_same_masks(cine, mask, expected, tmp_path):
    served = ServedModel(bundle_root(), tmp_path / "model.pt")
    prompts = read_request({"image": cine, "label": str(mask)})
    results = served.inferer.run(prompts, served.network("cpu"), RequestOptions())
    assert_same(of_results(results), expected)
