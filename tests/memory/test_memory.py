"""Every path of the memory read against a loop written from the paper, and what the bank keeps."""

import math

import pytest
import torch
import torch.nn.functional as F

from bundle.memory import attention as memory_module
from bundle.memory.attention import read_memory
from bundle.memory.bank import MemoryBank

# T*h*w = 18 remembered and 6 query positions per clip, 2 clips: 36 affinities a query position.
FRAMES, HEIGHT, WIDTH = 3, 2, 3
ONE_ROW = 2 * FRAMES * HEIGHT * WIDTH
PATHS = {
    "default": None,
    "one call": 0,
    "one row at a time": ONE_ROW,
    "rows of 4, then 2": 4 * ONE_ROW + 5,
    "less than a row": 1,
    "more than all": 10**9,
}


@pytest.fixture(params=[4, 7, 8], ids=["padded by 3", "not padded", "padded by 7"])
def tensors(request):
    """Keys (2, K, T, h, w), values (2, 2, 5, T, h, w) and a query (2, K, h, w).

    One more channel holds the squared norm, and zeros fill up to a multiple of 8.
    """
    draw = torch.Generator().manual_seed(request.param)
    grid = (HEIGHT, WIDTH)
    return (
        torch.randn(2, request.param, FRAMES, *grid, generator=draw),
        torch.randn(2, 2, 5, FRAMES, *grid, generator=draw),
        torch.randn(2, request.param, *grid, generator=draw),
    )


def read_by_hand(keys, values, query):
    """Each query position of each clip by itself: distances, weights, weighted sum."""
    clips = []
    for clip in range(len(keys)):
        remembered = keys[clip].flatten(1).unbind(1)
        held = values[clip].flatten(2).unbind(2)
        rows = []
        for wanted in query[clip].flatten(1).unbind(1):
            similarity = [-((key - wanted) ** 2).sum() / math.sqrt(len(key)) for key in remembered]
            top = max(float(s.detach()) for s in similarity)
            weights = [(s - top).exp() for s in similarity]
            rows.append(sum(w * v for w, v in zip(weights, held, strict=True)) / sum(weights))
        clips.append(torch.stack(rows, dim=-1).unflatten(-1, query.shape[-2:]))
    return torch.stack(clips)


@pytest.mark.parametrize("chunk_scores", PATHS.values(), ids=PATHS.keys())
def test_every_path_equals_the_loop_in_value_and_gradient(tensors, chunk_scores):
    exact = [x.double().requires_grad_() for x in tensors]
    expected = read_by_hand(*exact)
    weight = torch.linspace(-1, 1, expected.numel(), dtype=torch.double).view_as(expected)
    expected_gradients = torch.autograd.grad((expected * weight).sum(), exact)

    inputs = [x.clone().requires_grad_() for x in tensors]
    read = read_memory(*inputs, chunk_scores=chunk_scores)
    gradients = torch.autograd.grad((read * weight.float()).sum(), inputs)

    torch.testing.assert_close(read, expected.float(), rtol=1e-5, atol=1e-5)
    for found, wanted in zip(gradients, expected_gradients, strict=True):
        torch.testing.assert_close(found, wanted.float(), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("chunk_scores", [ONE_ROW, 4 * ONE_ROW, 6 * ONE_ROW, 10**9, None])
def test_affinities_held_at_once_are_bounded(tensors, chunk_scores, monkeypatch):
    sizes, attend = [], memory_module._attend_on_cpu

    def record(query, key, *args):
        sizes.append(len(query) * query.shape[-2] * key.shape[-2])
        return attend(query, key, *args)

    if chunk_scores is None:
        monkeypatch.setattr(memory_module, "CHUNK_SCORES", 2 * ONE_ROW)
    monkeypatch.setattr(memory_module, "_attend_on_cpu", record)
    read_memory(*tensors, chunk_scores=chunk_scores)
    assert max(sizes) <= (2 * ONE_ROW if chunk_scores is None else chunk_scores)
    assert sum(sizes) == HEIGHT * WIDTH * ONE_ROW


def test_the_fused_read_of_other_devices_is_the_same(tensors, monkeypatch):
    expected = read_memory(*tensors)
    monkeypatch.setattr(memory_module, "_attend_on_cpu", memory_module._attend_fused)
    torch.testing.assert_close(read_memory(*tensors), expected)


def test_frames_may_come_in_any_order(tensors):
    keys, values, query = tensors
    order = torch.tensor([2, 0, 1])
    torch.testing.assert_close(
        read_memory(keys[:, :, order], values[:, :, :, order], query), read_memory(*tensors)
    )


def test_shifting_all_keys_alike_changes_nothing(tensors):
    keys, values, query = tensors
    torch.testing.assert_close(
        read_memory(keys + 3, values, query + 3), read_memory(*tensors), rtol=1e-4, atol=1e-4
    )


def test_a_far_away_key_is_read_alone(tensors):
    keys, values, _ = tensors
    read = read_memory(100 * keys, values, 100 * keys[:, :, 1])
    torch.testing.assert_close(read, values[:, :, :, 1])


def test_keys_of_any_size_stay_finite(tensors):
    keys, values, query = tensors
    inputs = [
        (1e4 * keys).requires_grad_(),
        values.requires_grad_(),
        (1e4 * query).requires_grad_(),
    ]
    read = read_memory(*inputs)
    read.sum().backward()
    assert read.isfinite().all()
    assert all(x.grad.isfinite().all() for x in inputs)


def test_bfloat16_values_come_back_as_bfloat16(tensors):
    expected = read_memory(*tensors)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        low = read_memory(*(x.bfloat16() for x in tensors))
        same = read_memory(*tensors)
    assert low.dtype == torch.bfloat16
    # The inputs lost 16 of 24 bits; the affinities did not.
    torch.testing.assert_close(low.float(), expected, rtol=0.05, atol=0.05)
    torch.testing.assert_close(same, expected)


def test_bank_reads_what_was_added(tensors):
    keys, values, query = tensors
    bank = MemoryBank()
    for t in range(FRAMES):
        bank.add(keys[:, :, t], values[:, :, :, t])
    torch.testing.assert_close(bank.read(query), read_memory(*tensors))


@pytest.mark.parametrize(
    ("max_frames", "kept"),
    [(None, [0, 1, 2, 3, 4]), (2, [0, 4]), (3, [0, 3, 4]), (5, [0, 1, 2, 3, 4])],
)
def test_bank_keeps_the_first_frame_and_the_newest(max_frames, kept):
    bank = MemoryBank(max_frames)
    for number in range(5):
        one_hot = F.one_hot(torch.tensor(number), 5).float()
        bank.add(torch.zeros(1, 8, 1, 1), one_hot.view(1, 1, 5, 1, 1), prompt=number == 0)
    # Equal keys: the read is the mean of what is held.
    read = bank.read(torch.zeros(1, 8, 1, 1)).flatten()
    assert len(bank) == len(kept)
    assert read.nonzero().flatten().tolist() == kept
    torch.testing.assert_close(read[kept], torch.full((len(kept),), 1 / len(kept)))


def held_frames(bank, count):
    """Which of ``count`` frames, whose values are one-hot and whose keys are alike, are in memory."""
    return bank.read(torch.zeros(1, 8, 4, 4))[0, 0, :count, 0, 0].nonzero().flatten().tolist()


def add_one_hot(bank, number, count, key=0.0, **kwargs):
    value = F.one_hot(torch.tensor(number), count).float().view(1, 1, count, 1, 1)
    return bank.add(torch.full((1, 8, 4, 4), key), value.expand(1, 1, count, 4, 4), **kwargs)


@pytest.mark.parametrize("max_frames", [2, 3, 4])
def test_prompts_are_never_dropped(max_frames):
    bank = MemoryBank(max_frames)
    for number in range(9):
        add_one_hot(bank, number, 9, prompt=number in (0, 2, 5))
    held = held_frames(bank, 9)
    assert {0, 2, 5} <= set(held)
    assert 8 in held
    assert len(held) == len(bank) == 4


@pytest.mark.parametrize("max_frames", [None, 3])
def test_a_frame_until_the_next_makes_room_for_it(max_frames):
    bank = MemoryBank(max_frames)
    add_one_hot(bank, 0, 6, prompt=True)
    dropped = [
        add_one_hot(bank, number, 6, until_next=number not in (2, 4)) for number in range(1, 6)
    ]
    kept = [0, 2, 4, 5] if max_frames is None else [0, 4, 5]
    assert held_frames(bank, 6) == kept
    # Only 5 came when memory was full and no frame was about to go.
    assert dropped == [False, False, False, False, max_frames is not None]
    add_one_hot(bank, 3, 6, prompt=True)
    assert held_frames(bank, 6) == [0, *([2] if max_frames is None else []), 3, 4]


def test_a_frame_of_weight_n_counts_like_n_frames(tensors):
    keys, values, query = tensors
    weighed, repeated = MemoryBank(), MemoryBank()
    for t in range(FRAMES):
        frame = keys[:, :, t], values[:, :, :, t]
        weighed.add(*frame, weight=1 + t)
        for _ in range(1 + t):
            repeated.add(*frame)
    torch.testing.assert_close(weighed.read(query), repeated.read(query))
    weights = torch.tensor([1.0, 2.0, 3.0])
    torch.testing.assert_close(read_memory(*tensors, weights=weights), repeated.read(query))


def test_the_oldest_frame_goes_but_for_prompts():
    bank = MemoryBank(4)
    for number in range(7):
        add_one_hot(bank, number, 7, prompt=number == 0)
    assert {frame.time for frame in bank.frames.values()} == {0, 4, 5, 6}
    assert held_frames(bank, 7) == [0, 4, 5, 6]


def test_an_unbounded_bank_grows_without_change():
    bank, keys, values = MemoryBank(), [], []
    draw = torch.Generator().manual_seed(0)
    for _ in range(20):  # beyond two doublings
        keys.append(torch.randn(2, 7, 2, 3, generator=draw))
        values.append(torch.randn(2, 2, 5, 2, 3, generator=draw))
        bank.add(keys[-1], values[-1])
    query = torch.randn(2, 7, 2, 3, generator=draw)
    expected = read_memory(torch.stack(keys, 2), torch.stack(values, 3), query)
    torch.testing.assert_close(bank.read(query), expected)


@pytest.mark.parametrize("max_frames", [1, 0, -3])
def test_max_frames_below_two_is_refused(max_frames):
    with pytest.raises(ValueError, match=f"the first frame and one more, got {max_frames}$"):
        MemoryBank(max_frames)


def test_reading_an_empty_bank_says_what_to_do():
    with pytest.raises(RuntimeError, match="add the annotated first frame before reading"):
        MemoryBank().read(torch.zeros(1, 8, 2, 2))


@pytest.mark.parametrize(
    ("key", "value"),
    [
        pytest.param((1, 8, 3, 2), (1, 1, 5, 3, 2), id="another frame size"),
        pytest.param((1, 8, 2, 2), (1, 2, 5, 2, 2), id="another number of objects"),
    ],
)
def test_a_frame_of_another_shape_is_refused(key, value):
    bank = MemoryBank()
    bank.add(torch.zeros(1, 8, 2, 2), torch.zeros(1, 1, 5, 2, 2))
    found = rf"key \({', '.join(map(str, key))}\), value \({', '.join(map(str, value))}\)"
    with pytest.raises(ValueError, match=f"{found} does not fit.*new MemoryBank for each video"):
        bank.add(torch.zeros(key), torch.zeros(value))
    assert len(bank) == 1


def test_the_spatial_prior_multiplies_weights_with_a_gaussian_of_the_distance(tensors):
    keys, values, query = (x.double() for x in tensors)
    sigma = 0.4
    bank = MemoryBank(spatial_prior=sigma)
    for t in range(FRAMES):
        bank.add(keys[:, :, t].float(), values[:, :, :, t].float())
    read = bank.read(query.float())

    places = [(y, x) for y in range(HEIGHT) for x in range(WIDTH)]
    for clip in range(len(keys)):
        for y, x in places:
            total, blend = 0.0, 0.0
            for t in range(FRAMES):
                for v, u in places:
                    apart = ((keys[clip, :, t, v, u] - query[clip, :, y, x]) ** 2).sum()
                    distance = math.hypot(v - y, u - x) / min(HEIGHT, WIDTH)
                    gaussian = math.exp(-(distance**2) / (2 * sigma**2))
                    weight = gaussian * math.exp(-apart / math.sqrt(keys.shape[1]))
                    total += weight
                    blend = blend + weight * values[clip, :, :, t, v, u]
            torch.testing.assert_close(read[clip, :, :, y, x], (blend / total).float())


def landmarks(shift=0, side=32):
    """A key map (1, 8, side, side) whose positions are unlike, its content ``shift`` to the right."""
    scene = 3 * torch.randn(1, 8, side, 2 * side, generator=torch.Generator().manual_seed(5))
    return scene[..., side // 2 - shift : side // 2 - shift + side].contiguous()


def width_by_hand(key, query):
    """Of every fourth position of 32x32: how far away, on average, it finds itself."""
    side = key.shape[-1]
    remembered = [(key[:, v, u], v, u) for v in range(side) for u in range(side)]
    moved = []
    for y in range(2, side, 4):
        for x in range(2, side, 4):
            scores = [
                -((k - query[:, y, x]) ** 2).sum() / math.sqrt(len(k)) for k, _, _ in remembered
            ]
            weights = torch.stack(scores).softmax(0)
            places = torch.tensor([[v, u] for _, v, u in remembered])
            v, u = (weights[:, None] * places).sum(0).tolist()
            moved.append(math.hypot(v - y, u - x) / side)
    return min(max(15 * (sum(moved) / len(moved)) ** 2, 0.15), 0.5)


@pytest.mark.parametrize(
    ("shift", "least", "most"), [(0, 0.15, 0.15), (3, 0.16, 0.49), (9, 0.5, 0.5)]
)
def test_auto_takes_the_prior_that_suits_how_far_things_moved(shift, least, most):
    key, query = landmarks(), landmarks(shift)
    width = width_by_hand(key[0], query[0])
    assert least <= width <= most
    value = torch.randn(1, 1, 5, 32, 32, generator=torch.Generator().manual_seed(6))
    reads = {}
    for prior in ("auto", width, 0.8 * width):
        bank = MemoryBank(spatial_prior=prior)
        bank.add(key, value)
        reads[prior] = bank.read(query)
    torch.testing.assert_close(reads["auto"], reads[width], rtol=1e-4, atol=1e-4)
    assert (reads["auto"] - reads[0.8 * width]).abs().max() > 0.01


def test_auto_chooses_for_each_clip_by_itself():
    value, query = torch.randn(2, 1, 5, 32, 32), torch.cat([landmarks(), landmarks(9)])
    bank = MemoryBank(spatial_prior="auto")
    bank.add(torch.cat([landmarks(), landmarks()]), value)
    read = bank.read(query)
    for clip, width in enumerate((0.15, 0.5)):
        alone = MemoryBank(spatial_prior=width)
        alone.add(landmarks(), value[clip, None])
        torch.testing.assert_close(
            read[clip, None], alone.read(query[clip, None]), rtol=1e-4, atol=1e-4
        )


def test_a_wide_prior_changes_nothing(tensors):
    keys, values, query = tensors
    banks = [MemoryBank(), MemoryBank(spatial_prior=1e4)]
    for bank in banks:
        bank.add(keys[:, :, 0], values[:, :, :, 0])
    torch.testing.assert_close(*(bank.read(query) for bank in banks))


@pytest.mark.parametrize("objects", [1, 2])
@pytest.mark.parametrize("prior", [None, 0.15, "auto"])
def test_bfloat16_loses_no_more_than_the_values_do(objects, prior):
    """Of one object by the fused kernel from split keys, of several with affinities in float32."""
    draw = torch.Generator().manual_seed(3)
    # As large as the trained network's: squares of keys of about 100, affinities of some 30.
    keys = [1.5 * torch.randn(2, 16, 8, 12, generator=draw) + 2 for _ in range(4)]
    values = [torch.randn(2, objects, 64, 8, 12, generator=draw) for _ in keys]
    exact, low = (
        MemoryBank(spatial_prior=prior, dtype=dtype) for dtype in (torch.float32, torch.bfloat16)
    )
    for key, value in zip(keys, values, strict=True):
        exact.add(key, value)
        low.add(key, value)
    query = keys[0] + 0.3 * torch.randn(keys[0].shape, generator=draw)
    expected, found = exact.read(query), low.read(query)
    assert found.dtype == torch.float32
    assert low._split == (objects == 1)
    # Weights, values and, in the fused kernel, the result are rounded to 8 bits: 2^-9 each.
    torch.testing.assert_close(found, expected, rtol=2**-7, atol=2**-7)
    if prior == "auto":
        torch.testing.assert_close(low.motion, exact.motion)


def test_plain_bfloat16_keys_would_lose_much_more():
    """What the split is for."""
    draw = torch.Generator().manual_seed(3)
    keys, query = (1.5 * torch.randn(1, 90, 16, generator=draw) + 2 for _ in range(2))
    rows, asked = memory_module.key_rows(keys), memory_module.query_rows(query)
    values = torch.randn(1, 90, 64, generator=draw).bfloat16()
    expected = memory_module.attend(asked, rows, values.float(), 0.25)
    split = memory_module.attend_split(asked, memory_module.split_keys(rows, 64), values, 0.25)
    plain = memory_module.attend(asked.bfloat16().float(), rows.bfloat16().float(), values, 0.25)
    assert (split - expected).abs().max() < 0.1 * (plain - expected).abs().max()
