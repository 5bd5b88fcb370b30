"""Equations 1 to 3 as loops over frames and pixels, and how the losses behave at their edges."""

import math

import pytest
import torch
import torch.nn.functional as F

from bundle.training.losses import (
    TCMNLoss,
    bootstrapped_cross_entropy,
    soft_dice_loss,
    temporal_contrastive_loss,
    value_distance,
)

EPSILON = 1e-3


def random_values(frames=4):
    """(2, 2, 3, T, 2, 2)."""
    draw = torch.Generator().manual_seed(0)
    return torch.randn(2, 2, 3, frames, 2, 2, generator=draw)


def spread_values(angles):
    """Value maps (1, 1, 2, T, 1, 1) at these angles on a circle."""
    circle = torch.stack([torch.cos(angles), torch.sin(angles)])
    return circle[None, None, :, :, None, None]


@pytest.fixture
def clip():
    """Logits (2, 3, 4, 5, 3) of a background and two objects, labels (2, 4, 5, 3)."""
    draw = torch.Generator().manual_seed(0)
    logits = 2 * torch.randn(2, 3, 4, 5, 3, generator=draw)
    return logits, torch.randint(0, 3, (2, 4, 5, 3), generator=draw)


BOTH = ((True, True), (True, True))


def batch(clip, ordered=(True, True), present=BOTH):
    """What ``TCMNLoss`` takes: prediction and target."""
    logits, label = clip
    target = {"label": label, "ordered": torch.tensor(ordered), "present": torch.tensor(present)}
    return (logits, random_values(3)), target


def contrastive_by_hand(values, epsilon):
    """Equation 1 for each clip and object, sums written out."""

    def similarity(a, b):
        return (a * b).sum() / ((a * a).sum().sqrt() * (b * b).sum().sqrt())

    losses = []
    for clip in values:
        for one in clip:
            v = [one[:, t].flatten() for t in range(one.shape[1])]
            losses.append(
                sum(
                    ((1 - similarity(v[t - 1], v[t])) + (1 - similarity(v[t], v[t + 1])))
                    / (1 - similarity(v[t - 1], v[t + 1]) + epsilon)
                    for t in range(1, len(v) - 1)
                )
            )
    return torch.stack(losses).unflatten(0, values.shape[:2])


def cross_entropy_by_hand(logits, target, eta):
    """Equation 2 for each clip: only pixels whose true class has a probability below eta."""
    losses = []
    for clip in range(len(logits)):
        frames = []
        for t in range(1, logits.shape[-1]):
            counted = []
            for y in range(logits.shape[2]):
                for x in range(logits.shape[3]):
                    odds = [math.exp(o) for o in logits[clip, :, y, x, t].tolist()]
                    probability = odds[int(target[clip, y, x, t])] / sum(odds)
                    if probability < eta:
                        counted.append(-math.log(probability))
            frames.append(sum(counted) / len(counted) if counted else 0.0)
        losses.append(sum(frames) / len(frames))
    return torch.tensor(losses)


@pytest.mark.parametrize("frames", [3, 5])
def test_contrastive_loss_equals_equation_1_in_value_and_gradient(frames):
    exact = random_values(frames).double().requires_grad_()
    values = random_values(frames).requires_grad_()
    expected = contrastive_by_hand(exact, EPSILON)
    loss = temporal_contrastive_loss(values, EPSILON)
    torch.testing.assert_close(loss, expected.float(), rtol=1e-4, atol=1e-5)

    expected.sum().backward()
    loss.sum().backward()
    torch.testing.assert_close(values.grad, exact.grad.float(), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("step", [0.05, 0.2])
def test_evenly_spaced_values_score_a_half(step):
    # 2 (1 - cos a) / (1 - cos 2a) = 1 / (1 + cos a)
    loss = temporal_contrastive_loss(spread_values(step * torch.arange(3)), 1e-7)
    torch.testing.assert_close(
        loss, torch.full((1, 1), 1 / (1 + math.cos(step))), rtol=2e-3, atol=0
    )
    assert loss.item() == pytest.approx(0.5, abs=0.01)


def test_a_value_out_of_line_scores_worse():
    smooth = temporal_contrastive_loss(spread_values(torch.tensor([0.0, 0.1, 0.2])), EPSILON)
    jumping = temporal_contrastive_loss(spread_values(torch.tensor([0.0, 0.8, 0.2])), EPSILON)
    assert jumping > 10 * smooth


def test_frozen_values_score_zero_with_a_finite_gradient():
    values = random_values()[:, :, :, :1].repeat(1, 1, 1, 3, 1, 1).requires_grad_()
    loss = temporal_contrastive_loss(values, EPSILON)
    torch.testing.assert_close(loss, torch.zeros(2, 2), rtol=0, atol=1e-3)
    loss.sum().backward()
    assert values.grad.isfinite().all()


def test_contrastive_loss_ignores_the_scale_of_values():
    values = random_values()
    scale = torch.tensor([1.0, 20.0, 0.03, 7.0]).view(1, 1, 1, 4, 1, 1)
    torch.testing.assert_close(
        temporal_contrastive_loss(scale * values, EPSILON),
        temporal_contrastive_loss(values, EPSILON),
    )


def test_contrastive_loss_is_float32_inside_bfloat16_autocast():
    # Distances of 1e-4 vanish where 1 - cosine has 8 bits.
    values = spread_values(torch.tensor([0.0, 0.01, 0.02]))
    expected = temporal_contrastive_loss(values, 1e-6)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = temporal_contrastive_loss(values, 1e-6)
        from_low = temporal_contrastive_loss(random_values().bfloat16(), EPSILON)
    torch.testing.assert_close(loss, expected, rtol=0, atol=0)
    assert from_low.dtype == torch.float32


def test_value_distance_skips_frames():
    distance = value_distance(spread_values(torch.tensor([0.0, 0.5, 2.0, 2.1])), 2)
    expected = 1 - torch.cos(torch.tensor([[[2.0, 1.6]]]))
    torch.testing.assert_close(distance, expected)


def test_contrastive_loss_needs_three_frames():
    with pytest.raises(ValueError, match="values of at least 3 frames, got 2"):
        temporal_contrastive_loss(random_values(2), EPSILON)


@pytest.mark.parametrize("eta", [0.2, 0.5, 0.9, 2.0])
def test_cross_entropy_equals_equation_2(clip, eta):
    expected = cross_entropy_by_hand(*clip, eta)
    torch.testing.assert_close(bootstrapped_cross_entropy(*clip, eta), expected)


def test_cross_entropy_with_eta_above_1_is_plain(clip):
    logits, target = clip
    plain = F.cross_entropy(logits[..., 1:], target[..., 1:])
    torch.testing.assert_close(bootstrapped_cross_entropy(logits, target, 1.1).mean(), plain)


def test_a_frame_without_counting_pixels_gives_zero_and_no_gradient(clip):
    logits, target = clip
    sure = 20 * F.one_hot(target[..., 2], 3).movedim(-1, 1).float()
    logits[..., 2] = sure
    logits.requires_grad_()
    loss = bootstrapped_cross_entropy(logits, target, 0.9)
    alone = bootstrapped_cross_entropy(logits[..., :2], target[..., :2], 0.9)
    torch.testing.assert_close(loss, alone / 2)
    loss.sum().backward()
    assert logits.grad.isfinite().all()
    assert not logits.grad[..., 2].any()


def test_the_first_frame_does_not_count(clip):
    logits, target = clip
    changed = logits.clone()
    changed[..., 0] *= -3
    for loss in (
        lambda x: bootstrapped_cross_entropy(x, target, 0.9),
        lambda x: soft_dice_loss(x, target),
    ):
        torch.testing.assert_close(loss(changed), loss(logits), rtol=0, atol=0)


def test_soft_dice_equals_a_loop_over_objects(clip):
    logits, target = clip
    probability = logits.softmax(1)
    expected = []
    for k in range(2):
        per_object = []
        for number in (1, 2):
            p = probability[k, number, :, :, 1:]
            g = (target[k, :, :, 1:] == number).float()
            per_object.append(1 - (2 * (p * g).sum() + 1) / (p.sum() + g.sum() + 1))
        expected.append(torch.stack(per_object))
    torch.testing.assert_close(soft_dice_loss(logits, target), torch.stack(expected))


def test_soft_dice_of_a_sure_prediction_is_zero(clip):
    target = clip[1]
    sure = 50 * F.one_hot(target, 3).movedim(-1, 1).float()
    torch.testing.assert_close(soft_dice_loss(sure, target), torch.zeros(2, 2))
    assert (soft_dice_loss(sure, torch.zeros_like(target)) > 0.9).all()


def test_total_is_equation_3_plus_dice(clip):
    prediction, target = batch(clip)
    loss = TCMNLoss(alpha=0.7, beta=0.3, dice=0.2, eta=0.8, epsilon=EPSILON)
    total = loss(prediction, target)
    expected = (
        0.7 * cross_entropy_by_hand(*clip, 0.8).mean()
        + 0.3 * contrastive_by_hand(prediction[1], EPSILON).mean()
        + 0.2 * soft_dice_loss(*clip).mean()
    )
    torch.testing.assert_close(total, expected)


def test_clips_out_of_time_order_do_not_count_for_the_contrastive_loss(clip):
    prediction, target = batch(clip, ordered=(False, True))
    prediction[1].requires_grad_()
    loss = TCMNLoss(alpha=0, beta=1, epsilon=EPSILON)
    total = loss(prediction, target)
    second = temporal_contrastive_loss(prediction[1][1:], EPSILON).mean()
    torch.testing.assert_close(total, second / 2)  # the first is 0
    assert loss.terms["contrastive"] == pytest.approx(second.item())  # what the second has
    total.backward()
    assert not prediction[1].grad[0].any()


def test_objects_that_only_pad_a_batch_do_not_count(clip):
    """A clip of one object costs the same beside a clip of two as alone."""
    present = ((True, False), (True, True))
    prediction, target = batch(clip, present=present)
    prediction[1].requires_grad_()
    loss = TCMNLoss(alpha=0, beta=0.3, dice=0.2, epsilon=EPSILON)
    total = loss(prediction, target)
    contrast = temporal_contrastive_loss(prediction[1], EPSILON)
    dice = soft_dice_loss(*clip)
    per_clip = [
        0.3 * contrast[0, 0] + 0.2 * dice[0, 0],
        0.3 * contrast[1].mean() + 0.2 * dice[1].mean(),
    ]
    torch.testing.assert_close(total, sum(per_clip) / 2)
    total.backward()
    assert not prediction[1].grad[0, 1].any()
    assert prediction[1].grad[0, 0].any()


def test_a_batch_in_two_halves_costs_their_mean(clip):
    """So that processes may share a batch and average their gradients."""
    (logits, values), target = batch(clip, ordered=(True, False))
    loss = TCMNLoss(beta=0.3, dice=0.2, epsilon=EPSILON)
    halves = [
        loss((logits[half], values[half]), {name: value[half] for name, value in target.items()})
        for half in (slice(0, 1), slice(1, 2))
    ]
    torch.testing.assert_close(loss((logits, values), target), sum(halves) / 2)


def test_without_a_clip_in_time_order_only_the_supervised_loss_is_left(clip):
    prediction, target = batch(clip, ordered=(False, False))
    loss = TCMNLoss(beta=1, eta=0.9)
    total = loss(prediction, target)
    torch.testing.assert_close(total, bootstrapped_cross_entropy(*clip, 0.9).mean())
    assert list(loss.terms) == ["cross_entropy"]


def test_beta_0_keeps_the_values_out_of_the_loss(clip):
    (logits, values), target = batch(clip)
    loss = TCMNLoss(beta=0)
    total = loss((logits, torch.full_like(values, math.nan)), target)
    assert total.isfinite()
    assert "contrastive" not in loss.terms


def test_warm_up_counts_plain_calls_and_survives_a_reload(clip):
    prediction, target = batch(clip)
    plain = bootstrapped_cross_entropy(*clip, 2.0).mean()
    hard = bootstrapped_cross_entropy(*clip, 0.5).mean()
    assert hard > plain + 0.1

    first = TCMNLoss(beta=0, eta=0.5, warm_up=3)
    for _ in range(2):
        torch.testing.assert_close(first(prediction, target), plain)
    resumed = TCMNLoss(beta=0, eta=0.5, warm_up=3)
    resumed.load_state_dict(first.state_dict())
    torch.testing.assert_close(resumed(prediction, target), plain)
    torch.testing.assert_close(resumed(prediction, target), hard)


def test_terms_tell_each_part_and_the_share_of_collapsed_objects(clip):
    (logits, values), target = batch(clip)
    values[0, 0] = values[0, 0, :, :1]  # one object of four does not change
    loss = TCMNLoss(beta=0.1, dice=0.5, epsilon=EPSILON)
    loss((logits, values), target)
    assert loss.terms == {
        "cross_entropy": pytest.approx(bootstrapped_cross_entropy(*clip, 0.9).mean().item()),
        "dice": pytest.approx(soft_dice_loss(*clip).mean().item()),
        "contrastive": pytest.approx(temporal_contrastive_loss(values, EPSILON).mean().item()),
        "value_distance": pytest.approx(value_distance(values, 2).median().item()),
        "collapsed": 0.25,
    }


def test_distance_of_the_values_is_told_without_the_contrastive_loss_too(clip):
    prediction, target = batch(clip)
    with_it, without = TCMNLoss(beta=0.1, epsilon=EPSILON), TCMNLoss(beta=0, epsilon=EPSILON)
    for loss in (with_it, without):
        loss(prediction, target)
    contrastive = with_it.terms.pop("contrastive")
    assert contrastive > 0
    assert without.terms == with_it.terms
