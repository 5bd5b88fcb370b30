"""Run the network by OpenVINO, in floating point or in 8-bit integers; choose the fastest backend.

It is two to three times as fast on CPUs. ``openvino`` is optional; quantising also needs ``nncf``.
Shapes as in ``bundle.types``.
"""

import functools
import importlib.util
import json
import threading
from collections.abc import Callable, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import cycle
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
from bundle.networks.tcmn import STRIDE, TCMN, coarse_side
from bundle.networks.weights import file_digest, fingerprint, load_weights, read_description
from bundle.types import Clip
from bundle.utils.atomic_write import written_beside
from bundle.utils.devices import autocast
from bundle.utils.options import MissingPackageError
from bundle.utils.threads import wait_passively

MOST_COMPILED = 16
"""Number of compiled parts kept at once, each for one frame size and number of objects."""
BACKENDS = ("auto", "torch", "openvino", "int8")


class OpenVINONetwork(NetworkOfParts):
    """A network from a folder of OpenVINO's graphs; for inference on a CPU only.

    Stands in for ``TCMN`` where a video is segmented. Threads may share it. The maps of a frame but
    its key are valid until the same thread has encoded two more. Under PyTorch's autocast it computes
    in bfloat16, else in float32.

    Args:
        folder: With the three parts, as ``convert`` or ``quantize`` wrote it.
        threads: CPU threads; by default those of PyTorch.

    Attributes:
        encodes_ahead: It gains where a thread encodes the next frame while another one segments: what
            lies between its parts then costs no time.

    Raises:
        MissingPackageError: OpenVINO is not installed.
        FileNotFoundError: A part is missing.
    """

    encodes_ahead = True

    def __init__(self, folder: str | Path, threads: int | None = None) -> None:
        for name in (*(f"{part}.xml" for part in PARTS), DESCRIPTION):
            if not (Path(folder) / name).is_file():
                raise FileNotFoundError(f"no {Path(folder) / name}: make it with `tcmn quantize`")
        description = json.loads((Path(folder) / DESCRIPTION).read_text())
        # A folder without these keys was made by a version whose networks did not have them.
        super().__init__(
            partial_masks=description.get("partial_masks", False),
            previous_mask=description.get("previous_mask", False),
        )
        self._folder, self._threads = Path(folder), threads or torch.get_num_threads()
        self._core = core()
        self._begin = functools.lru_cache(MOST_COMPILED)(self._begin_to_compile)
        self._requests = threading.local()
        # A parameter, so that callers can ask for the network's device.
        self.anchor = nn.Parameter(torch.zeros(()), requires_grad=False)
        wait_passively()

    def prepare(self, height: int, width: int, objects: int) -> None:
        """Begin to compile for frames of a size, in two threads; a part that is needed is waited for.

        Args:
            height: A multiple of 16, like ``width``.
            width: In pixels.
            objects: How many objects they have.
        """
        encode = self._read("encode", (1, height, width, 3))
        _, query, stride16, *skips = (tuple(x.shape) for x in encode.outputs)
        grid = (objects, *query[1:3])
        previous = [(*grid, 2)] if self.previous_mask else []
        number_type = self._number_type()

        def memorize(rows: int, columns: int) -> None:
            masks = (1, STRIDE * rows, STRIDE * columns, objects)
            frame = (1, rows, columns, stride16[-1])
            self._begin("memorize", number_type, masks, frame, *[masks] * self.partial_masks)

        self._begin("encode", number_type, (1, height, width, 3))
        memorize(*stride16[1:3])
        self._begin("decode", number_type, (*grid, query[-1]), query, *skips, *previous)
        # For memorize_coarsely; the last part to be needed.
        memorize(*map(coarse_side, stride16[1:3]))

    def _run(self, part: str, *inputs: Tensor) -> list[Tensor]:
        arrays = [x.float().movedim(1, -1).contiguous().numpy() for x in inputs]
        compiled = self._compile(part, self._number_type(), *(x.shape for x in arrays))
        if getattr(self._requests, part, (None,))[0] is not compiled:
            # Two that take turns for what must outlive the next frame's.
            count = 2 if part == "encode" else 1
            turns = cycle([compiled.create_infer_request() for _ in range(count)])
            setattr(self._requests, part, (compiled, turns))
        request = next(getattr(self._requests, part)[1])
        found = request.infer(arrays, share_inputs=True, share_outputs=True)
        return [torch.from_numpy(found[i]).movedim(-1, 1) for i in range(len(found))]

    def _number_type(self) -> str:
        """The number type of the computation, by OpenVINO's name."""
        mixed = torch.is_autocast_enabled("cpu")
        return "bf16" if mixed and torch.get_autocast_dtype("cpu") == torch.bfloat16 else "f32"

    def _compile(self, part: str, number_type: str, *shapes: tuple[int, ...]) -> Any:
        try:
            return self._begin(part, number_type, *shapes).result()
        except BaseException:
            self._begin.cache_clear()  # what failed for lack of memory, say, may work later
            raise

    def _begin_to_compile(self, *what: Any) -> Future[Any]:
        return _compilers().submit(self._compile_part, *what)

    def _read(self, part: str, *shapes: tuple[int, ...]) -> Any:
        """Read a part for maps of these shapes only, which is faster than for any shape."""
        model = self._core.read_model(str(self._folder / f"{part}.xml"))
        model.reshape({model.input(i): list(shape) for i, shape in enumerate(shapes)})
        return model

    def _compile_part(self, part: str, number_type: str, *shapes: tuple[int, ...]) -> Any:
        model = self._read(part, *shapes)
        settings = {
            "INFERENCE_NUM_THREADS": self._threads,
            "PERFORMANCE_HINT": "LATENCY",
            "INFERENCE_PRECISION_HINT": number_type,
            # Pinned, threads of all parts share the first cores, whatever else runs there, and a part
            # that runs beside another one waits for it.
            "ENABLE_CPU_PINNING": False,
        }
        return self._core.compile_model(model, "CPU", settings)


@functools.cache
def _compilers() -> ThreadPoolExecutor:
    """Compiling takes one thread a part, and most of the time to the first mask."""
    return ThreadPoolExecutor(2, thread_name_prefix="compile")


class QuantizedTCMN(OpenVINONetwork):
    """The network in 8-bit integers, from a folder that ``quantize`` wrote."""

    def _number_type(self) -> str:
        return "f32"  # for the layers that are not quantised


def optimize(
    network: TCMN,
    device: torch.device | str = "cpu",
    backend: str = "torch",
    folder: str | Path | None = None,
) -> nn.Module:
    """Return the fastest available form of a network, for inference.

    Args:
        network: In evaluation mode; it is not changed.
        device: Device to run it on.
        backend: ``torch``: floating point, with BatchNorm folded. ``openvino``: floating point by
            OpenVINO, converted once for these weights. ``int8``: the quantised network. ``auto``: on
            a CPU with OpenVINO, the quantised network if ``folder`` was made from these weights, else
            the converted one; otherwise ``torch``.
        folder: Folder that ``quantize`` wrote.

    Raises:
        ValueError: The backend is unknown or cannot run this network: the quantised network is of
            other weights, or the device is not a CPU.
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

    If the description beside the weights says that the quantised network was made from them, the
    weights are not read, and no network in floating point is made.

    Args:
        weights: File of a plain state dict, with its description beside it, see
            ``bundle.networks.weights``.
        device: Device to run it on.
        backend: ``auto``, ``torch``, ``openvino`` or ``int8``.
        folder: Folder of the quantised network.

    Raises:
        FileNotFoundError: The weights do not exist.
        ValueError: They are damaged, or do not fit the description beside them.
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
    """The number type of a network's convolutions, for reports."""
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
    """The error to raise if OpenVINO cannot run here; else None."""
    if device.type != "cpu":
        return ValueError(f"backend {backend} runs on CPUs, not on {device}: use --backend torch")
    if importlib.util.find_spec("openvino") is None:
        return MissingPackageError(MISSING.format("openvino", backend))
    return None


def _why_not_int8(
    made_from: Callable[[], str], device: torch.device, folder: str | Path | None
) -> Exception | None:
    """The error to raise if the quantised network cannot stand in for these weights; else None."""
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
    """Quantise a network to 8 bits, calibrated on some clips.

    This is NNCF's post-training quantisation: weights and activations get 8 bits, scaled to the ranges
    that occur in the clips. Nothing is trained, and only the masks of first frames are used.

    Args:
        network: On a CPU, in evaluation mode.
        clips: A few dozen clips like the videos to segment, with sides that are multiples of 16.
        folder: Folder to write, which must not exist; it appears when it is complete.

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
