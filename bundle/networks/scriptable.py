"""A form of the network for ``torch.jit.script`` (TorchScript), for frames of any size and number.

TorchScript does not support shapes in signatures, or modules that take named tuples. So the parts for
one frame are traced, which keeps sizes variable, and only the loop over frames is scripted.
"""

import warnings
from typing import no_type_check

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bundle.memory.attention import LAST_WEIGHT, read_memory
from bundle.networks.encoders import FrameFeatures
from bundle.networks.tcmn import STRIDE, TCMN, aggregate, memorize_coarsely


class Encode(nn.Module):
    """A frame's features as a plain tuple."""

    def __init__(self, network: TCMN) -> None:
        super().__init__()
        self.encoder = network.query_encoder

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        return tuple(self.encoder(image))


class ReadAndSegment(nn.Module):
    """A frame's class logits from memory, computed with all affinities at once."""

    def __init__(self, network: TCMN) -> None:
        super().__init__()
        self.decoder = network.decoder

    def forward(
        self,
        keys: Tensor,
        values: Tensor,
        weights: Tensor,
        key: Tensor,
        query: Tensor,
        stride8: Tensor,
        stride4: Tensor,
        previous: Tensor,
    ) -> Tensor:
        readout = read_memory(keys, values, key, weights=weights, chunk_scores=0)
        # The decoder does not use stride 16.
        features = FrameFeatures(key, query, query, stride8, stride4)
        logits = self.decoder(readout, features, previous)
        return aggregate(torch.sigmoid(logits))


class MemorizeCoarsely(nn.Module):
    """``memorize_coarsely`` of plain tensors."""

    def __init__(self, network: TCMN) -> None:
        super().__init__()
        self.network = network

    def forward(self, masks: Tensor, stride16: Tensor) -> Tensor:
        # Only stride 16 is used.
        features = FrameFeatures(*[stride16] * 5)
        return memorize_coarsely(self.network, features, masks)


class Aggregate(nn.Module):
    """Class logits of given masks."""

    def forward(self, masks: Tensor) -> Tensor:
        return aggregate(masks)


class ScriptableTCMN(nn.Module):
    """``TCMN.forward`` for inference: the clip (B, 3 + N, H, W, T) to logits (B, 1 + N, H, W, T).

    It encodes one frame at a time, so that its memory grows with the remembered frames only.

    Args:
        network: In evaluation mode. Its weights are shared, not copied.
    """

    def __init__(self, network: TCMN) -> None:
        super().__init__()
        self.memory_every, self.stride = network.memory_every, STRIDE
        self.remember_last, self.last_weight = network.remember_last, LAST_WEIGHT
        with warnings.catch_warnings():
            # Warnings that sizes may become constants: tests run other sizes and show they do not.
            warnings.simplefilter("ignore")
            with torch.inference_mode(False), torch.no_grad():
                self._trace(network)

    def _trace(self, network: TCMN) -> None:
        like = next(network.parameters())
        image, masks = like.new_zeros(2, 3, 32, 48), like.new_zeros(2, 2, 32, 48)

        def trace(part: nn.Module, *inputs: Tensor) -> nn.Module:
            return torch.jit.trace(part, inputs, check_trace=False)

        features = FrameFeatures(*Encode(network)(image))
        value = network.mask_encoder(masks, features.stride16)
        memory = torch.stack([features.key] * 2, dim=2), torch.stack([value] * 2, dim=3)
        self.encode = trace(Encode(network), image)
        self.memorize = trace(network.mask_encoder, masks, features.stride16)
        self.memorize_coarsely = trace(MemorizeCoarsely(network), masks, features.stride16)
        self.segment = trace(
            ReadAndSegment(network),
            *memory,
            masks.new_ones(2),
            features.key,
            features.query,
            features.stride8,
            features.stride4,
            masks,
        )
        self.aggregate = trace(Aggregate(), masks)

    @no_type_check  # a type check would wrap the method, and TorchScript cannot compile the wrapper
    def forward(self, clip: Tensor) -> Tensor:
        height, width, frames = clip.size(2), clip.size(3), clip.size(4)
        below, right = -height % self.stride, -width % self.stride
        keys: list[Tensor] = []
        values: list[Tensor] = []
        weights: list[float] = []
        logits: list[Tensor] = []
        found = clip[:, :0, ..., 0]  # TorchScript needs its type before the loop
        for t in range(frames):
            frame = F.pad(clip[..., t], [0, right, 0, below])
            key, query, stride16, stride8, stride4 = self.encode(frame[:, :3])
            if t == 0:
                found = self.aggregate(frame[:, 3:])
            else:
                previous = found.softmax(1)[:, 1:]
                memory = torch.stack(keys, 2), torch.stack(values, 3)
                factors = torch.tensor(weights, dtype=key.dtype, device=key.device)
                found = self.segment(
                    memory[0], memory[1], factors, key, query, stride8, stride4, previous
                )
            logits.append(found[..., :height, :width])
            if t > 0 and weights[-1] < 1:  # the last frame was remembered until now
                keys.pop()
                values.pop()
                weights.pop()
            if t % self.memory_every == 0:
                keys.append(key)
                values.append(self.memorize(found.softmax(1)[:, 1:], stride16))
                weights.append(1.0)
            elif self.remember_last:
                keys.append(key)
                values.append(self.memorize_coarsely(found.softmax(1)[:, 1:], stride16))
                weights.append(self.last_weight)
        return torch.stack(logits, -1)
