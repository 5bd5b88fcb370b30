"""The state of one annotation: objects, given masks, and results of their propagation.

It does not depend on the page. Labels are (H, W) in the video's own pixels, 0 for background.
"""

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import NamedTuple

import numpy as np

from bundle.apps.annotate.given_masks import FrameSummary, GivenMasks, MarkedObject, measure
from bundle.apps.annotate.propagation_thread import PropagationThread
from bundle.apps.annotate.proposals import FrameCompleter, Proposal
from bundle.inference.confidence import suggest_frame
from bundle.inference.frame_stream import require_object
from bundle.inference.prompts import ObjectPrompt
from bundle.inference.propagation import Propagation
from bundle.inference.results import FrameResult, trust_by_object
from bundle.io.reading.video import VideoSource
from bundle.segmenter import VideoSegmenter
from bundle.types import LabelMap

NEVER = -1
"""Value of ``saved`` for an annotation that was never saved."""


class Snapshot(NamedTuple):
    """An annotation at one moment; its masks are never changed in place.

    Attributes:
        revision: Revision of that moment.
        prompts: Frame index -> given mask.
        propagated: Frame index -> given mask, as of the last propagation.
        found: Frame index -> summary of the mask that was propagated to it.
        objects: Object id -> name and colour.
        direction: Direction of the last propagation.
        proposal: The proposal to be accepted or dropped; None if there is none.
    """

    revision: int
    prompts: Mapping[int, LabelMap]
    propagated: Mapping[int, LabelMap]
    found: Mapping[int, FrameSummary]
    objects: Mapping[int, MarkedObject]
    direction: str
    proposal: Proposal | None


class Annotation(GivenMasks):
    """The state of an annotation. Methods may be called from any thread.

    A mask that is painted, corrected or confirmed is a prompt. Prompts take effect when ``propagate``
    is called, so that results stay visible while somebody paints.

    Args:
        video: The video to annotate.
        model: Propagates masks.

    Attributes:
        place: Index of the frame that was shown last.
        direction: Direction of the last propagation.
        saved: Revision that was saved last.
        completer: Proposes masks from boxes, points and scribbles.
    """

    def __init__(self, video: VideoSource, model: VideoSegmenter) -> None:
        super().__init__(video)
        self.video, self.model = video, model
        self.place, self.direction, self.saved = 0, "both", 0
        self.worker = PropagationThread()
        self.propagation: Propagation | None = None
        self.completer = FrameCompleter(model, video)
        self._summaries: dict[int, FrameSummary] = {}

    def labels(self, index: int) -> LabelMap:
        """The given mask of a frame, else the propagated one, else an empty one.

        Raises:
            IndexError: The frame does not exist.
        """
        self._check_frame(index)
        with self._lock:
            labels = self.prompts.get(index)
            if labels is None and self.propagation is not None and index in self._summaries:
                labels = self.propagation.result(index).labels
            known = list(self.objects)
        if labels is None:
            return np.zeros(self.size, np.uint8)
        lookup = np.zeros(256, np.uint8)
        lookup[known] = known  # older results may still show an object that was removed
        return lookup[labels]

    def summary(self, index: int) -> FrameSummary | None:
        """Areas, confidence and flag of a frame; None if it has no mask yet."""
        return self._given.get(index) or self._summaries.get(index)

    def state(self, index: int) -> str:
        """The letter of one frame; see ``states``."""
        summary = self._summaries.get(index)
        if self.proposal is not None and self.proposal.frame == index:
            return "o"
        return (
            "g"
            if index in self.prompts
            else "."
            if summary is None
            else "r"
            if summary.review
            else "d"
        )

    def states(self) -> str:
        """A letter for each frame: proposed, given, review, done, or ``.`` for pending."""
        letters = ["."] * self.frame_count
        for index, summary in list(self._summaries.items()):
            letters[index] = "r" if summary.review else "d"
        for index in list(self.prompts):
            letters[index] = "g"
        if (proposal := self.proposal) is not None:
            letters[proposal.frame] = "o"
        return "".join(letters)

    def areas(self, object_id: int) -> list[int | None]:
        """Area of an object in pixels in each frame; None where there is no mask yet."""
        found: list[int | None] = [None] * self.frame_count
        for index, summary in [*list(self._summaries.items()), *list(self._given.items())]:
            found[index] = summary.areas.get(object_id, 0)
        return found

    def absent(self, index: int) -> list[int]:
        """Objects that count as absent in a frame only because its given mask does not show them.

        Other masks show them, and the frame was not propagated, so they may have been forgotten.
        """
        given = self._given.get(index)
        if given is None or index in self._summaries:
            return []
        others = {
            i
            for frame, summary in list(self._given.items())
            if frame != index
            for i in summary.areas
        }
        return sorted(others & set(self.objects) - set(given.areas))

    @property
    def changed(self) -> bool:
        """Whether prompts differ from those that were propagated."""
        propagated = {} if self.propagation is None else self.propagation.prompts
        return propagated.keys() != self.prompts.keys() or any(
            labels is not self.prompts[i] and (labels != self.prompts[i]).any()
            for i, labels in propagated.items()
        )

    @property
    def unsaved(self) -> bool:
        return self.saved != self.revision

    def suggest(self) -> int | None:
        """The frame whose correction should help most; None before the first propagation."""
        trust = {
            i: trust_by_object(summary.confidence, summary.vanished)
            for i, summary in list(self._summaries.items())
            if summary.confidence
        }
        return suggest_frame(trust, list(self.prompts))

    def propagate(self, direction: str = "both") -> None:
        """Propagate the masks in the background; only frames that changed prompts affect are updated.

        After a change of direction all frames are segmented again.

        Raises:
            ValueError: No mask shows an object, the direction is unknown, a propagation is running, or
                there is a proposal.
        """
        with self._lock:
            if self.worker.running:
                raise ValueError("masks are being propagated already: wait, or cancel first")
            self._refuse_proposal()
            require_object(self.prompts.values())
            if self.propagation is None or direction != self.propagation.settings.direction:
                self.propagation = self._begin(direction, self.prompts)
            else:
                self.propagation.adopt(self.prompts)
            self.direction = direction
            stale = {
                i for i in self._summaries if not self.propagation.done(i) or i in self.prompts
            }
            self._summaries = {
                i: summary for i, summary in self._summaries.items() if i not in stale
            }
            self.revision += 1
            self.worker.start(self.propagation, self._found)

    def snapshot(self) -> Snapshot:
        """Everything that a session file holds."""
        with self._lock:
            propagated = {} if self.propagation is None else self.propagation.prompts
            return Snapshot(
                self.revision,
                dict(self.prompts),
                dict(propagated),
                dict(sorted(self._summaries.items())),
                dict(self.objects),
                self.direction,
                self.proposal,
            )

    def found_labels(self, index: int, summary: FrameSummary) -> LabelMap | None:
        """The propagated mask of a frame of a snapshot; None if another propagation has started."""
        with self._lock:
            if self.propagation is None or self._summaries.get(index) is not summary:
                return None
            return self.propagation.result(index).labels

    def restore_results(
        self, prompts: Mapping[int, LabelMap], results: Iterable[FrameResult]
    ) -> None:
        """Restore the results of an earlier process, propagated from these prompts in ``direction``."""
        self.propagation = self._begin(self.direction, prompts)
        for index in self.propagation.restore(results):
            self._found(index)

    def close(self) -> None:
        """Stop the propagation and the proposals."""
        self.worker.cancel()
        self.worker.wait()
        self.completer.close()

    def _complete(
        self, index: int, prompts: Mapping[int, ObjectPrompt], labels: LabelMap
    ) -> LabelMap:
        return self.completer.complete(index, prompts, labels)

    def _begin(self, direction: str, prompts: Mapping[int, LabelMap]) -> Propagation:
        settings = replace(self.model.settings, direction=direction)
        return Propagation(settings, self.model.network, self.video, prompts, self.model.device)

    def _found(self, index: int) -> None:
        assert self.propagation is not None
        result = self.propagation.result(index)
        areas = measure(result.labels)
        summary = FrameSummary(areas, result.confidence, result.review, result.vanished)
        with self._lock:
            self._summaries[index] = summary
            self.revision += 1
