"""Run the network by OpenVINO: two to three times as fast on CPUs, fastest in 8-bit integers.

Optional: running it needs ``openvino``, quantising it ``nncf`` as well. Shapes as in ``bundle.types``.
"""

import functools
import importlib.util
import json
import threading
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from bundle.backends.conversion import (
    DESCRIPTION,
    LAYOUT,
    MISSING,
    PARTS,
    calls,
    convert,
    convert_part,
    core,
    describe,
    optional,
)
from bundle.backends.traceable import NetworkOfParts
from bundle.networks.definition import make_network
from bundle.networks.fold_batchnorm import fold_batch_norm
from bundle.networks.tcmn import TCMN
from bundle.networks.weights import file_digest, fingerprint, load_weights, read_description
from bundle.types import Clip
from bundle.utils.atomic_write import written_beside
from bundle.utils.devices import autocast
from bundle.utils.options import MissingPackageError
from bundle.utils.threads import wait_passively

MOST_COMPILED = 12
"""Parts, each for one size of frames and number of objects, that are kept at once."""
BACKENDS = ("auto", "torch", "openvino", "int8")


class OpenVINONetwork(NetworkOfParts):
    """A network from a folder of OpenVINO's graphs; for inference on a CPU only.

    Stands in for ``TCMN`` where a video is segmented. Threads may share it. The maps of a frame but
    its key are valid until the same thread encodes the next frame. Under PyTorch's autocast it
    computes in bfloat16, else in float32.

    Args:
        folder: With the three parts, as ``convert`` or ``quantize`` wrote it.
        threads: CPU threads; by default those of PyTorch.

    Raises:
        MissingPackageError: OpenVINO is not installed.
        FileNotFoundError: A part is missing.
    """

    def __init__(self, folder: str | Path, threads: int | None = None) -> None:
        for name in (*(f"{part}.xml" for part in PARTS), DESCRIPTION):
            if not (Path(folder) / name).is_file():
                raise FileNotFoundError(f"no {Path(folder) / name}: make it with `tcmn quantize`")
        description = json.loads((Path(folder) / DESCRIPTION).read_text())
        # What is not named there was made before networks could have it.
        super().__init__(
            partial_masks=description.get("partial_masks", False),
            previous_mask=description.get("previous_mask", False),
        )
        self._folder, self._threads = Path(folder), threads or torch.get_num_threads()
        self._core = core()
        self._compile = functools.lru_cache(MOST_COMPILED)(self._compile_part)
        self._requests = threading.local()
        # So that those who ask a network for its device get an answer.
        self.anchor = nn.Parameter(torch.zeros(()), requires_grad=False)
        wait_passively()

    def _run(self, part: str, *inputs: Tensor) -> list[Tensor]:
        arrays = [x.float().movedim(1, -1).contiguous().numpy() for x in inputs]
        compiled = self._compile(part, self._number_type(), *(x.shape for x in arrays))
        if getattr(self._requests, part, (None,))[0] is not compiled:
            setattr(self._requests, part, (compiled, compiled.create_infer_request()))
        request = getattr(self._requests, part)[1]
        found = request.infer(arrays, share_inputs=True, share_outputs=True)
        return [torch.from_numpy(found[i]).movedim(-1, 1) for i in range(len(found))]

    def _number_type(self) -> str:
        """What is computed in, as OpenVINO calls it."""
        mixed = torch.is_autocast_enabled("cpu")
        return "bf16" if mixed and torch.get_autocast_dtype("cpu") == torch.bfloat16 else "f32"

    def _compile_part(self, part: str, number_type: str, *shapes: tuple[int, ...]) -> Any:
        """For maps of these sizes alone, which is faster than for any."""
        model = self._core.read_model(str(self._folder / f"{part}.xml"))
        model.reshape({model.input(i): list(shape) for i, shape in enumerate(shapes)})
        settings = {
            "INFERENCE_NUM_THREADS": self._threads,
            "PERFORMANCE_HINT": "LATENCY",
            "INFERENCE_PRECISION_HINT": number_type,
        }
        return self._core.compile_model(model, "CPU", settings)


class QuantizedTCMN(OpenVINONetwork):
    """The same in 8-bit integers, from a folder that ``quantize`` wrote."""

    def _number_type(self) -> str:
        return "f32"  # of what is not quantised


def optimize(
    network: TCMN,
    device: torch.device | str = "cpu",
    backend: str = "torch",
    folder: str | Path | None = None,
) -> nn.Module:
    """Return the fastest available form of a network, for inference.

    Args:
        network: In evaluation mode; it stays as it is.
        device: Where it shall run.
        backend: ``torch``: in floating point, with BatchNorm folded. ``openvino``: the same by
            OpenVINO, converted once for these weights. ``int8``: the quantised network. ``auto``: on
            a CPU, if OpenVINO is installed, the quantised one if ``folder`` was made from these very
            weights, else the converted one.
        folder: Where ``quantize`` wrote.

    Raises:
        ValueError: There is no such backend, or it cannot run this network: the quantised network is
            of other weights, or another device than a CPU is asked for.
        FileNotFoundError: There is no quantised network.
        MissingPackageError: OpenVINO is not installed.
    """
    _check_backend(backend)
    device = torch.device(device)
    if backend in ("auto", "int8"):
        problem = _why_not_int8(lambda: fingerprint(network), device, folder)
        if problem is None:
            return QuantizedTCMN(str(folder))
        if backend == "int8":
            raise problem
    if backend in ("auto", "openvino"):
        problem = _why_not(device, "openvino")
        if problem is None:
            return OpenVINONetwork(convert(network))
        if backend == "openvino":
            raise problem
    return fold_batch_norm(network).to(device).to(memory_format=torch.channels_last)


def load_network(
    weights: str | Path,
    device: torch.device | str = "cpu",
    backend: str = "auto",
    folder: str | Path | None = None,
) -> nn.Module:
    """Load weights as the fastest available form of their network; see ``optimize``.

    Where the file beside the weights says that the quantised network was made from them, they are not
    even read, and no network in floating point is made.

    Args:
        weights: A plain state dict; ``bundle.networks.weights`` has which network they are of.
        device: Where it shall run.
        backend: ``auto``, ``torch``, ``openvino`` or ``int8``.
        folder: Folder of the quantised network.

    Raises:
        FileNotFoundError: There are no such weights.
        ValueError: They are damaged, or of another network than the file beside them says.
    """
    _check_backend(backend)
    description = read_description(weights)
    if backend in ("auto", "int8") and description is not None and Path(weights).is_file():
        made_from = description.fingerprint
        if made_from is not None and description.sha256 == file_digest(weights):
            problem = _why_not_int8(lambda: made_from, torch.device(device), folder)
            if problem is None:
                return QuantizedTCMN(str(folder))
            if backend == "int8":
                raise problem
    network = load_weights(make_network(weights=weights), weights).eval()
    return optimize(network, device, backend, folder)


def number_type(network: nn.Module, precision: str, device: torch.device) -> str:
    """What a network's convolutions are computed in, for reports."""
    if isinstance(network, QuantizedTCMN):
        return "8-bit integers"
    with autocast(precision, device):
        mixed = torch.is_autocast_enabled(device.type)
        dtype = torch.get_autocast_dtype(device.type) if mixed else torch.float32
    return str(dtype).removeprefix("torch.")


def _check_backend(backend: str) -> None:
    if backend not in BACKENDS:
        raise ValueError(f"backend must be one of {list(BACKENDS)}, got {backend!r}")


def _why_not(device: torch.device, backend: str) -> Exception | None:
    """What keeps OpenVINO from running anything."""
    if device.type != "cpu":
        return ValueError(f"backend {backend} runs on CPUs, not on {device}: use --backend torch")
    if importlib.util.find_spec("openvino") is None:
        return MissingPackageError(MISSING.format("openvino", backend))
    return None


def _why_not_int8(
    made_from: Callable[[], str], device: torch.device, folder: str | Path | None
) -> Exception | None:
    """What keeps the quantised network from being used for weights of this fingerprint."""
    description = Path(folder or "") / DESCRIPTION
    if device.type != "cpu":
        return _why_not(device, "int8")
    if folder is None or not description.is_file():
        return FileNotFoundError(f"no {description}: make it with `tcmn quantize`")
    made = json.loads(description.read_text())
    if made.get("layout") != LAYOUT:
        return ValueError(
            f"{folder} was made by another version of this program: make it anew with "
            "`tcmn quantize`, or use --backend torch"
        )
    if made["weights"] != made_from():
        return ValueError(
            f"{folder} was made from other weights: make it anew with `tcmn quantize`, or use "
            "--backend torch"
        )
    return _why_not(device, "int8")


def quantize(network: TCMN, clips: Iterable[Clip], folder: str | Path) -> None:
    """Quantise a network to 8 bits, with the ranges that its layers see in some clips.

    Weights and activations get 8 bits, rounded so that they fit the range that the clips show
    (NNCF, post-training). Nothing is trained and no truth but the first frames' masks is used.

    Args:
        network: On a CPU, in evaluation mode.
        clips: Clips of videos like those to segment, sides multiples of 16; a few dozen of all
            kinds.
        folder: Must not exist; it appears when all is written.

    Raises:
        FileExistsError: The folder exists.
        MissingPackageError: OpenVINO or NNCF is not installed.
    """
    openvino, nncf = optional("openvino"), optional("nncf")
    folder = Path(folder)
    if folder.exists():
        raise FileExistsError(f"{folder} exists: remove it or name another folder")
    plain = fold_batch_norm(network)
    inputs: dict[str, list[tuple[np.ndarray, ...]]] = {name: [] for name in PARTS}
    with torch.no_grad():
        for clip in clips:
            for part, tensors in calls(plain, clip):
                inputs[part].append(tuple(x.movedim(1, -1).contiguous().numpy() for x in tensors))
    with written_beside(folder) as beside:
        beside.mkdir()
        for name in PARTS:
            example = [torch.from_numpy(x) for x in inputs[name][0]]
            model = convert_part(plain, name, example)
            model = nncf.quantize(
                model,
                nncf.Dataset(inputs[name]),
                preset=nncf.QuantizationPreset.MIXED,
                subset_size=len(inputs[name]),
            )
            openvino.save_model(model, str(beside / f"{name}.xml"))
        description = describe(network) | {"nncf": nncf.__version__}
        (beside / DESCRIPTION).write_text(json.dumps(description, indent=2) + "\n")
