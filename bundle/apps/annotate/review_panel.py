"""The review panel: leads through the frames of a project's video that should be checked."""

from collections.abc import Awaitable, Callable, Sequence

from nicegui import run, ui

from bundle.apps.annotate.controls import heading, labelled_button
from bundle.apps.annotate.notices import errors_shown
from bundle.apps.annotate.project_saver import ProjectSaver
from bundle.apps.annotate.video_list import describe_progress
from bundle.project.review import Item, Progress, estimate_rest
from bundle.project.state import VideoState

NOTHING = "Nothing is left to look at: D says that the video is done."


class ReviewPanel:
    """The queue of suspicious frames, and how far its review is.

    Args:
        saver: Of the video.
        go: Called with a frame's index.
        here: Gives the frame that is looked at.
        suggest: Gives a frame whose mask should help, when nothing is suspicious.
        changed: Called when a frame was accepted or the video was signed.
    """

    def __init__(
        self,
        saver: ProjectSaver,
        go: Callable[[int], None],
        here: Callable[[], int],
        suggest: Callable[[], int | None],
        changed: Callable[[], None],
    ) -> None:
        self._saver, self._go, self._here = saver, go, here
        self._suggest, self._changed = suggest, changed
        self._queue: Sequence[Item] = ()
        self._state = VideoState()
        heading("Review")
        self._bar = ui.linear_progress(value=0, show_value=False, size="6px").props(
            "rounded track-color=grey-9"
        )
        self._status = ui.label().classes("tcmn-note").props("data-testid=review")
        self._item = ui.label().classes("tcmn-note tcmn-item").props("data-testid=item")
        with ui.element("div").classes("tcmn-review"):
            labelled_button(
                "Next item", "skip_next", self.go_next, "To the next item of the queue (N)"
            )
            labelled_button(
                "Accept frame", "check", self.accept,
                "This frame's mask is right as it is; then to the next item (A)",
            )  # fmt: skip
            labelled_button(
                "Accept all", "done_all", self.accept_stretch,
                "All frames of this item are right; then to the next one (Shift+A)",
            )  # fmt: skip
            self._sign = labelled_button(
                "Done", "task_alt", self.sign, "The video is done, or not yet after all (D)"
            )
        self.refresh()

    @property
    def keys(self) -> dict[str, Callable[[], Awaitable[None]]]:
        """What keys do."""
        return {"a": self.accept, "A": self.accept_stretch, "d": self.sign}

    @property
    def version(self) -> int:
        """Rises when there is something new to show."""
        return self._saver.saves

    @property
    def next_frame(self) -> int:
        """The frame of the next item; -1 if there is none."""
        return self._queue[self._next_place()].frame if self._queue else -1

    def letters(self, states: str) -> str:
        """The letters of frames, with what is suspicious (``r``) and what was accepted (``a``)."""
        letters = ["d" if each == "r" else each for each in states]
        for i in self._state.reviewed:
            if i < len(letters) and letters[i] == "d":
                letters[i] = "a"
        for item in self._queue:
            for i in item.frames:
                letters[i] = "r" if letters[i] == "d" else letters[i]
        return "".join(letters)

    def refresh(self) -> None:
        """Show how far it is."""
        state = self._saver.opened.state
        if state is not self._state:
            self._state = state
            self._queue = state.queue(self._saver.project.limits)
        count = state.source.frame_count if state.source is not None else 0
        waiting, reviewed = len(self._queue), len(state.reviewed)
        rest = estimate_rest(waiting, state.review_s, state.review_count)
        progress = Progress(reviewed, waiting, state.seconds / 60, rest)
        self._bar.set_value(reviewed / max(count, 1))
        self._status.set_text(describe_progress(progress, f"{reviewed} of {count}"))
        signed = state.signed_by
        self._sign.set_text("Done" if signed is None else "Not done")
        self.show_frame()
        if signed is not None and not self._queue:
            self._item.set_text(f"{signed} said that it is done.")

    def show_frame(self) -> None:
        """What is suspicious in the frame that is looked at."""
        item = self._item_here()
        if item is not None:
            self._item.set_text(self._describe(item))
        elif self._queue:
            self._item.set_text(f"N leads to frame {self.next_frame}.")
        elif len(self._state.masks) == self._saver.annotation.frame_count:
            self._item.set_text(NOTHING)
        else:
            self._item.set_text("Frames have no mask yet: paint one and propagate.")

    def go_next(self) -> None:
        """To the next item, round and round; without one, to the frame whose mask should help most."""
        with errors_shown():
            self.refresh()
            frame = self.next_frame if self._queue else self._suggest()
            if frame is None:
                raise ValueError("no frame has been found yet: paint a mask and propagate first")
            if not self._queue:
                ui.notify(NOTHING, position="top")
            self._go(frame)

    async def accept(self) -> None:
        await self._accept([self._here()])

    async def accept_stretch(self) -> None:
        item = self._item_here()
        await self._accept([self._here()] if item is None else list(item.frames))

    async def sign(self) -> None:
        with errors_shown():
            done = self._state.signed_by is None
            await run.io_bound(self._saver.sign, done)
            self.refresh()
            if done:
                left = f"; {len(self._queue)} items were not looked at" if self._queue else ""
                ui.notify(f"The video is done{left}.", type="positive", position="top")
        self._changed()

    async def _accept(self, frames: list[int]) -> None:
        with errors_shown():
            await run.io_bound(self._saver.accept, frames)
            self.refresh()
            if self._queue:
                self._go(self.next_frame)
        self._changed()

    def _item_here(self) -> Item | None:
        here = self._here()
        return next((item for item in self._queue if here in item.frames), None)

    def _next_place(self) -> int:
        item = self._item_here()
        place = -1 if item is None else self._queue.index(item)
        return (place + 1) % len(self._queue)

    def _describe(self, item: Item) -> str:
        names = self._saver.annotation.objects
        first, last = item.frames[0], item.frames[-1]
        where = f"Frame {first}"
        if first != last:
            where = f"Frames {first} to {last}, worst {item.frame}"
        what = [
            f"{finding.reason} ({names[finding.object_id].name})"
            if finding.object_id in names
            else finding.reason
            for finding in item.findings
        ]
        return f"{where}: {', '.join(what)}"
