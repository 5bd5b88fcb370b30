"""HMC-QU: apical four-chamber echocardiograms with masks of the LV wall over one heart cycle.

An Excel sheet says which recordings have masks and which frames form the cycle. Frames have several
sizes but masks only one, so frames are resized to the size of the masks.
"""

import re
import unicodedata
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import NamedTuple

from openpyxl import load_workbook

from bundle.datasets.records import Report, Video, stop
from bundle.datasets.roots import check_root
from bundle.io.reading.decode import explained, has_suffix
from bundle.io.reading.frame_refs import FrameOf
from bundle.io.reading.mat_masks import mat_masks_shape

SHEETS = ("A4C.xlsx", "HMC_QU.xlsx")  # the second and its folder below: older copies
VIDEO_FOLDERS = ("HMC-QU/A4C", "HMC-QU Echos/HMC-QU Echos")
MASK_FOLDER = "LV Ground-truth Segmentation Masks"
SIZE = (224, 224)
LABELS = {1: "LV wall"}

# Beginnings of the column headers, in lower case. The headers take two rows.
COLUMNS = {
    "name": "echo",
    "first": "reference frame",
    "last": "end of cycle",
    "mark": "lv wall ground-truth",
}
HEADER_ROWS = 10
WITH_MASKS, WITHOUT_MASKS = "ü", "û"  # a tick and a cross in the sheet's symbol font


class Row(NamedTuple):
    """One row of the sheet, with its cells unchanged.

    Attributes:
        number: Number of the row, from 1.
        name: Name of the recording, with its spaces and asterisks.
        first: First frame of the cycle, from 1.
        last: Last frame of the cycle, inclusive.
        mark: Whether there are masks, ``WITH_MASKS`` or ``WITHOUT_MASKS``; empty in a row of remarks.
    """

    number: int
    name: str
    first: object
    last: object
    mark: str


def hmc_qu(root: str | Path, report: Report = stop) -> list[Video]:
    """Read the sheet ``A4C.xlsx`` and the recordings that it marks as segmented.

    Args:
        root: The folder that holds the sheet, ``HMC-QU/A4C/*.avi`` and ``LV Ground-truth
            Segmentation Masks/Mask_*.mat``; or an older copy with ``HMC_QU.xlsx`` and
            ``HMC-QU Echos/HMC-QU Echos/*.avi``.
        report: Called with each problem; the row concerned is left out.

    Returns:
        One record for each recording: the frames of its cycle, each with a mask.

    Raises:
        FileNotFoundError: There is no sheet, or a folder, a recording or its masks are missing.
        ValueError: The sheet lacks a column or marks no recording, a cycle is not a range of frames,
            two files fit one name, or the number of masks differs from the number of frames.
    """
    root = check_root(root, SHEETS, "HMC-QU")
    sheet = next(root / name for name in SHEETS if (root / name).is_file())
    recordings = _list_files(root, VIDEO_FOLDERS, ".avi", report)
    masks = _list_files(root, (MASK_FOLDER,), ".mat", report)
    if recordings is None or masks is None:
        return []
    try:
        rows = read_sheet(sheet)
    except ValueError as problem:
        report(problem)
        return []
    videos: dict[str, Video] = {}
    for row in rows:
        where = f"row {row.number} of {sheet} ({row.name})"
        key = _key(row.name)
        if row.mark not in (WITH_MASKS, WITHOUT_MASKS, ""):
            report(
                ValueError(
                    f"{where} is marked {row.mark!r}: expected {WITH_MASKS} where there are masks, "
                    f"{WITHOUT_MASKS} where there are none"
                )
            )
        elif row.mark == WITH_MASKS and key in videos:
            report(ValueError(f"{where} names a recording that an earlier row names too"))
        elif row.mark == WITH_MASKS:
            recording = _only(recordings, _plain(row.name), where, report)
            mask_file = _only(masks, f"Mask_{_plain(row.name)}", where, report)
            video = _record(row, where, recording, mask_file, report)
            if video is not None:
                videos[key] = video
    if not videos:
        report(
            ValueError(
                f"{sheet} leads to no recording with masks: expected rows marked {WITH_MASKS} in "
                "the last column"
            )
        )
    return list(videos.values())


def read_sheet(sheet: Path) -> list[Row]:
    """All rows with a name below the headers, in the sheet's order.

    Raises:
        ValueError: The file is not an Excel sheet or lacks a column.
    """
    with (
        explained(f"cannot read {sheet} as an Excel sheet"),
        closing(load_workbook(sheet, read_only=True, data_only=True)) as book,
    ):
        table = [dict(enumerate(row)) for row in book.worksheets[0].iter_rows(values_only=True)]
    columns: dict[str, int] = {}
    headers: list[str] = []
    begin = 0
    for number, cells in enumerate(table[:HEADER_ROWS]):
        for column, cell in cells.items():
            text = _text(cell)
            headers += [text] if text else []
            for meaning, header in COLUMNS.items():
                if meaning not in columns and text.lower().startswith(header):
                    columns[meaning], begin = column, number + 1
        if len(columns) == len(COLUMNS):
            break
    lacking = [header for meaning, header in COLUMNS.items() if meaning not in columns]
    if lacking:
        raise ValueError(
            f"{sheet} lacks the column {lacking[0]!r}: expected the sheet of the four-chamber "
            f"recordings, found {headers[:20]}"
        )
    return [
        Row(
            number,
            str(cells[columns["name"]]),
            cells.get(columns["first"]),
            cells.get(columns["last"]),
            _text(cells.get(columns["mark"])),
        )
        for number, cells in enumerate(table[begin:], start=begin + 1)
        if _text(cells.get(columns["name"]))
    ]


def cycle_frames(row: Row) -> range | None:
    """Frame indices of the cycle, from 0; None if the row gives no valid range."""
    first, last = _whole(row.first), _whole(row.last)
    if first is None or last is None or not 1 <= first <= last:
        return None
    return range(first - 1, last)


def _record(
    row: Row, where: str, recording: Path | None, masks: Path | None, report: Report
) -> Video | None:
    frames = cycle_frames(row)
    if frames is None:
        report(
            ValueError(
                f"{where} gives the cycle [{row.first}, {row.last}]: expected its first and last "
                "frame, counted from 1"
            )
        )
    if frames is None or recording is None or masks is None:
        return None
    try:
        shape = mat_masks_shape(masks)
    except ValueError as problem:
        report(ValueError(f"{where}: {problem}"))
        return None
    if shape != (len(frames), *SIZE):
        report(
            ValueError(
                f"{where} gives the cycle [{row.first}, {row.last}] of {len(frames)} frames but "
                f"{masks} holds {shape[0]} masks of {shape[1]}x{shape[2]}: expected "
                f"{len(frames)} of {SIZE[0]}x{SIZE[1]}"
            )
        )
        return None
    name = _plain(row.name)
    return Video(
        id=name,
        frames=tuple(FrameOf(recording, i) for i in frames),
        masks={i: FrameOf(masks, i) for i in range(len(frames))},
        labels=LABELS,
        patient=_patient(name),
        size=SIZE,
    )


class _Files(NamedTuple):
    """The files of a folder, by their names without spaces, asterisks and letter case."""

    folder: Path
    suffix: str
    by_key: dict[str, list[Path]]


def _list_files(root: Path, folders: Sequence[str], suffix: str, report: Report) -> _Files | None:
    folder = next((root / name for name in folders if (root / name).is_dir()), None)
    if folder is None:
        names = " or ".join(folders)
        report(FileNotFoundError(f"no folder {names} in {root}: expected {suffix} files there"))
        return None
    by_key: dict[str, list[Path]] = {}
    for path in sorted(folder.iterdir()):
        if has_suffix(path, (suffix,)) and not path.name.startswith("."):
            by_key.setdefault(_key(path.stem), []).append(path)
    return _Files(folder, suffix, by_key)


def _only(files: _Files, stem: str, where: str, report: Report) -> Path | None:
    """The only file of that name, ignoring spaces, asterisks and letter case."""
    fitting = files.by_key.get(_key(stem), [])
    if len(fitting) == 1:
        return fitting[0]
    if fitting:
        report(ValueError(f"{where} fits both {fitting[0]} and {fitting[1]}: remove one"))
    else:
        wanted = files.folder / f"{stem}{files.suffix}"
        report(FileNotFoundError(f"no {wanted} for {where}, in any spacing and letter case"))
    return None


def _plain(name: str) -> str:
    return "".join(name.split()).replace("*", "")


def _key(name: str) -> str:
    return _plain(name).lower()


def _patient(name: str) -> str:
    """``ES0001`` of ``ES0001_4CH_1``: the two views of a patient share it."""
    found = re.match(r"ES[0-9]+", name, re.IGNORECASE)
    return found[0].upper() if found else name


def _text(cell: object) -> str:
    """The text of a cell, with accented letters in one form (NFC) and single spaces."""
    return "" if cell is None else " ".join(unicodedata.normalize("NFC", str(cell)).split())


def _whole(cell: object) -> int | None:
    """The whole number in a cell, stored as a number or as text; else None."""
    try:
        number = float(str(cell))
    except ValueError:
        return None
    return int(number) if number.is_integer() else None
