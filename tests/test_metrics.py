"""J and Dice against sets of pixels, and which frames and objects a video's score counts."""

import pytest
import torch
from ignite.engine import Engine
from monai.handlers import IgniteMetricHandler, from_engine

from bundle.metrics import VideoScore, region_scores, score_objects


def random_labels(*shape, seed=0):
    return torch.randint(0, 3, shape, generator=torch.Generator().manual_seed(seed))


def score_by_hand(prediction, truth, label, score):
    """One frame, as sets of pixels."""
    predicted = {tuple(p) for p in (prediction == label).nonzero().tolist()}
    true = {tuple(p) for p in (truth == label).nonzero().tolist()}
    if not predicted | true:
        return 1.0
    if score == "jaccard":
        return len(predicted & true) / len(predicted | true)
    return 2 * len(predicted & true) / (len(predicted) + len(true))


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


@pytest.mark.parametrize("score", ["jaccard", "dice"])
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


def test_an_engine_reports_it():
    good, bad = as_volume(row(1, 0), row(1, 0)), as_volume(row(1, 0), row(0, 1))
    engine = Engine(lambda _, prediction: [{"pred": prediction, "label": good}])
    handler = IgniteMetricHandler(
        metric_fn=VideoScore(), output_transform=from_engine(["pred", "label"]), save_details=False
    )
    handler.attach(engine, "jaccard")
    for _ in range(2):
        assert engine.run([good, bad]).metrics["jaccard"] == 0.5
