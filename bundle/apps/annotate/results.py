"""Export an annotation in the formats of ``bundle.io.writing``."""

import csv
import os
from collections.abc import Callable, Sequence
from pathlib import Path

from bundle.apps.annotate.annotation import Annotation
from bundle.inference.frame_stream import read_ahead
from bundle.io.structures import Structure
from bundle.io.writing import ResultWriter
from bundle.utils.atomic_write import written_beside
from bundle.utils.paths import fit_name

COLUMNS = ["object", "name", "colour"]


def export(
    annotation: Annotation,
    output_dir: Path,
    formats: str | Sequence[str] = "auto",
    *,
    overwrite: bool = False,
    pending_empty: bool = False,
    progress: Callable[[float], None] = lambda share: None,
) -> Path:
    """Write the masks of all frames to DIR/<name of the video>, completely or not at all.

    ``DIR/<name>_objects.csv`` lists the names of the object ids.

    Args:
        annotation: The annotation.
        output_dir: DIR.
        formats: See ``bundle.io.writing.ResultWriter``.
        overwrite: Whether to replace earlier results.
        pending_empty: Whether to write frames without a mask as empty, flagged for review.
        progress: Called with the share that is done, 0 to 1.

    Returns:
        The folder of the results.

    Raises:
        ValueError: Masks are being propagated or proposed, frames have no mask, or a format does not
            suit the video.
        FileExistsError: There are earlier results.
        OSError: The folder cannot be written to.
    """
    if annotation.worker.running:
        raise ValueError("masks are being propagated: wait for the end, or cancel, then export")
    if annotation.proposal is not None:
        raise ValueError(
            f"frame {annotation.proposal.frame} has a proposal: accept it (Enter) or drop it "
            "(Escape), then export"
        )
    if not annotation.prompts:
        raise ValueError("there is nothing to export: paint a mask first")
    video = annotation.video
    pending = [i for i in range(video.frame_count) if annotation.summary(i) is None]
    if pending and not pending_empty:
        raise ValueError(
            f"{len(pending)} of {video.frame_count} frames have no mask yet, the first is frame "
            f"{pending[0]}: propagate, or choose to write them as empty"
        )
    table = output_dir / f"{fit_name(video.name, 12)}_objects.csv"
    _refuse_foreign(table)
    writer = ResultWriter(
        output_dir, video, overwrite=overwrite, annotated=set(annotation.prompts), formats=formats,
        structures={i: Structure(i, each.name, each.colour) for i, each in annotation.objects.items()},
    )  # fmt: skip
    with writer:
        for index, frame in enumerate(read_ahead(iter(video))):
            summary = annotation.summary(index)
            confidence = {} if summary is None else summary.confidence
            known = {i: value for i, value in confidence.items() if i in annotation.objects}
            review = summary is None or summary.review
            writer.write(frame, annotation.labels(index), known, review)
            progress((index + 1) / video.frame_count)
    _write_objects(annotation, table)
    return writer.folder


def _refuse_foreign(path: Path) -> None:
    if not os.path.lexists(path):
        return
    try:
        with path.open(newline="", encoding="utf-8") as file:
            if next(csv.reader(file), None) == COLUMNS:
                return
    except (OSError, UnicodeDecodeError, csv.Error):
        pass
    raise FileExistsError(
        f"{path} exists and was not written here: rename it, or choose another folder"
    )


def _write_objects(annotation: Annotation, path: Path) -> None:
    with written_beside(path) as beside, beside.open("w", newline="", encoding="utf-8") as file:
        table = csv.writer(file, lineterminator="\n")
        table.writerow(COLUMNS)
        for object_id, each in sorted(annotation.objects.items()):
            table.writerow([object_id, each.name, each.colour])
