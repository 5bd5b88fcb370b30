"""Scores of whole videos as a metric while training."""

from monai.handlers import IgniteMetricHandler, from_engine

from bundle.evaluation.metrics import Score, VideoScore


class VideoScoreHandler(IgniteMetricHandler):
    """Mean J, F or Dice of whole videos as an Ignite metric.

    Args:
        score: ``jaccard``, ``boundary`` or ``dice``; see ``bundle.evaluation.metrics.VideoScore``.
    """

    def __init__(self, score: Score = "jaccard") -> None:
        super().__init__(
            metric_fn=VideoScore(score),
            output_transform=from_engine(["pred", "label"]),
            save_details=False,
        )
