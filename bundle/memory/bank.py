"""What the network remembers of the frames it has seen.

B clips, N objects, K key channels, V value channels, T remembered frames, h x w feature grid
(frame size / 16), M = T*h*w remembered positions, P = h*w query positions. A suffix on a local name
gives its axes: query_BPK.
"""

import math

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from bundle.memory.eviction import EVICTIONS, Remembered, droppable

CHUNK_SCORES = 2**22
"""Most affinities (16 MiB in float32) that exist at once, but on CUDA, whose kernel holds none."""

LOOKS = 8
"""Positions along the frame's shorter side by which ``auto`` judges the camera's motion."""

GROWTH = 8
"""Frames that a memory makes room for at first; it doubles when it is full, up to its max_frames."""


def read_memory(
    keys: Float[Tensor, "B K T h w"],
    values: Float[Tensor, "B N V T h w"],
    query: Float[Tensor, "B K h w"],
    *,
    chunk_scores: int | None = None,
) -> Float[Tensor, "B N V h w"]:
    """Blend remembered values by how close their keys lie to the query.

    The similarity is the negative squared Euclidean distance over sqrt(K), and the weights are its
    softmax over all remembered positions. Training calls this; ``MemoryBank`` reads by the same
    attention, from keys and values that lie ready.

    Args:
        keys: Key map of each remembered frame.
        values: Value map of each remembered frame, one per object.
        query: Key map of the frame to segment.
        chunk_scores: Most affinities held at once; 0 for one call whatever the size. By default 0 on
            CUDA, else ``CHUNK_SCORES``.

    Returns:
        One value map per object, in the dtype of ``values``.

    Source:
        TCMN section 2.2; similarity: STCN, Cheng et al. 2021, arXiv:2106.05210.
    """
    with torch.autocast(query.device.type, enabled=False):
        key_BMK = _padded(_key_rows(keys.flatten(2).mT.float()))
        value_BMC = values.flatten(1, 2).flatten(2).mT.float()
        scale = 1 / math.sqrt(query.shape[1])
        query_BPK = _padded(_query_rows(query.flatten(2).mT.float()))
        read_BPC = _attend(query_BPK, key_BMK, value_BMC, scale, chunk_scores)
    read = read_BPC.mT.unflatten(1, values.shape[1:3]).unflatten(-1, query.shape[-2:])
    return read.to(values.dtype)


def _key_rows(x_BMC: Tensor) -> Tensor:
    """What is remembered as attention wants it: (B, M, C + 1).

    Written out, ``-|x - q|^2 = 2 x.q - |x|^2 - |q|^2``; the last term is constant under the softmax,
    and the second becomes one more channel. So the whole read is one call of attention.
    """
    return torch.cat([2 * x_BMC, -x_BMC.square().sum(-1, keepdim=True)], dim=-1)


def _query_rows(x_BPC: Tensor) -> Tensor:
    """The other side of ``_key_rows``."""
    return F.pad(x_BPC, (0, 1), value=1.0)


def _padded(rows: Tensor) -> Tensor:
    """With zeros behind, up to a multiple of 8, for which attention has fast kernels."""
    return F.pad(rows, (0, -rows.shape[-1] % 8))


def _places(like: Float[Tensor, "B K h w"]) -> Float[Tensor, "B h w 2"]:
    """Of each position, from the frame's middle, in shares of its shorter side."""
    height, width = like.shape[-2:]
    sides = (
        (torch.arange(side, device=like.device) - (side - 1) / 2) / min(height, width)
        for side in (height, width)
    )
    grid = torch.stack(torch.meshgrid(*sides, indexing="ij"), dim=-1)
    return grid.expand(len(like), -1, -1, -1)


def width_for(motion: Tensor) -> Tensor:
    """The spatial prior that ``auto`` takes; both are shares of the frame's shorter side.

    Source:
        docs/decisions/0009-spatial-prior.md, which has the evidence for the numbers.
    """
    return (15 * motion.square()).clamp(0.15, 0.5)


def _attend(
    query_BPK: Tensor,
    key_BMK: Tensor,
    value_BMC: Tensor,
    scale: float,
    chunk_scores: int | None = None,
) -> Tensor:
    """(B, P, C), from as many query positions at once as keep the affinities in bounds."""
    if chunk_scores is None:
        chunk_scores = 0 if query_BPK.is_cuda else CHUNK_SCORES
    attend = _attend_on_cpu if query_BPK.device.type == "cpu" else _attend_fused
    if chunk_scores == 0:
        return attend(query_BPK, key_BMK, value_BMC, scale)
    positions = query_BPK.shape[1]
    rows = chunk_scores // (len(query_BPK) * key_BMK.shape[1])
    parts = query_BPK.split(max(1, min(rows, positions)), dim=1)
    reads = [attend(part, key_BMK, value_BMC, scale) for part in parts]
    return reads[0] if len(reads) == 1 else torch.cat(reads, dim=1)


def _attend_fused(query_BPK: Tensor, key_BMK: Tensor, value_BMC: Tensor, scale: float) -> Tensor:
    """CUDA's memory-efficient kernel never holds the affinities, if head sizes are multiples of 8."""
    return F.scaled_dot_product_attention(
        query_BPK[:, None], key_BMK[:, None], value_BMC[:, None], scale=scale
    )[:, 0]


def _attend_on_cpu(query_BPK: Tensor, key_BMK: Tensor, value_BMC: Tensor, scale: float) -> Tensor:
    """Softmax in place, and its division after the sum, where the rows are short.

    PyTorch's attention is slower here: its fused CPU kernel wants keys as wide as the values are.
    """
    weight_BPM = torch.bmm(query_BPK * scale, key_BMK.mT)
    weight_BPM -= weight_BPM.detach().amax(-1, keepdim=True)
    weight_BPM.exp_()
    return torch.bmm(weight_BPM, value_BMC) / weight_BPM.sum(-1, keepdim=True)


class MemoryBank:
    """The remembered frames of one video, laid out as the read wants them.

    Softmax does not care about order, so a frame that goes leaves its place to the one that comes:
    nothing is moved or stacked. Holds state, not weights, so it is no ``nn.Module``: the inferer
    makes one per pass over a video. For inference only: what it holds is cut off from gradients.

    Args:
        max_frames: Most frames kept, at least 2; past it ``eviction`` says which goes. Frames whose
            mask was given always stay, with one more, even beyond it. None keeps all (the paper).
        eviction: A name in ``bundle.memory.eviction.EVICTIONS``.
        spatial_prior: The weight of a remembered position is multiplied with a Gaussian of its
            distance from the position that asks, of this standard deviation, as a share of the
            frame's shorter side; ``auto`` chooses it for each frame; None for no Gaussian (the paper).

    Attributes:
        motion: (B,) where the prior is ``auto``: how far away, on average, the positions of the frame
            that was read last find themselves, as a share of the frame's shorter side; else None.

    Raises:
        ValueError: ``max_frames`` is below 2, the eviction is unknown, or the prior is not positive.

    Source:
        Seong et al. 2020, arXiv:2007.08270, have a Gaussian, too, about the best match of each
        remembered position; ours stands still.

    Example:
        >>> bank = MemoryBank(max_frames=2)
        >>> for t in range(3):
        ...     bank.add(torch.ones(1, 8, 4, 4), torch.ones(1, 1, 16, 4, 4), prompt=t == 0)
        >>> len(bank), bank.read(torch.ones(1, 8, 4, 4)).shape
        (2, torch.Size([1, 1, 16, 4, 4]))
    """

    def __init__(
        self,
        max_frames: int | None = None,
        eviction: str = "latest",
        spatial_prior: float | str | None = None,
    ) -> None:
        if max_frames is not None and max_frames < 2:
            raise ValueError(f"max_frames must hold the first frame and one more, got {max_frames}")
        if eviction not in EVICTIONS:
            raise ValueError(f"unknown eviction {eviction!r}: expected one of {list(EVICTIONS)}")
        usable = spatial_prior in (None, "auto")
        if isinstance(spatial_prior, (int, float)):
            usable = spatial_prior > 0
        if not usable:
            raise ValueError(
                f"spatial_prior must be above 0, auto, or null for none, got {spatial_prior}"
            )
        self.max_frames, self.eviction, self.spatial_prior = max_frames, eviction, spatial_prior
        self.motion: Tensor | None = None
        self.frames: dict[int, Remembered] = {}
        self._shapes: tuple[torch.Size, torch.Size] | None = None
        self._keys: Tensor
        self._values: Tensor
        self._added = 0

    def __len__(self) -> int:
        return len(self.frames)

    def add(
        self,
        key: Float[Tensor, "B K h w"],
        value: Float[Tensor, "B N V h w"],
        *,
        prompt: bool = False,
        confidence: float = 1.0,
    ) -> None:
        """Remember one frame.

        Args:
            key: Its key map.
            value: Its value map of each object.
            prompt: Its mask was given: never drop it.
            confidence: In its mask, in [0, 1].

        Raises:
            ValueError: The frame's shape differs from the frames held.
        """
        if self._shapes is None:
            self._shapes = key.shape, value.shape
            self._positions = key.shape[-2] * key.shape[-1]
            self._scale = 1 / math.sqrt(key.shape[1])
        elif (key.shape, value.shape) != self._shapes:
            raise ValueError(
                f"frame of key {tuple(key.shape)}, value {tuple(value.shape)} does not fit memory of "
                f"key {tuple(self._shapes[0])}, value {tuple(self._shapes[1])}; "
                "use a new MemoryBank for each video"
            )
        with torch.autocast(key.device.type, enabled=False), torch.no_grad():
            rows = key.flatten(2).mT.float(), _places(key).flatten(1, 2)
            keys = _padded(torch.cat([_key_rows(each) for each in rows], dim=-1))
            values = value.flatten(1, 2).flatten(2).mT.float()
            coarse = F.adaptive_avg_pool2d(key.float(), 4).flatten()
        slot = self._free_slot(keys, values)
        held = slice(slot * self._positions, (slot + 1) * self._positions)
        self._keys[:, held], self._values[:, held] = keys, values
        self.frames[slot] = Remembered(self._added, prompt, confidence, coarse)
        self._added += 1

    def read(self, query: Float[Tensor, "B K h w"]) -> Float[Tensor, "B N V h w"]:
        """Read the whole memory for one frame; see ``read_memory``. float32.

        Raises:
            RuntimeError: Nothing is remembered yet.
        """
        if self._shapes is None:
            raise RuntimeError("memory is empty: add the annotated first frame before reading")
        held = len(self) * self._positions
        keys, values = self._keys[:, :held], self._values[:, :held]
        with torch.autocast(query.device.type, enabled=False):
            places = _places(query)
            width = self._width(query, places, keys)
            rows = self._rows(query.movedim(1, -1), places, width)
            read_BPC = _attend(rows, keys, values, self._scale)
        return read_BPC.mT.unflatten(1, self._shapes[1][1:3]).unflatten(-1, query.shape[-2:])

    def _rows(self, query: Tensor, places: Tensor, width: Tensor | float | None) -> Tensor:
        """Positions that ask, (B, h, w, K) and (B, h, w, 2), as rows (B, P, ...) beside the keys.

        Their ``_scale * factor * |d|^2`` is the Gaussian's ``d^2 / (2 width^2)``; without one it is 0.
        """
        factor = 0.0 if width is None else 1 / (2 * self._scale * width**2)
        near = factor * _query_rows(places.flatten(1, 2))
        return _padded(torch.cat([_query_rows(query.flatten(1, 2).float()), near], dim=-1))

    def _width(self, query: Tensor, places: Tensor, keys: Tensor) -> Tensor | float | None:
        """Standard deviation of the prior for a frame, (B, 1, 1) where it is chosen.

        By how far away, on average, positions of the frame find themselves without a prior: little
        where the camera stands still, as an echocardiograph's transducer nearly does, far where it
        moves. A few positions tell.
        """
        if not isinstance(self.spatial_prior, str):
            return self.spatial_prior
        step = max(1, min(query.shape[-2:]) // LOOKS)
        some = (slice(None), slice(step // 2, None, step), slice(step // 2, None, step))
        here = places[some]
        rows = self._rows(query.movedim(1, -1)[some], here, None)
        # Rows of keys hold twice the place behind the key and its square.
        first = query.shape[1] + 1
        found = _attend(rows, keys, keys, self._scale)[..., first : first + 2] / 2
        self.motion = (found - here.flatten(1, 2)).norm(dim=-1).mean(-1)
        return width_for(self.motion)[:, None, None]

    def _free_slot(self, keys: Tensor, values: Tensor) -> int:
        """Where a frame with such rows goes; makes room for it."""
        full = self.max_frames is not None and len(self) >= self.max_frames
        if full and droppable(self.frames):
            return EVICTIONS[self.eviction](self.frames)
        if not self.frames:
            self._keys, self._values = keys[:, :0], values[:, :0]
        room = self._keys.shape[1] // self._positions
        if len(self) == room:
            most = math.inf if self.max_frames is None else max(room + 1, self.max_frames)
            rows = int(min(2 * room or GROWTH, most)) * self._positions - self._keys.shape[1]
            self._keys, self._values = (
                F.pad(held, (0, 0, 0, rows)) for held in (self._keys, self._values)
            )
        return len(self)
