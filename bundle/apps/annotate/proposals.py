"""Propose masks from boxes, points and scribbles, with the frame's features cached between clicks."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from bundle.inference.frame_stream import Frames, to_image
from bundle.inference.prompts import ObjectPrompt, Point, complete_frame, takes_prompts
from bundle.inference.session import VideoSession
from bundle.networks.encoders import FrameFeatures
from bundle.networks.tcmn import VideoNetwork
from bundle.segmenter import VideoSegmenter
from bundle.types import Frame, LabelMap

NOT_TRAINED = (
    "These weights were trained without boxes, points and scribbles: use brush and polygon"
)


@dataclass(frozen=True, eq=False)
class Proposal:
    """A mask proposed for a frame, before the user accepts it.

    Attributes:
        frame: Index of the frame.
        prompts: Object id -> its prompts.
        packed: The frame's label map, compressed by ``given_masks.pack``.
    """

    frame: int
    prompts: Mapping[int, ObjectPrompt]
    packed: bytes


def describe_prompts(prompts: Mapping[int, ObjectPrompt]) -> list[dict[str, object]]:
    """Prompts in a form that the page can draw.

    Example:
        >>> describe_prompts({2: ObjectPrompt().with_points([(3.5, 4.0)], [False])})
        [{'kind': 'point', 'object': 2, 'points': [(3.5, 4.0)], 'positive': False}]
    """
    found: list[dict[str, object]] = []
    for i, prompt in prompts.items():
        if prompt.box is not None:
            corners = [prompt.box[:2], prompt.box[2:]]
            found.append({"kind": "box", "object": i, "points": corners, "positive": True})
        for line in prompt.scribbles:
            points = list(line.points)
            found.append(
                {"kind": "scribble", "object": i, "points": points, "positive": line.positive}
            )
        for point, on in zip(prompt.points, prompt.positive, strict=True):
            found.append({"kind": "point", "object": i, "points": [point], "positive": on})
    return found


def read_hint(kind: str, points: Sequence[Point], positive: bool = True) -> ObjectPrompt:
    """Make a prompt from one hint of the page.

    Args:
        kind: ``box``, whose points are two opposite corners, ``point`` or ``scribble``.
        points: (x, y) in pixels of the video.
        positive: Whether it lies on the object; boxes do.

    Raises:
        ValueError: There is no such kind.

    Example:
        >>> read_hint("box", [(40, 30), (10, 5)]).box
        (10, 5, 40, 30)
    """
    if kind == "point":
        return ObjectPrompt().with_points(points, [positive] * len(points))
    if kind == "scribble":
        return ObjectPrompt().with_scribble(points, positive)
    if kind != "box":
        raise ValueError(f"unknown hint {kind!r}: there are box, point and scribble")
    across, down = zip(*points, strict=True)
    return ObjectPrompt().with_box((min(across), min(down), max(across), max(down)))


def read_prompts(hints: Iterable[Mapping[str, Any]]) -> dict[int, ObjectPrompt]:
    """The reverse of ``describe_prompts``.

    Raises:
        ValueError: There is an unknown kind.
        KeyError, TypeError: Something is missing, or of another kind.

    Example:
        >>> hints = describe_prompts({2: ObjectPrompt().with_points([(3.5, 4.0)], [False])})
        >>> read_prompts(hints)[2].points
        ((3.5, 4.0),)
    """
    found: dict[int, ObjectPrompt] = {}
    for hint in hints:
        points = [(float(x), float(y)) for x, y in hint["points"]]
        new, i = read_hint(hint["kind"], points, hint["positive"]), int(hint["object"])
        found[i] = found[i].with_prompt(new) if i in found else new
    return found


class EncodedOnce:
    """A network that caches the features of the last image, so that further clicks are faster.

    Args:
        network: The network.
    """

    def __init__(self, network: VideoNetwork) -> None:
        self._network = network
        self._last: tuple[Tensor, FrameFeatures] | None = None

    @property
    def partial_masks(self) -> bool:
        return takes_prompts(self._network)

    def encode(self, image: Float[Tensor, "B 3 H W"]) -> FrameFeatures:
        if self._last is None or not _equal(self._last[0], image):
            # Copies, since OpenVINO's maps are valid only until the next frame.
            features = FrameFeatures(*(x.clone() for x in self._network.encode(image)))
            self._last = image, features
        return self._last[1]

    def memorize(
        self,
        features: FrameFeatures,
        masks: Float[Tensor, "B N H W"],
        unknown: Float[Tensor, "B N H W"] | None = None,
    ) -> Float[Tensor, "B N V h w"]:
        return self._network.memorize(features, masks, unknown)

    def segment(
        self,
        features: FrameFeatures,
        readout: Float[Tensor, "B N V h w"],
        previous: Float[Tensor, "B N H W"] | None = None,
    ) -> Float[Tensor, "B 1+N H W"]:
        return self._network.segment(features, readout, previous)

    def complete(
        self,
        features: FrameFeatures,
        masks: Float[Tensor, "B N H W"],
        unknown: Float[Tensor, "B N H W"],
    ) -> Float[Tensor, "B 1+N H W"]:
        complete = self._network.complete  # type: ignore[attr-defined]
        return complete(features, masks, unknown)

    def parameters(self) -> Iterator[nn.Parameter]:
        return self._network.parameters()


def _equal(a: Tensor, b: Tensor) -> bool:
    return a.shape == b.shape and torch.equal(a, b)


class FrameCompleter:
    """Segments frames of one video from prompts in its own thread, which keeps buffers and features.

    Args:
        model: The segmenter; if its network takes no partial masks, see ``problem``.
        video: The frames.

    Attributes:
        problem: One sentence that says why frames cannot be completed; None if they can.
    """

    def __init__(self, model: VideoSegmenter, video: Frames) -> None:
        self.problem = None if takes_prompts(model.network) else NOT_TRAINED
        self._model = VideoSegmenter(EncodedOnce(model.network), model.settings, model.device)
        self._video = video
        self._image: tuple[int, Frame] | None = None
        self._cold = True
        self._thread: ThreadPoolExecutor | None = None
        self._ahead: Future[None] | None = None

    def complete(
        self, index: int, prompts: Mapping[int, ObjectPrompt], labels: LabelMap
    ) -> LabelMap:
        """A frame's label map after prompts; see ``bundle.inference.prompts.complete_frame``.

        Raises:
            ValueError: A prompt makes no sense, the network takes none, or the frame is unreadable.
        """
        return self._run().submit(self._complete, index, prompts, labels).result()

    def prepare(self, index: int) -> None:
        """Encode a frame ahead of the first click, if nothing else is being prepared."""
        if self.problem is None and (self._ahead is None or self._ahead.done()):
            self._ahead = self._run().submit(self._prepare, index)

    def close(self) -> None:
        """End the thread; a frame that is under way is waited for."""
        self.problem = "this video was closed"
        if self._thread is not None:
            self._thread.shutdown(cancel_futures=True)
            self._thread = None

    def _run(self) -> ThreadPoolExecutor:
        if self._thread is None:
            self._thread = ThreadPoolExecutor(1, thread_name_prefix="complete")
        return self._thread

    def _complete(
        self, index: int, prompts: Mapping[int, ObjectPrompt], labels: LabelMap
    ) -> LabelMap:
        found = complete_frame(self._model, self._frame(index), prompts, labels)
        self._cold = False
        return found

    def _prepare(self, index: int) -> None:
        size = self._video.height, self._video.width
        if self._cold:  # all parts of the network, since OpenVINO compiles each at its first use
            whole = ObjectPrompt(box=(0.0, 0.0, float(size[1]), float(size[0])))
            self._complete(index, {1: whole}, np.zeros(size, np.uint8))
            return
        settings, network = self._model.settings, self._model.network
        session = VideoSession(settings, network, settings.inference_size)
        image = to_image(self._frame(index), self._model.device)
        session.encode_prompt(image, torch.zeros_like(image[:, :1]))

    def _frame(self, index: int) -> Frame:
        if self._image is None or self._image[0] != index:
            self._image = index, next(iter(self._video.frames([index])))
        return self._image[1]
