"""Convert a network's parts to OpenVINO by tracing, and cache the result for the next run."""

import functools
import hashlib
import importlib
import json
import logging
import sys
import tempfile
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from bundle.backends.traceable import (
    ChannelsLast,
    EncodeWithSkips,
    Memorize,
    NetworkOfParts,
    Refine,
)
from bundle.memory.attention import read_memory
from bundle.networks.fold_batchnorm import fold_batch_norm
from bundle.networks.prompts import from_box
from bundle.networks.tcmn import TCMN
from bundle.networks.weights import fingerprint
from bundle.types import Clip
from bundle.utils.atomic_write import written_beside
from bundle.utils.options import MissingPackageError
from bundle.utils.user_folders import cache_folder

logger = logging.getLogger(__name__)

PARTS = {"encode": EncodeWithSkips, "memorize": Memorize, "decode": Refine}
LAYOUT = 2
"""Version of the parts' inputs and outputs; increased when these change."""
DESCRIPTION = "network.json"
MISSING = "backend {1} needs {0}: pip install 'tcmn[fast]', or use --backend torch"


def optional(name: str, backend: str = "int8") -> Any:
    """Import an optional library; what it would tell its makers of its use stays here.

    Raises:
        MissingPackageError: It is not installed; the message says how to work without it.
    """
    # OpenVINO and NNCF report each import and conversion over the network, from a process that they
    # start for it, and ask nobody. They do without where this package cannot be imported.
    sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name != name:
            raise
        raise MissingPackageError(MISSING.format(name, backend), name=name) from error


@functools.cache
def core() -> Any:
    """OpenVINO's ``Core``, one for the whole process, which is never destroyed.

    Each ``Core`` sets a stack for signal handlers and restores the previous one when it is destroyed.
    If several are destroyed in the order of creation, the last one restores a stack that no longer
    exists, and the next signal (Ctrl-C, SIGTERM) crashes the process.
    """
    return optional("openvino").Core()


def describe(network: TCMN) -> dict[str, Any]:
    """The description of a folder of parts: which weights they are from, and which inputs they have."""
    return {
        "weights": fingerprint(network),
        "layout": LAYOUT,
        "partial_masks": network.partial_masks,
        "previous_mask": network.decoder.previous is not None,
    }


def convert_part(network: TCMN, part: str, example: Sequence[Tensor]) -> Any:
    """Convert one part to an OpenVINO model for maps of any size, channels last.

    Args:
        network: In evaluation mode, with BatchNorm folded.
        part: A name in ``PARTS``.
        example: Example inputs of the part, channels last.
    """
    openvino, passes = optional("openvino"), optional("openvino.passes")
    module = ChannelsLast(PARTS[part](network)).eval()
    with torch.no_grad(), warnings.catch_warnings():
        # Warnings that sizes may become constants: tests show that they stay variable.
        warnings.simplefilter("ignore", torch.jit.TracerWarning)
        warnings.simplefilter(
            "ignore", FutureWarning
        )  # tracing is deprecated, but OpenVINO uses it
        model = openvino.convert_model(module, example_input=tuple(example))
    manager = passes.Manager()
    # Otherwise NNCF would not recognise a slice of a weight as a weight.
    manager.register_pass(passes.ConstantFolding())
    manager.run_passes(model)
    return model


def convert(network: TCMN) -> Path:
    """Convert a network's parts in floating point, or find them in the cache; returns their folder.

    The cache is ``TCMN_CACHE_DIR``, by default the user's cache folder. Its entries are named by the
    fingerprint of the weights. If it cannot be written, a temporary folder of this process is used.

    Args:
        network: On a CPU, in evaluation mode; it is not changed.
    """
    fits = hashlib.sha256(
        json.dumps([fingerprint(network), _constants(network), LAYOUT, _version()]).encode()
    ).hexdigest()[:32]
    folder = cache_folder() / f"openvino-{fits}"
    if (folder / DESCRIPTION).is_file():
        return folder
    logger.info("converting the network to OpenVINO, once for these weights: %s", folder)
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        _write(network, folder)
    except OSError as error:
        logger.warning("%s cannot be written (%s): converted for this run only", folder, error)
        folder = Path(_temporary().name) / folder.name
        if not folder.is_dir():
            _write(network, folder)
    return folder


def calls(network: TCMN, clip: Clip) -> Iterator[tuple[str, tuple[Tensor, ...]]]:
    """Segment a clip, and yield the name and inputs of each part that is run.

    If the network takes partial masks, the first frame is also completed from boxes.
    """
    recorder = _Recorder(network)
    keys: list[Tensor] = []
    values: list[Tensor] = []
    masks = clip[:, 3:, ..., 0]
    for image in clip[:, :3].unbind(-1):
        features = recorder.encode(image)
        if keys:
            readout = read_memory(torch.stack(keys, 2), torch.stack(values, 3), features.key)
            masks = recorder.segment(features, readout, masks).softmax(1)[:, 1:]
        elif network.partial_masks:
            recorder.complete(features, *_boxes(masks))
        keys.append(features.key)
        values.append(recorder.memorize(features, masks))
        yield from recorder.calls
        recorder.calls.clear()


class _Recorder(NetworkOfParts):
    """A network that records the inputs of its parts."""

    def __init__(self, network: TCMN) -> None:
        super().__init__(
            partial_masks=network.partial_masks, previous_mask=network.decoder.previous is not None
        )
        self.parts = {name: part(network) for name, part in PARTS.items()}
        self.calls: list[tuple[str, tuple[Tensor, ...]]] = []

    def _run(self, part: str, *inputs: Tensor) -> list[Tensor]:
        self.calls.append((part, inputs))
        return list(self.parts[part](*inputs))


def _boxes(masks: Float[Tensor, "B N H W"]) -> tuple[Tensor, Tensor]:
    """The bounding boxes of objects as partial masks: (guess, unknown)."""
    guess, unknown = torch.zeros_like(masks), torch.zeros_like(masks)
    for number in np.ndindex(*masks.shape[:2]):
        mask = masks[number] > 0.5
        rows, columns = mask.any(1).nonzero()[:, 0], mask.any(0).nonzero()[:, 0]
        if len(rows):
            box = (int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1)
            part = from_box((mask.shape[0], mask.shape[1]), box)
            guess[number], unknown[number] = map(torch.from_numpy, part)
    return guess, unknown


def _write(network: TCMN, folder: Path) -> None:
    openvino, plain = optional("openvino"), fold_batch_norm(network)
    # Two objects: with one, the trace would make their number a constant.
    clip = torch.rand(1, 5, 64, 96, 2, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        examples = dict(calls(plain, clip))
    with written_beside(folder) as beside:
        beside.mkdir()
        for part, tensors in examples.items():
            model = convert_part(plain, part, [x.movedim(1, -1).contiguous() for x in tensors])
            openvino.save_model(model, str(beside / f"{part}.xml"), compress_to_fp16=False)
        (beside / DESCRIPTION).write_text(json.dumps(describe(network), indent=2) + "\n")


def _constants(network: TCMN) -> list[Any]:
    """The constants of a network that are not in its weights: normalisation and strides."""
    encoder = network.query_encoder
    strides = [m.stride for m in encoder.modules() if isinstance(m, nn.Conv2d)]
    return [encoder.mean.flatten().tolist(), encoder.std.flatten().tolist(), strides]


def _version() -> str:
    return str(optional("openvino").__version__)


@functools.cache
def _temporary() -> "tempfile.TemporaryDirectory[str]":
    return tempfile.TemporaryDirectory(prefix="tcmn-")
