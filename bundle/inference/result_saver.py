"""Write the results of one or many segmented videos, with a progress bar and a list of failures."""

import csv
import logging
import re
from collections.abc import Generator, Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

from tqdm import tqdm
from tqdm.contrib.logging import logging_redirect_tqdm

from bundle.inference.inputs import PromptedVideo
from bundle.inference.results import FrameResult
from bundle.io.writing import ResultWriter
from bundle.io.writing.formats import FORMATS, parse_formats
from bundle.types import Frame
from bundle.utils.atomic_write import DiskFullError, sweep, written_beside
from bundle.utils.options import USER_ERRORS, parse_bool
from bundle.utils.processes import process_share, wait_for_others

logger = logging.getLogger(__name__)

COLUMNS = ["video", "error"]
"""Columns of the list of failures."""

Item = tuple[Frame, FrameResult]


class ResultSaver:
    """Takes the streams of segmented videos and writes their results, with a progress bar.

    With ``keep_going``, videos that already have results are skipped unless ``overwrite`` is set. A
    video that fails is logged and listed in ``failures.csv`` of the output folder
    (``failures_<number>.csv`` for each of several processes). The next run removes the list. A full
    disk ends the run at once.

    Args:
        output_dir: Folder with a subfolder of results for each video, named after it.
        overwrite: Whether to replace existing results.
        progress: Whether to show a progress bar.
        formats: See ``bundle.io.writing.ResultWriter``.
        keep_going: Whether to go on after a video that fails, and raise an error at the end.

    Raises:
        ValueError: Videos failed (raised at the end), or a format is unknown.
        DiskFullError: The disk is full.
    """

    def __init__(
        self,
        output_dir: str | Path,
        overwrite: bool | str = False,
        progress: bool | str = True,
        formats: str | Sequence[str] = "auto",
        keep_going: bool = False,
    ) -> None:
        self.output_dir = Path(output_dir)
        self.overwrite = parse_bool(overwrite, "overwrite")
        self.progress = parse_bool(progress, "progress")
        self.formats = parse_formats(formats)
        self.keep_going = keep_going
        self.failures: list[tuple[Path, str]] = []
        self.written = self.skipped = 0

    def attach(self, engine: Any) -> None:
        """Attach to an evaluator whose output has the video and the stream of its results."""
        from ignite.engine import Events  # here: the command line works without it

        if self.keep_going:
            engine.add_event_handler(Events.STARTED, lambda: self.begin())
            engine.add_event_handler(Events.COMPLETED, lambda: self.end())
        engine.add_event_handler(Events.ITERATION_COMPLETED, self._save)

    def pass_over(self) -> None:
        """Do nothing but the bookkeeping, in a process that has no video, as an engine needs one."""
        self.begin()
        self.end()

    def _save(self, engine: Any) -> None:
        self.save(engine.state.output["image"], engine.state.output["pred"])

    def save(self, video: PromptedVideo, stream: Generator[Item, None, None]) -> bool:
        """Write the results of one video.

        Args:
            video: The video; it is opened here.
            stream: Its frames with their results; it is closed here.

        Returns:
            Whether results were written; False if the video was skipped or failed.
        """
        before = self.written
        # Closed at once after a failure: threads that decode ahead end, memory is free again.
        with closing(stream) as results:
            if not self.keep_going:
                self._write(video, results)
            elif self._is_done(video) and not self.overwrite:
                logger.info("%s: skipped, its results already exist", video.path)
                self.skipped += 1
            else:
                try:
                    self._write(video, results)
                except DiskFullError:
                    raise  # no other video would have room
                except Exception as error:
                    self._note(video, error)
        return self.written > before

    def _write(self, video: PromptedVideo, results: Iterator[Item]) -> None:
        writer = ResultWriter(
            self.output_dir,
            video.source,
            overwrite=self.overwrite,
            annotated=video.annotated,
            formats=self.formats,
        )
        bar = tqdm(
            results,
            desc=video.name,
            total=video.source.frame_count,
            unit="frame",
            disable=not self.progress,
        )
        # Log messages get their own line above the bar.
        with logging_redirect_tqdm(), writer:
            for frame, result in bar:
                writer.write(frame, result.labels, result.confidence, result.review)
        self.written += 1
        logger.info("results are in %s", writer.folder)

    def _is_done(self, video: PromptedVideo) -> bool:
        """Whether the video has results, without opening it; a folder of results is always complete."""
        names = {"nifti" if name == "auto" else name for name in self.formats}
        folder = self.output_dir / video.name
        return all((folder / FORMATS[name].file).exists() for name in names)

    def _note(self, video: PromptedVideo, error: Exception) -> None:
        expected = isinstance(error, USER_ERRORS)
        text = " ".join(str(error).split())
        text = text if expected else f"{type(error).__name__}: {text}"
        logger.error("%s failed, going on: %s", video.path, text, exc_info=not expected)
        self.failures.append((video.path, text))
        with (
            written_beside(self._list_path) as beside,
            beside.open("w", newline="", encoding="utf-8", errors="backslashreplace") as file,
        ):
            table = csv.writer(file)
            table.writerow(COLUMNS)
            table.writerows(self.failures)

    @property
    def _list_path(self) -> Path:
        number, processes = process_share()
        return self.output_dir / (f"failures_{number}.csv" if processes > 1 else "failures.csv")

    def begin(self) -> None:
        """Remove the lists of failures of the run before, and what killed runs left.

        The run before may have had more processes, so each process removes its share of the lists.
        """
        self.failures, self.written, self.skipped = [], 0, 0
        sweep(self.output_dir)
        number, processes = process_share()
        for path in self.output_dir.glob("failures*.csv"):
            found = re.fullmatch(r"failures(?:_([0-9]+))?\.csv", path.name)
            mine = found and int(found[1] or 0) % processes == number
            if mine and _begins_with_columns(path):
                path.unlink(missing_ok=True)

    def end(self) -> None:
        """Log how many videos were written, skipped and failed.

        Raises:
            ValueError: Videos failed.
        """
        count = self.written + self.skipped + len(self.failures)
        logger.info(
            "%d videos: %d segmented, %d skipped, %d failed",
            count,
            self.written,
            self.skipped,
            len(self.failures),
        )
        for path, text in self.failures:
            logger.error("failed: %s: %s", path, text)
        wait_for_others()
        if self.failures:
            raise ValueError(
                f"{len(self.failures)} of {count} videos failed, they are listed in "
                f"{self._list_path}: fix them and run the same command again"
            )


def _begins_with_columns(path: Path) -> bool:
    """Whether a file is a list of failures of this program, which may be removed."""
    try:
        with path.open(newline="", encoding="utf-8") as file:
            return next(csv.reader(file), None) == COLUMNS
    except (OSError, UnicodeDecodeError, csv.Error):
        return False
