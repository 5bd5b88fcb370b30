"""The memory of one video: add frames, read them, drop the oldest when full.

B clips, N objects, K key channels, V value channels, T remembered frames, h x w feature grid
(frame size / 16), M = T*h*w remembered positions, P = h*w query positions.
"""

import math
from collections.abc import Mapping
from dataclasses import astuple
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from bundle.memory.attention import (
    attend,
    attend_split,
    fits_split,
    key_rows,
    padded,
    query_rows,
    split_keys,
    weigh,
)
from bundle.memory.eviction import Remembered, find_oldest, find_passed
from bundle.memory.spatial_prior import check_prior, looks, places, width_for

GROWTH = 8
"""Number of frames that a new memory has room for; the room doubles when full, up to max_frames."""


class MemoryBank:
    """The remembered frames of one video, laid out for fast reading.

    The order of frames does not matter to the softmax, so a new frame takes the slot of the dropped
    one, and nothing is moved or stacked. It holds state and no weights, so it is not an ``nn.Module``;
    each pass over a video has its own. For inference only: stored tensors have no gradients.

    Args:
        max_frames: Largest number of frames, at least 2; beyond it the oldest is dropped. Frames whose
            mask was given are always kept, and one more, even beyond this number. None keeps all
            frames (the paper).
        spatial_prior: Standard deviation, as a share of the frame's shorter side, of a Gaussian of the
            distance between the query position and the remembered position, which multiplies the
            weights; ``auto`` chooses it for each frame; None for no Gaussian (the paper).
        dtype: Type in which values are stored and averaged, float32 or bfloat16. Affinities have the
            accuracy of float32 with both; see ``bundle.memory.attention``.

    Attributes:
        motion: (B,) if the prior is ``auto``: mean distance between positions of the last frame read
            and where memory matches them, as a share of the frame's shorter side; else None.

    Raises:
        ValueError: ``max_frames`` is below 2, or the prior is not positive.

    Source:
        Seong et al. 2020, arXiv:2007.08270, centre a Gaussian on the best match of each remembered
        position; here it is centred on the position itself.

    Example:
        >>> bank = MemoryBank(max_frames=2)
        >>> for t in range(3):
        ...     full = bank.add(torch.ones(1, 8, 4, 4), torch.ones(1, 1, 16, 4, 4), prompt=t == 0)
        >>> len(bank), bank.read(torch.ones(1, 8, 4, 4)).shape
        (2, torch.Size([1, 1, 16, 4, 4]))
    """

    def __init__(
        self,
        max_frames: int | None = None,
        spatial_prior: float | str | None = None,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        if max_frames is not None and max_frames < 2:
            raise ValueError(f"max_frames must hold the first frame and one more, got {max_frames}")
        check_prior(spatial_prior)
        self.max_frames, self.spatial_prior = max_frames, spatial_prior
        self.dtype = dtype
        self.motion: Tensor | None = None
        self.frames: dict[int, Remembered] = {}
        self._shapes: tuple[torch.Size, torch.Size] | None = None
        # Rows of keys and values, and in bfloat16, if that can be, the keys split; see attention.
        self._rows: list[Tensor] = []
        self._split = False
        self._added = 0

    def __len__(self) -> int:
        return len(self.frames)

    def add(
        self,
        key: Float[Tensor, "B K h w"],
        value: Float[Tensor, "B N V h w"],
        *,
        prompt: bool = False,
        until_next: bool = False,
        weight: float = 1.0,
    ) -> bool:
        """Remember one frame.

        Args:
            key: Key map of the frame.
            value: Value map of each object.
            prompt: Whether the frame's mask was given; such a frame is never dropped.
            until_next: Whether the frame is dropped as soon as the next one is added.
            weight: How much the frame counts in a read, above 0.

        Returns:
            Whether the oldest frame was dropped for lack of room.

        Raises:
            ValueError: The maps differ in shape from those in memory.
        """
        if self._shapes is None:
            self._shapes = key.shape, value.shape
            self._positions = key.shape[-2] * key.shape[-1]
            self._scale = 1 / math.sqrt(key.shape[1])
            channels = key.shape[1] + 4  # the key, its square, the place and its square
            self._split = self.dtype == torch.bfloat16 and fits_split(channels, value.shape)
        elif (key.shape, value.shape) != self._shapes:
            raise ValueError(
                f"frame of key {tuple(key.shape)}, value {tuple(value.shape)} does not fit memory of "
                f"key {tuple(self._shapes[0])}, value {tuple(self._shapes[1])}; "
                "use a new MemoryBank for each video"
            )
        with torch.autocast(key.device.type, enabled=False), torch.no_grad():
            own = key_rows(key.flatten(2).mT.float())
            own = weigh(own, own.new_full((self._positions,), weight), self._scale)
            keys = torch.cat([own, key_rows(places(key).flatten(1, 2))], dim=-1)
            values = value.flatten(1, 2).flatten(2).mT.to(self.dtype)
            new = [padded(keys), values]
            if self._split:
                new.append(split_keys(keys, values.shape[-1]))
        full = self.max_frames is not None and len(self) >= self.max_frames
        passed = find_passed(self.frames)
        oldest = find_oldest(self.frames) if full and passed is None else None
        slot = next((each for each in (passed, oldest) if each is not None), len(self))
        if slot == len(self):
            self._grow(new)
        place = slice(slot * self._positions, (slot + 1) * self._positions)
        for held, rows in zip(self._rows, new, strict=True):
            held[:, place] = rows
        self.frames[slot] = Remembered(self._added, prompt, until_next)
        self._added += 1
        return oldest is not None

    def read(self, query: Float[Tensor, "B K h w"]) -> Float[Tensor, "B N V h w"]:
        """Read the whole memory for one frame; see ``read_memory``.

        Args:
            query: Key map of the frame.

        Returns:
            One value map per object, float32.

        Raises:
            RuntimeError: The memory is empty.
        """
        if self._shapes is None:
            raise RuntimeError("memory is empty: add the annotated first frame before reading")
        held = len(self) * self._positions
        keys, values, *split = (rows[:, :held] for rows in self._rows)
        with torch.autocast(query.device.type, enabled=False):
            here = places(query)
            width = self._width(query, here, keys)
            rows = self._ask(query.movedim(1, -1), here, width)
            if split:
                read_BPC = attend_split(rows, split[0], values, self._scale)
            else:
                read_BPC = attend(padded(rows), keys, values, self._scale)
        return read_BPC.mT.unflatten(1, self._shapes[1][1:3]).unflatten(-1, query.shape[-2:])

    def state_dict(self) -> dict[str, Any]:
        """Tensors, numbers and lists that ``load_state_dict`` takes; for ``torch.save``."""
        held = len(self) * self._positions if self._rows else 0
        return {
            "max_frames": self.max_frames,
            "shapes": None if self._shapes is None else [list(each) for each in self._shapes],
            "rows": [rows[:, :held].clone() for rows in self._rows],
            "frames": [[slot, *astuple(each)] for slot, each in self.frames.items()],
            "added": self._added,
            "dtype": self.dtype,
            "split": self._split,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore a memory from its ``state_dict``.

        Example:
            >>> bank, other = MemoryBank(), MemoryBank()
            >>> bank.add(torch.rand(1, 8, 4, 4), torch.rand(1, 1, 16, 4, 4))
            False
            >>> other.load_state_dict(bank.state_dict())
            >>> query = torch.rand(1, 8, 4, 4)
            >>> torch.equal(bank.read(query), other.read(query))
            True
        """
        self.max_frames, self.dtype = state["max_frames"], state["dtype"]
        self._added, self._split = state["added"], state["split"]
        self._rows = list(state["rows"])
        self.frames = {slot: Remembered(*rest) for slot, *rest in state["frames"]}
        self._shapes = None
        if state["shapes"] is not None:
            key, value = (torch.Size(each) for each in state["shapes"])
            self._shapes = key, value
            self._positions = key[-2] * key[-1]
            self._scale = 1 / math.sqrt(key[1])

    def _ask(self, query: Tensor, here: Tensor, width: Tensor | float | None) -> Tensor:
        """Lay out queries (B, h, w, K) and their places (B, h, w, 2) as rows (B, P, ...) for attention.

        ``_scale * factor * |d|^2`` is the Gaussian's ``d^2 / (2 width^2)``, or 0 without a prior.
        """
        factor = 0.0 if width is None else 1 / (2 * self._scale * width**2)
        near = factor * query_rows(here.flatten(1, 2))
        return torch.cat([query_rows(query.flatten(1, 2).float()), near], dim=-1)

    def _width(self, query: Tensor, here: Tensor, keys: Tensor) -> Tensor | float | None:
        """Standard deviation of the prior for a frame, (B, 1, 1) if it is chosen automatically.

        It depends on the mean distance to where memory, without a prior, matches a few positions of
        the frame. That is small if the camera is still, as an echocardiography transducer nearly is.
        """
        if not isinstance(self.spatial_prior, str):
            return self.spatial_prior
        some = looks(query)
        rows = padded(self._ask(query.movedim(1, -1)[some], here[some], None))
        # Rows of keys hold twice the place behind the key and its square.
        first = query.shape[1] + 1
        found = attend(rows, keys, keys, self._scale)[..., first : first + 2] / 2
        self.motion = (found - here[some].flatten(1, 2)).norm(dim=-1).mean(-1)
        return width_for(self.motion)[:, None, None]

    def _grow(self, new: list[Tensor]) -> None:
        """Make room for one more frame with these rows, if there is none."""
        if not self.frames:
            self._rows = [rows[:, :0] for rows in new]
        room = self._rows[0].shape[1] // self._positions
        if len(self) == room:
            most = math.inf if self.max_frames is None else max(room + 1, self.max_frames)
            more = int(min(2 * room or GROWTH, most)) * self._positions - self._rows[0].shape[1]
            self._rows = [F.pad(held, (0, 0, 0, more)) for held in self._rows]
