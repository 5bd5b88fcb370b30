"""The state of one video of a project, and how it is read from and written to JSON.

``state.json`` refers to mask files, which are written first and never change. So a process that is
killed at any time leaves either the state before an action or the state after it.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal, TypeAlias

from bundle.project.review import FrameFacts, Item, Limits, review_queue

VERSION = 1
Stage: TypeAlias = Literal["needs a look", "begun", "propagated", "new", "done"]
STAGES: tuple[Stage, ...] = ("needs a look", "begun", "propagated", "new", "done")
"""In the order in which videos should be worked on."""


@dataclass(frozen=True)
class SavedMask:
    """A mask on disk and what is known of it.

    Attributes:
        file: Its name in the folder of masks.
        facts: Areas, centres and confidences.
    """

    file: str
    facts: FrameFacts


@dataclass(frozen=True)
class Source:
    """What a video was when it was first opened: another one in its place is refused.

    Attributes:
        fingerprint: See ``bundle.project.listing.fingerprint``.
        frame_count: Number of frames.
        height: In pixels.
        width: In pixels.
        fps: Frames per second; None if unknown.
    """

    fingerprint: str
    frame_count: int
    height: int
    width: int
    fps: float | None


@dataclass(frozen=True)
class VideoState:
    """The state of one video: everything but pixels.

    Attributes:
        source: None before it was first opened.
        given: Frame index to a mask that somebody painted, corrected or confirmed.
        found: Frame index to a mask that was propagated.
        propagated_from: Frame index to the file of a mask that was given when the last propagation
            began.
        direction: In which they were propagated.
        accepted: Frame index to the file that somebody accepted; another one there must be accepted
            anew.
        place: The frame that was looked at last.
        who: Did the last action.
        when: Time of the last action, local time, ISO 8601.
        seconds: Spent on the video.
        review_s: Seconds of these that were spent on reviewing.
        review_count: Frames that were reviewed in that time.
        signed_by: Who said that the video is done; None if nobody, or if it changed since.
        weights: What propagated: file name and SHA-256.
        number: Number of the last mask file.
    """

    source: Source | None = None
    given: Mapping[int, SavedMask] = field(default_factory=dict)
    found: Mapping[int, SavedMask] = field(default_factory=dict)
    propagated_from: Mapping[int, str] = field(default_factory=dict)
    direction: str = "both"
    accepted: Mapping[int, str] = field(default_factory=dict)
    place: int = 0
    who: str | None = None
    when: str | None = None
    seconds: float = 0.0
    review_s: float = 0.0
    review_count: int = 0
    signed_by: str | None = None
    weights: Mapping[str, str] = field(default_factory=dict)
    number: int = 0

    @property
    def masks(self) -> dict[int, SavedMask]:
        """Frame index to its mask: the one that was given, else the one that was found."""
        return dict(sorted({**self.found, **self.given}.items()))

    @property
    def reviewed(self) -> frozenset[int]:
        """Frames whose mask was given or accepted by somebody."""
        found = {i for i, file in self.accepted.items() if i in self.found and self._is(i, file)}
        return frozenset(found | set(self.given))

    @property
    def worst_confidence(self) -> float | None:
        """Of all objects in all frames that nobody reviewed; None if there are none."""
        trusted = self.reviewed
        values = [
            value
            for i, mask in self.masks.items()
            if i not in trusted
            for value in mask.facts.confidence.values()
        ]
        return min(values, default=None)

    def queue(self, limits: Limits | None = None) -> list[Item]:
        """What should be looked at, in order."""
        facts = {i: mask.facts for i, mask in self.masks.items()}
        return review_queue(facts, self.reviewed, limits)

    def stage(self, limits: Limits | None = None) -> Stage:
        """How far the video is."""
        if not self.given and not self.found:
            return "new"
        if self.source is None or len(self.masks) < self.source.frame_count:
            return "begun"
        if self.signed_by is not None:
            return "done"
        return "needs a look" if self.queue(limits) else "propagated"

    def files(self) -> set[str]:
        """The mask files that it refers to."""
        masks = [*self.given.values(), *self.found.values()]
        return {mask.file for mask in masks} | set(self.propagated_from.values())

    def changed(self, **values: Any) -> "VideoState":
        """A state with other values; that a video is done holds only until it changes."""
        return replace(self, **{"signed_by": None, **values})

    def to_json(self) -> dict[str, Any]:
        """Read it with ``from_json``."""
        return {"version": VERSION, **asdict(self)}

    @classmethod
    def from_json(cls, content: Any) -> "VideoState":
        """Read what ``to_json`` gave.

        Raises:
            KeyError, TypeError, ValueError, AttributeError: It is something else.
        """
        values = dict(content)
        values.pop("version")
        if "carried" in values:  # up to version 0.11.0
            values["propagated_from"] = values.pop("carried")
        for name in ("given", "found"):
            values[name] = {int(i): _read_mask(mask) for i, mask in values[name].items()}
        for name in ("propagated_from", "accepted"):
            values[name] = {int(i): str(file) for i, file in values[name].items()}
        if values["source"] is not None:
            values["source"] = Source(**values["source"])
        return cls(**values)

    def _is(self, index: int, file: str) -> bool:
        return self.found[index].file == file


def _read_mask(content: Mapping[str, Any]) -> SavedMask:
    facts = content["facts"]
    return SavedMask(
        str(content["file"]),
        FrameFacts(
            {int(i): int(area) for i, area in facts["areas"].items()},
            {int(i): (float(at[0]), float(at[1])) for i, at in facts["centres"].items()},
            {int(i): float(value) for i, value in facts["confidence"].items()},
        ),
    )
