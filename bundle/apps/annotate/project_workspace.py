"""The open video of a project, or its list of videos; saves the video while somebody works on it."""

import logging
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from bundle.apps.annotate.annotation import Annotation
from bundle.apps.annotate.autosave import StateFolder
from bundle.apps.annotate.fine_tuning_process import FineTuningProcess
from bundle.apps.annotate.pictures import FramePictures
from bundle.apps.annotate.project_saver import ProjectSaver, refuse_unfinished, restore_annotation
from bundle.apps.annotate.session_file import write_session
from bundle.apps.annotate.thumbnails import Thumbnails
from bundle.apps.annotate.workspace import Workspace
from bundle.project.opened_video import OpenVideo
from bundle.project.store import Project
from bundle.segmenter import VideoSegmenter

logger = logging.getLogger(__name__)


class ProjectWorkspace(Workspace):
    """A ``Workspace`` for the videos of a project, which are saved in the project.

    Args:
        model: Propagates masks.
        project: The project.
        state: Folder for an annotation that cannot be saved in the project when the process ends.
        weights: Returns the file name and SHA-256 of the weights that propagate.
        load: Loads the weights that the project uses, None for the shipped ones; without it
            ``model`` is used whatever the project says.
        fixed_weights: Weights that are used instead of those of the project.

    Attributes:
        project: See above.
        opened: The open video; None while the list is shown.
        saver: Saves the open video.
        thumbnails: Thumbnails of all videos.
        weights_file: The weights of the project that are loaded; None for others.
        fine_tuning: The last fine-tuning that was begun here.
    """

    def __init__(
        self,
        model: VideoSegmenter,
        project: Project,
        state: Path | None = None,
        weights: Callable[[], Mapping[str, str]] = dict,
        load: Callable[[Path | None], VideoSegmenter] | None = None,
        fixed_weights: Path | None = None,
    ) -> None:
        super().__init__(model)  # without a state folder: the project is where things are kept
        self.project, self.thumbnails = project, Thumbnails()
        self.opened: OpenVideo | None = None
        self.saver: ProjectSaver | None = None
        self.weights_file = project.weights_file() if load is not None else None
        self.fixed_weights = fixed_weights
        self.fine_tuning: FineTuningProcess | None = None
        self._weights, self._load = weights, load
        self._rescue = state

    def open_video(self, name: str) -> Annotation:
        """Open a video of the project, after closing the one that is open.

        Raises:
            KeyError: The video does not exist.
            VideoLockedError: Somebody else has it open; the list stays.
            FileNotFoundError: Its file has gone.
            ValueError: Its file has changed or cannot be read, a mask is damaged, or masks of the open
                video are being propagated or proposed.
        """
        self.close_video()
        self.project.reload()
        self._take_new_weights()
        opened = self.project.open(name)
        try:
            annotation = restore_annotation(opened, self.project, self.model)
            pictures = FramePictures(annotation.video)
            pictures.jpeg(annotation.place)  # a frame that cannot be read should fail here
            saver = ProjectSaver(self.project, opened, annotation, self._weights)
        except BaseException:
            opened.close()
            raise
        self.opened, self.annotation, self.pictures, self.saver = (
            opened,
            annotation,
            pictures,
            saver,
        )
        self.number += 1
        return annotation

    def close_video(self) -> None:
        """Save what is left to save, and go back to the list.

        Raises:
            ValueError: Masks are being propagated or proposed.
            OSError: It cannot be saved; it stays open, unless it was saved as a session.
        """
        if self.annotation is None or self.saver is None:
            return
        refuse_unfinished(self.annotation)
        if not self.saver.write() and self.annotation.unsaved:
            assert self.saver.problem is not None
            raise self.saver.problem
        self._put_away()

    def start_fine_tuning(self, options: Sequence[str] = ()) -> None:
        """Fine-tune on the videos that are done, in the background; one that was stopped goes on.

        Args:
            options: Of ``tcmn finetune``.

        Raises:
            ValueError: It runs already.
        """
        if self.fine_tuning is not None and self.fine_tuning.running:
            raise ValueError("fine-tuning runs already: wait for its end, or stop it")
        options = list(options)
        if self.fixed_weights is not None:
            options += ["--weights", str(self.fixed_weights)]
        log = self.new_folder() / "fine_tuning.log"
        self.fine_tuning = FineTuningProcess(self.project, log, options)

    def stop_fine_tuning(self) -> None:
        """Stop it, if it runs; it goes on when it is begun again."""
        if self.fine_tuning is not None:
            self.fine_tuning.stop()

    def close(self) -> None:
        self.stop_fine_tuning()
        self.thumbnails.close()
        super().close()

    def _take_new_weights(self) -> None:
        """Load the weights that the project uses, if they are others than the last time."""
        if self._load is None:
            return
        wanted = self.project.weights_file()
        if wanted != self.weights_file:
            self.model = self._load(wanted)
            self.weights_file = wanted

    def _put_away(self) -> None:
        """End what is under way; what cannot be saved in the project becomes a session file."""
        annotation, saver, opened = self.annotation, self.saver, self.opened
        if annotation is None or saver is None or opened is None:
            return
        annotation.close()
        saver.close()
        self.annotation = self.pictures = self.saver = self.opened = None
        self.number += 1
        opened.close()
        if saver.problem is not None and annotation.unsaved and self._rescue is not None:
            slot = StateFolder(self._rescue).new_slot(annotation.video)
            write_session(annotation, slot.path)
            slot.release(keep=True)
            logger.warning(
                "%s could not be saved in the project (%s). Nothing is lost: tcmn annotate %s goes on "
                "with it outside of the project",
                opened.name,
                saver.problem,
                annotation.video.path,
            )
