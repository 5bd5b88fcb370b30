"""The workspace of the process: the open annotation, its autosave, and temporary uploads."""

import logging
import tempfile
from datetime import datetime
from pathlib import Path

from bundle.apps.annotate.annotation import Annotation
from bundle.apps.annotate.autosave import Autosave, Slot, StateFolder, begin_autosave
from bundle.apps.annotate.pictures import FramePictures
from bundle.apps.annotate.session_file import is_session, open_session, resume_session
from bundle.io.reading.decode import META_SUFFIXES, STILL_SUFFIXES, has_suffix, is_tiff_stack
from bundle.io.reading.frame_folder import MASK_WORD, split_folder
from bundle.io.reading.masks import read_annotations
from bundle.io.reading.video import open_video
from bundle.segmenter import VideoSegmenter
from bundle.utils.paths import expand_user

RAW_SUFFIXES = (".raw", ".zraw", ".img", ".bin", ".raw.gz", ".raw.bz2")
HEADER_SUFFIXES = (*META_SUFFIXES, ".nhdr")
MASK_SUFFIXES = (".seg.nrrd", ".seg.nhdr", ".json", ".xml")

logger = logging.getLogger(__name__)


class Workspace:
    """Holds the open annotation for the page and its requests, independent of browser tabs.

    Args:
        model: Propagates masks.
        state: Folder for annotations that are not saved yet; None to keep them in memory only.

    Attributes:
        annotation: The open annotation; None before a video is opened.
        pictures: Frames of its video as JPEG.
        number: Number that rises with each video that is opened.
        autosave: Saves ``annotation`` to disk.
        resumed: When the masks that it resumed from were saved; None if it did not resume.
        left: Other masks of the video that were not saved; None if there are none.
    """

    def __init__(self, model: VideoSegmenter, state: Path | None = None) -> None:
        self.model = model
        self.annotation: Annotation | None = None
        self.pictures: FramePictures | None = None
        self.number = 0
        self.autosave: Autosave | None = None
        self.resumed: datetime | None = None
        self.left: Slot | None = None
        self._state = None if state is None else StateFolder(state)
        self._folder = tempfile.TemporaryDirectory(prefix="tcmn-annotate-")

    def open(self, path: str | Path, masks: str | Path | None = None) -> Annotation:
        """Open a video, or a session that was saved; what was open before is closed.

        A video goes on with the masks of a program that ended before they were saved, if there are
        any; beside a session or masks that are given they are only offered.

        Args:
            path: Anything that ``bundle.io.reading.video.open_video`` takes, or a session.
            masks: Masks to begin with; anything that ``read_annotations`` takes.

        Raises:
            FileNotFoundError: There is no such file, or not the session's video.
            ValueError: It is neither a video nor a session, or is damaged; what was open stays.
        """
        path = expand_user(path)
        session = is_session(path)
        if session:
            current = None if self.annotation is None else self.annotation.video
            annotation = open_session(path, self.model, current)
        else:
            annotation = Annotation(open_video(path), self.model)
        if masks is not None:
            annotation.give(read_annotations(masks, annotation.video))
        pictures = FramePictures(annotation.video)
        pictures.jpeg(annotation.place)  # a frame that cannot be read should fail here
        self._put_away()
        left = None if self._state is None else self._state.find_left(annotation.video)
        resumed = (
            None if left is None or session or masks is not None else self._resume(left, annotation)
        )
        if resumed is None:
            self._take(annotation, None, left)
        else:
            self._take(resumed, left, None)
        self.pictures = pictures
        self.number += 1
        assert self.annotation is not None
        return self.annotation

    def start_anew(self) -> None:
        """Begin again without masks; those that are open are kept and offered."""
        if self.annotation is not None:
            self._swap(Annotation(self.annotation.video, self.model), None)

    def go_on(self) -> None:
        """Open the masks that are left, and keep those that are open for later.

        Raises:
            ValueError: There are none, or they cannot be read.
        """
        if self.annotation is None or self.left is None:
            raise ValueError("there are no other masks of this video that were not saved")
        annotation = resume_session(self.left.path, self.model, self.annotation.video)
        self._swap(annotation, self.left)

    def forget_left(self) -> None:
        """Delete the masks that are left."""
        if self.left is not None:
            self.left.release(keep=False)
            self.left = None

    def _resume(self, left: Slot, annotation: Annotation) -> Annotation | None:
        try:
            return resume_session(left.path, self.model, annotation.video)
        except ValueError as error:  # of a newer program, say: it stays where it is
            logger.warning("masks that were not saved cannot be read: %s", error)
            return None

    def _swap(self, annotation: Annotation, slot: Slot | None) -> None:
        """Put another annotation of the same video in place of what is open."""
        assert self.annotation is not None
        self.annotation.close()
        closed = None if self.autosave is None else self.autosave.close()
        left = self.left if slot is None and closed is None else closed
        if self.left is not None and self.left is not slot and self.left is not left:
            self.left.release(keep=True)
        self._take(annotation, slot, left)
        self.number += 1

    def _take(self, annotation: Annotation, slot: Slot | None, left: Slot | None) -> None:
        """Keep an annotation on disk from now on, in a slot that it came from or in a new one."""
        self.resumed = None if slot is None else slot.time
        self.autosave = None
        if self._state is not None:
            new = self._state.new_slot
            self.autosave = begin_autosave(annotation, lambda: slot or new(annotation.video))
        self.annotation, self.left = annotation, left

    def _put_away(self) -> None:
        """End what is under way; what was not saved is kept on disk."""
        if self.annotation is not None:
            self.annotation.close()
        slot = None if self.autosave is None else self.autosave.close()
        for each in (slot, self.left):
            if each is not None:
                each.release(keep=True)
        self.autosave = self.left = None

    def new_folder(self) -> Path:
        """An empty folder for uploads and downloads, removed when the process ends."""
        return Path(tempfile.mkdtemp(dir=self._folder.name))

    def holds(self, path: Path) -> bool:
        """Whether a path is temporary."""
        return path.resolve().is_relative_to(Path(self._folder.name).resolve())

    def close(self) -> None:
        """End what is under way and remove temporary files."""
        self._put_away()
        self._folder.cleanup()


def pick_upload(folder: Path) -> tuple[Path, Path | None]:
    """What to open of the files that were uploaded together, and the masks among them.

    Single pictures beside a video are its masks, and so are files with a word such as ``mask`` in their
    names; pictures alone are frames, but for masks that can be told from them. Several masks move to
    a folder of their own.

    Returns:
        The video, or of MetaImage and NRRD its header, or the folder, as a folder of frames; and its
        mask or folder of masks, None if there is none.

    Raises:
        ValueError: There are several videos, or masks alone.
    """
    files = sorted(path for path in folder.iterdir() if not path.name.startswith("."))
    if any(has_suffix(file, HEADER_SUFFIXES) for file in files):  # others may be its pixels
        files = [file for file in files if not has_suffix(file, RAW_SUFFIXES)]
    if len(files) == 1:
        return files[0], None
    stills = [
        file for file in files if has_suffix(file, STILL_SUFFIXES) and not is_tiff_stack(file)
    ]
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
