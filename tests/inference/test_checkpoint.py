"""A run that is interrupted goes on, and ends as if it had not been."""

import itertools

import numpy as np
import pytest

from bundle.inference.checkpoint import RunCheckpoint
from bundle.inference.settings import parse_settings
from bundle.inference.streaming import stream_results
from tests.tiny import OWN_SIZE, Blinded

HEIGHT, WIDTH, COUNT = 32, 48, 14


@pytest.fixture(scope="module")
def frames():
    return list(
        np.random.default_rng(0).integers(0, 256, (COUNT, HEIGHT, WIDTH, 3), dtype=np.uint8)
    )


def make_mask(*ids):
    owners = np.random.default_rng(1).permutation(np.resize([0, *ids], 8)).reshape(2, 4)
    return np.kron(owners, np.ones((HEIGHT // 2, WIDTH // 4))).astype(np.uint8)


class Counted:
    """A network that counts the frames it looks at."""

    def __init__(self, network):
        self.network, self.frames = network, 0

    def __getattr__(self, name):
        return getattr(self.network, name)

    def encode(self, image):
        self.frames += 1
        return self.network.encode(image)


class Job:
    """The same video, again and again."""

    def __init__(self, folder, frames, network, **settings):
        self.folder, self.frames, self.network = folder, frames, network
        self.settings = parse_settings(**(OWN_SIZE | {"precision": "float32"} | settings))
        self.masks, self.objects, self.identity = {0: make_mask(1, 2)}, None, "this video"

    def start(self, keep=True, resume=True):
        """The results one by one, and what keeps them."""
        kept = RunCheckpoint(self.folder, self.identity, resume, every_s=0) if keep else None
        return stream_results(
            self.settings,
            self.network,
            self.frames,
            self.masks,
            objects=self.objects,
            checkpoint=kept,
        ), kept

    def interrupt(self, count):
        stream, _ = self.start()
        taken = list(itertools.islice(stream, count))
        stream.close()
        return taken


@pytest.fixture
def job(tmp_path, frames, network):
    return Job(tmp_path / "video.checkpoint", frames, Counted(network))


def assert_same(found, expected):
    assert [each.frame for each in found] == [each.frame for each in expected]
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_array_equal(one.labels, other.labels)
        assert one[2:] == other[2:]  # confidence and flags


SETTINGS = [
    {},
    {"max_memory_frames": 3, "memory_every": 1},
    {"spatial_prior": "auto", "memory_every": 2},
    {"direction": "forward"},
]


@pytest.mark.parametrize("settings", SETTINGS, ids=str)
@pytest.mark.parametrize("prompts", [(0,), (6,), (3, 11)], ids=str)
def test_a_resumed_run_gives_the_results_of_an_uninterrupted_one(
    tmp_path, frames, network, settings, prompts
):
    job = Job(tmp_path / "kept", frames, network, **settings)
    job.masks = {i: make_mask(1, 2) for i in prompts}
    whole = list(job.start(keep=False)[0])
    for count in (2, 5, 9):  # three times, each further on
        assert_same(job.interrupt(count), whole[:count])
    assert_same(list(job.start()[0]), whole)


def test_a_resumed_run_keeps_masks_of_single_objects(tmp_path, frames, network):
    job = Job(tmp_path / "kept", frames, network)
    job.masks, job.objects = {0: make_mask(1, 2), 8: make_mask(2)}, {8: [2]}
    whole = list(job.start(keep=False)[0])
    job.interrupt(10)
    assert_same(list(job.start()[0]), whole)


def test_a_resumed_run_flags_vanished_objects_as_an_uninterrupted_one(tmp_path, frames, network):
    job = Job(tmp_path / "kept", frames, Blinded(network, 1))
    job.masks = {0: make_mask(1, 2), 8: make_mask(1)}
    whole = list(job.start(keep=False)[0])
    assert [each.frame for each in whole if each.vanished] == [1, 2, 3]
    job.interrupt(3)
    assert_same(list(job.start()[0]), whole)


def test_a_resumed_run_encodes_no_frame_twice(job):
    list(job.start(keep=False)[0])
    all_frames, job.network.frames = job.network.frames, 0
    job.interrupt(9)
    first, job.network.frames = job.network.frames, 0
    list(job.start()[0])
    assert first >= 8
    assert job.network.frames == all_frames - first


@pytest.mark.parametrize("change", ["settings", "mask", "identity", "no_resume"])
def test_a_run_with_other_input_begins_anew(job, frames, change):
    job.interrupt(9)
    if change == "settings":
        job = Job(job.folder, frames, job.network, memory_every=2)
    elif change == "mask":
        job.masks = {0: make_mask(1, 3)}
    elif change == "identity":
        job.identity = "another video"
    job.network.frames = 0
    expected = list(job.start(keep=False)[0])
    alone, job.network.frames = job.network.frames, 0
    assert_same(list(job.start(resume=change != "no_resume")[0]), expected)
    assert job.network.frames == alone


@pytest.mark.parametrize("damage", ["cut", "empty", "other"])
@pytest.mark.parametrize("file", ["state.pt", "part_*_00001.npz"])
def test_damaged_files_are_reported_and_not_used(job, caplog, file, damage):
    expected = list(job.start(keep=False)[0])
    job.interrupt(9)
    (path,) = job.folder.glob(file)
    content = path.read_bytes()
    path.write_bytes(
        {"cut": content[: len(content) // 2], "empty": b"", "other": b"something else"}[damage]
    )
    caplog.clear()
    assert_same(list(job.start()[0]), expected)
    assert "cannot be read" in caplog.text
    assert "starting the video again" in caplog.text


def test_only_its_own_files_are_removed(job):
    _, kept = job.start()
    job.interrupt(5)
    (job.folder / ".state.pt.killed.partial").mkdir()  # of a run that was killed while it wrote
    note = job.folder / "note.txt"
    note.write_text("mine", encoding="utf-8")
    kept.remove()
    assert [path.name for path in job.folder.iterdir()] == ["note.txt"]
    note.unlink()
    kept.remove()
    assert not job.folder.exists()
    kept.remove()  # a second time does nothing


def test_nothing_is_written_before_it_is_time(job):
    kept = RunCheckpoint(job.folder, "this video")
    list(stream_results(job.settings, job.network, job.frames, job.masks, checkpoint=kept))
    assert not job.folder.exists()
