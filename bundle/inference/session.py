"""The method as a loop over frames: encode, read memory, segment, memorize.

B clips, N objects, frames of H x W.
"""

import functools
import logging
from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Shaped
from torch import Tensor

from bundle.inference.confidence import expected_jaccard
from bundle.inference.scene import Appearance, Scene, describe_appearance
from bundle.inference.settings import InferenceSettings
from bundle.memory.attention import LAST_WEIGHT
from bundle.memory.bank import MemoryBank
from bundle.networks.encoders import FrameFeatures
from bundle.networks.tcmn import STRIDE, VideoNetwork, aggregate, memorize_coarsely
from bundle.utils.devices import autocast, blend_type, free_bytes

logger = logging.getLogger(__name__)

NOT_THERE = -16.0
"""Class logit of an object that cannot be in a frame; about the lowest that ``aggregate`` gives."""
TRUST_ELSEWHERE = 0.5
"""Factor of the confidence in a frame of another scene: it brings each below ``review_below``."""


class EncodedFrame(NamedTuple):
    """A frame's features, its own size (H, W), and what it looks like."""

    features: FrameFeatures
    size: torch.Size
    appearance: Appearance


class EncodedPrompt(NamedTuple):
    """What is remembered of a frame whose masks are given: key, value and what it looks like."""

    key: Float[Tensor, "B K h w"]
    value: Float[Tensor, "B N V h w"]
    appearance: Appearance


class StepResult(NamedTuple):
    """Class logits of a frame, and the confidence of each object, halved in another scene.

    Where the frame is surely of another scene, the logits say that no object is there.
    """

    logits: Float[Tensor, "B C H W"]
    confidence: Float[Tensor, "B N"]


class VideoSession:
    """One pass over the frames of a video, with the memory that it builds.

    Args:
        settings: Settings of inference.
        network: In evaluation mode.
        inference_size: Shorter side in pixels at which frames pass through the network; None for
            their own size.

    Attributes:
        known: (N,) bool, the objects that a given mask has shown so far; only these are segmented.
            None for all.
        frames: Number of frames since the last prompt, which counts as one.
    """

    def __init__(
        self, settings: InferenceSettings, network: VideoNetwork, inference_size: int | None = None
    ) -> None:
        self.settings, self.network, self.inference_size = settings, network, inference_size
        self.known: Bool[Tensor, " N"] | None = None
        self._bank: MemoryBank | None = None
        self._scene = Scene()
        # Masks of the last frame, at the inference size.
        self._previous: Float[Tensor, "B N H W"] | None = None
        self.frames = 0

    @torch.inference_mode()
    def prompt(
        self, image: Float[Tensor, "B 3 H W"], mask: Shaped[Tensor, "B N H W"]
    ) -> Float[Tensor, "B C H W"]:
        """Remember a frame whose masks are given. It is never dropped from memory.

        Args:
            image: RGB in [0, 1].
            mask: Masks of all objects, bool or in [0, 1].

        Returns:
            The masks as class logits.
        """
        self.remember(self.encode_prompt(image, mask))
        self.follow(mask)
        return aggregate(mask.float())

    @torch.inference_mode()
    def encode_prompt(
        self, image: Float[Tensor, "B 3 H W"], mask: Shaped[Tensor, "B N H W"]
    ) -> EncodedPrompt:
        """Encode a frame whose masks are given, for ``remember``."""
        entered = self._enter(image)
        with autocast(self.settings.precision, image.device):
            features = self.network.encode(entered)
            given = aggregate(self._enter(mask.float())).softmax(1)[:, 1:]
            value = self.network.memorize(features, given)
        appearance = describe_appearance(entered, features.key)
        return EncodedPrompt(features.key, value, appearance)

    @torch.inference_mode()
    def complete(
        self,
        image: Float[Tensor, "B 3 H W"],
        masks: Shaped[Tensor, "B N H W"],
        unknown: Shaped[Tensor, "B N H W"],
    ) -> Float[Tensor, "B C H W"]:
        """Segment a frame from partial masks; see ``TCMN.complete``.

        The session does not remember the frame: pass the result to ``prompt`` once it is accepted.

        Args:
            image: RGB in [0, 1].
            masks: Known or guessed mask of each object, in [0, 1].
            unknown: 1 where the mask is a guess.

        Returns:
            Class logits.

        Raises:
            ValueError: The network takes no partial masks.
        """
        complete = getattr(self.network, "complete", None)
        if complete is None:
            raise ValueError(
                "boxes, points and scribbles need a network that takes partial masks: this one was "
                "trained without"
            )
        with autocast(self.settings.precision, image.device):
            features = self.network.encode(self._enter(image))
            logits = complete(features, self._enter(masks.float()), self._enter(unknown.float()))
        return self._leave(logits.float(), image.shape[-2:])

    def remember(self, prompt: EncodedPrompt) -> None:
        """Remember a frame from ``encode_prompt``; ``memory_every`` counts from it."""
        self._add(prompt.key, prompt.value, prompt=True)
        self._scene.give(prompt.appearance)
        self.frames = 1

    def follow(self, mask: Shaped[Tensor, "B N H W"]) -> None:
        """Set the masks of the previous frame, if they do not come from ``step``."""
        self._previous = self._enter(mask.float())

    @torch.inference_mode()
    def step(self, image: Float[Tensor, "B 3 H W"]) -> StepResult:
        """Segment the next frame.

        Args:
            image: RGB in [0, 1].

        Returns:
            Class logits at the frame's size, and confidences.

        Raises:
            RuntimeError: No mask has been given yet.
        """
        return self.advance(self.encode(image))

    @torch.inference_mode()
    def encode(self, image: Float[Tensor, "B 3 H W"]) -> EncodedFrame:
        """The part of ``step`` that needs no other frame, so that another thread may do it before."""
        entered = self._enter(image)
        with autocast(self.settings.precision, image.device):
            features = self.network.encode(entered)
        appearance = describe_appearance(entered, features.key)
        return EncodedFrame(features, image.shape[-2:], appearance)

    @torch.inference_mode()
    def advance(self, frame: EncodedFrame) -> StepResult:
        """The rest of ``step``.

        Raises:
            RuntimeError: No mask has been given yet.
        """
        if self._bank is None:
            raise RuntimeError("memory is empty: give the mask of a frame before the next")
        features, size, appearance = frame
        same, elsewhere = (each[:, None] for each in self._scene.follow(appearance))
        with autocast(self.settings.precision, features.key.device):
            readout = self._bank.read(features.key)
            logits = self.network.segment(features, readout, self._previous)
            if self.known is not None and not self.known.all():
                logits[:, 1:][:, ~self.known] = NOT_THERE
            height, width = self._inference_shape(*size)
            probability = logits.float().softmax(1)
            confidence = expected_jaccard(
                logits[..., :height, :width], probability[..., :height, :width]
            )
            if elsewhere.any():
                logits[:, 1:].masked_fill_(elsewhere[..., None, None], NOT_THERE)
            # Else the session stays as it was, so that the object is found when its scene comes back.
            if not elsewhere.all():
                self._previous = probability[:, 1:].where(~elsewhere[..., None, None], 0)
                stays = self.frames % self.settings.memory_every == 0
                if stays:
                    self._add(features.key, self.network.memorize(features, self._previous))
                elif self.settings.remember_last:
                    value = memorize_coarsely(self.network, features, self._previous)
                    self._add(features.key, value, last=True)
        confidence = torch.where(same, confidence, TRUST_ELSEWHERE * confidence)
        self.frames += 1
        return StepResult(self._leave(logits.float(), size), confidence)

    def prepare(self, size: tuple[int, int], objects: int, device: torch.device) -> None:
        """Let a network that compiles itself for frames of (H, W) begin, if it does."""
        prepare = getattr(self.network, "prepare", None)
        if prepare is not None:
            with autocast(self.settings.precision, device):
                prepare(*(side + -side % STRIDE for side in self._inference_shape(*size)), objects)

    @property
    def remembered(self) -> int:
        """The number of frames in memory."""
        return 0 if self._bank is None else len(self._bank)

    def state(self) -> dict[str, Any]:
        """The memory, for ``load_state`` of a session with the same settings and objects."""
        return {
            "bank": None if self._bank is None else self._bank.state_dict(),
            "previous": self._previous,
            "frames": self.frames,
            "scene": self._scene.state(),
        }

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Continue from the ``state`` of another session."""
        self._previous, self.frames, self._bank = state["previous"], state["frames"], None
        self._scene.load_state(state["scene"])
        if state["bank"] is not None:
            settings = self.settings
            self._bank = MemoryBank(state["bank"]["max_frames"], settings.spatial_prior)
            self._bank.load_state_dict(state["bank"])

    def _add(self, key: Tensor, value: Tensor, *, prompt: bool = False, last: bool = False) -> None:
        if self._bank is None:
            settings, limit = self.settings, self.settings.max_memory_frames
            if limit == "auto":
                limit = count_that_fits(key, value)
            assert not isinstance(limit, str)
            dtype = blend_type(settings.precision, key.device)
            self._bank = MemoryBank(limit, settings.spatial_prior, dtype)
        weight = LAST_WEIGHT if last else 1.0
        if self._bank.add(key, value, prompt=prompt, until_next=last, weight=weight):
            _tell_limit(len(self._bank))

    def _inference_shape(self, height: int, width: int) -> tuple[int, int]:
        wanted, short = self.inference_size, min(height, width)
        if wanted is None or wanted == short:
            return height, width
        height, width = (max(STRIDE, round(side * wanted / short)) for side in (height, width))
        return height, width

    def _enter(self, x: Tensor) -> Tensor:
        """Resize to the inference size and pad with zeros to a multiple of the stride."""
        shape = self._inference_shape(*x.shape[-2:])
        if shape != x.shape[-2:]:
            x = F.interpolate(x, shape, mode="bilinear", antialias=True, align_corners=False)
        padding = (0, -shape[1] % STRIDE, 0, -shape[0] % STRIDE)
        if any(padding):  # else a copy that costs a tenth of a frame
            x = F.pad(x, padding)
        return x.contiguous(memory_format=torch.channels_last)

    def _leave(self, logits: Tensor, size: torch.Size) -> Tensor:
        """Crop the padding and resize to the frame's own size."""
        height, width = self._inference_shape(*size)
        logits = logits[..., :height, :width]
        if logits.shape[-2:] == size:
            return logits
        return F.interpolate(logits, size, mode="bilinear", align_corners=False)


@functools.cache
def _tell_limit(frames: int) -> None:
    """Log once in a process that memory is full."""
    logger.info(
        "memory holds %d frames: from now on the oldest are dropped, except those whose mask was "
        "given; --max-memory-frames null keeps all",
        frames,
    )


def count_that_fits(key: Tensor, value: Tensor) -> int:
    """Number of frames that fit into half of the device's free memory, at least 2."""
    frame_bytes = 4 * (key.numel() + value.numel())
    return max(2, free_bytes(key.device) // 2 // frame_bytes)
