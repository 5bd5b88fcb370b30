"""The method as a loop over frames: encode, read memory, segment, and remember every fifth.

B clips, N objects, T frames of H x W.
"""

import itertools
from collections.abc import Iterable, Iterator, Mapping
from contextlib import AbstractContextManager
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Shaped
from monai.inferers import Inferer
from torch import Tensor, nn

from bundle.data.prompts import PromptedVideo
from bundle.memory import MemoryBank
from bundle.networks.tcmn import STRIDE, TCMN, aggregate
from bundle.types import ClassLogits, Clip, Frame, LabelMap

PRECISIONS = {"float32": None, "bfloat16": torch.bfloat16, "float16": torch.float16}


class ClipInferer(Inferer):
    """Passes a whole clip through the network at once, for training; see ``autocast``."""

    def __init__(self, precision: str = "auto") -> None:
        self.precision = precision

    def __call__(self, inputs: Clip, network: nn.Module, *args: Any, **kwargs: Any) -> Any:
        with autocast(self.precision, inputs.device, training=True):
            return network(inputs, *args, **kwargs)


class VideoInferer(Inferer):
    """Carries masks through a video, frame by frame; holds settings, no state of a video.

    Args:
        memory_every: The first frame and every so many after it are remembered.
        capacity: Most frames remembered, at least 2; None for no limit (the paper).
        working_size: Shorter side, in pixels, at which frames pass through the network; None for
            their own size. Masks come back at the frames' size.
        precision: ``float32``, ``bfloat16``, ``float16`` or ``auto``; see ``autocast``.

    Raises:
        ValueError: A setting is out of range.
    """

    def __init__(
        self,
        memory_every: int = 5,
        capacity: int | None = None,
        working_size: int | None = None,
        precision: str = "auto",
    ) -> None:
        MemoryBank(capacity)
        if memory_every < 1:
            raise ValueError(f"memory_every must be at least 1 frame, got {memory_every}")
        if working_size is not None and working_size < STRIDE:
            raise ValueError(f"working_size must be at least {STRIDE} pixels, got {working_size}")
        if precision not in (*PRECISIONS, "auto"):
            raise ValueError(
                f"precision must be auto or one of {list(PRECISIONS)}, got {precision!r}"
            )
        self.memory_every, self.capacity = memory_every, capacity
        self.working_size, self.precision = working_size, precision

    def __call__(
        self, inputs: Clip | PromptedVideo, network: TCMN, *args: Any, **kwargs: Any
    ) -> ClassLogits | Iterator[tuple[Frame, LabelMap]]:
        """Segment clips whose first frame is annotated, or a video as it is decoded.

        Args:
            inputs: A clip tensor, or a video with its masks.
            network: In evaluation mode.

        Returns:
            Class logits for a tensor; for a video an iterator over frames with their label maps,
            which does the work as it is consumed.
        """
        if isinstance(inputs, PromptedVideo):
            frames, shown = itertools.tee(inputs.source)
            device = next(network.parameters()).device
            return zip(shown, self.stream(frames, inputs.annotations, network, device), strict=True)
        with torch.inference_mode():
            session = self.start(network)
            first = inputs[:, 3:, ..., 0]
            logits = [session.step(inputs[:, :3, ..., 0], first)]
            logits += [session.step(inputs[:, :3, ..., t]) for t in range(1, inputs.shape[-1])]
            return torch.stack(logits, dim=-1)

    def start(self, network: TCMN) -> "VideoSession":
        """Begin a video whose frames you will feed yourself."""
        return VideoSession(self, network)

    def stream(
        self,
        frames: Iterable[Frame],
        annotations: Mapping[int, LabelMap],
        network: TCMN,
        device: torch.device | str = "cpu",
    ) -> Iterator[LabelMap]:
        """Segment a video as its frames arrive.

        Args:
            frames: RGB frames (H, W, 3) uint8, in order.
            annotations: Frame index to label map (H, W). Frame 0 must be among them and show every
                object; later ones replace the prediction and are remembered.
            network: On ``device``, in evaluation mode.
            device: Where the network and its memory are.

        Yields:
            One label map (H, W) uint8 per frame, in the ids of the annotations.

        Raises:
            ValueError: Frame 0 is not annotated, a mask has another size than its frame, or a later
                mask shows another object.
        """
        if 0 not in annotations or not annotations[0].any():
            first = min((i for i in annotations if annotations[i].any()), default=None)
            raise ValueError(
                f"expected a mask on frame 0, found the first on frame {first}: masks are carried "
                "forwards only, so annotate frame 0 or cut the video there"
            )
        ids = np.unique(annotations[0][annotations[0] > 0])
        for i, labels in annotations.items():
            if new := sorted(set(np.unique(labels[labels > 0])) - set(ids)):
                raise ValueError(
                    f"the mask of frame {i} shows object {new[0]}, which frame 0 does not "
                    f"(it has {ids.tolist()}): every object must be on frame 0"
                )
        lookup = np.concatenate([[0], ids]).astype(np.uint8)
        session = self.start(network)
        for i, frame in enumerate(frames):
            if i in annotations and annotations[i].shape != frame.shape[:2]:
                raise ValueError(
                    f"the mask of frame {i} is {annotations[i].shape} but the frame is "
                    f"{frame.shape[:2]} (rows, columns): give the mask at the frame's size"
                )
            # Copied, since a frame may be read-only or mirrored, which tensors cannot be.
            image = torch.from_numpy(frame.copy()).to(device).movedim(-1, 0)[None].float() / 255
            mask = None
            if i in annotations:
                mask = torch.from_numpy(annotations[i][None, None] == ids[:, None, None]).to(device)
            with torch.inference_mode():
                best = session.step(image, mask).argmax(1)[0]
            # A mask that was given comes back to the pixel, whatever the working size.
            yield annotations[i] if i in annotations else lookup[best.cpu().numpy()]


class VideoSession:
    """One video under way: its memory, and how many frames it has seen."""

    def __init__(self, inferer: VideoInferer, network: TCMN) -> None:
        self.settings, self.network = inferer, network
        self.bank = MemoryBank(inferer.capacity)
        self.frames = 0

    def step(
        self, image: Float[Tensor, "B 3 H W"], mask: Shaped[Tensor, "B N H W"] | None = None
    ) -> Float[Tensor, "B C H W"]:
        """Class logits of the next frame, at its own size.

        Args:
            image: RGB in [0, 1].
            mask: The masks of all objects, bool or in [0, 1], if this frame is annotated; it is then
                remembered. The first frame must be.
        """
        size = image.shape[-2:]
        small = self._resize(image)
        padding = (0, -small.shape[-1] % STRIDE, 0, -small.shape[-2] % STRIDE)
        padded = F.pad(small, padding).contiguous(memory_format=torch.channels_last)
        with autocast(self.settings.precision, image.device):
            features = self.network.encode(padded)
            if mask is None:
                logits = self.network.segment(features, self.bank.read(features.key))
            else:
                logits = aggregate(F.pad(self._resize(mask.float()), padding))
            if mask is not None or self.frames % self.settings.memory_every == 0:
                value = self.network.memorize(features, logits.softmax(1)[:, 1:])
                self.bank.add(features.key, value)
        self.frames += 1
        logits = logits[..., : small.shape[-2], : small.shape[-1]].float()
        if logits.shape[-2:] == size:
            return logits
        return F.interpolate(logits, size, mode="bilinear", align_corners=False)

    def _resize(self, x: Tensor) -> Tensor:
        wanted = self.settings.working_size
        short = min(x.shape[-2:])
        if wanted is None or wanted == short:
            return x
        size = [max(STRIDE, round(side * wanted / short)) for side in x.shape[-2:]]
        return F.interpolate(x, size, mode="bilinear", antialias=True, align_corners=False)


def find_device(name: str | torch.device) -> torch.device:
    """The device of that name; ``auto`` is CUDA if there is one, else the CPU.

    Raises:
        ValueError: The name is unknown, or this machine has no such device.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise ValueError(f"unknown device {name!r}: expected auto, cpu, cuda or cuda:N") from error
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise ValueError(
            f"device {name} was asked for, but PyTorch finds {torch.cuda.device_count()} CUDA "
            "devices here: use --device cpu, or auto"
        )
    return device


def autocast(
    precision: str, device: torch.device, *, training: bool = False
) -> AbstractContextManager[Any]:
    """Mixed precision for a device.

    ``auto``: float16 on CUDA; on a CPU bfloat16 where that is faster. That takes AMX tile units for
    single frames, while batches in training gain with AVX-512's bfloat16 alone. Elsewhere float32.
    """
    dtype = PRECISIONS.get(precision)
    if precision == "auto" and device.type == "cuda":
        dtype = torch.float16
    elif precision == "auto" and device.type == "cpu":
        unit = "avx512_bf16" if training else "amx_bf16"
        dtype = torch.bfloat16 if torch.cpu.get_capabilities().get(unit) else None
    return torch.autocast(device.type, dtype=dtype, enabled=dtype is not None)
