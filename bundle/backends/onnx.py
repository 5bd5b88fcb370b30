"""Export the network as three ONNX graphs, and check that they compute the same.

Axes as in ``bundle.types``, with B = 1 (one video). In memory, frames are the first axis, so that a
program can append to plain arrays: keys (T, K, h, w), values (T, N, V, h, w).
"""

import importlib
import math
import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.export import Dim

from bundle.backends.traceable import Decode, Encode
from bundle.memory.attention import LAST_WEIGHT, read_memory
from bundle.networks.fold_batchnorm import fold_batch_norm
from bundle.networks.tcmn import STRIDE, TCMN, aggregate
from bundle.utils.options import MissingPackageError

OPSET = 20
TOLERANCE = 1e-3
"""Largest difference allowed, as a share of an output's largest value, or of 1 if that is more."""

SIZES = ((64, 96), (112, 80))
OBJECTS = (1, 3)
FRAMES = (1, 4)
"""Sizes of the check; the graphs are traced with other ones."""


class Memorize(nn.Module):
    """The value maps to remember for a frame, from each object's own probability or given mask."""

    def __init__(self, network: TCMN) -> None:
        super().__init__()
        self.encoder = network.mask_encoder

    def forward(self, stride16: Tensor, masks: Tensor, unknown: Tensor | None = None) -> Tensor:
        return self.encoder(aggregate(masks).softmax(1)[:, 1:], stride16, unknown)


class ReadAndDecode(nn.Module):
    """Class logits of a frame, and each object's own probability, which ``Memorize`` takes.

    It reads memory like ``bundle.memory.attention.read_memory``, but without chunks, whose number
    would depend on sizes, which a graph does not support.
    """

    def __init__(self, network: TCMN) -> None:
        super().__init__()
        self.decode = Decode(network)

    def forward(
        self,
        key: Tensor,
        query: Tensor,
        stride8: Tensor,
        stride4: Tensor,
        keys: Tensor,
        values: Tensor,
        weights: Tensor,
        previous: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        query_PK, key_KM = key[0].flatten(1).T, keys.movedim(1, 0).flatten(1)
        value_CM = values.flatten(3).permute(1, 2, 0, 3).flatten(2).flatten(0, 1)
        score_PM = 2 * query_PK @ key_KM - key_KM.square().sum(0)
        factor_TP = weights[:, None].expand(-1, key.shape[-2] * key.shape[-1])
        score_PM = score_PM / math.sqrt(key.shape[1]) + factor_TP.log().flatten()
        weight_PM = score_PM.softmax(1)
        readout = (value_CM @ weight_PM.T).view(1, *values.shape[1:])
        if previous is not None:
            previous = aggregate(previous).softmax(1)[:, 1:]
        probability = self.decode(readout, query, stride8, stride4, previous).sigmoid()
        return aggregate(probability), probability


class Graph(NamedTuple):
    """One ONNX file: its module, its inputs with their variable axes, its outputs."""

    module: type[nn.Module]
    inputs: Mapping[str, Mapping[int, Any]]
    outputs: Sequence[str]


_H, _W, _N, _T = (Dim(name, min=1) for name in ("h", "w", "objects", "frames"))
_GRID, _FRAME = {2: _H, 3: _W}, {2: STRIDE * _H, 3: STRIDE * _W}
GRAPHS = {
    "encode": Graph(Encode, {"image": _FRAME}, ("key", "query", "stride16", "stride8", "stride4")),
    "memorize": Graph(Memorize, {"stride16": _GRID, "masks": {1: _N, **_FRAME}}, ("value",)),
    "read_and_decode": Graph(
        ReadAndDecode,
        {
            "key": _GRID,
            "query": _GRID,
            "stride8": {2: 2 * _H, 3: 2 * _W},
            "stride4": {2: 4 * _H, 3: 4 * _W},
            "keys": {0: _T, 2: _H, 3: _W},
            "values": {0: _T, 1: _N, 3: _H, 4: _W},
            "weights": {0: _T},
        },
        ("logits", "probability"),
    ),
}
"""File name without suffix -> graph, for the paper's network."""


def list_graphs(network: TCMN) -> dict[str, Graph]:
    """``GRAPHS`` with the additional inputs of this network.

    ``unknown`` is 1 where ``masks`` is a guess; ``previous`` is the last frame's ``probability`` or
    its given mask.
    """
    graphs, masks = dict(GRAPHS), {1: _N, **_FRAME}
    more = {
        "memorize": ("unknown", network.partial_masks),
        "read_and_decode": ("previous", network.decoder.previous is not None),
    }
    for name, (each, wanted) in more.items():
        if wanted:
            graphs[name] = graphs[name]._replace(inputs={**graphs[name].inputs, each: masks})
    return graphs


class Difference(NamedTuple):
    """Difference between the network and its graphs in one output, over all cases of the check.

    Attributes:
        largest: Largest absolute difference.
        scale: Largest absolute value of the output.
    """

    largest: float
    scale: float

    def within(self, tolerance: float) -> bool:
        """Whether the difference is within a tolerance; NaN is not."""
        return self.largest <= tolerance * max(1.0, self.scale)


def export_network(network: TCMN, folder: Path) -> None:
    """Write the graphs of ``list_graphs`` with their weights, one file each.

    Args:
        network: In evaluation mode, with BatchNorm not folded.
        folder: Folder for the files, which must not have these names yet.

    Raises:
        MissingPackageError: A package for the export is not installed.
        ValueError: The network is in training mode.
    """
    _require("onnxscript")
    folded = fold_batch_norm(network)
    traced = run_network(network, *draw_scene(96, 64, objects=2, frames=3))
    for name, graph in list_graphs(network).items():
        with warnings.catch_warnings():
            # A warning that axes have the same name, which is intended.
            warnings.filterwarnings("ignore", "# The axis name", UserWarning)
            program = torch.onnx.export(
                graph.module(folded).eval(),
                tuple(traced[each] for each in graph.inputs),
                dynamo=True,
                opset_version=OPSET,
                input_names=list(graph.inputs),
                output_names=list(graph.outputs),
                dynamic_shapes=tuple(graph.inputs.values()),
                verbose=False,
            )
        assert program is not None
        if name == "encode":  # its grid is an axis of outputs only, where it gets a generated name
            shape = program.model.graph.outputs[0].shape
            assert shape is not None
            program.rename_axes({str(shape[2]): "h", str(shape[3]): "w"})
        program.save(folder / f"{name}.onnx", external_data=False)


def check_export(network: TCMN, folder: Path) -> dict[str, Difference]:
    """Run frames of several sizes, numbers of objects and memories through the network and its graphs.

    Args:
        network: The exported network, in evaluation mode.
        folder: Folder of the graphs.

    Returns:
        Name of the output -> difference. Logits are compared as class probabilities, since near 0 and 1
        a rounding error of the probability is a large change of the logit.

    Raises:
        MissingPackageError: ONNX Runtime is not installed.
    """
    runtime = _require("onnxruntime")
    sessions = {
        name: runtime.InferenceSession(
            str(folder / f"{name}.onnx"), providers=["CPUExecutionProvider"]
        )
        for name in GRAPHS
    }
    graphs = list_graphs(network)
    found: dict[str, Difference] = {}
    for images, masks in _make_cases():
        expected = run_network(network, images, masks)
        for name, graph in graphs.items():
            inputs = {each: expected[each].numpy() for each in graph.inputs}
            outputs = sessions[name].run(list(graph.outputs), inputs)
            for output, values in zip(graph.outputs, outputs, strict=True):
                known = found.get(output, Difference(0.0, 0.0))
                found[output] = _widen(known, output, expected[output], torch.from_numpy(values))
    return found


def _widen(known: Difference, output: str, expected: Tensor, values: Tensor) -> Difference:
    if values.shape != expected.shape:
        raise ValueError(
            f"the graph's {output} is {tuple(values.shape)}, the network's {tuple(expected.shape)}"
        )
    if output == "logits":
        expected, values = expected.softmax(1), values.softmax(1)
    largest, scale = (expected - values).abs().max().item(), expected.abs().max().item()
    # NumPy's maximum keeps NaN; Python's may drop it.
    return Difference(
        float(np.maximum(known.largest, largest)), float(np.maximum(known.scale, scale))
    )


@torch.no_grad()
def run_network(network: TCMN, images: Tensor, masks: Tensor) -> dict[str, Tensor]:
    """Compute all inputs and outputs of the graphs with the network itself.

    Args:
        network: In evaluation mode.
        images: (T + 1, 3, H, W); the last one is segmented, the others are in memory.
        masks: (T, N, H, W) of the images in memory, in [0, 1]; the last one is also memorized with the
            last image.
    """
    *past, features = (network.encode(image[None]) for image in images)
    given = [aggregate(mask[None]).softmax(1)[:, 1:] for mask in masks]
    unknown = masks[-1:].flip(-1)  # any map serves for the check
    values = [network.memorize(*each) for each in zip(past, given, strict=True)]
    keys = [each.key for each in past]
    weights = torch.linspace(1, LAST_WEIGHT, len(keys))
    readout = read_memory(
        torch.stack(keys, 2), torch.stack(values, 3), features.key, weights=weights
    )
    return {
        **features._asdict(),
        "image": images[-1:],
        "masks": masks[-1:],
        "unknown": unknown,
        "previous": masks[-1:],
        "value": network.memorize(features, given[-1], unknown if network.partial_masks else None),
        "keys": torch.cat(keys),
        "values": torch.cat(values),
        "weights": weights,
        "logits": network.segment(features, readout, given[-1]),
        "probability": network.decoder(readout, features, given[-1]).sigmoid(),
    }


def draw_scene(height: int, width: int, objects: int, frames: int) -> tuple[Tensor, Tensor]:
    """Draw images (T + 1, 3, H, W) of discs that move over a shaded ground, and masks (T, N, H, W)."""
    y, x = torch.meshgrid(torch.linspace(0, 1, height), torch.linspace(0, 1, width), indexing="ij")
    images, masks = [], []
    for t in range(frames + 1):
        image = (0.4 + 0.2 * torch.sin(5 * x + 3 * y)).expand(3, -1, -1)
        discs = []
        for i in range(objects):
            distance = (x - (i + 0.5) / objects).square() + (y - 0.4 - 0.03 * t).square()
            discs.append((distance < (0.3 / objects) ** 2).float())
            colour = torch.tensor([0.9, 0.3 + 0.2 * i, 0.3]).view(3, 1, 1)
            image = torch.where(discs[-1] > 0, colour - distance, image)
        images.append(image)
        masks.append(torch.stack(discs))
    return torch.stack(images), torch.stack(masks[:-1])


def _make_cases() -> Iterator[tuple[Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(0)
    for height, width in SIZES:
        for objects in OBJECTS:
            for frames in FRAMES:
                images, masks = draw_scene(height, width, objects, frames)
                yield images, masks
                yield (
                    torch.rand(images.shape, generator=generator),
                    torch.rand(masks.shape, generator=generator),
                )


def _require(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name != name:
            raise
        raise MissingPackageError(f"no package {name}: pip install 'tcmn[onnx]'") from error
