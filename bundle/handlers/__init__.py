"""Handlers that MONAI and Ignite lack; configs name them ``bundle.handlers.<Name>``."""

from bundle.handlers.checkpoints import BestWeights, ResumableCheckpoint
from bundle.handlers.evaluation import EvaluationReport
from bundle.handlers.pictures import CurvesPicture, SampleOverlays
from bundle.handlers.progress import LossTerms, TrainingBar, track_terms
from bundle.handlers.results import ResultSaver
from bundle.handlers.scores import VideoScoreHandler
from bundle.handlers.training import Attach, EpochHandler, GradientClipping, LossTable
from bundle.handlers.validation import EarlyStop, MetricTable, ValidationStats

__all__ = [
    "Attach",
    "BestWeights",
    "CurvesPicture",
    "EarlyStop",
    "EpochHandler",
    "EvaluationReport",
    "GradientClipping",
    "LossTable",
    "LossTerms",
    "MetricTable",
    "ResultSaver",
    "ResumableCheckpoint",
    "SampleOverlays",
    "TrainingBar",
    "ValidationStats",
    "VideoScoreHandler",
    "track_terms",
]
