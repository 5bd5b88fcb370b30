"""The demo's masks are those that were kept, and equal input gives equal output.

After the weights, the int8 network or the method changed on purpose, look at the masks and keep them:

    TCMN_UPDATE_GOLDEN=1 pytest tests/inference/test_golden.py
"""

import importlib.util
import json
import os
from pathlib import Path

import numpy as np
import pydicom.data
import pytest
import torch
from PIL import Image, ImageDraw

from bundle.io.reading.video import open_video
from bundle.segmenter import VideoSegmenter
from bundle.visualization.overlay import PALETTE

ROOT = Path(__file__).resolve().parents[2]
GOLDEN = Path(__file__).parent / "golden"
CINE = pydicom.data.get_testdata_file("examples_ybr_color.dcm", download=False)
KINDS = {
    "float32": {"backend": "torch", "precision": "float32"},
    "bfloat16": {"backend": "torch", "precision": "bfloat16"},
    "int8": {"backend": "int8"},
}
FRAMES = 3, 6
"""That are kept: side by side, one PNG for each kind of number."""
LEAST_DICE = {"float32": 99.5, "int8": 99.5}
"""Of each frame. Other CPUs add in another order, which may move a few pixels on the edge."""

pytestmark = [
    pytest.mark.skipif(CINE is None, reason="this pydicom has no examples_ybr_color.dcm"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning"),
]


def load(kind, **options):
    if KINDS[kind]["backend"] == "int8" and importlib.util.find_spec("openvino") is None:
        pytest.skip("pip install openvino")
    return VideoSegmenter.from_pretrained(**KINDS[kind], device="cpu", **options)


def segment(model, count):
    """The demo, but for its end: labels and confidence of each frame."""
    video = open_video(Path(CINE))
    outline = json.loads((ROOT / "scripts/demo/left_ventricle.json").read_text())["0"]
    mask = Image.new("L", (video.width, video.height))
    ImageDraw.Draw(mask).polygon([(x, y) for x, y in outline], fill=1)
    frames = list(video.frames(range(count)))
    results = model.segment(frames, {0: np.asarray(mask)})
    return [(result.labels, result.confidence[1]) for result in results]


def dice(first, second):
    return 200 * (first & second).sum() / (first.sum() + second.sum())


@pytest.mark.parametrize("kind", LEAST_DICE)
def test_masks_equal_the_golden_masks(kind):
    path = GOLDEN / f"left_ventricle_{kind}.png"
    results = segment(load(kind), FRAMES[-1] + 1)
    found = [results[index][0] for index in FRAMES]
    if os.environ.get("TCMN_UPDATE_GOLDEN") == "1":
        picture = Image.fromarray(np.hstack(found))
        picture.putpalette(PALETTE.tobytes())
        picture.save(path, optimize=True)
    with Image.open(path) as picture:
        kept = np.split(np.asarray(picture), len(FRAMES), axis=1)
    scores = [float(dice(*pair)) for pair in zip(found, kept, strict=True)]
    assert min(scores) >= LEAST_DICE[kind], (
        f"Dice with {path.name} by frame: {dict(zip(FRAMES, scores, strict=True))}; if a change was "
        "meant to do this: TCMN_UPDATE_GOLDEN=1 pytest tests/inference/test_golden.py"
    )
    # None of the masks would do for another frame.
    others = [dice(kept[i], kept[j]) for i in range(len(kept)) for j in range(i)]
    assert max(others) < LEAST_DICE[kind]


@pytest.mark.parametrize("kind", KINDS)
def test_equal_input_gives_equal_output_to_the_bit(kind):
    model = load(kind, inference_size=96)
    first, again = segment(model, 7), segment(model, 7)
    for (labels, confidence), (expected, trust) in zip(again, first, strict=True):
        np.testing.assert_array_equal(labels, expected)
        assert confidence == trust
    assert 0 < first[-1][0].mean() < 1


@pytest.mark.parametrize("kind", ["float32", "int8"])
def test_the_number_of_threads_moves_no_more_than_a_few_pixels(kind):
    threads, results = torch.get_num_threads(), []
    try:
        for count in (1, 2):
            torch.set_num_threads(count)
            # A network anew, since OpenVINO takes the number when it makes one.
            results.append(segment(load(kind, inference_size=96), 4))
    finally:
        torch.set_num_threads(threads)
    for (one, _), (two, _) in zip(*results, strict=True):
        assert dice(one, two) >= 99.5
