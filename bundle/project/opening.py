"""Decide whether a path is one video or a project of many, and open or create the project."""

from pathlib import Path
from typing import NamedTuple

from bundle.datasets.video_folder import MASK
from bundle.io.reading.decode import STILL_SUFFIXES, has_suffix
from bundle.io.reading.dicom_series import find_dicom_files, is_dicom_series
from bundle.io.reading.volumes import source_name
from bundle.io.structures import read_structures
from bundle.project.listing import FOLDER, find_videos
from bundle.project.store import HEAD, Project, create_project

CHOOSE = "say --project for a project of the videos, or --one-video"


class OpenedProject(NamedTuple):
    """A project and what its user should know.

    Attributes:
        project: The project.
        notes: Sentences to show once: what it is, whether it is new, what was added or went wrong.
    """

    project: Project
    notes: list[str]


def find_project(path: Path) -> Path | None:
    """The folder of the project that a path belongs to; None if there is none.

    Args:
        path: The project's folder itself, the folder that it lies in, or a list of videos beside it.
    """
    beside = path if path.is_dir() else path.parent
    for folder in (beside, beside / FOLDER):
        if (folder / HEAD).is_file() and (path.is_dir() or _is_list(path)):
            return folder
    return None


def holds_project(path: Path, choice: bool | None = None) -> tuple[bool, str]:
    """Whether a path is to be opened as a project, and why.

    A list of videos is a project, and so is a folder that has one already. Of other folders:

    - pictures, or DICOM files that are one frame each of one series, are one video, whatever lies in
      folders below;
    - a single DICOM file alone is one video;
    - video files, several recordings in DICOM, or folders that hold videos are a project.

    Args:
        path: What somebody wants to annotate.
        choice: What they say that it is: a project, or not; None to find out.

    Returns:
        Whether it is one, and a sentence to show; empty if there is nothing to say.

    Raises:
        ValueError: The folder holds both frames and videos, and nobody chose; or a file is damaged.
    """
    if not path.is_dir():
        return _is_list(path), ""
    if choice is not None:
        return choice, ""
    if find_project(path) is not None:
        return True, ""
    dicom = find_dicom_files(path)
    pictures = [
        file
        for file in path.iterdir()
        if has_suffix(file, STILL_SUFFIXES)
        and not file.name.startswith(".")
        and not source_name(file).endswith(MASK)
    ]
    what = f"a folder of {len(pictures)} pictures"
    frames: list[Path] = pictures
    if not pictures and is_dicom_series(dicom):
        what, frames = f"a DICOM series of {len(dicom)} files", dicom
    taken = set(frames)
    videos = [video for video in find_videos(path) if video not in taken]
    beside = [video for video in videos if video.is_file() and video.parent == path]
    if frames and beside:
        raise ValueError(
            f"{path} holds {what.removeprefix('a folder of ')} and videos such as "
            f"{beside[0].name}: {CHOOSE}"
        )
    if frames:
        below = ", whatever is in the folders below (--project: a project of these)"
        return False, f"{path} is one video, {what}{below if videos else ''}"
    if len(videos) == 1 and videos == dicom:
        return False, f"{path} is one video, {dicom[0].name} (--project: a project of it)"
    return bool(videos), ""


def open_project(
    source: Path, who: str | None = None, structures: Path | None = None
) -> OpenedProject:
    """Open the project of a folder or list, or make one.

    Videos that came to the folder or list that it was made from are taken in.

    Args:
        source: A folder of videos, a list of them, or the folder of a project.
        who: Who works on it; the user of this process by default.
        structures: A list of what ids stand for, see ``bundle.io.structures``; it takes the place of
            the one that the project has.

    Raises:
        FileNotFoundError: There is no such folder, list or video.
        ValueError: It is damaged or of a newer version, two videos would have one name, or the list
            of structures lacks one that masks show.
    """
    listed = None if structures is None else read_structures(structures)
    folder = find_project(source)
    if folder is None:
        project = Project(create_project(source, structures=listed), who)
        return OpenedProject(
            project, [f"{source} holds {_count(project)}: new project in {project.folder}"]
        )
    project = Project(folder, who)
    notes = [f"project of {_count(project)} in {folder}"]
    if listed is not None and listed != project.structures:
        project.set_structures(listed)
    if project.source is not None and project.source.exists():
        try:
            if new := project.add_videos(project.source):
                notes.append(f"new in the project: {', '.join(new)}")
        except (ValueError, OSError) as error:  # what is in it can be worked on all the same
            notes.append(f"no video was added to the project: {error}")
    return OpenedProject(project, notes)


def _count(project: Project) -> str:
    count = len(project.videos)
    return f"{count} video{'s' if count > 1 else ''}"


def _is_list(path: Path) -> bool:
    return path.suffix.lower() == ".csv"
