"""The frame loop against the whole-clip pass, and what a stream promises its user."""

import itertools

import numpy as np
import pytest
import torch

from bundle.inference.inferers import ClipInferer, VideoInferer
from bundle.utils.devices import autocast, blend_type, find_device
from tests.tiny import OWN_SIZE

HEIGHT, WIDTH = 32, 48
ONE_OBJECT, TWO_OBJECTS = 1, 2


def make_clip(objects=ONE_OBJECT, height=HEIGHT, width=WIDTH, frames=7):
    """(1, 3 + N, H, W, T): noise and masks that do not overlap."""
    draw = torch.Generator().manual_seed(0)
    rgb = torch.rand(1, 3, height, width, frames, generator=draw)
    owner = torch.randint(0, objects + 1, (1, 1, height, width, frames), generator=draw)
    return torch.cat([rgb, *[owner == number for number in range(1, objects + 1)]], dim=1)


def make_frames(count=7, height=HEIGHT, width=WIDTH):
    return list(
        np.random.default_rng(0).integers(0, 256, (count, height, width, 3), dtype=np.uint8)
    )


def make_labels(ids=(1,), height=HEIGHT, width=WIDTH, seed=0):
    """A label map of large blocks, every id in it."""
    owners = np.random.default_rng(seed).permutation(np.resize([0, *ids], 8)).reshape(2, 4)
    rows, columns = np.arange(height) * 2 // height, np.arange(width) * 4 // width
    return owners[np.ix_(rows, columns)].astype(np.uint8)


def propagate(inferer, frames, annotations, network):
    """The label map of each frame."""
    return [found.labels for found in inferer.stream(frames, annotations, network)]


@pytest.mark.parametrize("objects", [ONE_OBJECT, TWO_OBJECTS])
@torch.no_grad()
def test_clip_equals_the_networks_own_pass(network, objects):
    clip = make_clip(objects)
    logits = VideoInferer(**OWN_SIZE, memory_every=network.memory_every, precision="float32")(
        clip, network
    )
    torch.testing.assert_close(logits, network(clip), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("remember_last", [True, False])
@pytest.mark.parametrize("memory_every", [1, 2, 3])
def test_the_first_every_nth_and_the_last_frame_are_remembered(
    network, memory_every, remember_last
):
    session = VideoInferer(
        **OWN_SIZE, memory_every=memory_every, remember_last=remember_last, precision="float32"
    ).start(network)
    clip = make_clip()
    with torch.inference_mode():
        session.prompt(clip[:, :3, ..., 0], clip[:, 3:, ..., 0])
        held = [session.remembered]
        for t in range(1, clip.shape[-1]):
            session.step(clip[:, :3, ..., t])
            held.append(session.remembered)
    assert held == [
        1 + t // memory_every + (remember_last and t % memory_every > 0) for t in range(7)
    ]


def test_max_memory_frames_bounds_the_memory(network):
    session = VideoInferer(
        **OWN_SIZE, memory_every=1, max_memory_frames=2, precision="float32"
    ).start(network)
    clip = make_clip()
    with torch.inference_mode():
        session.prompt(clip[:, :3, ..., 0], clip[:, 3:, ..., 0])
        for t in range(1, 5):
            session.step(clip[:, :3, ..., t])
            assert session.remembered == 2


def test_stream_equals_the_clip(network):
    frames, labels = make_frames(), make_labels((1, 2))
    rgb = torch.from_numpy(np.stack(frames, axis=-1)).movedim(2, 0)[None] / 255
    masks = torch.stack([torch.from_numpy(labels == number) for number in (1, 2)])
    clip = torch.cat([rgb, masks[None, ..., None].expand(1, 2, HEIGHT, WIDTH, 7)], dim=1)
    inferer = VideoInferer(**OWN_SIZE, precision="float32")
    expected = inferer(clip, network).argmax(1)[0].movedim(-1, 0).numpy()
    found = np.stack(propagate(inferer, frames, {0: labels}, network))
    assert found.dtype == np.uint8
    assert len(np.unique(expected[1:])) > 1
    np.testing.assert_array_equal(found, expected)


def test_ids_are_kept(network):
    labels = make_labels((3, 7))
    propagated = np.stack(
        propagate(VideoInferer(**OWN_SIZE), make_frames(), {0: labels}, network)[1:]
    )
    assert set(np.unique(propagated)) <= {0, 3, 7}
    assert propagated.any()


def test_an_iterator_is_taken_one_frame_at_a_time(network):
    taken = []

    def camera():
        for number in itertools.count():
            taken.append(number)
            yield make_frames(1)[0]

    stream = VideoInferer(**OWN_SIZE).stream(camera(), {0: make_labels()}, network)
    assert taken == []
    for number in range(3):
        next(stream)
        assert taken == list(range(number + 1))


def test_videos_do_not_share_memory(network):
    inferer, frames = VideoInferer(**OWN_SIZE, precision="float32"), make_frames(4)
    expected = [propagate(inferer, frames, {0: make_labels(seed=s)}, network) for s in (0, 1)]
    streams = [inferer.stream(frames, {0: make_labels(seed=s)}, network) for s in (0, 1)]
    side_by_side = [(a.labels, b.labels) for a, b in zip(*streams, strict=True)]
    np.testing.assert_array_equal(side_by_side, list(zip(*expected, strict=True)))


@pytest.mark.parametrize("inference_size", [None, 16, 21, 64])
@pytest.mark.parametrize(("height", "width"), [(33, 47), (47, 33), (16, 90), (7, 9)])
def test_any_size_comes_back_at_its_own_size(network, height, width, inference_size):
    labels = make_labels(height=height, width=width)
    inferer = VideoInferer(inference_size=inference_size, spatial_prior=None)
    found = propagate(inferer, make_frames(2, height, width), {0: labels}, network)
    assert [x.shape for x in found] == [(height, width)] * 2


def test_inference_size_is_the_shorter_side_that_the_network_sees(network, monkeypatch):
    seen, encode = [], network.encode

    def record(image):
        seen.append(tuple(image.shape[-2:]))
        return encode(image)

    monkeypatch.setattr(network, "encode", record)
    frames, labels = make_frames(2, 64, 96), make_labels(height=64, width=96)
    for inference_size in (32, 40, 64, None):
        propagate(
            VideoInferer(inference_size=inference_size, spatial_prior=None),
            frames,
            {0: labels},
            network,
        )
    assert seen[::2] == seen[1::2]
    assert seen[::2] == [(32, 48), (48, 64), (64, 96), (64, 96)]  # 40x60 is padded to 48x64


@pytest.mark.parametrize("view", ["read-only", "mirrored"])
def test_frames_may_be_any_numpy_view(network, view):
    frames = make_frames(2)
    if view == "mirrored":
        frames = [frame[:, ::-1] for frame in frames]
    for frame in frames:
        frame.flags.writeable = view != "read-only"
    labels = make_labels()
    labels.flags.writeable = False
    found = propagate(VideoInferer(**OWN_SIZE), frames, {0: labels}, network)
    expected = propagate(
        VideoInferer(**OWN_SIZE), [x.copy() for x in frames], {0: labels.copy()}, network
    )
    np.testing.assert_array_equal(found, expected)


def test_bfloat16_logits_are_float32_and_close(network):
    clip = make_clip(frames=2)
    exact = VideoInferer(**OWN_SIZE, precision="float32")(clip, network)
    low = VideoInferer(**OWN_SIZE, precision="bfloat16")(clip, network)
    assert low.dtype == torch.float32
    # bfloat16 has 8 bits: probabilities of an untrained network agree to a few hundredths.
    difference = (low.softmax(1) - exact.softmax(1)).abs()
    assert 0 < difference.mean() < 0.02


def test_clip_inferer_passes_arguments_and_gradients_on(network):
    clip = make_clip(frames=3)
    prediction = ClipInferer("float32")(clip, network, return_values=True)
    expected = network(clip, return_values=True)
    torch.testing.assert_close(prediction.values, expected.values)
    assert prediction.logits.requires_grad


@pytest.mark.parametrize(
    ("capabilities", "half"),
    [
        ({}, False),
        ({"cpu_name": "AMD EPYC"}, False),
        ({"cpu_name": "Intel(R) Xeon(R)", "avx512_bf16": True}, False),
        ({"cpu_name": "AMD EPYC", "avx512_bf16": True}, True),
        ({"cpu_name": "Intel(R) Xeon(R)", "avx512_bf16": True, "amx_bf16": True}, True),
    ],
)
def test_precision_auto_is_bfloat16_on_cpus_where_it_is_faster(capabilities, half, monkeypatch):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: capabilities)
    cpu = torch.device("cpu")
    with autocast("auto", cpu):
        assert torch.is_autocast_enabled("cpu") == half
        assert not half or torch.get_autocast_dtype("cpu") == torch.bfloat16
    assert blend_type("auto", cpu) == (torch.bfloat16 if half else torch.float32)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"memory_every": 0}, "memory_every must be at least 1 frame, got 0"),
        ({"inference_size": 8}, "inference_size must be at least 16 pixels, got 8"),
        (
            {"max_memory_frames": 1},
            "max_memory_frames must be at least 2, .* or auto or null, got 1",
        ),
        (
            {"max_memory_frames": "all"},
            "max_memory_frames must be a whole number or auto or null, got 'all'",
        ),
        ({"direction": "left"}, "direction must be one of both, .*got 'left'"),
        ({"review_below": 2.0}, "review_below must be between 0 and 1, got 2.0"),
        ({"spatial_prior": 0}, "spatial_prior must be above 0, auto, or null for none, got 0"),
        ({"spatial_prior": "wide"}, "spatial_prior must be a number or auto or null, got 'wide'"),
        ({"precision": "half"}, "precision must be one of auto, .*got 'half'"),
    ],
)
def test_a_setting_out_of_range_is_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        VideoInferer(**settings)


def test_find_device_takes_cpu_and_refuses_devices_that_are_missing(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    assert find_device("auto") == find_device("cpu") == torch.device("cpu")
    with pytest.raises(ValueError, match="device cuda was asked for, but PyTorch finds 0 CUDA"):
        find_device("cuda")
    with pytest.raises(ValueError, match="unknown device 'gpu': expected auto, cpu, cuda"):
        find_device("gpu")


def test_a_mask_of_another_size_is_refused(network):
    frames = [np.zeros((32, 48, 3), np.uint8)]
    mask = np.ones((16, 48), np.uint8)
    with pytest.raises(
        ValueError, match=r"mask of frame 0 is \(16, 48\) but the frame is \(32, 48\)"
    ):
        next(VideoInferer(**OWN_SIZE).stream(frames, {0: mask}, network))
