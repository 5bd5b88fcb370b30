"""The handler that turns a run of MONAI's evaluator into scores, tables and pictures."""

import hashlib
import logging
import platform
import shutil
import time
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import ignite.distributed as idist
import numpy as np
import torch
from ignite.engine import Engine, Events
from jaxtyping import Float, Integer
from monai.engines import IterationEvents
from torch import Tensor, nn

from bundle.backends.openvino import number_type
from bundle.datasets.whole_videos import VideoDataset
from bundle.evaluation.baselines import BASELINES
from bundle.evaluation.metrics import SCORES, score_objects, scored_frames
from bundle.evaluation.records import NETWORK, UNCHANGED, VideoScores
from bundle.evaluation.report import write_report
from bundle.evaluation.review import Reviewer, to_uint8
from bundle.evaluation.saved_masks import (
    check_predictions,
    folder_names,
    load_masks,
    parts,
    save_masks,
)
from bundle.evaluation.tables import log_lines
from bundle.networks.weights import read_description
from bundle.utils.bundle_files import program_version
from bundle.utils.distributed import gather_shards
from bundle.utils.options import parse_bool, parse_text

logger = logging.getLogger(__name__)

NOT_KEPT = ".masks.not_kept"
PACKAGES = ("torch", "monai", "numpy", "opencv-python-headless")


class EvaluationReport:
    """Scores the network, baselines and another method's masks, and writes tables and pictures.

    docs/evaluate.md lists the files.

    With several processes and a ``ShardSampler``, each scores its share of the videos and saves their
    masks. The first process then writes the tables, which equal those of a single process.
    ``output_dir`` must be a folder that all processes see.

    Args:
        dataset: The videos, unperturbed.
        output_dir: Folder for all results.
        description: Title of the tables: what is scored.
        settings: Settings of the run, for ``summary.json``: ``protocol``, ``precision`` and more.
        weights: The file of the weights, whose SHA-256 goes into ``summary.json``. If the file beside
            it says that they learned from the protocol's videos, the log and the tables say so.
        predictions: Folder of another method's masks, ``DIR/<video>/<frame>.png``, to score too.
        predictions_name: Name of that method in the tables; the folder's name by default.
        baselines: Whether to score the baselines too.
        save_masks: Whether to keep the network's masks of the unperturbed videos.

    Raises:
        ValueError: ``predictions`` is the folder where this run writes its own masks, or its name is
            taken.
    """

    def __init__(
        self,
        dataset: VideoDataset,
        output_dir: str | Path,
        description: str,
        settings: Mapping[str, Any],
        weights: str | Path | None = None,
        predictions: str | Path | None = None,
        predictions_name: str | None = None,
        baselines: bool | str = True,
        save_masks: bool | str = True,
    ) -> None:
        self.dataset, self.output_dir = dataset, Path(output_dir)
        self.description, self.settings, self.weights = description, dict(settings), weights
        self.seen = _has_seen(weights, self.settings.get("protocol"))
        if self.seen:
            self.description += " (the weights learned from these videos or structures)"
        given, name = parse_text(predictions), parse_text(predictions_name)
        self.predictions = None if given is None else Path(given)
        self.predictions_name = name or (
            "predictions" if self.predictions is None else self.predictions.name
        )
        self.baselines = BASELINES if parse_bool(baselines, "baselines") else {}
        self.save = parse_bool(save_masks, "save_masks")
        # Pictures are drawn from saved masks. Where those are not kept, they are removed at the end.
        self.masks = self.output_dir / ("masks" if self.save else NOT_KEPT)
        if self.predictions and self.predictions.resolve() == self.masks.resolve():
            raise ValueError(
                f"--predictions {self.predictions} is where this run writes the network's masks: "
                "choose another --output-dir"
            )
        if self.predictions and self.predictions_name in (NETWORK, *BASELINES):
            raise ValueError(
                f"--predictions-name {self.predictions_name} is the name of another row: choose one "
                f"that is not {', '.join((NETWORK, *BASELINES))}"
            )
        self.names = folder_names(dataset.data)
        self.videos: list[list[VideoScores]] = []  # scores of each item of this process's share
        self._began = self._seconds = 0.0

    def attach(self, engine: Engine) -> None:
        engine.add_event_handler(Events.STARTED, self._start)
        engine.add_event_handler(Events.ITERATION_STARTED, self._begin_timing)
        engine.add_event_handler(IterationEvents.FORWARD_COMPLETED, self._end_timing)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self._score)
        engine.add_event_handler(Events.COMPLETED, self._write)

    def _start(self, engine: Engine) -> None:
        self.videos.clear()
        if self.seen:
            logger.warning(
                "%s learned from videos or structures of %s: the scores say nothing about new ones; "
                "weights that did not are models/model_protocol.pt of the repository",
                self.weights,
                self.settings["protocol"],
            )
        if self.predictions is not None:
            check_predictions(self.predictions, self.names)

    def _begin_timing(self, engine: Engine) -> None:
        _wait(engine.state.device)
        self._began = time.perf_counter()

    def _end_timing(self, engine: Engine) -> None:
        _wait(engine.state.device)
        self._seconds = time.perf_counter() - self._began

    def _score(self, engine: Engine) -> None:
        for item, output in zip(engine.state.batch, engine.state.output, strict=True):
            perturbation = item.get("perturbation", UNCHANGED)
            first = item["label"][0, ..., 0].clamp(min=0).byte()
            volume = output["pred"]["labels"][0].to(torch.uint8).cpu().clone()
            trust = output["pred"]["confidence"].cpu()
            volume[..., 0] = first  # as given, not as resizing to the inference size changed it
            speed = volume.shape[-1] / self._seconds
            found = self._score_method(NETWORK, volume, item, perturbation, speed, trust)
            if perturbation == UNCHANGED:
                name = self.names[item["name"]]
                save_masks(self.masks, name, item, volume.numpy(), volume=self.save)
                for method, labels in self._others(item, first):
                    found += self._score_method(
                        method, torch.from_numpy(labels), item, perturbation
                    )
            self.videos.append(found)
            done = f"{len(self.videos)} of {engine.state.epoch_length}"
            mean = np.mean([one.mean("dice") for one in found if one.method == NETWORK] or [np.nan])
            logger.info("%s, %s (%s): Dice %.1f", item["name"], perturbation, done, 100 * mean)

    def _others(
        self, item: Mapping[str, Any], first: Tensor
    ) -> list[tuple[str, Integer[np.ndarray, "H W T"]]]:
        """Label volumes of the baselines and of the other method."""
        volumes = []
        if self.baselines:
            frames = to_uint8(item["image"])
            volumes = [(name, make(frames, first.numpy())) for name, make in self.baselines.items()]
        if self.predictions is not None:
            scored = scored_frames(item["label"][0]).tolist()
            volume = np.zeros(item["label"].shape[1:], np.uint8)
            if scored:
                name = self.names[item["name"]]
                volume[..., scored] = load_masks(self.predictions, name, item, scored)
            volumes.append((self.predictions_name, volume))
        return volumes

    @staticmethod
    def _score_method(
        method: str,
        volume: Tensor,
        item: Mapping[str, Any],
        perturbation: str,
        frames_per_second: float | None = None,
        confidence: Float[Tensor, "N T"] | None = None,
    ) -> list[VideoScores]:
        truth = item["label"][0].cpu()
        classes, ids, frame_names = parts(item)
        frames = scored_frames(truth).tolist()
        if not frames:
            return []
        scores = {score: score_objects(volume.short(), truth, score) for score in SCORES}
        return [
            VideoScores(
                video=item["name"],
                class_name=classes[label - 1],
                object_id=ids[label - 1],
                method=method,
                perturbation=perturbation,
                frame_names=tuple(frame_names[t] for t in frames),
                distance=tuple(frames),
                shown=tuple((truth[..., frames] == label).any(0).any(0).tolist()),
                frames_per_second=frames_per_second,
                together=len(ids),
                domain=item["domain"],
                answered=tuple((volume[..., frames] == label).any(0).any(0).tolist()),
                confidence=(
                    None if confidence is None else tuple(confidence[label - 1, frames].tolist())
                ),
                **{score: tuple(found[label].tolist()) for score, found in scores.items()},
            )
            for label in scores[SCORES[0]]
        ]

    def _write(self, engine: Engine) -> None:
        scores = [one for video in gather_shards(self.videos) for one in video]
        if not scores:
            raise ValueError("no video has an annotated frame after its first: nothing to score")
        if idist.get_rank() > 0:
            return
        reviewer = Reviewer(self.dataset, self.masks, self.names)
        settings = self._describe(engine.network, engine.state.device)
        write_report(self.output_dir, scores, reviewer, self.description, settings)
        shutil.rmtree(self.output_dir / NOT_KEPT, ignore_errors=True)
        for line in log_lines(scores):
            logger.info("%s", line)
        logger.info("tables and pictures are in %s", self.output_dir)

    def _describe(self, network: nn.Module, device: torch.device) -> dict[str, Any]:
        """The settings, with the weights, device, number type and package versions of this run."""
        weights = {}
        if self.weights is not None:
            digest = hashlib.sha256(Path(self.weights).read_bytes()).hexdigest()
            weights = {"weights": Path(self.weights).name, "weights_sha256": digest}
        return {
            **self.settings,
            **weights,
            "computed_in": number_type(network, self.settings.get("precision", "auto"), device),
            "device": torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu",
            "threads": torch.get_num_threads(),
            "processes": idist.get_world_size(),
            "predictions": self.predictions_name if self.predictions else None,
            "versions": {
                "python": platform.python_version(),
                "tcmn": program_version(),
                **{name: version(name) for name in PACKAGES},
            },
        }


def _wait(device: torch.device) -> None:
    """Wait until the GPU has finished its queue, so that times are true."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _has_seen(weights: str | Path | None, protocol: str | None) -> bool:
    described = None if weights is None else read_description(weights)
    return described is not None and protocol in described.seen
