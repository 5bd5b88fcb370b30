"""CVC-ClinicDB: 29 colonoscopy sequences with polyps, in the owner's layout or the Kaggle copy's.

The owner's layout is ``Original/1.tif`` to ``612.tif``, with the masks of the same names in
``Ground Truth``. The Kaggle copy has both folders below ``PNG`` and below ``TIF``, and a
``metadata.csv`` that names each frame's sequence.
"""

import csv
import logging
from collections.abc import Iterable, Mapping
from itertools import pairwise
from pathlib import Path

from bundle.datasets.records import Report, Video, stop
from bundle.datasets.roots import check_root
from bundle.io.reading.decode import has_suffix

logger = logging.getLogger(__name__)

# The owner's list: sequence 1 is frames 1 to 25, sequence 2 frames 26 to 50, and so on.
LAST_FRAMES = (
    25, 50, 67, 78, 103, 126, 151, 177, 199, 205, 227, 252, 277, 297, 317, 342, 363, 383, 408, 428,
    447, 466, 478, 503, 528, 546, 571, 591, 612,
)  # fmt: skip
TIF_SUFFIXES = (".tif", ".tiff")

# ``files``: folders of the Kaggle copy in order of preference, and suffixes.
KINDS: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "auto": (("PNG", "TIF"), (".png", *TIF_SUFFIXES)),
    "png": (("PNG",), (".png",)),
    "tif": (("TIF",), TIF_SUFFIXES),
}

Numbers = Mapping[int, Iterable[int]]
"""Sequence -> numbers of its frames in time order."""
Pairs = dict[int, list[tuple[Path, Path]]]
"""Sequence -> paths of its frames and masks in time order; the files need not exist."""


def cvc_clinicdb(
    root: str | Path, split: str | None = None, files: str = "auto", report: Report = stop
) -> list[Video]:
    """Read the sequences that are present, one video each.

    A copy may have only some of the sequences: one without any file is skipped.

    Args:
        root: The folder with ``Original`` and ``Ground Truth``, or with ``PNG``, ``TIF`` or both.
        split: Read only the sequences with this value in the column ``split`` of ``metadata.csv``.
        files: ``png`` or ``tif``; ``auto`` prefers PNG where there are both.
        report: Called with each missing frame or mask of a sequence, and each number out of range.

    Returns:
        One record for each sequence. Sequences 4 and 27 show several polyps, which form one object.

    Raises:
        FileNotFoundError: This is not the root of CVC-ClinicDB, or it has no frame; by default also a
            missing frame or mask.
        ValueError: ``files`` is unknown; the table lacks a column, or no sequence is in the split; by
            default also a file whose number is not one of the data set.
    """
    if files not in KINDS:
        raise ValueError(f"files is {files!r}: expected {', '.join(KINDS)}")
    folders, _ = KINDS[files]
    markers = ["metadata.csv", *(f"{folder}/Original" for folder in folders), "Original"]
    root = check_root(root, markers, "CVC-ClinicDB")
    table = root / "metadata.csv"
    if table.is_file():
        sequences, listed = _from_table(table, split, files, report), f"{table} names"
    elif split is not None:
        raise ValueError(_without_split(f"no {table}", split))
    else:
        numbers = {
            sequence: range(before + 1, last + 1)
            for sequence, (before, last) in enumerate(pairwise((0, *LAST_FRAMES)), start=1)
        }
        sequences, listed = _by_number(root, files, numbers, report), "the owner's list has"
    there = {
        number: pairs
        for number, pairs in sorted(sequences.items())
        if any(path.is_file() for pair in pairs for path in pair)
    }
    if not there:
        frame, mask = next(iter(sequences.values()))[0]
        raise FileNotFoundError(
            f"no frame of CVC-ClinicDB in {root}: looked for {frame}, {mask} and so on"
        )
    if len(there) < len(sequences):
        logger.info("%s holds %d of %d sequences", root, len(there), len(sequences))
    videos = (_record(number, pairs, listed, report) for number, pairs in there.items())
    return [video for video in videos if video is not None]


def _from_table(table: Path, split: str | None, files: str, report: Report) -> Pairs:
    root = table.parent
    kind = files
    if files == "auto":
        kind = "tif" if (root / "TIF").is_dir() and not (root / "PNG").is_dir() else "png"
    columns = (f"{kind}_image_path", f"{kind}_mask_path")
    with table.open(newline="") as file:
        reader = csv.DictReader(file)
        present = set(reader.fieldnames or ())
        rows = list(reader)
    # Some copies of the table name the PNG files only.
    by_number = kind == "tif" and not present & set(columns)
    required = {"frame_id", "sequence_id", *(() if by_number else columns)}
    if lacking := required - present:
        raise ValueError(f"{table} lacks the column {min(lacking)}")
    if split is not None:
        if "split" not in present:
            raise ValueError(_without_split(f"{table} lacks the column split", split))
        splits = sorted({row["split"] for row in rows})
        rows = [row for row in rows if row["split"] == split]
        if not rows:
            raise ValueError(
                f"{table} lists no frame of split {split!r}; there are {', '.join(splits)}"
            )
    if not rows:
        raise ValueError(f"{table} lists no frame")
    sequences: dict[int, list[dict[str, str]]] = {}
    for row in sorted(rows, key=lambda row: int(row["frame_id"])):
        sequences.setdefault(int(row["sequence_id"]), []).append(row)
    if by_number:
        numbers = {
            number: [int(row["frame_id"]) for row in members]
            for number, members in sequences.items()
        }
        return _by_number(root, kind, numbers, report)
    image, mask = columns
    return {
        number: [(root / row[image], root / row[mask]) for row in members]
        for number, members in sequences.items()
    }


def _without_split(problem: str, split: str) -> str:
    return (
        f"{problem}, which lists the split {split!r}: read all sequences (split=None) "
        "and let bundle.datasets.splits divide them"
    )


def _by_number(root: Path, files: str, numbers: Numbers, report: Report) -> Pairs:
    """Sequences whose frames are given by their numbers only."""
    folders, suffixes = KINDS[files]
    parents = [*(root / name for name in folders), root]
    parent = next((path for path in parents if (path / "Original").is_dir()), parents[0])
    originals = parent / "Original"
    if not originals.is_dir():
        raise FileNotFoundError(f"no folder {originals}: expected CVC-ClinicDB's frames in it")
    truths = _ground_truth(parent)
    images, masks = (_numbered(folder, suffixes, report) for folder in (originals, truths))
    suffix = suffixes[0]
    if images:
        suffix = next(iter(images.values())).suffix
    return {
        sequence: [
            (images.get(i, originals / f"{i}{suffix}"), masks.get(i, truths / f"{i}{suffix}"))
            for i in members
        ]
        for sequence, members in numbers.items()
    }


def _ground_truth(parent: Path) -> Path:
    """Find the folder of the masks, in any letter case and with any separator."""
    for path in sorted(parent.glob("[Gg]round*[Tt]ruth")):
        if path.is_dir():
            return path
    raise FileNotFoundError(f"no folder {parent / 'Ground Truth'}: expected the masks in it")


def _numbered(folder: Path, suffixes: tuple[str, ...], report: Report) -> dict[int, Path]:
    """Number -> file. If a number has files of two kinds, the first kind in ``suffixes`` counts."""
    found: dict[int, Path] = {}
    for suffix in suffixes:
        for path in sorted(folder.iterdir()):
            if not has_suffix(path, (suffix,)) or not path.stem.isdecimal():
                continue
            number = int(path.stem)
            if 1 <= number <= LAST_FRAMES[-1]:
                found.setdefault(number, path)
            else:
                # Numbered from 0, say: then each sequence would be off by one frame.
                report(ValueError(f"{path} is none of CVC-ClinicDB's 1 to {LAST_FRAMES[-1]}"))
    return found


def _record(
    number: int, pairs: list[tuple[Path, Path]], listed: str, report: Report
) -> Video | None:
    frames: list[Path] = []
    masks: dict[int, Path] = {}
    for pair in pairs:
        present = [path.is_file() for path in pair]
        for path, exists in zip(pair, present, strict=True):
            if not exists:
                report(FileNotFoundError(f"no {path}, which {listed} for sequence {number}"))
        if all(present):
            masks[len(frames)] = pair[1]
        if present[0]:
            frames.append(pair[0])
    if not masks:
        return None
    return Video(
        f"sequence{number:02d}", tuple(frames), masks, {1: "polyp"}, str(number), binary=True
    )
