"""A student learns the teacher's maps, and then works with the teacher's other parts."""

import pytest
import torch

from bundle.distillation import (
    Distillation,
    DistillationLoss,
    FrameMapper,
    FrameMaps,
    PrepareFrames,
    adopt,
)
from bundle.networks import TCMN
from bundle.training.engines import parameter_groups

WIDTHS = {"key_channels": 4, "value_channels": 8, "decoder_channels": (8, 8, 8)}


def make_network(backbone, seed, **changed):
    torch.manual_seed(seed)
    return TCMN(backbone, **{**WIDTHS, **changed})


@pytest.fixture
def teacher():
    return make_network("resnet50", 0).eval()


@pytest.fixture
def student():
    return make_network("resnet18", 1)


def test_the_maps_are_all_that_the_rest_takes(teacher):
    """Other trunks whose maps are equal give equal masks: here one that is the teacher's, reordered."""
    other = make_network("resnet50", 2).eval()
    other.load_state_dict(teacher.state_dict())
    order = torch.randperm(1024)
    with torch.no_grad():
        block = other.query_encoder.trunk.layer3
        for bottleneck in block:
            bottleneck.conv3.weight.copy_(bottleneck.conv3.weight[order])
            for name in ("weight", "bias", "running_mean", "running_var"):
                tensor = getattr(bottleneck.bn3, name)
                tensor.copy_(tensor[order])
        block[0].downsample[0].weight.copy_(block[0].downsample[0].weight[order])
        for bottleneck in block[1:]:
            bottleneck.conv1.weight.copy_(bottleneck.conv1.weight[:, order])
        for head in (other.query_encoder.key_head, other.query_encoder.query_head):
            head.weight.copy_(head.weight[:, order])
        fuse = other.mask_encoder.fuse1
        fuse.weight[:, fuse.own :] = fuse.weight[:, fuse.own :][:, order]
    clip = torch.rand(1, 5, 32, 48, 3)
    image = clip[:, :3, ..., 0]
    assert (teacher.encode(image).stride16 - other.encode(image).stride16).abs().max() > 0.01
    for wanted, found in zip(FrameMapper(teacher)(image), FrameMapper(other)(image), strict=True):
        torch.testing.assert_close(found, wanted, rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(other(clip), teacher(clip), rtol=1e-3, atol=1e-3)


def test_an_adopted_part_is_the_teachers_and_the_rest_the_students_own(teacher, student):
    before = {name: tensor.clone() for name, tensor in student.state_dict().items()}
    adopt(student, teacher)
    after, wanted = student.state_dict(), teacher.state_dict()
    for name in ("mask_encoder.trunk.conv1.weight", "decoder.compress.conv1.weight"):
        assert torch.equal(after[name], wanted[name])
    for name in ("query_encoder.key_head.weight", "decoder.skip8.weight"):
        assert torch.equal(after[name], before[name])
    objects = student.mask_encoder.fuse1.own
    joined = "mask_encoder.fuse1.weight"
    assert torch.equal(after[joined][:, :objects], wanted[joined][:, :objects])
    assert torch.equal(after[joined][:, objects:], before[joined][:, objects:])


def test_the_loss_is_the_share_of_the_teachers_variance(teacher):
    wanted = FrameMapper(teacher)(torch.rand(2, 3, 32, 32))
    means = FrameMaps(*(x.mean((0, 2, 3), keepdim=True).expand_as(x) for x in wanted))
    loss = DistillationLoss()
    assert loss((wanted, wanted)).item() == 0
    assert loss((means, wanted)).item() == pytest.approx(1)
    assert loss.terms == pytest.approx(dict.fromkeys(FrameMaps._fields, 1.0))
    half = FrameMaps(*((x + mean) / 2 for x, mean in zip(wanted, means, strict=True)))
    assert loss((half, wanted)).item() == pytest.approx(1 / 4, rel=1e-4)


def test_training_moves_the_student_towards_the_teacher_and_nothing_else(teacher, student):
    kept = {name: tensor.clone() for name, tensor in teacher.state_dict().items()}
    adopt(student, teacher)
    groups = parameter_groups(student, 3e-3, 1.0, frozen=["mask_encoder.trunk"])
    optimizer = torch.optim.AdamW(groups, weight_decay=0.0)
    both, loss = Distillation(student, teacher), DistillationLoss()
    image = torch.rand(4, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    totals = []
    for _ in range(12):
        optimizer.zero_grad()
        total = loss(both(image))
        total.backward()
        optimizer.step()
        totals.append(total.item())
    assert totals[-1] < 0.7 * totals[0]
    assert all(torch.equal(teacher.state_dict()[name], tensor) for name, tensor in kept.items())
    for name, tensor in student.state_dict().items():
        if name.startswith(("mask_encoder.trunk", "decoder.compress", "decoder.predict")):
            assert torch.equal(tensor, kept[name]), name
    joined, objects = "mask_encoder.fuse1.weight", student.mask_encoder.fuse1.own
    assert torch.equal(student.state_dict()[joined][:, :objects], kept[joined][:, :objects])


def test_clips_become_frames():
    clips = torch.rand(2, 3, 16, 32, 3)
    frames, target = PrepareFrames()({"image": clips}, "cpu")
    assert frames.shape == (6, 3, 16, 32)
    assert torch.equal(frames[1], clips[0, ..., 1])
    assert torch.equal(frames[3], clips[1, ..., 0])
    assert target is None


def test_a_student_of_other_widths_is_refused(teacher):
    student = make_network("resnet18", 1, value_channels=16)
    with pytest.raises(
        ValueError, match=r"the teacher's mask_encoder.fuse1.bias should be \(16,\), "
    ):
        adopt(student, teacher)
