"""Training handlers that MONAI and Ignite lack; configs name them by ``bundle.training.handlers``."""

from bundle.training.handlers.checkpoints import BestWeights, ResumableCheckpoint
from bundle.training.handlers.pictures import CurvesPicture, SampleOverlays
from bundle.training.handlers.progress import LossTerms, TrainingBar, track_terms
from bundle.training.handlers.scores import VideoScoreHandler
from bundle.training.handlers.training import Attach, EpochHandler, GradientClipping, LossTable
from bundle.training.handlers.validation import EarlyStop, MetricTable, ValidationStats

__all__ = [
    "Attach",
    "BestWeights",
    "CurvesPicture",
    "EarlyStop",
    "EpochHandler",
    "GradientClipping",
    "LossTable",
    "LossTerms",
    "MetricTable",
    "ResumableCheckpoint",
    "SampleOverlays",
    "TrainingBar",
    "ValidationStats",
    "VideoScoreHandler",
    "track_terms",
]
