"""CAMUS: apical echocardiograms, NIfTI release, end-diastolic and end-systolic frames."""

from collections.abc import Iterable, Sequence
from pathlib import Path

from bundle.data.records import Video

CLASS_NAMES = {1: "LV cavity", 2: "LV wall", 3: "left atrium"}


def camus(
    root: str | Path,
    split: str,
    labels: Iterable[int],
    views: Sequence[str] = ("2CH", "4CH"),
    start: str = "ED",
) -> list[Video]:
    """Read ``database_nifti`` after ``database_split/subgroup_<split>.txt``, two frames a video.

    Args:
        root: The folder that holds both.
        split: ``training``, ``validation`` or ``testing``.
        labels: Ids of the classes that are objects: 1 LV cavity, 2 LV wall, 3 left atrium.
        views: Those that a patient lacks are passed over, but a patient must have one.
        start: ``ED`` for ED -> ES, ``ES`` for ES -> ED.

    Raises:
        FileNotFoundError: The split file, a patient or one half of a pair is missing.
        ValueError: A label or ``start`` is unknown.
    """
    root = Path(root)
    chosen = tuple(labels)
    unknown = [label for label in chosen if label not in CLASS_NAMES]
    if unknown or start not in ("ED", "ES"):
        raise ValueError(
            f"expected labels of {sorted(CLASS_NAMES)} and ED or ES, got {chosen}, {start}"
        )
    table = root / "database_split" / f"subgroup_{split}.txt"
    if not table.is_file():
        raise FileNotFoundError(f"no {table}: expected the root of CAMUS with database_nifti")
    order = ("ED", "ES") if start == "ED" else ("ES", "ED")
    videos = []
    for patient in table.read_text().split():
        folder = root / "database_nifti" / patient
        found = [
            view
            for view in views
            if any((folder / f"{patient}_{view}_{moment}.nii.gz").is_file() for moment in order)
        ]
        if not found:
            raise FileNotFoundError(
                f"no {folder}/{patient}_{views[0]}_ED.nii.gz, which {table} lists"
            )
        for view in found:
            stems = [folder / f"{patient}_{view}_{moment}" for moment in order]
            frames = tuple(Path(f"{stem}.nii.gz") for stem in stems)
            masks = {i: Path(f"{stem}_gt.nii.gz") for i, stem in enumerate(stems)}
            for path in (*frames, *masks.values()):
                if not path.is_file():
                    raise FileNotFoundError(f"no {path}: ED and ES come with a _gt each")
            names = {label: CLASS_NAMES[label] for label in chosen}
            videos.append(Video(f"{patient}_{view}_{start}", frames, masks, names, patient))
    return videos
