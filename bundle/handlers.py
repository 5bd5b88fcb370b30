"""Handlers that MONAI and Ignite lack: for training, and to write out what was segmented."""

import csv
import logging
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from ignite.engine import Engine, Events
from ignite.handlers import Checkpoint, DiskSaver
from monai.engines.utils import IterationEvents
from monai.handlers import IgniteMetricHandler, from_engine
from torch import nn
from tqdm import tqdm

from bundle.losses import TCMNLoss
from bundle.metrics import Score, VideoScore, score_objects
from bundle.outputs import ResultWriter

logger = logging.getLogger(__name__)


class EpochHandler:
    """Tells the data set which epoch begins, before its workers start."""

    def __init__(self, dataset: Any) -> None:
        self.dataset = dataset

    def attach(self, engine: Engine) -> None:
        # Ignite makes the epoch's loader iterator, and so its workers, after this event.
        engine.add_event_handler(Events.EPOCH_STARTED, self._at_epoch)

    def _at_epoch(self, engine: Engine) -> None:
        self.dataset.set_epoch(engine.state.epoch)


class GradientClipping:
    """Scales the gradient down to a norm; stops at a loss that is no number.

    Args:
        network: Whose gradients.
        max_norm: Largest Euclidean norm of all gradients together.
    """

    def __init__(self, network: nn.Module, max_norm: float) -> None:
        self.network, self.max_norm = network, max_norm

    def attach(self, engine: Engine) -> None:
        engine.add_event_handler(IterationEvents.LOSS_COMPLETED, self._check)
        engine.add_event_handler(IterationEvents.BACKWARD_COMPLETED, self._clip)

    def _check(self, engine: Engine) -> None:
        if not torch.isfinite(engine.state.output["loss"]):
            names = engine.state.batch.get("name")
            raise RuntimeError(
                f"the loss of iteration {engine.state.iteration} is {engine.state.output['loss']} on "
                f"clips {names}; the last checkpoint is good: lower the learning rate and resume"
            )

    def _clip(self, engine: Engine) -> None:
        if getattr(engine, "scaler", None) is not None:
            engine.scaler.unscale_(engine.optimizer)
        nn.utils.clip_grad_norm_(self.network.parameters(), self.max_norm)


class LossTable:
    """Appends the mean loss and its terms to a CSV file, and logs them.

    Args:
        loss: Whose terms.
        path: The CSV file; a resumed training goes on in it.
        every: Iterations that one row averages.
    """

    def __init__(self, loss: TCMNLoss, path: str | Path, every: int = 20) -> None:
        self.loss, self.path, self.every = loss, Path(path), every
        self.columns = ("cross_entropy", "dice", "contrastive", "value_distance", "collapsed")
        self.rows: list[dict[str, float]] = []
        self.begin = time.monotonic()

    def attach(self, engine: Engine) -> None:
        engine.add_event_handler(Events.STARTED, self._drop_later_rows)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self._collect)

    def _drop_later_rows(self, engine: Engine) -> None:
        """Rows past the checkpoint, of iterations that a resumed training does again."""
        if not self.path.exists():
            return
        header, *rows = self.path.read_text().splitlines(keepends=True)
        kept = [row for row in rows if int(row.split(",")[0]) <= engine.state.iteration]
        partial = self.path.with_suffix(".partial")
        partial.write_text("".join([header, *kept]))
        partial.replace(self.path)

    def _collect(self, engine: Engine) -> None:
        self.rows.append({"loss": engine.state.output["loss"].item(), **self.loss.terms})
        if len(self.rows) < self.every:
            return
        row: dict[str, Any] = {"iteration": engine.state.iteration}
        for name in ("loss", *self.columns):
            seen = [r[name] for r in self.rows if name in r]
            row[name] = f"{sum(seen) / len(seen):.5f}" if seen else ""
        row["seconds"] = f"{(time.monotonic() - self.begin) / len(self.rows):.3f}"
        self.rows, self.begin = [], time.monotonic()
        logger.info(" ".join(f"{name}={value}" for name, value in row.items() if value != ""))
        new = not self.path.exists()
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.open("a", newline="") as file:
            writer = csv.DictWriter(file, list(row))
            if new:
                writer.writeheader()
            writer.writerow(row)


class ResumableCheckpoint:
    """Saves everything that training needs to go on, after each epoch, and loads it at the start.

    Files are written beside and renamed, so a killed run leaves the previous one whole.

    Args:
        objects: What has a state dict: network, optimiser, schedule, loss. The trainer is added.
        folder: Where ``last.pt`` is.
        resume: Load it if it exists; otherwise an existing one is an error, not lost.

    Raises:
        FileExistsError: There is a checkpoint and ``resume`` is off.
        ValueError: Its epochs have another number of iterations.
    """

    def __init__(self, objects: Mapping[str, Any], folder: str | Path, resume: bool = True) -> None:
        self.objects, self.folder, self.resume = dict(objects), Path(folder), resume

    def attach(self, engine: Engine) -> None:
        path = self.folder / "last.pt"
        if path.exists():
            if not self.resume:
                raise FileExistsError(
                    f"{path} exists: choose another output_dir, or --resume true to go on from it"
                )
            state = torch.load(path, map_location="cpu", weights_only=True)
            wanted, length = engine.state.max_epochs, engine.state.epoch_length
            if length != state["trainer"]["epoch_length"]:
                raise ValueError(
                    f"{path} has {state['trainer']['epoch_length']} iterations per epoch, this "
                    f"training {length}: go on with as many, or choose another output_dir"
                )
            # A training may be resumed for longer than it was planned, its schedule too.
            planned = [(o, o.t_total) for o in self.objects.values() if hasattr(o, "t_total")]
            Checkpoint.load_objects({**self.objects, "trainer": engine}, state)
            for schedule, steps in planned:
                schedule.t_total = steps
            engine.state.max_epochs = wanted
            logger.info("resumed from %s after epoch %d", path, engine.state.epoch)
            if engine.state.epoch >= wanted:
                # Ignite would take it for a new training and begin with epoch 1.
                logger.warning("all %d epochs are done: nothing to train", wanted)
                engine.add_event_handler(Events.STARTED, lambda engine: engine.terminate())
        saver = Checkpoint(
            {**self.objects, "trainer": engine},
            _ReplacingSaver(str(self.folder), create_dir=True, require_empty=False),
            filename_pattern="last.pt",
            n_saved=1,
        )
        engine.add_event_handler(Events.EPOCH_COMPLETED, saver)


class _ReplacingSaver(DiskSaver):
    """Leaves the old file until the new one takes its name; Ignite would delete it first."""

    def remove(self, filename: str) -> None:
        pass


class VideoScoreHandler(IgniteMetricHandler):
    """Mean J or Dice of whole videos as an Ignite metric.

    Args:
        score: ``jaccard`` or ``dice``; see ``bundle.metrics.VideoScore``.
    """

    def __init__(self, score: Score = "jaccard") -> None:
        super().__init__(
            metric_fn=VideoScore(score),
            output_transform=from_engine(["pred", "label"]),
            save_details=False,
        )


class Attach:
    """Attaches a handler that is defined elsewhere in a config, since others refer to it too.

    MONAI's check of a bundle wants each entry of a list of handlers to name its class.
    """

    def __init__(self, handler: Any) -> None:
        self.handler = handler

    def attach(self, engine: Engine) -> None:
        self.handler.attach(engine)


class ScoreTable:
    """Writes J and Dice of each object, beside those of copying the first mask, as a CSV file.

    Args:
        path: The file; it is written at the end.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.rows: list[dict[str, Any]] = []

    def attach(self, engine: Engine) -> None:
        engine.add_event_handler(Events.ITERATION_COMPLETED, self._score)
        engine.add_event_handler(Events.COMPLETED, self._write)

    def _score(self, engine: Engine) -> None:
        for clip, item in zip(engine.state.batch, engine.state.output, strict=True):
            truth = item["label"][0].cpu()
            copied = truth[..., :1].expand_as(truth)
            for method, volume in (("network", item["pred"][0].cpu()), ("copy first mask", copied)):
                jaccard = score_objects(volume, truth, "jaccard")
                dice = score_objects(volume, truth, "dice")
                # Without an object in frame 0, or a later annotation, there is nothing to score.
                names = clip["classes"].split("|") if jaccard else []
                for name, label in zip(names, jaccard, strict=True):
                    self.rows.append(
                        {
                            "video": clip["name"],
                            "class": name,
                            "method": method,
                            "frames": len(jaccard[label]),
                            "jaccard": f"{100 * float(jaccard[label].mean()):.2f}",
                            "dice": f"{100 * float(dice[label].mean()):.2f}",
                        }
                    )

    def _write(self, engine: Engine) -> None:
        if not self.rows:
            raise ValueError("no video has an annotated frame after its first: nothing to score")
        self.path.parent.mkdir(parents=True, exist_ok=True)
        partial = self.path.with_suffix(".partial")
        with partial.open("w", newline="") as file:
            writer = csv.DictWriter(file, list(self.rows[0]))
            writer.writeheader()
            writer.writerows(self.rows)
        partial.replace(self.path)
        for group in sorted({(row["class"], row["method"]) for row in self.rows}):
            chosen = [row for row in self.rows if (row["class"], row["method"]) == group]
            j, d = (sum(float(r[k]) for r in chosen) / len(chosen) for k in ("jaccard", "dice"))
            logger.info("%s, %s: J %.2f Dice %.2f (%d objects)", *group, j, d, len(chosen))
        logger.info("scores of each object are in %s", self.path)


class ResultSaver:
    """Consumes the stream of a segmented video and writes its results, with a progress bar.

    Args:
        output_dir: Results go to a folder in it that is named after the video.
        overwrite: Replace results that are there already.
        progress: Show a progress bar.
    """

    def __init__(
        self, output_dir: str | Path, overwrite: bool = False, progress: bool = True
    ) -> None:
        self.output_dir, self.overwrite, self.progress = output_dir, overwrite, progress

    def attach(self, engine: Engine) -> None:
        engine.add_event_handler(Events.ITERATION_COMPLETED, self._save)

    def _save(self, engine: Engine) -> None:
        video = engine.state.output["image"]
        source = video.source
        writer = ResultWriter(
            self.output_dir, source, overwrite=self.overwrite, annotated=video.annotations
        )
        bar = tqdm(
            engine.state.output["pred"],
            desc=source.name,
            total=source.frame_count,
            unit="frame",
            disable=not self.progress,
        )
        with writer:
            for frame, labels in bar:
                writer.write(frame, labels)
        logger.info("results are in %s", writer.folder)
