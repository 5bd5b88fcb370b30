"""Save an annotation to its project after each change, and restore it from there."""

import logging
import threading
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from datetime import datetime

import numpy as np

from bundle.apps.annotate.annotation import Annotation, Snapshot
from bundle.apps.annotate.given_masks import FrameSummary, MarkedObject
from bundle.inference.results import FrameResult
from bundle.io.structures import Structure, default_colour
from bundle.project.opened_video import OpenVideo
from bundle.project.store import Project
from bundle.segmenter import VideoSegmenter
from bundle.types import LabelMap

logger = logging.getLogger(__name__)

DELAY_S = 0.5
"""Seconds between two saves, if saving is quick."""
SHARE = 0.1
"""Largest share of the time to spend on saving: long videos are saved less often."""


def restore_annotation(opened: OpenVideo, project: Project, model: VideoSegmenter) -> Annotation:
    """Restore the annotation of a video from its project.

    Raises:
        ValueError: A mask is damaged.
    """
    annotation, state = Annotation(opened.source, model), opened.state
    given = opened.given_masks()
    propagated = {
        i: given[i] if i in given and state.given[i].file == state.propagated_from[i] else labels
        for i, labels in opened.propagated_masks().items()
    }
    shown = {i for mask in [*state.given.values(), *state.found.values()] for i in mask.facts.areas}
    known = {
        i: MarkedObject(each.name, each.colour) for i, each in sorted(project.structures.items())
    }
    annotation.objects, annotation.reserved = known or annotation.objects, frozenset(known)
    for i in sorted(shown - set(annotation.objects)):
        annotation.objects[i] = MarkedObject(f"object {i}", default_colour(i))
    annotation.restore_prompts(given)
    annotation.place = min(state.place, annotation.frame_count - 1)
    annotation.direction = state.direction
    if any(labels.any() for labels in propagated.values()):
        found = (each for each in opened.found_results() if each.frame not in propagated)
        annotation.restore_results(propagated, found)
    return annotation


class ProjectSaver:
    """Saves an annotation in its project, in its own thread.

    The files are consistent whenever the process ends: results are on disk only together with the
    masks that they were propagated from.

    Args:
        project: The project; new names and colours are added to its list of structures.
        opened: The open video of the project.
        annotation: The annotation, from ``restore_annotation``.
        weights: Returns the file name and SHA-256 of the weights that propagate.

    Attributes:
        problem: The error of the last save; None if it succeeded.
        time: Time of the last save; None if nothing was saved.
        saves: Number that rises with each save.
    """

    def __init__(
        self,
        project: Project,
        opened: OpenVideo,
        annotation: Annotation,
        weights: Callable[[], Mapping[str, str]] = dict,
    ) -> None:
        self.project, self.opened, self.annotation = project, opened, annotation
        self.problem: Exception | None = None
        self.time: datetime | None = None
        self.saves = 0
        self._weights = weights
        state = annotation.snapshot()
        self._revision = state.revision
        self._given, self._propagated = dict(state.prompts), dict(state.propagated)
        self._found: dict[int, FrameSummary] = dict(state.found)
        self._objects = dict(state.objects)
        self._structures = dict(project.structures)
        self._pause = DELAY_S
        self._end, self._lock = threading.Event(), threading.RLock()
        self._thread = threading.Thread(target=self._run, name="project saver", daemon=True)
        self._thread.start()

    def write(self) -> bool:
        """Save what has changed, at once; whether it is saved."""
        with self._lock:
            begin = time.monotonic()
            try:
                self._write(self.annotation.snapshot())
                self.problem = None
            except Exception as error:  # shown on the page, whatever it was
                if self.problem is None:
                    logger.warning("%s cannot be saved: %s", self.opened.name, error)
                self.problem = error
            self._pause = max(DELAY_S, (time.monotonic() - begin) / SHARE)
            return self.problem is None

    def accept(self, frames: Collection[int]) -> None:
        """Save that the masks of frames are right as they are.

        Raises:
            ValueError: A frame has no mask.
            OSError: It cannot be saved.
        """
        with self._saved():
            missing = [i for i in frames if i not in self.opened.state.masks]
            if missing:
                raise ValueError(f"frame {missing[0]} has no mask yet: propagate, or paint one")
            self.opened.accept(frames)
            self.opened.look_at(self.annotation.place)

    def sign(self, done: bool) -> None:
        """Save that the video is done, or that it is not.

        Raises:
            ValueError: Masks are being propagated or proposed, have changed since, or are missing.
            OSError: It cannot be saved.
        """
        if done:
            refuse_unfinished(self.annotation)
            if self.annotation.prompts and self.annotation.changed:
                raise ValueError("masks have changed: propagate first, then say that it is done")
        with self._saved():
            self.opened.sign(done)

    def close(self) -> None:
        """Save what is left and end its thread. The video stays open."""
        self._end.set()
        self._thread.join()
        self.write()
        place = self.annotation.place
        if self.problem is None and self.saves and place != self.opened.state.place:
            with self._saved():
                self.opened.look_at(place)

    def _saved(self) -> "_Saved":
        return _Saved(self)

    def _write(self, state: Snapshot) -> None:
        if state.revision == self._revision:
            return
        before = self.opened.state
        stale = [i for i, summary in self._found.items() if state.found.get(i) is not summary]
        if stale:
            self.opened.forget(stale)
            for i in stale:
                del self._found[i]
        self._write_propagated(state)
        self._write_given(state.prompts)
        results = list(self._new_results(state))
        if results:
            self.opened.find(results)
            self._found.update({each.frame: state.found[each.frame] for each in results})
        if self._write_structures(state) or self.opened.state is not before:
            self.saves += 1
            self.time = datetime.now()
        self._revision = state.revision

    def _write_propagated(self, state: Snapshot) -> None:
        """Save which masks are propagated, though others may have taken their place already."""
        if _are_same(state.propagated, self._propagated):
            return
        new = {i: each for i, each in state.propagated.items() if not _is_in(self._given, i, each)}
        if new:
            self._write_given({**self._given, **new})
        weights = self._weights()
        self.opened.find([], list(state.propagated), weights, state.direction)
        self._propagated = dict(state.propagated)

    def _write_given(self, masks: Mapping[int, LabelMap]) -> None:
        changes: dict[int, LabelMap | None] = {
            i: each for i, each in masks.items() if not _is_in(self._given, i, each)
        }
        changes |= dict.fromkeys(self._given.keys() - masks.keys())
        if changes:
            self.opened.give(changes)
            self._given = dict(masks)

    def _new_results(self, state: Snapshot) -> Iterator[FrameResult]:
        for index, summary in state.found.items():
            if self._found.get(index) is not summary:
                labels = self.annotation.found_labels(index, summary)
                if labels is not None:  # else another propagation has begun: the next time
                    yield FrameResult(index, labels, dict(summary.confidence), summary.review)

    def _write_structures(self, state: Snapshot) -> bool:
        """Objects that are removed stay in the list, since other videos may show them."""
        renamed = {i for i, each in self._objects.items() if state.objects.get(i, each) != each}
        new = set(state.objects) - set(self._structures)
        if not state.prompts and state.objects == self._objects:
            new = set()  # the first object of a project without a list: nobody has used it yet
        changed = {
            i: Structure(i, state.objects[i].name, state.objects[i].colour)
            for i in sorted(renamed | new)
        }
        if changed:
            self.project.merge_structures(changed, self._structures)
            self._structures = dict(self.project.structures)
            self.annotation.reserved = frozenset(self._structures)
        self._objects = dict(state.objects)
        return bool(changed)

    def _run(self) -> None:
        while not self._end.wait(self._pause):
            self.write()


class _Saved:
    """A with-block that first saves all changes and then keeps other threads from saving."""

    def __init__(self, saver: ProjectSaver) -> None:
        self._saver = saver

    def __enter__(self) -> None:
        self._saver._lock.acquire()
        if not self._saver.write():
            problem = self._saver.problem
            self._saver._lock.release()
            assert problem is not None
            raise problem

    def __exit__(self, *_: object) -> None:
        self._saver.saves += 1
        self._saver.time = datetime.now()
        self._saver._lock.release()


def refuse_unfinished(annotation: Annotation) -> None:
    """Check that no propagation is running and no proposal is open.

    Raises:
        ValueError: Masks are being propagated, or one is proposed.
    """
    if annotation.worker.running:
        raise ValueError("masks are being propagated: wait for the end, or cancel first")
    if annotation.proposal is not None:
        raise ValueError(
            f"frame {annotation.proposal.frame} has a proposal: accept it (Enter) or drop it (Escape) "
            "first"
        )


def _is_in(masks: Mapping[int, LabelMap], index: int, labels: LabelMap) -> bool:
    """Whether a mask is that of its frame already; masks are replaced and never changed in place."""
    kept = masks.get(index)
    return kept is labels or (kept is not None and np.array_equal(kept, labels))


def _are_same(masks: Mapping[int, LabelMap], others: Mapping[int, LabelMap]) -> bool:
    return masks.keys() == others.keys() and all(_is_in(others, i, masks[i]) for i in masks)
