"""Writing out what was segmented."""

import logging
from pathlib import Path

from ignite.engine import Engine, Events
from tqdm import tqdm

from bundle.outputs import ResultWriter

logger = logging.getLogger(__name__)


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
