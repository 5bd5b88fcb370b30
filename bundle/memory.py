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

from bundle.memory_policies import POLICIES, Remembered, droppable

CHUNK_SCORES = 2**22
"""Most affinities (16 MiB in float32) that exist at once, but on CUDA, whose kernel holds none."""

GROWTH = 8
"""Frames that a memory makes room for at first; it doubles when it is full, up to its capacity."""


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
        key_BMK = _key_rows(keys.flatten(2))
        value_BMC = values.flatten(1, 2).flatten(2).mT.float()
        scale = 1 / math.sqrt(query.shape[1])
        read_BPC = _attend(query, key_BMK, value_BMC, scale, chunk_scores)
    read = read_BPC.mT.unflatten(1, values.shape[1:3]).unflatten(-1, query.shape[-2:])
    return read.to(values.dtype)


def _key_rows(keys_BKM: Tensor) -> Tensor:
    """Keys as attention wants them: (B, M, K + 1), zeros behind, up to a multiple of 8.

    Written out, ``-|k - q|^2 = 2 k.q - |k|^2 - |q|^2``; the last term is constant under the softmax,
    and the second becomes one more key channel. So the whole read is one call of attention.
    """
    key_BMK = keys_BKM.mT.float()
    rows = torch.cat([2 * key_BMK, -key_BMK.square().sum(-1, keepdim=True)], dim=-1)
    return F.pad(rows, (0, -rows.shape[-1] % 8))


def with_place(
    key: Float[Tensor, "B K h w"], sigma: float | None
) -> Float[Tensor, "B K+2 h w"] | Float[Tensor, "B K h w"]:
    """Key maps with two more channels, by which the distance in the frame adds to that of the keys.

    The weight of a remembered position is thereby multiplied with a Gaussian of its distance from the
    position that asks.

    Args:
        sigma: Its standard deviation, as a share of the frame's shorter side; None leaves keys as
            they are.

    Source:
        Seong et al. 2020, arXiv:2007.08270, have a Gaussian, too, about the best match of each
        remembered position; ours stands still, as an echocardiograph's transducer nearly does.
    """
    if sigma is None:
        return key
    height, width = key.shape[-2:]
    # -|a d|^2 / sqrt(K) shall be -d^2 / (2 sigma^2).
    factor = key.shape[1] ** 0.25 / (math.sqrt(2) * sigma * min(height, width))
    grid = torch.meshgrid(
        *(factor * torch.arange(side, device=key.device) for side in (height, width)), indexing="ij"
    )
    return torch.cat([key.float(), torch.stack(grid).expand(len(key), -1, -1, -1)], dim=1)


def _attend(
    query: Float[Tensor, "B K h w"],
    key_BMK: Tensor,
    value_BMC: Tensor,
    scale: float,
    chunk_scores: int | None = None,
) -> Tensor:
    """(B, P, C), from as many query positions at once as keep the affinities in bounds."""
    if chunk_scores is None:
        chunk_scores = 0 if query.is_cuda else CHUNK_SCORES
    query_BPK = F.pad(query.flatten(2).mT.float(), (0, 1), value=1.0)
    query_BPK = F.pad(query_BPK, (0, key_BMK.shape[-1] - query_BPK.shape[-1]))
    positions = query_BPK.shape[1]
    rows = positions if chunk_scores == 0 else chunk_scores // (len(query) * key_BMK.shape[1])
    parts = query_BPK.split(max(1, min(rows, positions)), dim=1)
    attend = _attend_on_cpu if query.device.type == "cpu" else _attend_fused
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
        capacity: Most frames kept, at least 2; past it ``policy`` says which goes. Frames whose mask
            was given always stay, with one more, even beyond it. None keeps all (the paper).
        policy: A name in ``bundle.memory_policies.POLICIES``.
        spatial_prior: ``sigma`` of ``with_place``: how far objects move, at most, as a share of the
            frame's shorter side; None for no bound (the paper).

    Raises:
        ValueError: ``capacity`` is below 2, the policy is unknown, or the prior is not positive.

    Example:
        >>> bank = MemoryBank(capacity=2)
        >>> for t in range(3):
        ...     bank.add(torch.ones(1, 8, 4, 4), torch.ones(1, 1, 16, 4, 4), prompt=t == 0)
        >>> len(bank), bank.read(torch.ones(1, 8, 4, 4)).shape
        (2, torch.Size([1, 1, 16, 4, 4]))
    """

    def __init__(
        self,
        capacity: int | None = None,
        policy: str = "latest",
        spatial_prior: float | None = None,
    ) -> None:
        if capacity is not None and capacity < 2:
            raise ValueError(f"capacity must hold the first frame and one more, got {capacity}")
        if policy not in POLICIES:
            raise ValueError(f"unknown memory policy {policy!r}: expected one of {list(POLICIES)}")
        if spatial_prior is not None and not spatial_prior > 0:
            raise ValueError(
                f"spatial_prior must be above 0, or null for none, got {spatial_prior}"
            )
        self.capacity, self.policy, self.spatial_prior = capacity, policy, spatial_prior
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
            keys = _key_rows(with_place(key, self.spatial_prior).flatten(2))
            values = value.flatten(1, 2).flatten(2).mT.float()
            coarse = F.adaptive_avg_pool2d(key.float(), 4).flatten()
        slot = self._free_slot(keys, values)
        rows = slice(slot * self._positions, (slot + 1) * self._positions)
        self._keys[:, rows], self._values[:, rows] = keys, values
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
        with torch.autocast(query.device.type, enabled=False):
            read_BPC = _attend(
                with_place(query, self.spatial_prior),
                self._keys[:, :held],
                self._values[:, :held],
                self._scale,
            )
        return read_BPC.mT.unflatten(1, self._shapes[1][1:3]).unflatten(-1, query.shape[-2:])

    def _free_slot(self, keys: Tensor, values: Tensor) -> int:
        """Where a frame with such rows goes; makes room for it."""
        full = self.capacity is not None and len(self) >= self.capacity
        if full and droppable(self.frames):
            return POLICIES[self.policy](self.frames)
        if not self.frames:
            self._keys, self._values = keys[:, :0], values[:, :0]
        room = self._keys.shape[1] // self._positions
        if len(self) == room:
            most = math.inf if self.capacity is None else max(room + 1, self.capacity)
            rows = int(min(2 * room or GROWTH, most)) * self._positions - self._keys.shape[1]
            self._keys, self._values = (
                F.pad(held, (0, 0, 0, rows)) for held in (self._keys, self._values)
            )
        return len(self)
