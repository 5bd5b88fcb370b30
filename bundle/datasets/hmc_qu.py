"""HMC-QU: apical four-chamber echocardiograms with the left ventricle's wall over one cycle.

A sheet says which recordings have masks and which frames make the cycle. Frames are of several
sizes, masks of one, so that they meet at the size of the masks.
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

# How the headers begin, in lower case. They fill two rows.
COLUMNS = {
    "name": "echo",
    "first": "reference frame",
    "last": "end of cycle",
    "mark": "lv wall ground-truth",
}
HEADER_ROWS = 10
WITH_MASKS, WITHOUT_MASKS = "ü", "û"  # a tick and a cross in the sheet's symbol font


class Row(NamedTuple):
    """One recording of the sheet, as it is written there.

    Attributes:
        number: Number of the row, from 1.
        name: Name of the recording, blanks and asterisks as they are.
        first: Frame that begins the cycle, from 1.
        last: Frame that ends the cycle, inclusive.
        mark: Whether there are masks: ``WITH_MASKS`` or ``WITHOUT_MASKS``, empty in a remark.
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
        report: Where problems go; rows that have any are left out.

    Returns:
        One record a recording: the frames of its cycle, with a mask each.

    Raises:
        FileNotFoundError: There is no sheet, or a folder, a recording or its masks are missing.
        ValueError: The sheet lacks a column or marks nothing, a cycle is no range of frames, two
            files fit one name, or the number of masks is not that of the cycle's frames.
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
    """All named rows below the headers, in the sheet's order; columns are found by their headers.

    Raises:
        ValueError: It is no Excel sheet or lacks a column.
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
    """Indices of the cycle's frames, from 0; None if the row does not give a range of frames."""
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
    """The files of a folder, by the key of their names."""

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
    """The file of that name, blanks, asterisks and letter case aside."""
    fitting = files.by_key.get(_key(stem), [])
    if len(fitting) == 1:
        return fitting[0]
    if fitting:
        report(ValueError(f"{where} fits both {fitting[0]} and {fitting[1]}: remove one"))
    else:
        wanted = files.folder / f"{stem}{files.suffix}"
        report(FileNotFoundError(f"no {wanted} for {where}, whatever the blanks and letter case"))
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
    """What a cell shows, in one form whichever way accents are stored."""
    return "" if cell is None else " ".join(unicodedata.normalize("NFC", str(cell)).split())


def _whole(cell: object) -> int | None:
    """The whole number in a cell, be it stored as a number or as text."""
    try:
        number = float(str(cell))
    except ValueError:
        return None
    return int(number) if number.is_integer() else None
