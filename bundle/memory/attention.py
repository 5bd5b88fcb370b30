"""Read memory: attention of a frame's positions over all remembered positions.

B clips, N objects, K key channels, V value channels, T remembered frames, h x w feature grid
(frame size / 16), M = T*h*w remembered positions, P = h*w query positions, R channels of a row. A
suffix on a local name gives its axes: query_BPR.
"""

import math

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

CHUNK_SCORES = 2**22
"""Largest number of affinities held at once (16 MiB in float32), on devices whose kernel holds them."""

LAST_WEIGHT = 0.1
"""How much the last frame counts in memory, where a frame that stays counts 1.

Where frames that stay look like the new one, they decide, so that errors do not grow from frame to
frame. Where they do not, the last frame does. See docs/studies/memory.md.
"""


def read_memory(
    keys: Float[Tensor, "B K T h w"],
    values: Float[Tensor, "B N V T h w"],
    query: Float[Tensor, "B K h w"],
    *,
    weights: Float[Tensor, " T"] | None = None,
    chunk_scores: int | None = None,
) -> Float[Tensor, "B N V h w"]:
    """Average remembered values, weighted by the similarity of their keys to the query.

    The similarity is the negative squared Euclidean distance over sqrt(K), and the weights are its
    softmax over all remembered positions. Training calls this. ``MemoryBank`` uses the same attention
    on keys and values that it has already laid out.

    Args:
        keys: Key map of each remembered frame.
        values: Value map of each remembered frame, one per object.
        query: Key map of the frame to segment.
        weights: How much each remembered frame counts, above 0; by default all count 1.
        chunk_scores: Largest number of affinities held at once; 0 for a single call of any size. By
            default 0 on CUDA, else ``CHUNK_SCORES``.

    Returns:
        One value map per object, in the dtype of ``values``.

    Source:
        TCMN section 2.2; similarity: STCN, Cheng et al. 2021, arXiv:2106.05210.
    """
    with torch.autocast(query.device.type, enabled=False):
        scale = 1 / math.sqrt(query.shape[1])
        key_BMR = key_rows(keys.flatten(2).mT.float())
        if weights is not None:
            share_M = weights[:, None].expand(-1, query.shape[-2] * query.shape[-1]).flatten()
            key_BMR = weigh(key_BMR, share_M, scale)
        key_BMR = padded(key_BMR)
        value_BMC = values.flatten(1, 2).flatten(2).mT.float()
        query_BPR = padded(query_rows(query.flatten(2).mT.float()))
        read_BPC = attend(query_BPR, key_BMR, value_BMC, scale, chunk_scores)
    read = read_BPC.mT.unflatten(1, values.shape[1:3]).unflatten(-1, query.shape[-2:])
    return read.to(values.dtype)


def key_rows(x_BMC: Tensor) -> Tensor:
    """Lay out keys as rows for attention: (B, M, C + 1).

    ``-|x - q|^2 = 2 x.q - |x|^2 - |q|^2``. The last term does not change the softmax, and the second
    becomes one more channel. So the whole read is one call of attention.
    """
    return torch.cat([2 * x_BMC, -x_BMC.square().sum(-1, keepdim=True)], dim=-1)


def weigh(key_BMR: Tensor, weight_M: Tensor, scale: float) -> Tensor:
    """Let remembered positions count more or less in the softmax: ``key_rows``, changed.

    Args:
        key_BMR: From ``key_rows``.
        weight_M: Factor of each position's softmax weight, above 0.
        scale: Factor of the affinities.
    """
    return torch.cat([key_BMR[..., :-1], key_BMR[..., -1:] + weight_M[:, None].log() / scale], -1)


def query_rows(x_BPC: Tensor) -> Tensor:
    """Lay out queries to match ``key_rows``: (B, P, C + 1)."""
    return F.pad(x_BPC, (0, 1), value=1.0)


def padded(rows: Tensor) -> Tensor:
    """Pad rows with zeros to a multiple of 8 channels, for which attention has fast kernels."""
    return F.pad(rows, (0, -rows.shape[-1] % 8))


def attend(
    query_BPR: Tensor,
    key_BMR: Tensor,
    value_BMC: Tensor,
    scale: float,
    chunk_scores: int | None = None,
) -> Tensor:
    """Attend in chunks of query positions that keep the affinities within ``chunk_scores``.

    Affinities and weights are computed in float32; values in bfloat16 are averaged in bfloat16.

    Returns:
        (B, P, C) in float32.
    """
    if chunk_scores is None:
        chunk_scores = 0 if query_BPR.is_cuda else CHUNK_SCORES
    attend_part = _attend_on_cpu if query_BPR.device.type == "cpu" else _attend_fused
    if chunk_scores == 0:  # without a split, whose sizes a trace for TorchScript would fix
        return attend_part(query_BPR, key_BMR, value_BMC, scale)
    positions = query_BPR.shape[1]
    rows = chunk_scores // (len(query_BPR) * key_BMR.shape[1])
    parts = query_BPR.split(max(1, min(rows, positions)), dim=1)
    reads = [attend_part(part, key_BMR, value_BMC, scale) for part in parts]
    return reads[0] if len(reads) == 1 else torch.cat(reads, dim=1)


def _attend_fused(query_BPR: Tensor, key_BMR: Tensor, value_BMC: Tensor, scale: float) -> Tensor:
    """CUDA's memory-efficient kernel never holds the affinities, if head sizes are multiples of 8."""
    return F.scaled_dot_product_attention(
        query_BPR[:, None], key_BMR[:, None], value_BMC[:, None], scale=scale
    )[:, 0]


def _attend_on_cpu(query_BPR: Tensor, key_BMR: Tensor, value_BMC: Tensor, scale: float) -> Tensor:
    """Compute the softmax in place, and divide after the sum, where the rows are short.

    PyTorch's attention is slower here: its fused CPU kernel needs keys as wide as the values.
    """
    weight_BPM = torch.bmm(query_BPR * scale, key_BMR.mT)
    if value_BMC.dtype == torch.bfloat16:
        return torch.bmm(weight_BPM.softmax(-1).bfloat16(), value_BMC).float()
    weight_BPM -= weight_BPM.detach().amax(-1, keepdim=True)
    weight_BPM.exp_()
    return torch.bmm(weight_BPM, value_BMC) / weight_BPM.sum(-1, keepdim=True)


def fits_split(row_channels: int, value_shape: tuple[int, ...]) -> bool:
    """Whether ``attend_split`` can read rows of ``row_channels`` with values (B, N, V, h, w).

    Only with one object: the kernel needs keys as wide as the values of all objects together.
    """
    return value_shape[1] == 1 and 3 * row_channels <= value_shape[2]


def split_keys(key_BMR: Tensor, channels: int) -> Tensor:
    """Lay out key rows for ``attend_split``: (B, M, channels) in bfloat16.

    A number is stored as the sum of two bfloat16 numbers, high + low, which hold 16 of float32's 24
    bits. Products of low with low are left out. Squares of keys are large and their differences small,
    so in plain bfloat16 the weights would be wrong by several percent.
    """
    high = key_BMR.bfloat16()
    low = (key_BMR - high.float()).bfloat16()
    return F.pad(torch.cat([high, low, high], dim=-1), (0, channels - 3 * high.shape[-1]))


def attend_split(query_BPR: Tensor, key_BMC: Tensor, value_BMC: Tensor, scale: float) -> Tensor:
    """Attend with keys from ``split_keys`` and values in bfloat16; returns (B, P, C) in float32.

    This is one fused CPU kernel, which sums in float32 and never holds the affinities. Its keys must
    be as wide as the values anyway, so the extra channels of the split cost nothing.
    """
    query_BPR = query_BPR * scale
    high = query_BPR.bfloat16()
    low = (query_BPR - high.float()).bfloat16()
    split_BPC = F.pad(
        torch.cat([high, high, low], dim=-1), (0, key_BMC.shape[-1] - 3 * high.shape[-1])
    )
    return F.scaled_dot_product_attention(
        split_BPC[:, None], key_BMC[:, None], value_BMC[:, None], scale=1.0
    )[:, 0].float()
