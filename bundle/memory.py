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

CHUNK_SCORES = 2**23
"""Most affinities (32 MiB in float32) that exist at once where no fused kernel fits."""


def read_memory(
    keys: Float[Tensor, "B K T h w"],
    values: Float[Tensor, "B N V T h w"],
    query: Float[Tensor, "B K h w"],
    *,
    chunk_scores: int | None = None,
) -> Float[Tensor, "B N V h w"]:
    """Blend remembered values by how close their keys lie to the query.

    The similarity is the negative squared Euclidean distance over sqrt(K), and the weights are its
    softmax over all remembered positions. Written out, ``-|k - q|^2 = 2 k.q - |k|^2 - |q|^2``; the
    last term is constant under the softmax, and the second becomes one more key channel. So the whole
    read is one call of attention. Training and inference both call this.

    CUDA's memory-efficient kernel takes it without ever holding the affinities, if head sizes are
    multiples of 8. Elsewhere PyTorch holds them, so the query is read in chunks that bound them.

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
    if chunk_scores is None:
        chunk_scores = 0 if query.is_cuda else CHUNK_SCORES
    with torch.autocast(query.device.type, enabled=False):
        scale = 1 / math.sqrt(keys.shape[1])
        key_BMK = keys.flatten(2).mT.float()
        query_BPK = query.flatten(2).mT.float()
        # The squared norm as one more channel, then zeros up to a multiple of 8 for the fused kernel.
        pad = -(key_BMK.shape[-1] + 1) % 8
        key_BMK = torch.cat([2 * key_BMK, -key_BMK.square().sum(-1, keepdim=True)], dim=-1)
        key_BMK = F.pad(key_BMK, (0, pad))
        query_BPK = F.pad(query_BPK, (0, 1), value=1.0)
        query_BPK = F.pad(query_BPK, (0, pad))
        value_BMC = values.flatten(1, 2).flatten(2).mT.float()
        positions = query_BPK.shape[1]
        rows = positions if chunk_scores == 0 else chunk_scores // (len(keys) * key_BMK.shape[1])
        reads = [
            F.scaled_dot_product_attention(
                part[:, None], key_BMK[:, None], value_BMC[:, None], scale=scale
            )[:, 0]
            for part in query_BPK.split(max(1, min(rows, positions)), dim=1)
        ]
        read_BPC = torch.cat(reads, dim=1)
    read = read_BPC.mT.unflatten(1, values.shape[1:3]).unflatten(-1, query.shape[-2:])
    return read.to(values.dtype)


class MemoryBank:
    """The remembered frames of one video; the first, which is annotated, is never dropped.

    Holds state, not weights, so it is no ``nn.Module``: the inferer makes one per video.

    Args:
        capacity: Most frames kept, at least 2; past it the oldest but the first goes. None keeps all
            (the paper).

    Raises:
        ValueError: ``capacity`` is below 2.

    Example:
        >>> bank = MemoryBank(capacity=2)
        >>> for _ in range(3):
        ...     bank.add(torch.ones(1, 8, 4, 4), torch.ones(1, 1, 16, 4, 4))
        >>> len(bank), bank.read(torch.ones(1, 8, 4, 4)).shape
        (2, torch.Size([1, 1, 16, 4, 4]))
    """

    def __init__(self, capacity: int | None = None) -> None:
        if capacity is not None and capacity < 2:
            raise ValueError(f"capacity must hold the first frame and one more, got {capacity}")
        self.capacity = capacity
        self._keys: list[Tensor] = []
        self._values: list[Tensor] = []

    def __len__(self) -> int:
        return len(self._keys)

    def add(self, key: Float[Tensor, "B K h w"], value: Float[Tensor, "B N V h w"]) -> None:
        """Remember one frame.

        Raises:
            ValueError: The frame's shape differs from the frames held.
        """
        if self._keys and (key.shape, value.shape) != (self._keys[0].shape, self._values[0].shape):
            raise ValueError(
                f"frame of key {tuple(key.shape)}, value {tuple(value.shape)} does not fit memory of "
                f"key {tuple(self._keys[0].shape)}, value {tuple(self._values[0].shape)}; "
                "use a new MemoryBank for each video"
            )
        if len(self) == self.capacity:
            del self._keys[1], self._values[1]
        self._keys.append(key)
        self._values.append(value)

    def read(self, query: Float[Tensor, "B K h w"]) -> Float[Tensor, "B N V h w"]:
        """Read the whole memory for one frame; see ``read_memory``.

        Raises:
            RuntimeError: Nothing is remembered yet.
        """
        if not self._keys:
            raise RuntimeError("memory is empty: add the annotated first frame before reading")
        keys, values = torch.stack(self._keys, dim=2), torch.stack(self._values, dim=3)
        return read_memory(keys, values, query)
