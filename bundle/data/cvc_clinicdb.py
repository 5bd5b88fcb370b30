"""CVC-ClinicDB: 29 colonoscopy sequences with polyps, in the layout of the Kaggle copy."""

import csv
from pathlib import Path

from bundle.data.records import Video

COLUMNS = {"frame_id", "sequence_id", "png_image_path", "png_mask_path"}


def cvc_clinicdb(root: str | Path, split: str | None = None) -> list[Video]:
    """Read ``metadata.csv`` and the PNG frames and masks that it names.

    Args:
        root: The folder with ``metadata.csv`` and ``PNG``.
        split: Only the sequences whose ``split`` column says so, if the table has one.

    Returns:
        One record a sequence. Sequences 4 and 27 show several polyps, whose masks are one object.

    Raises:
        FileNotFoundError: The table or a file that it names is missing.
        ValueError: The table lacks a column, or no sequence is in the split.
    """
    root = Path(root)
    table = root / "metadata.csv"
    if not table.is_file():
        raise FileNotFoundError(
            f"no {table}: expected the root of CVC-ClinicDB with PNG and metadata.csv"
        )
    with table.open(newline="") as file:
        reader = csv.DictReader(file)
        if lacking := COLUMNS - set(reader.fieldnames or ()):
            raise ValueError(f"{table} lacks the column {min(lacking)}")
        rows = [row for row in reader if split is None or row.get("split") == split]
    if not rows:
        raise ValueError(f"{table} lists no frame of split {split!r}")
    sequences: dict[int, list[dict[str, str]]] = {}
    for row in sorted(rows, key=lambda row: int(row["frame_id"])):
        sequences.setdefault(int(row["sequence_id"]), []).append(row)
    videos = []
    for number, members in sorted(sequences.items()):
        frames = tuple(root / row["png_image_path"] for row in members)
        masks = {i: root / row["png_mask_path"] for i, row in enumerate(members)}
        for path in (*frames, *masks.values()):
            if not path.is_file():
                raise FileNotFoundError(f"no {path}, which {table} names for sequence {number}")
        videos.append(
            Video(f"sequence{number:02d}", frames, masks, {1: "polyp"}, str(number), binary=True)
        )
    return videos
