"""CAMUS: apical echocardiograms of 500 patients, both releases.

NIfTI release: ``database_nifti/patient0001/patient0001_2CH_ED.nii.gz`` and so on, half sequences with
truth on every frame, ``database_split/subgroup_<split>.txt``. First release:
``training/patient0001/patient0001_2CH_ED.mhd``, sequences with truth on the ED and ES frames only.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from bundle.datasets.records import Report, Video, stop
from bundle.datasets.roots import check_root
from bundle.io.reading.frame_refs import FrameOf, FrameRef
from bundle.io.reading.headers import image_spacing
from bundle.io.reading.video import open_video

CLASS_NAMES = {1: "LV cavity", 2: "LV wall", 3: "left atrium"}


@dataclass(frozen=True)
class _Release:
    """Names that differ between the two releases."""

    folder: str
    suffix: str
    sequence: str


NIFTI = _Release("database_nifti", ".nii.gz", "half_sequence")
FIRST = _Release("training", ".mhd", "sequence")


def camus(
    root: str | Path,
    split: str | None = None,
    labels: Iterable[int] = (1, 2, 3),
    views: Sequence[str] = ("2CH", "4CH"),
    start: str = "ED",
    sequences: bool = False,
    report: Report = stop,
) -> list[Video]:
    """Read one video for each patient and view.

    Args:
        root: The folder that holds ``database_nifti``, or ``training`` in the first release.
        split: ``training``, ``validation`` or ``testing`` by the lists in ``database_split``, which
            only the NIfTI release has; all patients by default.
        labels: Ids of the classes to use as objects: 1 LV cavity, 2 LV wall, 3 left atrium.
        views: Views to read. A view that a patient lacks is skipped, but each must have one.
        start: ``ED`` for the order ED -> ES, ``ES`` for ES -> ED, whichever comes first in the file.
        sequences: Whether to include the frames between ED and ES. In the first release these have no
            mask.
        report: Called with each problem in the data; the video concerned is left out.

    Raises:
        FileNotFoundError: This is not the root of CAMUS; by default also a missing file.
        ValueError: A label or ``start`` is unknown; by default also a file that does not fit.
    """
    chosen = tuple(labels)
    unknown = [label for label in chosen if label not in CLASS_NAMES]
    if unknown or start not in ("ED", "ES"):
        raise ValueError(
            f"expected labels of {sorted(CLASS_NAMES)} and ED or ES, got {chosen}, {start}"
        )
    root = check_root(root, [NIFTI.folder, f"{FIRST.folder}/patient*"], "CAMUS")
    release = NIFTI if (root / NIFTI.folder).is_dir() else FIRST
    names = {label: CLASS_NAMES[label] for label in chosen}
    videos = []
    for patient in _patients(root, release, split):
        stem = root / release.folder / patient / patient
        found = [view for view in views if _has_view(stem, view, release)]
        if not found:
            missing = f"{stem}_{views[0]}_ED{release.suffix}"
            report(FileNotFoundError(f"no {missing}, the first of {patient}'s frames"))
        for view in found:
            try:
                make = _sequence if sequences else _pair
                videos.append(make(Path(f"{stem}_{view}"), release, start, names, patient))
            except (OSError, ValueError) as problem:
                report(problem)
    return videos


def _patients(root: Path, release: _Release, split: str | None) -> list[str]:
    folder = root / release.folder
    if split is None:
        patients = sorted(path.name for path in folder.glob("patient*") if path.is_dir())
        if not patients:
            raise FileNotFoundError(f"no folder patient* in {folder}: is the copy complete?")
        return patients
    table = root / "database_split" / f"subgroup_{split}.txt"
    if not table.is_file():
        raise FileNotFoundError(
            f"no {table}: CAMUS's own splits come with the NIfTI release, in database_split; "
            "bundle.datasets.splits makes one for the other"
        )
    return table.read_text().split()


def _has_view(stem: Path, view: str, release: _Release) -> bool:
    return any(Path(f"{stem}_{view}_{moment}{release.suffix}").is_file() for moment in ("ED", "ES"))


def _pair(stem: Path, release: _Release, start: str, labels: dict[int, str], patient: str) -> Video:
    order = ("ED", "ES") if start == "ED" else ("ES", "ED")
    frames = tuple(Path(f"{stem}_{moment}{release.suffix}") for moment in order)
    masks = {i: Path(f"{stem}_{moment}_gt{release.suffix}") for i, moment in enumerate(order)}
    _need((*frames, *masks.values()), "ED and ES come with a _gt each")
    return Video(
        id=f"{stem.name}_{start}",
        frames=frames,
        masks=masks,
        labels=labels,
        patient=patient,
        spacing_mm=image_spacing(frames[0]),
        info=_read_info(stem)[1],
    )


def _sequence(
    stem: Path, release: _Release, start: str, labels: dict[int, str], patient: str
) -> Video:
    path = Path(f"{stem}_{release.sequence}{release.suffix}")
    _need([path], "expected the sequence of frames beside ED and ES")
    moments, info = _read_info(stem)
    config = _info_path(stem)
    if not {"ED", "ES"} <= moments.keys():
        raise ValueError(f"no ED and ES in {config}: expected the numbers of their frames")
    source = open_video(path)
    first, last = (moments[key] for key in (("ED", "ES") if start == "ED" else ("ES", "ED")))
    if not {first, last} <= set(range(source.frame_count)):
        raise ValueError(
            f"{config} says ED is frame {moments['ED'] + 1} and ES {moments['ES'] + 1} but {path} "
            f"has {source.frame_count} frames"
        )
    step = 1 if first <= last else -1
    chosen = range(first, last + step, step)
    masks: dict[int, FrameRef] = {}
    if release is NIFTI:
        truth = Path(f"{stem}_{release.sequence}_gt{release.suffix}")
        _need([truth], "the half sequence comes with a _gt")
        if (count := open_video(truth).frame_count) != source.frame_count:
            raise ValueError(f"{truth} has {count} masks but {path} {source.frame_count} frames")
        masks = {i: FrameOf(truth, frame) for i, frame in enumerate(chosen)}
    else:
        ends = {moments[key]: Path(f"{stem}_{key}_gt{release.suffix}") for key in ("ED", "ES")}
        _need(list(ends.values()), "ED and ES come with a _gt each")
        masks = {i: ends[frame] for i, frame in enumerate(chosen) if frame in ends}
    return Video(
        id=f"{stem.name}_{start}",
        frames=tuple(FrameOf(path, frame) for frame in chosen),
        masks=masks,
        labels=labels,
        patient=patient,
        fps=info.get("frames_per_second"),
        spacing_mm=source.spacing_mm,
        info=info,
    )


def _need(paths: Sequence[Path], why: str) -> None:
    for path in paths:
        if not path.is_file():
            raise FileNotFoundError(f"no {path}: {why}")


def _info_path(stem: Path) -> Path:
    return stem.parent / f"Info_{stem.name.split('_')[-1]}.cfg"


def _read_info(stem: Path) -> tuple[dict[str, int], dict[str, float]]:
    """Frame indices (from 0) of ED and ES, and the other numbers; empty if there is no file."""
    path = _info_path(stem)
    if not path.is_file():
        return {}, {}
    values = {key.strip(): value.strip() for key, value in _lines(path)}
    try:
        moments: dict[str, int] = {
            key: int(values[key]) - 1 for key in ("ED", "ES") if key in values
        }
        named = {
            # The first release calls it LVef.
            "ejection_fraction_percent": values.get("EF", values.get("LVef")),
            "frames_per_second": values.get("FrameRate"),
        }
        return moments, {key: float(value) for key, value in named.items() if value is not None}
    except ValueError as error:
        raise ValueError(f"{path}: expected numbers, {error}") from error


def _lines(path: Path) -> Iterator[tuple[str, str]]:
    for line in path.read_text().splitlines():
        if line.strip():
            key, _, value = line.partition(":")
            yield key, value
