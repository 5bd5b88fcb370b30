"""J, F and Dice against sets of pixels and vos-benchmark, and what a video's score counts."""

import itertools
import math

import pytest
import torch
from ignite.engine import Engine
from monai.handlers import IgniteMetricHandler, from_engine

from bundle.evaluation.metrics import (
    SCORES,
    VideoScore,
    boundary_scores,
    region_scores,
    score_objects,
    scored_frames,
)


def random_labels(*shape, seed=0):
    return torch.randint(0, 3, shape, generator=torch.Generator().manual_seed(seed))


def score_by_hand(prediction, truth, label, score):
    """One frame, as sets of pixels."""
    if score == "boundary":
        return boundary_by_hand((prediction == label).tolist(), (truth == label).tolist())
    predicted = {tuple(p) for p in (prediction == label).nonzero().tolist()}
    true = {tuple(p) for p in (truth == label).nonzero().tolist()}
    if not predicted | true:
        return 1.0
    if score == "jaccard":
        return len(predicted & true) / len(predicted | true)
    return 2 * len(predicted & true) / (len(predicted) + len(true))


def outline_by_hand(mask):
    """Pixels that differ from the one to the right, below, or both, where there is such a one."""
    height, width = len(mask), len(mask[0])
    return [
        (i, j)
        for i in range(height)
        for j in range(width)
        if (j + 1 < width and mask[i][j] != mask[i][j + 1])
        or (i + 1 < height and mask[i][j] != mask[i + 1][j])
        or (i + 1 < height and j + 1 < width and mask[i][j] != mask[i + 1][j + 1])
    ]


def share_near(points, others, radius):
    """Share of the points that have one of the others within the radius."""
    near = [any((i - k) ** 2 + (j - m) ** 2 <= radius**2 for k, m in others) for i, j in points]
    return sum(near) / len(near)


def boundary_by_hand(predicted, true):
    """F of two masks, as lists of rows."""
    radius = math.ceil(0.008 * math.sqrt(len(true) ** 2 + len(true[0]) ** 2))
    outlines = outline_by_hand(predicted), outline_by_hand(true)
    if not all(outlines):
        return 0.0 if any(outlines) else 1.0
    precision = share_near(*outlines, radius)
    recall = share_near(*outlines[::-1], radius)
    return 2 * precision * recall / (precision + recall) if precision + recall else 0.0


def ellipse(height, width, row, column, half_height, half_width):
    """A mask (H, W) of zeros and ones."""
    i, j = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    return (((i - row) / half_height) ** 2 + ((j - column) / half_width) ** 2 <= 1).long()


def edge_cases(height, width):
    """Masks (H, W) of which each is hard in its own way."""
    masks = [torch.zeros(height, width).long(), torch.ones(height, width).long()]
    pixels = [(height // 2, width // 2), (0, 0), (0, -1), (-1, 0), (-1, -1)]
    for part in [*pixels, *[(slice(0, 2),), (slice(-2, None),)]]:  # top and bottom
        masks.append(torch.zeros(height, width).long())
        masks[-1][part] = 1
    for part in (slice(0, 3), slice(-3, None)):  # left and right
        masks.append(torch.zeros(height, width).long())
        masks[-1][:, part] = 1
    masks.append(ellipse(height, width, height / 2, width / 2, height / 3, width / 4))
    masks.append(masks[-1].roll((1, 2), (0, 1)))
    masks.append(ellipse(height, width, 0, width, height / 3, width / 2))
    masks.append(random_labels(height, width).clamp(max=1))
    return masks


def as_volume(*frames):
    """Label maps (H, W) to what the metric takes: (1, H, W, T)."""
    return torch.stack(frames, dim=-1)[None]


def row(*labels):
    """A label map (1, W)."""
    return torch.tensor([labels])


@pytest.mark.parametrize("score", ["jaccard", "dice"])
def test_region_scores_equal_sets_of_pixels(score):
    prediction, truth = random_labels(2, 5, 6, 7), random_labels(2, 5, 6, 7, seed=1)
    found = region_scores(prediction, truth, 2, score)
    assert found.shape == (2, 5)
    for clip in range(2):
        for t in range(5):
            expected = score_by_hand(prediction[clip, t], truth[clip, t], 2, score)
            assert found[clip, t].item() == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("score", ["jaccard", "dice"])
def test_both_empty_is_1_and_one_empty_is_0(score):
    empty, full = row(0, 0, 2), row(1, 1, 2)
    assert region_scores(empty, empty, 1, score) == 1
    assert region_scores(empty, full, 1, score) == 0
    assert region_scores(full, empty, 1, score) == 0


def test_a_single_pixel_counts_as_one():
    assert region_scores(row(1, 0), row(1, 0), 1, "dice") == 1
    assert region_scores(row(1, 0), row(1, 1), 1, "jaccard") == 0.5


@pytest.mark.parametrize("size", [(1, 1), (1, 9), (17, 1), (13, 20), (31, 30)])
def test_boundary_scores_equal_a_loop_over_pixels(size):
    for prediction, truth in itertools.product(edge_cases(*size), repeat=2):
        expected = boundary_by_hand(prediction.tolist(), truth.tolist())
        found = boundary_scores(prediction, truth, 1)
        assert found.shape == ()
        assert found.item() == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize(("size", "radius"), [((90, 120), 2), ((300, 400), 4), ((301, 400), 5)])
def test_outlines_agree_within_a_disk_that_grows_with_the_frame(size, radius):
    true = torch.zeros(size).long()
    true[20:40, 30:60] = 1
    for down, right in ((radius, 0), (0, -radius), (radius + 1, 0), (radius, radius)):
        moved = true.roll((down, right), (0, 1))
        found = boundary_scores(moved, true, 1).item()
        assert found == pytest.approx(boundary_by_hand(moved.tolist(), true.tolist()), abs=1e-12)
        assert (found == 1) == (math.hypot(down, right) <= radius)
    pixel = torch.zeros(size).long()
    pixel[50, 50] = 1
    assert boundary_scores(pixel.roll(radius + 2, 0), pixel, 1) == 0


def test_boundary_scores_take_any_leading_shape():
    prediction, truth = random_labels(2, 3, 6, 7), random_labels(2, 3, 6, 7, seed=1)
    prediction[0, 1], truth[0, 1] = 0, 1
    found = boundary_scores(prediction, truth, 2)
    assert found.shape == (2, 3)
    assert found.dtype == torch.float64
    for clip, t in itertools.product(range(2), range(3)):
        expected = boundary_scores(prediction[clip, t], truth[clip, t], 2)
        assert found[clip, t] == expected


def test_outlines_decide_which_masks_are_empty_to_boundary_f():
    empty, full, half = torch.zeros(5, 6).long(), torch.ones(5, 6).long(), torch.ones(5, 6).long()
    half[:, 3:] = 0
    assert boundary_scores(empty, empty, 1) == 1
    assert boundary_scores(full, full, 1) == 1
    assert boundary_scores(full, empty, 1) == 1  # neither has an outline
    assert boundary_scores(half, empty, 1) == 0
    assert boundary_scores(full, half, 1) == 0


def random_video(height, width, frames, seed):
    """Ellipses 1, 2, 5 and 255 that jump about and vanish at times, (H, W, T)."""
    generator = torch.Generator().manual_seed(seed)
    video = torch.zeros(height, width, frames).long()
    for t in range(frames):
        for label in (1, 2, 5, 255):
            row, column, a, b, shown = torch.rand(5, generator=generator).tolist()
            if t == 0 or shown > 0.25:
                mask = ellipse(
                    height,
                    width,
                    row * height,
                    column * width,
                    1 + a * height / 3,
                    1 + b * width / 3,
                )
                video[..., t][mask > 0] = label
    return video


def compare_with_vos_benchmark(prediction, truth):
    """Check J and F of each frame; return the evaluator."""
    evaluator = pytest.importorskip(
        "vos_benchmark.evaluator", reason="vos-benchmark is not installed: see the Makefile"
    ).Evaluator()
    for t in scored_frames(truth).tolist():
        evaluator.feed_frame(prediction[..., t].numpy(), truth[..., t].numpy())
    for score, theirs in (("jaccard", evaluator.object_iou), ("boundary", evaluator.boundary_f)):
        for label, scores in score_objects(prediction, truth, score).items():
            # They have no entry for the frames before the object is first seen.
            unseen = len(scores) - len(theirs[label])
            assert scores[:unseen].tolist() == [1] * unseen
            assert scores[unseen:].tolist() == pytest.approx(theirs[label], abs=1e-9)
    return evaluator


@pytest.mark.parametrize(
    ("size", "every"),
    [((1, 9), 1), ((17, 1), 1), ((13, 20), 1), ((96, 131), 2), ((300, 400), 7), ((301, 400), 7)],
)
def test_j_and_f_equal_vos_benchmark_on_edge_cases(size, every):
    pairs = list(itertools.product(edge_cases(*size), repeat=2))[::every]
    reference = torch.ones(size).long()
    predictions, truths = (torch.stack([reference, *side], -1) for side in zip(*pairs, strict=True))
    evaluator = compare_with_vos_benchmark(predictions, truths)
    assert len(set(evaluator.boundary_f[1])) >= 5


@pytest.mark.parametrize("size", [(45, 45), (96, 131)])
def test_j_and_f_equal_vos_benchmark_on_videos_with_several_objects(size):
    for seed in range(3):
        truth = random_video(*size, frames=8, seed=seed)
        noise = random_video(*size, frames=8, seed=seed + 100)
        speckle = torch.rand(truth.shape, generator=torch.Generator().manual_seed(seed)) < 0.02
        prediction = torch.where(speckle, noise, truth.roll((1, 2), (0, 1)))
        truth[..., 3] = -1
        compare_with_vos_benchmark(prediction, truth)


def test_an_object_that_appears_late_counts_in_vos_benchmark_only():
    truth, prediction = torch.zeros(2, 20, 30, 5).long()
    truth[4:9, 5:12, :] = 1
    truth[12:18, 5:9, 0] = 2  # seen in the reference, then from frame 3 on
    truth[12:18, 5:9, 3:] = 2
    truth[12:18, 20:25, 2:] = 3  # not in the reference
    prediction[4:9, 7:13, :] = 1
    prediction[12:17, 5:9, 4:] = 2
    prediction[12:18, 20:24, 2:] = 3
    evaluator = compare_with_vos_benchmark(prediction, truth)
    assert set(score_objects(prediction, truth, "boundary")) == {1, 2}
    assert {label: len(scores) for label, scores in evaluator.boundary_f.items()} == {
        1: 4,
        2: 2,
        3: 3,
    }


@pytest.mark.parametrize("score", SCORES)
def test_video_score_is_the_mean_over_frames_then_over_objects_of_all_videos(score):
    shapes = [(1, 6, 7, 4), (1, 5, 8, 3)]
    predictions = [random_labels(*shape) for shape in shapes]
    truths = [random_labels(*shape, seed=1) for shape in shapes]
    truths[1][truths[1] == 2] = 0  # the second video shows one object
    objects = []
    for prediction, truth, labels in zip(predictions, truths, [(1, 2), (1,)], strict=True):
        for label in labels:
            frames = [
                score_by_hand(prediction[0, ..., t], truth[0, ..., t], label, score)
                for t in range(1, truth.shape[-1])
            ]
            objects.append(sum(frames) / len(frames))
    metric = VideoScore(score)
    metric(predictions, truths)
    assert metric.aggregate().item() == pytest.approx(sum(objects) / 3, abs=1e-12)


def test_each_object_has_one_score_per_annotated_frame():
    truth = torch.stack([row(3, 0, 7), row(-1, -1, -1), row(3, 3, 7)], dim=-1)
    prediction = torch.stack([row(0, 0, 0), row(7, 7, 7), row(3, 0, 7)], dim=-1)
    scores = score_objects(prediction, truth, "jaccard")
    assert {label: found.tolist() for label, found in scores.items()} == {3: [0.5], 7: [1.0]}
    assert score_objects(prediction[..., :2], truth[..., :2], "jaccard") == {}


def test_scored_frames_are_the_annotated_ones_after_the_reference():
    frames = [row(1, 0), row(-1, -1), row(1, 0), row(0, 0), row(-1, -1)]
    assert scored_frames(torch.stack(frames, dim=-1)).tolist() == [2, 3]
    assert scored_frames(torch.stack(frames[:2], dim=-1)).tolist() == []


@pytest.mark.parametrize("score", SCORES)
def test_each_score_has_an_entry_per_scored_frame(score):
    truth = torch.stack([row(1, 0), row(-1, -1), row(1, 0), row(1, 0)], dim=-1)
    prediction = torch.stack([row(0, 0), row(0, 0), row(1, 0), row(0, 0)], dim=-1)
    assert score_objects(prediction, truth, score)[1].tolist() == [1, 0]


def test_the_reference_frame_is_not_scored():
    metric = VideoScore()
    truth = as_volume(row(1, 1, 0), row(0, 1, 1))
    metric([as_volume(row(0, 0, 0), row(0, 1, 1))], [truth])
    assert metric.aggregate() == 1


def test_frames_of_minus_1_are_not_scored():
    metric = VideoScore()
    truth = as_volume(row(1, 1, 0), row(-1, -1, -1), row(1, 1, 0))
    metric([as_volume(row(0, 0, 0), row(0, 1, 0), row(1, 0, 0))], [truth])
    assert metric.aggregate() == 0.5


def test_an_object_scores_1_where_it_is_absent_and_0_where_it_is_made_up():
    metric = VideoScore()
    truth = as_volume(row(1, 1, 0), row(0, 0, 0), row(0, 0, 0))
    metric([as_volume(row(1, 1, 0), row(0, 0, 0), row(0, 1, 0))], [truth])
    assert metric.aggregate() == 0.5


def test_only_objects_of_the_reference_frame_count():
    metric = VideoScore()
    truth = as_volume(row(1, 0, 0), row(1, 0, 2))
    metric([as_volume(row(1, 0, 0), row(1, 0, 0))], [truth])
    assert metric.aggregate() == 1


def test_a_video_without_a_scored_frame_adds_nothing():
    metric = VideoScore()
    good = as_volume(row(1, 0), row(1, 0))
    metric([good], [as_volume(row(1, 0), row(-1, -1))])
    metric([good], [good])
    assert metric.aggregate() == 1


def test_nothing_scored_is_nan_not_a_score():
    metric = VideoScore()
    empty = as_volume(row(0, 0), row(0, 0))
    metric([empty], [empty])
    assert metric.aggregate().isnan()


def test_calls_add_up_until_reset():
    good, bad = as_volume(row(1, 0), row(1, 0)), as_volume(row(1, 0), row(0, 1))
    metric = VideoScore()
    metric([good], [good])
    metric([bad], [good])
    assert metric.aggregate() == 0.5
    metric.reset()
    metric([bad], [good])
    assert metric.aggregate() == 0


def test_an_ignite_engine_reports_the_score():
    good, bad = as_volume(row(1, 0), row(1, 0)), as_volume(row(1, 0), row(0, 1))
    engine = Engine(lambda _, prediction: [{"pred": prediction, "label": good}])
    handler = IgniteMetricHandler(
        metric_fn=VideoScore(), output_transform=from_engine(["pred", "label"]), save_details=False
    )
    handler.attach(engine, "jaccard")
    for _ in range(2):
        assert engine.run([good, bad]).metrics["jaccard"] == 0.5
