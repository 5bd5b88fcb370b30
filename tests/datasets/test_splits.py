"""Splits by patient: who goes where, that it stays so, and one test per error message."""

import json
import logging
from pathlib import Path

import pytest

from bundle.datasets.records import Video
from bundle.datasets.splits import split_videos


def make_videos(patients, views=("2CH", "4CH")):
    return [
        Video(f"{patient}_{view}", (Path("0.png"),), {0: Path("m.png")}, {1: "x"}, patient)
        for patient in patients
        for view in views
    ]


TEN = make_videos([f"patient{i}" for i in range(1, 11)])


@pytest.fixture
def path(tmp_path):
    return tmp_path / "splits" / "camus.json"


def both(videos, path, **options):
    """The patients of train and of valid, as sets."""
    parts = (split_videos(videos, part, path, **options) for part in ("train", "valid"))
    return [{video.patient for video in part} for part in parts]


@pytest.mark.parametrize(
    ("count", "fraction", "train"),
    [(10, 0.8, 8), (5, 0.8, 4), (24, 0.8, 19), (500, 0.8, 400), (2, 0.8, 1), (3, 0.1, 1)],
)
def test_shares_and_no_patient_in_both(path, count, fraction, train):
    videos = make_videos([str(i) for i in range(count)])
    first, second = both(videos, path, fraction=fraction)
    assert (len(first), len(second)) == (train, count - train)
    assert not first & second
    assert len(split_videos(videos, "train", path, fraction=fraction)) == 2 * train  # both views


def test_the_file_holds_the_draw_sorted_and_nothing_else_is_left(path):
    first, second = both(TEN, path)
    split = json.loads(path.read_text())
    assert (split["seed"], split["fraction"]) == (0, 0.8)
    assert (set(split["train"]), set(split["valid"])) == (first, second)
    for part in ("train", "valid"):
        assert split[part] == sorted(split[part], key=lambda name: int(name[7:]))
    assert list(path.parent.iterdir()) == [path]


def test_an_existing_split_file_is_used(path):
    both(TEN, path)
    content = path.read_bytes()
    again = both(TEN, path)
    assert path.read_bytes() == content
    split = json.loads(content)
    split["train"], split["valid"] = split["valid"], split["train"]
    path.write_text(json.dumps(split))
    assert both(TEN, path) == again[::-1]


def test_a_split_file_written_by_hand_needs_only_the_parts(path):
    path.parent.mkdir()
    path.write_text(json.dumps({"train": ["a"], "valid": ["b", "c"]}))
    assert both(make_videos("abc"), path, seed=5) == [{"a"}, {"b", "c"}]


def test_the_draw_does_not_depend_on_the_order(tmp_path):
    both(TEN, tmp_path / "a.json")
    both(TEN[::-1], tmp_path / "b.json")
    assert (tmp_path / "a.json").read_bytes() == (tmp_path / "b.json").read_bytes()


def test_different_seeds_give_different_splits(tmp_path):
    draws = {frozenset(both(TEN, tmp_path / f"{seed}.json", seed=seed)[1]) for seed in range(8)}
    assert len(draws) > 4


def test_videos_keep_their_order(path):
    train = split_videos(TEN[::-1], "train", path)
    assert train == [video for video in TEN[::-1] if video in train]


def test_a_partial_copy_is_warned_of(path, caplog):
    _, valid = both(TEN, path)
    fewer = [video for video in TEN if video.patient not in ("patient3", "patient10")]
    with caplog.at_level(logging.WARNING):
        assert both(fewer, path)[1] == valid - {"patient3", "patient10"}
    assert "lists 2 patients without a video, the first is patient3" in caplog.text


def test_a_leak_is_refused(path):
    both(TEN, path)
    split = json.loads(path.read_text())
    split["valid"].append(split["train"][0])
    path.write_text(json.dumps(split))
    with pytest.raises(
        ValueError, match=rf"camus.json has patient {split['train'][0]} in both train and valid"
    ):
        split_videos(TEN, "train", path)


def test_new_patients_are_refused(path):
    both(TEN, path)
    videos = [*TEN, *make_videos(["patient11"])]
    with pytest.raises(
        ValueError,
        match=r"camus.json does not list patient patient11 of video patient11_2CH \(2 such videos\): "
        "delete the file to draw anew, or add",
    ):
        split_videos(videos, "valid", path)


def test_a_part_without_videos_is_refused(path):
    train, _ = both(TEN, path)
    videos = [video for video in TEN if video.patient in train]
    with pytest.raises(
        ValueError, match=r"no video of the 16 is of a patient in 'valid' of .*camus"
    ):
        split_videos(videos, "valid", path)


def test_an_unknown_part_is_refused(path):
    with pytest.raises(ValueError, match=r"unknown part 'test' of .*camus.json: expected train or"):
        split_videos(TEN, "test", path)
    assert not path.exists()


@pytest.mark.parametrize("fraction", [0.0, 1.0, 80.0])
def test_a_fraction_is_between_0_and_1(path, fraction):
    with pytest.raises(ValueError, match=rf"between 0 and 1 for .*camus.json, got {fraction}"):
        split_videos(TEN, "train", path, fraction=fraction)


@pytest.mark.parametrize(("patients", "found"), [([], 0), (["a"], 1)])
def test_fewer_than_two_patients_are_refused(path, patients, found):
    with pytest.raises(
        ValueError, match=rf"draw .*camus.json: .* 2 patients to split, found {found}"
    ):
        split_videos(make_videos(patients), "train", path)
    assert not path.exists()


@pytest.mark.parametrize(("name", "value"), [("seed", 1), ("fraction", 0.7)])
def test_another_draw_than_the_file_is_refused(path, name, value):
    both(TEN, path)
    with pytest.raises(
        ValueError, match=rf"camus.json was drawn with {name} 0.* but {name} {value}"
    ):
        split_videos(TEN, "train", path, **{name: value})


@pytest.mark.parametrize("content", [b'{"train": ["a"', b"\xff\xfe", b""])
def test_a_damaged_file_is_refused(path, content):
    path.parent.mkdir()
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"cannot read .*camus.json as JSON \(.*\): mend the file"):
        split_videos(TEN, "train", path)


@pytest.mark.parametrize(
    ("content", "lacking"),
    [([], "train"), ({"train": ["a"]}, "valid"), ({"train": [1], "valid": [2]}, "train")],
)
def test_a_file_without_parts_is_refused(path, content, lacking):
    path.parent.mkdir()
    path.write_text(json.dumps(content))
    with pytest.raises(ValueError, match=rf"camus.json has no list of patients .* '{lacking}'"):
        split_videos(TEN, "train", path)
