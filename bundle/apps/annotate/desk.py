"""What the process has open: one annotation, and uploads in a folder that goes when it ends."""

import tempfile
from pathlib import Path

from bundle.apps.annotate.pictures import FramePictures
from bundle.apps.annotate.session_file import is_session, open_session
from bundle.apps.annotate.work import Work
from bundle.io.reading.decode import META_SUFFIXES, STILL_SUFFIXES, has_suffix
from bundle.io.reading.frame_folder import MASK_WORD, split_folder
from bundle.io.reading.masks import read_annotations
from bundle.io.reading.video import open_video
from bundle.segmenter import VideoSegmenter
from bundle.utils.paths import expand_user

RAW_SUFFIXES = (".raw", ".zraw", ".img", ".bin")
MASK_SUFFIXES = (".seg.nrrd", ".json", ".xml")


class Desk:
    """Where the page and its requests find what is open; it outlives every tab.

    Args:
        model: What carries masks.

    Attributes:
        work: What is annotated; None before a video is opened.
        pictures: Its frames.
        number: Rises with each video that is opened.
    """

    def __init__(self, model: VideoSegmenter) -> None:
        self.model = model
        self.work: Work | None = None
        self.pictures: FramePictures | None = None
        self.number = 0
        self._folder = tempfile.TemporaryDirectory(prefix="tcmn-annotate-")

    def open(self, path: str | Path, masks: str | Path | None = None) -> Work:
        """Open a video, or a session that was saved; what was open before is closed.

        Args:
            path: Anything that ``bundle.io.reading.video.open_video`` takes, or a session.
            masks: Masks to begin with; anything that ``read_annotations`` takes.

        Raises:
            FileNotFoundError: There is no such file, or not the session's video.
            ValueError: It is no video or session, or is damaged; what was open stays.
        """
        path = expand_user(path)
        if is_session(path):
            current = None if self.work is None else self.work.video
            work = open_session(path, self.model, current)
        else:
            work = Work(open_video(path), self.model)
        if masks is not None:
            work.give(read_annotations(masks, work.video))
        pictures = FramePictures(work.video)
        pictures.jpeg(work.place)  # what cannot be read is better known now
        if self.work is not None:
            self.work.close()
        self.work, self.pictures = work, pictures
        self.number += 1
        return work

    def new_folder(self) -> Path:
        """An empty folder for uploads and downloads, removed when the process ends."""
        return Path(tempfile.mkdtemp(dir=self._folder.name))

    def holds(self, path: Path) -> bool:
        """Whether a path is temporary."""
        return path.resolve().is_relative_to(Path(self._folder.name).resolve())

    def close(self) -> None:
        """End what is under way and remove temporary files."""
        if self.work is not None:
            self.work.close()
        self._folder.cleanup()


def pick_upload(folder: Path) -> tuple[Path, Path | None]:
    """What to open of the files that were uploaded together, and the masks among them.

    Pictures beside a video are its masks, and so are files with a word such as ``mask`` in their
    names; pictures alone are frames, but for masks that can be told from them. Several masks move to
    a folder of their own.

    Returns:
        The video, or of a MetaImage its header, or the folder, as a folder of frames; and its mask or
        folder of masks, None if there is none.

    Raises:
        ValueError: There are several videos, or masks alone.
    """
    files = sorted(path for path in folder.iterdir() if not path.name.startswith("."))
    if any(has_suffix(file, META_SUFFIXES) for file in files):  # others may be its pixels
        files = [file for file in files if not has_suffix(file, RAW_SUFFIXES)]
    if len(files) == 1:
        return files[0], None
    stills = [file for file in files if has_suffix(file, STILL_SUFFIXES)]
    if len(stills) == len(files):
        return folder, folder if split_folder(folder)[1] else None
    masks = [file for file in files if file in stills or _is_called_mask(file)]
    videos = [file for file in files if file not in masks]
    if len(videos) != 1:
        names = ", ".join(file.name for file in videos or files)
        raise ValueError(f"expected one video, found {len(videos)} in {names}: choose one")
    if len(masks) == 1:
        return videos[0], masks[0]
    apart = folder / "masks"
    apart.mkdir()
    for file in masks:
        file.rename(apart / file.name)
    return videos[0], apart


def _is_called_mask(file: Path) -> bool:
    name = file.name.lower()
    return name.endswith(MASK_SUFFIXES) or MASK_WORD.search(name.split(".")[0]) is not None
