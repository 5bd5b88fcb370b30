"""Scores of whole videos: as a metric while training, as a table in an evaluation."""

import csv
import logging
from pathlib import Path
from typing import Any

import ignite.distributed as idist
from ignite.engine import Engine, Events
from monai.handlers import IgniteMetricHandler, from_engine

from bundle.distributed import gather_shards
from bundle.metrics import Score, VideoScore, score_objects

logger = logging.getLogger(__name__)


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


class ScoreTable:
    """Writes J and Dice of each object, beside those of copying the first mask, as a CSV file.

    Processes that share the videos by a ``ShardSampler`` write one table, that of a single process.

    Args:
        path: The file; it is written at the end.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.videos: list[list[dict[str, Any]]] = []  # the rows of each

    def attach(self, engine: Engine) -> None:
        engine.add_event_handler(Events.ITERATION_COMPLETED, self._score)
        engine.add_event_handler(Events.COMPLETED, self._write)

    def _score(self, engine: Engine) -> None:
        for clip, item in zip(engine.state.batch, engine.state.output, strict=True):
            truth = item["label"][0].cpu()
            copied = truth[..., :1].expand_as(truth)
            rows: list[dict[str, Any]] = []
            for method, volume in (("network", item["pred"][0].cpu()), ("copy first mask", copied)):
                jaccard = score_objects(volume, truth, "jaccard")
                dice = score_objects(volume, truth, "dice")
                # Without an object in frame 0, or a later annotation, there is nothing to score.
                names = clip["classes"].split("|") if jaccard else []
                for name, label in zip(names, jaccard, strict=True):
                    rows.append(
                        {
                            "video": clip["name"],
                            "class": name,
                            "method": method,
                            "frames": len(jaccard[label]),
                            "jaccard": f"{100 * float(jaccard[label].mean()):.2f}",
                            "dice": f"{100 * float(dice[label].mean()):.2f}",
                        }
                    )
            self.videos.append(rows)

    def _write(self, engine: Engine) -> None:
        rows = [row for video in gather_shards(self.videos) for row in video]
        if not rows:
            raise ValueError("no video has an annotated frame after its first: nothing to score")
        if idist.get_rank() > 0:
            return
        self.path.parent.mkdir(parents=True, exist_ok=True)
        partial = self.path.with_suffix(".partial")
        with partial.open("w", newline="") as file:
            writer = csv.DictWriter(file, list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)
        partial.replace(self.path)
        for group in sorted({(row["class"], row["method"]) for row in rows}):
            chosen = [row for row in rows if (row["class"], row["method"]) == group]
            j, d = (sum(float(r[k]) for r in chosen) / len(chosen) for k in ("jaccard", "dice"))
            logger.info("%s, %s: J %.2f Dice %.2f (%d objects)", *group, j, d, len(chosen))
        logger.info("scores of each object are in %s", self.path)
