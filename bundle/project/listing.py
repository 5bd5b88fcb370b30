"""Find the videos of a project in a folder or a CSV list, with their names and patients."""

import csv
import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from bundle.datasets.video_folder import MASK, VIDEO_SUFFIXES, VOLUME_SUFFIXES
from bundle.io.reading.decode import STILL_SUFFIXES, has_suffix, natural_key
from bundle.io.reading.dicom_series import find_dicom_files, is_dicom_series
from bundle.io.reading.patient import read_patient_id
from bundle.io.reading.video import is_dicom
from bundle.io.reading.volumes import source_name
from bundle.utils.paths import fit_name

EXPORTS_ADD = 40
"""Bytes that exports put behind a video's name at most, such as ``_00000_0000.nii.gz``."""
FOLDER = "tcmn-project"
"""Of a project, beside its videos."""
SAMPLE_BYTES = 2**16
OURS = ("project.json", "manifest.json")
"""Tell projects, results and exported data sets, whose pictures are not videos to annotate."""


@dataclass(frozen=True)
class ListedVideo:
    """One video, unopened.

    Attributes:
        name: Unique in the project: its path below the folder, without suffix.
        path: Anything that ``bundle.io.reading.video.open_video`` takes.
        patient: Whose it is. Another name for each patient, never the id that the file holds.
    """

    name: str
    path: Path
    patient: str


def list_videos(source: str | Path, secret: str) -> list[ListedVideo]:
    """Find the videos of a folder and the folders below it, or read them from a list.

    Masks (``NAME_mask``), hidden files, projects, results and exported data sets are passed over. A
    folder of pictures is one video, and so is one of DICOM files that are one frame each of one
    series. The patient is who a DICOM file names, under a name made of that and ``secret``; else the
    uppermost folder; else the video itself.

    Args:
        source: The folder; or a CSV list with the column ``video``, and ``patient`` if it is known,
            whose paths are relative to the list.
        secret: Without it nobody can guess a patient's id from the name.

    Raises:
        FileNotFoundError: There is no such folder or list, or no video in it.
        ValueError: The list has no column ``video``, or two videos would have one name.
    """
    source = Path(source)
    if source.is_dir():
        found = [
            _listed(path, path.relative_to(source).parent, secret) for path in find_videos(source)
        ]
    elif source.is_file():
        found = _read_list(source, secret)
    else:
        raise FileNotFoundError(f"no such folder or list of videos: {source}: check the path")
    if not found:
        raise FileNotFoundError(
            f"{source} holds no video: expected video files, volumes, DICOM, or folders of frames"
        )
    check_names(found)
    return found


def find_videos(folder: Path) -> list[Path]:
    """The videos of a folder and the folders below it, in natural order; see ``list_videos``."""
    return sorted(_walk(folder), key=lambda path: natural_key(str(path.relative_to(folder))))


def check_names(videos: Iterable[ListedVideo]) -> None:
    """Refuse two videos that would share a folder of the project.

    Raises:
        ValueError: Two have one name, whatever its case.
    """
    taken: dict[str, Path] = {}
    for video in videos:
        key = folder_name(video.name).casefold()  # many file systems know no case
        if key in taken:
            raise ValueError(
                f"{taken[key]} and {video.path} would both be called {video.name} in the project: "
                "rename one"
            )
        taken[key] = video.path


def folder_name(name: str) -> str:
    """The folder of a video in a project; a long name is cut, since exports add to it.

    Example:
        >>> folder_name("patient 7/4CH")
        'patient 7__4CH'
    """
    return fit_name(name.replace("/", "__"), EXPORTS_ADD)


def fingerprint(path: Path) -> str:
    """What tells a video from another one, read in an instant: sizes, first and last bytes.

    A copy has the same, wherever it lies and whenever it was made.

    Raises:
        FileNotFoundError: It is not there.
    """
    digest = hashlib.sha256()
    files = [path]
    if path.is_dir():
        files = sorted(file for file in path.iterdir() if file.is_file())
        for file in files:
            digest.update(f"{file.name} {file.stat().st_size}\n".encode())
        files = [files[0], files[-1]] if files else []
    for each in files:
        size = each.stat().st_size
        digest.update(str(size).encode())
        with each.open("rb") as opened:
            digest.update(opened.read(SAMPLE_BYTES))
            opened.seek(max(0, size - SAMPLE_BYTES))
            digest.update(opened.read())
    return digest.hexdigest()[:32]


def _walk(folder: Path) -> Iterable[Path]:
    for path in folder.iterdir():
        name = source_name(path)
        if path.name.startswith(".") or path.name == FOLDER or name.endswith(MASK):
            continue
        if path.is_dir():
            if any((path / file).is_file() for file in OURS):
                continue
            if holds_frames(path) or is_dicom_series(find_dicom_files(path)):
                yield path
            else:
                yield from _walk(path)
        elif has_suffix(path, VIDEO_SUFFIXES + VOLUME_SUFFIXES) or is_dicom(path):
            yield path


def holds_frames(folder: Path) -> bool:
    """Whether pictures lie right in a folder."""
    return any(
        has_suffix(file, STILL_SUFFIXES) and not file.name.startswith(".")
        for file in folder.iterdir()
    )


def _listed(path: Path, below: Path, secret: str, patient: str = "") -> ListedVideo:
    name = "/".join([*below.parts, source_name(path)])
    return ListedVideo(name, path, patient or _patient(path, below, secret))


def _patient(path: Path, below: Path, secret: str) -> str:
    files = find_dicom_files(path)[:1] if path.is_dir() else [path]
    patient = read_patient_id(files[0]) if files else None
    if patient is not None:
        return "patient-" + hashlib.sha256(f"{secret} {patient}".encode()).hexdigest()[:10]
    return below.parts[0] if below.parts else source_name(path)


def _read_list(path: Path, secret: str) -> list[ListedVideo]:
    found = []
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:  # Excel begins with a mark
            reader = csv.DictReader(file)
            if "video" not in (reader.fieldnames or ()):
                raise ValueError(
                    f"{path} has the columns {', '.join(reader.fieldnames or ['of an empty file'])}: "
                    "expected video in its first line, and patient if it is known"
                )
            for row in reader:
                cell = (row["video"] or "").strip()
                if not cell:
                    raise ValueError(f"{path}, line {reader.line_num}: the video is missing")
                patient = (row.get("patient") or "").strip()
                found.append(_listed(path.parent / cell, Path(), secret, patient))
    except (UnicodeDecodeError, csv.Error) as error:
        raise ValueError(
            f"{path} is not a table in UTF-8 ({error}): save it as CSV UTF-8"
        ) from error
    return found
