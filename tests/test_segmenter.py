"""The Python interface: what a job keeps, what a correction recomputes, one test per message."""

import json
import subprocess
import sys

import numpy as np
import pytest
import torch

import bundle
from bundle.inference.settings import InferenceSettings
from bundle.networks import TCMN
from bundle.networks.weights import WeightsDescription, describe_weights, file_digest
from bundle.segmenter import VideoSegmenter
from tests.tiny import NETWORK, OWN_SIZE

HEIGHT, WIDTH, FRAMES = 32, 48, 9


@pytest.fixture(scope="module")
def network():
    torch.manual_seed(3)
    network = TCMN(**NETWORK).eval()
    network.decoder.predict.weight.data *= 40
    return network


@pytest.fixture
def job(network):
    settings = InferenceSettings(**OWN_SIZE, precision="float32")
    random = np.random.default_rng(0)
    frames = random.integers(0, 256, (FRAMES, HEIGHT, WIDTH, 3), np.uint8)
    return VideoSegmenter(network, settings).start(list(frames))


def block(top, left, value=True, size=12):
    mask = np.zeros((HEIGHT, WIDTH), type(value) if isinstance(value, bool) else np.uint8)
    mask[top : top + size, left : left + size] = value
    return mask


def test_a_job_gives_what_the_stream_gives(job):
    labels = block(4, 4, 2) + block(18, 30, 5)
    streamed = list(job.segmenter.segment(job.video, {0: labels}))
    job.add_mask(0, labels)
    assert [result.frame for result in job.propagate()] == list(range(1, FRAMES))
    for found, expected in zip(job.results(), streamed, strict=True):
        np.testing.assert_array_equal(found.labels, expected.labels)
        assert found.confidence == expected.confidence
        assert found.labels.dtype == np.uint8


def test_a_correction_recomputes_only_up_to_the_next_masks(job):
    for frame in (0, 4):
        job.add_mask(frame, block(4, 4))
    assert len(list(job.propagate())) == FRAMES - 2
    job.add_mask(7, block(6, 6))
    assert [result.frame for result in job.propagate()] == [5, 6, 8]
    assert list(job.propagate()) == []
    job.remove_mask(7)
    assert [result.frame for result in job.propagate()] == [5, 6, 7, 8]


def test_a_correction_of_one_object_leaves_the_others_as_they_were_found(job):
    job.add_mask(0, block(4, 4, 1) + block(18, 30, 2))
    before = {result.frame: result.labels for result in job.results()}[5]
    job.add_mask(5, block(20, 4), object_id=1)
    corrected = job.masks[5]
    np.testing.assert_array_equal(corrected == 1, block(20, 4))
    np.testing.assert_array_equal(corrected == 2, (before == 2) & ~block(20, 4))


def test_objects_are_added_one_by_one(job):
    job.add_mask(0, block(4, 4), object_id=7)
    job.add_mask(0, block(18, 30), object_id=9)
    assert np.unique(job.masks[0]).tolist() == [0, 7, 9]
    assert {i for result in job.results() for i in result.confidence} == {7, 9}


def test_an_interrupted_propagation_is_continued(job):
    job.add_mask(0, block(4, 4))
    next(job.propagate())
    assert [result.frame for result in job.results()] == list(range(FRAMES))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda job: list(job.propagate()), "no mask shows an object"),
        (lambda job: job.add_mask(9, block(0, 0)), "no frame 9: the video has frames 0 to 8"),
        (lambda job: job.add_mask(0, block(0, 0)[:-1]), r"mask of frame 0 is \(31, 48\) but"),
        (lambda job: job.add_mask(0, block(0, 0) * 0.5), "float64 of shape .* expected whole numb"),
        (lambda job: job.add_mask(0, block(0, 0) * 300), "labels from 0 to 300: expected object"),
        (lambda job: job.add_mask(0, block(0, 0), object_id=0), "object_id must be from 1 to 255"),
        (lambda job: job.remove_mask(3), "frame 3 has no mask to take back: given are those of n"),
    ],
)
def test_bad_input_is_refused(job, call, message):
    with pytest.raises(ValueError, match=message):
        call(job)
    assert job.masks == {}


# Weights and what describes them


def save(folder, network, **changes):
    path = folder / "model.pt"
    torch.save(network.state_dict(), path)
    definition = {**network.definition, **changes}
    describe_weights(path, WeightsDescription(definition, "1.0.0", file_digest(path)))
    return path


def test_weights_bring_their_network(network, tmp_path):
    path = save(tmp_path, network)
    loaded = VideoSegmenter.from_pretrained(path, device="cpu", backend="torch")
    assert loaded.network.definition == network.definition
    assert loaded.settings == InferenceSettings()


def test_weights_of_another_version_than_their_description_are_refused(network, tmp_path):
    path = save(tmp_path, network)
    torch.save({**network.state_dict(), "more": torch.zeros(1)}, path)
    with pytest.raises(ValueError, match=r"model.pt is not the file that model.json beside it des"):
        VideoSegmenter.from_pretrained(path, device="cpu")


def test_weights_of_another_normalisation_are_refused(network, tmp_path):
    path = save(tmp_path, network, pixel_mean=[0.1, 0.2, 0.3])
    message = r"is of a network with pixel_mean \[0.1, 0.2, 0.3\], but the one here has \[0.485"
    with pytest.raises(ValueError, match=message):
        bundle.networks.load_weights(TCMN(**NETWORK), path)


def test_a_damaged_description_is_named(network, tmp_path):
    path = save(tmp_path, network)
    path.with_suffix(".json").write_text(json.dumps({"network": 3}))
    with pytest.raises(ValueError, match=r"model.json does not describe weights"):
        VideoSegmenter.from_pretrained(path, device="cpu")


# The package


def test_importing_the_package_imports_nothing_heavy():
    code = "import bundle, sys; print(bundle.__version__, 'torch' in sys.modules, dir(bundle))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    version, torch_is_there, names = done.stdout.split(" ", 2)
    assert version.count(".") == 2
    assert torch_is_there == "False"
    assert all(name in names for name in bundle.__all__)


def test_every_public_name_is_there():
    for name in bundle.__all__:
        assert getattr(bundle, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'Segmenter'"):
        _ = bundle.Segmenter


def test_segmenting_in_8_bits_imports_no_library_that_it_does_not_use():
    code = "import bundle.commands.segment, sys; print(*{m.partition('.')[0] for m in sys.modules})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    unused = {"monai", "torchvision", "ignite", "matplotlib", "pandas", "openpyxl"}
    assert not unused & set(done.stdout.split())
