"""Prompts from a file: what they become, that the schema says the same, one test per message."""

import json

import jsonschema
import numpy as np
import pytest
import torch
from PIL import Image

from bundle import VideoSegmenter, open_video
from bundle.inference.inputs import PromptedVideo
from bundle.inference.prompts import LoadedNetwork, ObjectPrompt
from bundle.inference.prompts_file import PromptEntry, give_prompts, read_prompts
from bundle.inference.settings import InferenceSettings
from bundle.networks import TCMN
from bundle.utils.bundle_files import bundle_root
from tests.tiny import NETWORK, OWN_SIZE, make_prompted

SIZE = HEIGHT, WIDTH = 32, 48
BOX = [4, 4, 40, 28]
SCHEMA = json.loads((bundle_root() / "docs/prompts.schema.json").read_text())
FULL = [
    {"frame": 0, "object": 1, "box": BOX},
    {"frame": 2, "object": 2, "points": [[10, 10, 1], [30.5, 20, 0]]},
    {"frame": 2, "object": 3, "scribbles": [{"points": [[12, 24], [30, 28]], "positive": True}]},
    {"frame": 2, "object": 3, "scribbles": [{"points": [[40, 2]], "positive": False}]},
    {"frame": 1, "object": 1, "mask": "whole.png"},
    {"frame": 3, "object": 2, "mask": "rough.png", "unknown": 255, "points": [[3, 3, 1]]},
]


@pytest.fixture(scope="module")
def network():
    return make_prompted(2)


@pytest.fixture
def segmenter(network):
    return VideoSegmenter(network, InferenceSettings(**OWN_SIZE, precision="float32"))


@pytest.fixture
def video(tmp_path):
    random = np.random.default_rng(0)
    (tmp_path / "video").mkdir()
    for i in range(5):
        pixels = random.integers(0, 256, (*SIZE, 3), np.uint8)
        Image.fromarray(pixels).save(tmp_path / "video" / f"{i}.png")
    return open_video(tmp_path / "video")


def whole():
    mask = np.zeros(SIZE, np.uint8)
    mask[5:20, 10:30] = 1
    return mask


def rough():
    mask = whole()
    mask[:, 24:] = 255
    return mask


@pytest.fixture
def write(tmp_path):
    Image.fromarray(whole() * 255).save(tmp_path / "whole.png")
    Image.fromarray(rough()).save(tmp_path / "rough.png")

    def write(*entries, content=None):
        path = tmp_path / "prompts.json"
        path.write_text(json.dumps({"prompts": entries} if content is None else content))
        return path

    return write


def test_a_file_is_the_same_as_the_calls(segmenter, video, write):
    job, by_calls = segmenter.start(video), segmenter.start(video)
    give_prompts(job, read_prompts(write(*FULL)))
    by_calls.add_box(0, tuple(BOX))
    by_calls.add_mask(1, whole(), object_id=1)
    scribbled = ObjectPrompt().with_scribble([(12, 24), (30, 28)]).with_scribble([(40, 2)], False)
    pointed = ObjectPrompt().with_points([(10, 10), (30.5, 20)], [1, 0])
    by_calls.add_prompts(2, {2: pointed, 3: scribbled})
    by_calls.add_prompts(3, {2: ObjectPrompt(mask=rough()).with_points([(3, 3)], [1])})
    assert job.objects == by_calls.objects == {0: {1}, 1: {1}, 2: {2, 3}, 3: {2}}
    for one, other in zip(job.results(), by_calls.results(), strict=True):
        np.testing.assert_array_equal(one.labels, other.labels)


def test_prompts_lie_on_top_of_a_mask(segmenter, video, write, tmp_path):
    mask = tmp_path / "whole.png"
    entries = read_prompts(write({"object": 2, "box": BOX}, {"frame": 3, "points": [[20, 9, 1]]}))
    given = PromptedVideo(video.path, mask, prompts=entries)
    assert given.annotated == {0, 3}
    loaded = LoadedNetwork(segmenter.network, segmenter.settings, segmenter.device)
    job, by_calls = given.give(loaded), segmenter.start(video)
    by_calls.add_mask(0, whole())
    by_calls.add_box(0, tuple(BOX), object_id=2)
    by_calls.add_points(3, [(20, 9)], [1])
    assert job.objects == by_calls.objects == {3: {1}}
    for i in (0, 3):
        np.testing.assert_array_equal(job.masks[i], by_calls.masks[i])


def test_unknown_pixels_of_a_mask(segmenter, video, write, tmp_path):
    write()
    given = PromptedVideo(video.path, tmp_path / "rough.png", unknown=255)
    by_calls = segmenter.start(video)
    expected = by_calls.add_mask(0, rough(), unknown=255)
    loaded = LoadedNetwork(segmenter.network, segmenter.settings, segmenter.device)
    np.testing.assert_array_equal(given.give(loaded).masks[0], expected)
    np.testing.assert_array_equal(given.annotations[0], rough() == 1)


def test_errors_in_entries_without_a_file_name_no_file(segmenter, video):
    entry = PromptEntry(9, 1, ObjectPrompt(box=(1, 1, 5, 5)))
    with pytest.raises(ValueError, match=r"^there is no frame 9: the video has frames 0 to 4"):
        give_prompts(segmenter.start(video), [entry])


# The file by itself; the schema says the same


GOOD = [FULL, [{"box": [0.5, 1, 2, 3]}], [{"scribbles": [{"points": [[1, 2]]}]}]]
BAD = [
    ([7], 'entry 1: expected an object such as {"frame": 0, "object": 1, "box": .*, got 7'),
    ([{"box": BOX}, {"boxes": BOX}], "entry 2: unknown key 'boxes': expected frame, object, box"),
    ([{"frame": 3}], "entry 1: it points at nothing: give a box, points, scribbles or a mask"),
    ([{"box": [1, 2, 3]}], r"entry 1: box must be 4 numbers, left, .*, got \[1, 2, 3\]"),
    ([{"box": [1, 2, 3, "4"]}], "entry 1: box must be 4 numbers"),
    ([{"box": [1, 2, 3, True]}], "entry 1: box must be 4 numbers"),
    ([{"points": [60, 70, 1]}], "entry 1: a point must be 3 numbers, x, y and 1 .*, got 60"),
    ([{"points": []}], r"entry 1: points must be a list of at least one, got \[\]"),
    ([{"points": {"x": 1}}], "entry 1: points must be a list"),
    ([{"points": [[60, 70, 2]]}], "entry 1: the third number of a point must be 1 .*, got 2"),
    ([{"scribbles": [[1, 2]]}], r"entry 1: a scribble must be .*, got \[1, 2\]"),
    ([{"scribbles": [{"points": [[1, 2, 1]]}]}], "a scribble's point must be 2 numbers, x, y"),
    ([{"scribbles": [{"points": [[1, 2]], "positive": 1}]}], "positive of a scribble must be"),
    ([{"scribbles": [{"points": []}]}], "points must be a list of at least one"),
    ([{"frame": -1, "box": BOX}], "frame must be a whole number from 0 on, got -1"),
    ([{"frame": 1.5, "box": BOX}], "frame must be a whole number from 0 on, got 1.5"),
    ([{"object": 256, "box": BOX}], "object must be a whole number from 1 to 255, got 256"),
    ([{"object": "1", "box": BOX}], 'object must be a whole number from 1 to 255, got "1"'),
    ([{"mask": 3}], "mask must be the path of a file, got 3"),
    ([{"box": BOX, "unknown": 255}], "unknown is a value of a mask's pixels: give a mask"),
    ([{"mask": "m.png", "unknown": -1}], "unknown must be a whole number from 0 on, got -1"),
]


@pytest.mark.parametrize("entries", GOOD)
def test_the_schema_takes_what_is_read(write, entries):
    jsonschema.validate({"prompts": entries}, SCHEMA)
    assert len(read_prompts(write(*entries))) == len(entries)


@pytest.mark.parametrize(("entries", "message"), BAD)
def test_entries_that_are_not_as_they_should_be(write, entries, message):
    with pytest.raises(ValueError, match=message) as caught:
        read_prompts(write(*entries))
    assert "prompts.json, entry " in str(caught.value)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate({"prompts": entries}, SCHEMA)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([{"box": BOX}], "prompts.json has no list of prompts: expected"),
        ({"prompts": {"box": BOX}}, "prompts.json has no list of prompts"),
        ({"prompts": []}, "prompts.json has no prompt in it"),
        ({"prompts": [{"box": BOX}], "video": "a"}, "prompts.json has an unknown key 'video'"),
    ],
)
def test_files_that_hold_something_else(write, content, message):
    with pytest.raises(ValueError, match=message):
        read_prompts(write(content=content))
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(content, SCHEMA)


def test_invalid_json_and_missing_files_are_named(tmp_path):
    (tmp_path / "p.json").write_text("{")
    with pytest.raises(ValueError, match=r"p.json is not valid JSON \(Expecting"):
        read_prompts(tmp_path / "p.json")
    with pytest.raises(FileNotFoundError, match="no such file of prompts"):
        read_prompts(tmp_path / "q.json")
    (tmp_path / "p.json").write_text('{"prompts": [{"box": [1, 2, 3, Infinity]}]}')
    with pytest.raises(ValueError, match="box must be 4 numbers"):
        read_prompts(tmp_path / "p.json")


# With a video


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        (
            [{"box": BOX}, {"frame": 5, "box": BOX}],
            r"prompts.json, entry 2: there is no frame 5: the video has frames 0 to 4",
        ),
        ([{"points": [[48, 1, 1]]}], "entry 1: point 48,1 of object 1 lies outside of the frame"),
        ([{"box": [9, 9, 9, 20]}], "entry 1: box 9,9,9,20 has no area in a frame of 48x32"),
        ([{"points": [[4, 1, 0]]}], "entry 1: nothing says where object 1 is: give a box"),
        ([{"points": [[4, 1, 0], [4, 1, 1]]}], "entry 1: point 4,1 is said to be on object 1 and"),
        ([{"box": BOX}, {"box": BOX}], "entry 2: object 1 has a second box in frame 0: give one"),
        (
            [{"mask": "whole.png"}, {"mask": "whole.png"}],
            "entry 2: object 1 has a second mask in frame 0: give one",
        ),
        (
            [{"points": [[4, 1, 1]]}, {"points": [[4, 1, 1]], "object": 2}],
            "prompts.json: point 4,1 is given to object 1 and to object 2",
        ),
        (
            [{"mask": "photo.jpg", "unknown": 255}],
            "entry 1: .*photo.jpg is in colour or compressed with loss, so no pixel surely has",
        ),
        ([{"mask": "empty.png"}], "entry 1: .*empty.png is empty"),
        ([{"mask": "empty.png", "unknown": 255}], "entry 1: .*empty.png is empty"),
        ([{"mask": "small.png"}], "entry 1: .*small.png is 9x9 but"),
    ],
)
def test_prompts_that_do_not_fit_the_video(segmenter, video, write, tmp_path, entries, message):
    Image.fromarray(whole() * 255).save(tmp_path / "photo.jpg")
    Image.fromarray(whole() * 0).save(tmp_path / "empty.png")
    Image.fromarray(whole()[5:14, 10:19]).save(tmp_path / "small.png")
    job = segmenter.start(video)
    with pytest.raises(ValueError, match=message):
        give_prompts(job, read_prompts(write(*entries)))


def test_a_mask_that_is_not_there_is_named(segmenter, video, write):
    with pytest.raises(FileNotFoundError, match=r"no such mask: .*nowhere.png"):
        give_prompts(segmenter.start(video), read_prompts(write({"mask": "nowhere.png"})))


def test_weights_without_partial_masks_say_so(video, write, tmp_path):
    loaded = LoadedNetwork(
        TCMN(**NETWORK).eval(), InferenceSettings(**OWN_SIZE), torch.device("cpu")
    )
    for given in (
        PromptedVideo(video.path, None, prompts=read_prompts(write({"box": BOX}))),
        PromptedVideo(video.path, tmp_path / "rough.png", unknown=255),
    ):
        with pytest.raises(ValueError, match="need a network that takes them: these weights were"):
            given.give(loaded)
    # Whole masks of single objects need none.
    whole_mask = PromptedVideo(
        video.path, None, prompts=read_prompts(write({"mask": "whole.png", "object": 7}))
    )
    np.testing.assert_array_equal(whole_mask.give(loaded).masks[0], whole() * 7)
