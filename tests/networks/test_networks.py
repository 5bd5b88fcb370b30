"""The network against its own parts written as a loop, its invariants, sizes and weights files."""

import math

import jaxtyping
import pytest
import torch
import torch.nn.functional as F
import torchvision
from torch import nn

from bundle.memory.attention import LAST_WEIGHT
from bundle.memory.bank import MemoryBank
from bundle.networks import TCMN
from bundle.networks.encoders import Backbone, FrameFeatures, MaskEncoder
from bundle.networks.shared_conv import JoinedConv2d
from bundle.networks.tcmn import aggregate
from bundle.networks.weights import load_weights

TINY = {"key_channels": 8, "value_channels": 16, "decoder_channels": (16, 8, 8)}


def make_network(seed=0, **settings):
    """A tiny network, with weights on the channel of the other objects, which starts at zero."""
    torch.manual_seed(seed)
    network = TCMN(**{"backbone": "resnet18", **TINY, **settings}).eval()
    nn.init.kaiming_normal_(network.mask_encoder.trunk.conv1.weight)
    return network


@pytest.fixture(scope="module")
def network():
    return make_network()


def make_clip(batch=1, objects=1, height=32, width=48, frames=3):
    """(B, 3 + N, H, W, T): noise, and masks that do not overlap."""
    draw = torch.Generator().manual_seed(0)
    rgb = torch.rand(batch, 3, height, width, frames, generator=draw)
    owner = torch.randint(0, objects + 1, (batch, 1, height, width, frames), generator=draw)
    masks = [owner == number for number in range(1, objects + 1)]
    return torch.cat([rgb, *masks], dim=1)


def half(state):
    """A state dict in float16, but for BatchNorm's statistics and counters."""
    return {
        name: tensor.half() if tensor.is_floating_point() and "running" not in name else tensor
        for name, tensor in state.items()
    }


@torch.no_grad()
def segment_by_hand(network, clip):
    """The method as a loop over the streaming parts: the first and every fifth frame stay.

    Of the others the last one is remembered, which counts a little.
    """
    bank, logits = MemoryBank(), []
    for t in range(clip.shape[-1]):
        features = network.encode(clip[:, :3, ..., t])
        if t == 0:
            logits.append(aggregate(clip[:, 3:, ..., 0]))
        else:
            logits.append(network.segment(features, bank.read(features.key)))
        masks = logits[-1].softmax(1)[:, 1:]
        if t in (0, 5, 10):
            bank.add(features.key, network.memorize(features, masks))
        elif network.remember_last:
            grid = features.key.shape[-2:]
            coarse = [round(2 / 3 * side) for side in grid]
            small = features._replace(stride16=resize(features.stride16, coarse))
            value = network.memorize(small, resize(masks, [16 * side for side in coarse]))
            value = torch.stack([resize(each, grid) for each in value])
            bank.add(features.key, value, until_next=True, weight=LAST_WEIGHT)
    return torch.stack(logits, dim=-1)


def resize(maps, size):
    return F.interpolate(maps, tuple(size), mode="bilinear", align_corners=False)


@pytest.mark.parametrize("remember_last", [True, False])
@torch.no_grad()
def test_forward_equals_the_streaming_parts(remember_last):
    network, clip = make_network(remember_last=remember_last), make_clip(2, objects=2, frames=8)
    torch.testing.assert_close(network(clip), segment_by_hand(network, clip), rtol=1e-4, atol=1e-4)


@torch.no_grad()
def test_forward_with_values_remembers_every_frame(network):
    clip = make_clip(objects=2, frames=7)
    prediction = network(clip, return_values=True)
    assert prediction.values.shape == (1, 2, 16, 7, 2, 3)
    every_frame = make_network(memory_every=1)
    every_frame.load_state_dict(network.state_dict())
    torch.testing.assert_close(prediction.logits, every_frame(clip))
    assert not torch.allclose(prediction.logits, network(clip), atol=1e-4)


@pytest.mark.parametrize(
    ("batch", "objects", "height", "width", "frames"),
    [
        pytest.param(1, 1, 16, 16, 1, id="smallest"),
        pytest.param(1, 1, 33, 47, 2, id="odd size"),
        pytest.param(1, 1, 5, 7, 2, id="below a stride"),
        pytest.param(2, 3, 32, 48, 2, id="three objects"),
    ],
)
@torch.no_grad()
def test_logits_have_the_shape_of_the_clip(network, batch, objects, height, width, frames):
    logits = network(make_clip(batch, objects, height, width, frames))
    assert logits.shape == (batch, 1 + objects, height, width, frames)
    assert logits.isfinite().all()
    torch.testing.assert_close(logits.softmax(1).sum(1), torch.ones(batch, height, width, frames))


@torch.no_grad()
def test_frame_0_comes_back_as_it_was_given(network):
    clip = make_clip(objects=2)
    labels = network(clip)[..., 0].argmax(1)
    torch.testing.assert_close(labels, (clip[:, 3] + 2 * clip[:, 4])[..., 0].long())


@torch.no_grad()
def test_masks_are_read_at_frame_0_only(network):
    clip = make_clip(objects=2)
    changed = clip.clone()
    changed[:, 3:, ..., 1:] = 7.0
    torch.testing.assert_close(network(changed), network(clip), rtol=0, atol=0)
    changed[:, 3:, ..., 0] = clip[:, 3:, ..., 0].flip(-1)
    assert not torch.allclose(network(changed)[..., 1], network(clip)[..., 1], atol=1e-4)


@torch.no_grad()
def test_frames_do_not_see_the_future(network):
    clip = make_clip(frames=4)
    torch.testing.assert_close(network(clip)[..., :3], network(clip[..., :3]), rtol=1e-4, atol=1e-4)


@torch.no_grad()
def test_objects_may_come_in_any_order(network):
    clip = make_clip(objects=3)
    order = [2, 0, 1]
    logits = network(clip)
    permuted = network(torch.cat([clip[:, :3], clip[:, 3:][:, order]], dim=1))
    expected = torch.cat([logits[:, :1], logits[:, 1:][:, order]], dim=1)
    torch.testing.assert_close(permuted, expected, rtol=1e-3, atol=1e-3)


@torch.no_grad()
def test_values_depend_on_the_other_objects(network):
    clip = make_clip(objects=2, frames=1)[..., 0]
    features = network.encode(clip[:, :3])
    both = network.memorize(features, clip[:, 3:])
    alone = network.memorize(features, clip[:, 3:] * torch.tensor([1.0, 0.0]).view(1, 2, 1, 1))
    assert not torch.allclose(both[:, 0], alone[:, 0], atol=1e-4)


def test_other_objects_have_no_weight_before_training():
    weight = MaskEncoder("resnet18", 32, 16, None).trunk.conv1.weight
    assert weight[:, 0].any()
    assert not weight[:, 1].any()


def test_aggregate_is_the_formula_pixel_by_pixel():
    probability = torch.tensor([[0.0, 0.3, 1.0, 0.9], [0.0, 0.6, 0.0, 0.9]]).view(1, 2, 1, 4)
    logits = aggregate(probability)[0, :, 0]
    for x, (a, b) in enumerate(probability[0, :, 0].T.tolist()):
        joint = [min(max(p, 1e-7), 1 - 1e-7) for p in ((1 - a) * (1 - b), a, b)]
        expected = torch.tensor([math.log(p / (1 - p)) for p in joint])
        # Near 1 a float32 has steps of 6e-8, which is much beside 1e-7.
        torch.testing.assert_close(logits[:, x], expected, rtol=0.02, atol=1e-5)
        odds = [p / (1 - p) for p in joint]
        share = torch.tensor([o / sum(odds) for o in odds])
        torch.testing.assert_close(logits[:, x].softmax(0), share, rtol=1e-4, atol=1e-5)


def test_aggregate_is_float32_for_half_precision():
    logits = aggregate(torch.tensor([0.0, 1.0], dtype=torch.bfloat16).view(1, 1, 1, 2))
    assert logits.dtype == torch.float32
    assert logits.isfinite().all()


def test_training_keeps_batch_norm_frozen():
    network = make_network()
    network.train()
    norms = [m for m in network.modules() if isinstance(m, nn.BatchNorm2d)]
    assert network.training
    assert norms
    assert not any(m.training for m in norms)
    before = {k: v.clone() for k, v in network.state_dict().items() if "running" in k}
    network(make_clip())
    after = network.state_dict()
    assert all(torch.equal(after[name], tensor) for name, tensor in before.items())


def test_a_training_step_reaches_every_parameter():
    network = make_network()
    network.train()
    prediction = network(make_clip(batch=2, objects=2), return_values=True)
    loss = prediction.logits[..., 1:].square().mean() + prediction.values.square().mean()
    loss.backward()
    without = [n for n, p in network.named_parameters() if p.grad is None or not p.grad.any()]
    assert without == []


def test_soft_predictions_pass_gradients_through_memory():
    network = make_network()
    prediction = network(make_clip(), return_values=True)
    # The value of frame 1 depends on the decoder only through the mask that was predicted there.
    prediction.values[:, :, :, 1].sum().backward()
    assert network.decoder.predict.weight.grad.any()


@torch.no_grad()
def test_the_network_normalises_pixels_itself():
    network = make_network()
    other = make_network(pixel_mean=(0.2, 0.3, 0.4), pixel_std=(0.5, 0.6, 0.7))
    other.load_state_dict(network.state_dict())
    image = make_clip()[:, :3, ..., 0]
    numbers = [[0.2, 0.3, 0.4], [0.5, 0.6, 0.7], [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]]
    mean, std, usual_mean, usual_std = torch.tensor(numbers).view(4, 1, 3, 1, 1)
    same = (image - mean) / std * usual_std + usual_mean
    torch.testing.assert_close(
        other.encode(image).key, network.encode(same).key, rtol=1e-3, atol=1e-4
    )


def test_a_clip_without_masks_is_refused(network):
    with pytest.raises(ValueError, match=r"RGB and N >= 1 masks, got \(1, 3, 16, 16, 2\)"):
        network(torch.zeros(1, 3, 16, 16, 2))


# Sizes and layouts that weights depend on


def fill(network):
    """Weights from a formula: pseudo-random, the same on every machine and version."""
    for name, parameter in network.named_parameters():
        if parameter.ndim > 1:
            index = torch.arange(1, parameter.numel() + 1, dtype=torch.double)
            noise = (torch.sin(12.9898 * index) * 43758.5453) % 1
            scale = math.sqrt(3 / parameter[0].numel())
            parameter.data = ((2 * noise - 1) * scale).view_as(parameter).float()
        elif name.endswith("bias"):
            parameter.data.zero_()
    return network


def make_scene(size=64):
    """Two frames of a smooth picture that brightens, and a disk on it."""
    y, x = torch.meshgrid(torch.arange(size) / size, torch.arange(size) / size, indexing="ij")
    rgb = torch.stack([0.5 + 0.5 * torch.sin(9 * y + 5 * x * c) for c in (1, 2, 3)])
    rgb = torch.stack([rgb, rgb + 0.05], dim=-1).clamp(0, 1)
    disk = ((y - 0.5) ** 2 + (x - 0.4) ** 2 < 0.06).float()
    return torch.cat([rgb, torch.stack([disk, disk], dim=-1)[None]])[None]


GOLDEN = {
    (False, (0.485, 0.456, 0.406)): (-3.045618, -6.29333, -8.906335, -1.632936),
    (True, (0.485, 0.456, 0.406)): (-2.189571, -5.234535, -8.178189, -0.242651),
    (True, (0.485, 0.458, 0.4076)): (-2.18891, -5.228402, -8.177396, -0.245487),
}


@pytest.mark.parametrize(("stride_in_1x1", "pixel_mean"), GOLDEN)
@torch.no_grad()
def test_golden_logits_of_each_layout(stride_in_1x1, pixel_mean):
    """Either layout takes the same weights file, so nothing but the numbers tells them apart."""
    network = fill(TCMN(**TINY, stride_in_1x1=stride_in_1x1, pixel_mean=pixel_mean)).eval()
    logits = network(make_scene())[0, 1, ..., 1]
    expected = torch.tensor(GOLDEN[stride_in_1x1, pixel_mean])
    torch.testing.assert_close(logits[8::16, 8::16].diagonal(), expected, rtol=3e-4, atol=1e-4)


def test_the_shipped_size_fits_in_git():
    with torch.device("meta"):
        network = TCMN()
    assert sum(p.numel() for p in network.parameters()) < 22e6
    assert sum(x.nbytes for x in half(network.state_dict()).values()) < 48e6


@torch.no_grad()
def test_the_size_of_the_paper_is_one_setting_away():
    network = TCMN(value_channels=512, decoder_channels=(512, 256, 256)).eval()
    assert sum(p.numel() for p in network.parameters()) == 35_251_073
    assert network(make_clip(height=32, width=32, frames=2)).shape == (1, 2, 32, 32, 2)


@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning", "ignore:.*torch.jit:FutureWarning")
@torch.no_grad()
def test_traced_forward_equals_the_network(network, monkeypatch):
    # While tracing, sizes are tensors, which are no int to the shape checker.
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)
    traced = torch.jit.trace(network, torch.rand(1, 5, 32, 48, 7))
    clip = make_clip(objects=2, frames=7)
    torch.testing.assert_close(traced(clip), network(clip), rtol=1e-4, atol=1e-4)


# Backbone weights


@pytest.mark.parametrize("name", ["resnet18", "resnet50"])
@torch.no_grad()
def test_backbone_equals_torchvision_up_to_layer3(name):
    backbone = Backbone(name).eval()
    resnet = torchvision.models.get_model(name, weights=None).eval()
    resnet.load_state_dict(backbone.state_dict(), strict=False)
    image = make_clip()[:, :3, ..., 0]
    x = resnet.maxpool(resnet.relu(resnet.bn1(resnet.conv1(image))))
    for stage, found, width in zip(
        ("1", "2", "3"), backbone(image), backbone.channels, strict=True
    ):
        x = getattr(resnet, f"layer{stage}")(x)
        torch.testing.assert_close(found, x)
        assert found.shape[1] == width


def test_backbone_loads_a_half_precision_file_with_a_head(tmp_path):
    resnet = torchvision.models.resnet18(weights=None)
    torch.save(half(resnet.state_dict()), tmp_path / "backbone.pt")
    state = Backbone("resnet18", tmp_path / "backbone.pt").state_dict()
    for name, tensor in state.items():
        stored = resnet.state_dict()[name]
        if tensor.is_floating_point() and "running" not in name:
            stored = stored.half().float()
        torch.testing.assert_close(tensor, stored, rtol=0, atol=0)


def test_mask_backbone_sums_the_colours_of_its_weights(tmp_path):
    resnet = torchvision.models.resnet18(weights=None)
    torch.save(resnet.state_dict(), tmp_path / "backbone.pt")
    backbone = make_network(mask_backbone_weights=str(tmp_path / "backbone.pt")).mask_encoder.trunk
    torch.testing.assert_close(backbone.layer1[0].conv1.weight, resnet.layer1[0].conv1.weight)
    conv1 = MaskEncoder("resnet18", 256, 16, tmp_path / "backbone.pt").trunk.conv1.weight
    torch.testing.assert_close(conv1[:, 0], resnet.conv1.weight.sum(1))


def test_imagenet_asks_torchvision_for_its_weights(monkeypatch):
    asked = []

    def get_model(name, weights):
        asked.append((name, weights))
        return torchvision.models.resnet18(weights=None)

    monkeypatch.setattr(torchvision.models, "get_model", get_model)
    Backbone("resnet18", "imagenet")
    Backbone("resnet18", None)
    assert asked == [("resnet18", "DEFAULT"), ("resnet18", None)]


def test_backbone_names_a_missing_tensor(tmp_path):
    state = Backbone("resnet18").state_dict()
    del state["layer2.0.conv1.weight"], state["layer3.1.bn2.bias"]
    torch.save(state, tmp_path / "part.pt")
    with pytest.raises(ValueError, match=r"part.pt lacks 2 tensors.*layer2\.0\.conv1\.weight"):
        Backbone("resnet18", tmp_path / "part.pt")


def test_missing_backbone_weights_are_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no backbone weights at .*absent.pt: give a file"):
        Backbone("resnet18", tmp_path / "absent.pt")


def test_unknown_backbone_lists_the_known_ones():
    with pytest.raises(ValueError, match=r"unknown backbone 'vgg16'.*\['resnet18', 'resnet50'\]"):
        Backbone("vgg16")


def test_stride_in_1x1_is_refused_where_there_is_no_1x1():
    with pytest.raises(ValueError, match="resnet50 only, got backbone 'resnet18'"):
        make_network(stride_in_1x1=True)


# Weights of the whole network


@torch.no_grad()
def test_half_precision_weights_give_close_logits(network, tmp_path):
    torch.save(half(network.state_dict()), tmp_path / "model.pt")
    loaded = load_weights(make_network(seed=1), tmp_path / "model.pt")
    assert {p.dtype for p in loaded.parameters()} == {torch.float32}
    clip = make_clip(objects=2)
    # float16 rounds a weight by up to 5e-4 of itself; logits reach 16.
    torch.testing.assert_close(loaded(clip), network(clip), rtol=0, atol=5e-3)


def test_missing_weights_are_named(network, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no weights at .*model.pt"):
        load_weights(network, tmp_path / "model.pt")


@pytest.mark.parametrize(
    "content", [pytest.param(b"no zip", id="text"), pytest.param(b"", id="empty file")]
)
def test_a_file_of_another_kind_is_refused(network, tmp_path, content):
    (tmp_path / "model.pt").write_bytes(content)
    with pytest.raises(ValueError, match=r"model\.pt is not a weights file"):
        load_weights(network, tmp_path / "model.pt")


@pytest.mark.parametrize(
    ("content", "found"), [([1, 2], "a list"), (torch.zeros(3), "a Tensor")], ids=["list", "tensor"]
)
def test_a_file_that_holds_no_state_dict_is_refused(network, tmp_path, content, found):
    torch.save(content, tmp_path / "model.pt")
    with pytest.raises(ValueError, match=rf"model.pt is not a weights file .*: it holds {found}"):
        load_weights(network, tmp_path / "model.pt")


def test_a_state_dict_of_something_else_names_the_first_tensor_it_lacks(network, tmp_path):
    torch.save({"epoch": 3}, tmp_path / "model.pt")
    with pytest.raises(ValueError, match=r"another network: query_encoder.*found nothing"):
        load_weights(network, tmp_path / "model.pt")


def test_weights_of_another_size_name_the_tensor(network, tmp_path):
    torch.save(make_network(key_channels=16).state_dict(), tmp_path / "model.pt")
    expected = (
        r"key_head.weight should be \(8, 256, 3, 3\), found \(16, 256, 3, 3\); use the config"
    )
    with pytest.raises(ValueError, match=expected):
        load_weights(network, tmp_path / "model.pt")


@pytest.mark.parametrize(("batch", "objects"), [(1, 1), (1, 3), (2, 3)])
@torch.no_grad()
def test_a_joined_convolution_is_one_over_both_maps(batch, objects):
    joined = JoinedConv2d(3, 5, 4, kernel_size=3)
    own = torch.randn(batch * objects, 3, 6, 7)
    shared = torch.randn(batch, 5, 6, 7)
    found = joined(own, shared)
    for number, maps in enumerate(own):  # clip by clip, in each object by object
        both = torch.cat([maps, shared[number // objects]])[None]
        expected = torch.nn.functional.conv2d(both, joined.weight, joined.bias, padding=1)
        torch.testing.assert_close(found[number : number + 1], expected)


def test_features_are_at_strides_16_8_and_4(network):
    features = network.encode(torch.rand(2, 3, 32, 48))
    assert isinstance(features, FrameFeatures)
    assert [tuple(x.shape) for x in features] == [
        (2, 8, 2, 3),
        (2, 16, 2, 3),
        (2, 256, 2, 3),
        (2, 128, 4, 6),
        (2, 64, 8, 12),
    ]


def test_a_training_checkpoint_is_told_apart(network, tmp_path):
    torch.save({"ema": network.state_dict(), "optimizer": {}}, tmp_path / "last.pt")
    with pytest.raises(
        ValueError, match=r"last.pt is the checkpoint of a training.*export_weights"
    ):
        load_weights(network, tmp_path / "last.pt")
