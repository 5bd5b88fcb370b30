"""The network in 8-bit integers, run by OpenVINO: about three times as fast on CPUs.

Optional: running it needs ``openvino``, making it ``nncf`` as well. Shapes as in ``bundle.types``.
"""

import functools
import importlib.util
import json
import threading
import warnings
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from bundle.backends.traceable import ChannelsLast, EncodeWithSkips, Memorize, Refine
from bundle.memory.bank import read_memory
from bundle.networks.decoder import enlarge
from bundle.networks.definition import make_network
from bundle.networks.encoders import FrameFeatures
from bundle.networks.fold_batchnorm import fold_batch_norm
from bundle.networks.tcmn import TCMN, aggregate
from bundle.networks.weights import file_digest, fingerprint, load_weights, read_description
from bundle.types import Clip
from bundle.utils.atomic_write import written_beside
from bundle.utils.devices import autocast
from bundle.utils.options import MissingPackageError

MOST_COMPILED = 12
"""Parts, each for one size of frames and number of objects, that are kept at once."""
BACKENDS = ("auto", "torch", "int8")
PARTS = {"encode": EncodeWithSkips, "memorize": Memorize, "decode": Refine}
LAYOUT = 2
"""Of the parts' inputs and outputs; counts up when these change."""
DESCRIPTION = "network.json"
MISSING = "backend int8 needs {0}: pip install 'tcmn[fast]', or use --backend torch"


class QuantizedTCMN(nn.Module):
    """A quantised network from a folder that ``quantize`` wrote; for inference on a CPU only.

    Stands in for ``TCMN`` where a video is segmented. Threads may share it. The maps of a frame but
    its key are valid until the same thread encodes the next frame.

    Args:
        folder: With the three parts.
        threads: CPU threads; by default those of PyTorch.

    Raises:
        MissingPackageError: OpenVINO is not installed.
        FileNotFoundError: A part is missing.
    """

    def __init__(self, folder: str | Path, threads: int | None = None) -> None:
        super().__init__()
        for name in PARTS:
            if not (Path(folder) / f"{name}.xml").is_file():
                raise FileNotFoundError(
                    f"no {Path(folder) / name}.xml: make it with scripts/quantize.py"
                )
        self._folder, self._threads = Path(folder), threads or torch.get_num_threads()
        self._core = _core()
        self._compile = functools.lru_cache(MOST_COMPILED)(self._compile_part)
        self._requests = threading.local()
        # So that those who ask a network for its device get an answer.
        self.anchor = nn.Parameter(torch.zeros(()), requires_grad=False)

    def encode(self, image: Float[Tensor, "B 3 H W"]) -> FrameFeatures:
        """As ``TCMN.encode``, but the maps at strides 8 and 4 are the decoder's skips already."""
        key, *maps = self._run("encode", image)
        return FrameFeatures(key.clone(), *maps)

    def memorize(
        self,
        features: FrameFeatures,
        masks: Float[Tensor, "B N H W"],
        unknown: Float[Tensor, "B N H W"] | None = None,
    ) -> Float[Tensor, "B N V h w"]:
        """As ``TCMN.memorize``."""
        pairs = zip(masks[:, None], features.stride16[:, None], strict=True)
        return torch.stack([self._run("memorize", *each)[0].clone() for each in pairs])

    def segment(
        self,
        features: FrameFeatures,
        readout: Float[Tensor, "B N V h w"],
        previous: Float[Tensor, "B N H W"] | None = None,
    ) -> Float[Tensor, "B 1+N H W"]:
        """As ``TCMN.segment``."""
        maps = (x[:, None] for x in (features.query, features.stride8, features.stride4))
        logits = [
            enlarge(self._run("decode", *each)[0]) for each in zip(readout, *maps, strict=True)
        ]
        return aggregate(torch.sigmoid(torch.stack(logits)[:, :, 0]))

    def _run(self, part: str, *inputs: Tensor) -> list[Tensor]:
        arrays = [x.float().movedim(1, -1).contiguous().numpy() for x in inputs]
        compiled = self._compile(part, *(x.shape for x in arrays))
        if getattr(self._requests, part, (None,))[0] is not compiled:
            setattr(self._requests, part, (compiled, compiled.create_infer_request()))
        request = getattr(self._requests, part)[1]
        found = request.infer(arrays, share_inputs=True, share_outputs=True)
        return [torch.from_numpy(found[i]).movedim(-1, 1) for i in range(len(found))]

    def _compile_part(self, part: str, *shapes: tuple[int, ...]) -> Any:
        """For maps of these sizes alone, which is faster than for any."""
        model = self._core.read_model(str(self._folder / f"{part}.xml"))
        model.reshape({model.input(i): list(shape) for i, shape in enumerate(shapes)})
        settings = {
            "INFERENCE_NUM_THREADS": self._threads,
            "PERFORMANCE_HINT": "LATENCY",
            "INFERENCE_PRECISION_HINT": "f32",  # of what is not quantised
        }
        return self._core.compile_model(model, "CPU", settings)


@functools.cache
def _core() -> Any:
    """OpenVINO, one for the whole process, which is never let go.

    Each ``Core`` gives the thread a stack for signals and puts the one before it back at its end. Of
    several that end in the order of their making the last puts back one that is gone, and the next
    signal (Ctrl-C, SIGTERM) ends the process with a segmentation fault.
    """
    return _optional("openvino").Core()


def optimize(
    network: TCMN,
    device: torch.device | str = "cpu",
    backend: str = "torch",
    folder: str | Path | None = None,
) -> nn.Module:
    """The fastest form of a network that is at hand, for inference.

    Args:
        network: In evaluation mode; it stays as it is.
        device: Where it shall run.
        backend: ``torch``: in floating point, with BatchNorm folded. ``int8``: the quantised network.
            ``auto``: the quantised one on a CPU, if OpenVINO is installed and ``folder`` was made from
            these very weights.
        folder: Where ``quantize`` wrote.

    Raises:
        ValueError: There is no such backend, or the quantised network is of other weights or shall
            run on another device than a CPU.
        FileNotFoundError: There is no quantised network.
        MissingPackageError: OpenVINO is not installed.
    """
    _check_backend(backend)
    device = torch.device(device)
    if backend != "torch":
        problem = _why_not(lambda: fingerprint(network), device, folder)
        if problem is None:
            return QuantizedTCMN(str(folder))
        if backend == "int8":
            raise problem
    return fold_batch_norm(network).to(device).to(memory_format=torch.channels_last)


def load_network(
    weights: str | Path,
    device: torch.device | str = "cpu",
    backend: str = "auto",
    folder: str | Path | None = None,
) -> nn.Module:
    """The fastest form of the network that weights are of; see ``optimize`` for the rest.

    Where the file beside the weights says that the quantised network was made from them, they are not
    even read, and no network in floating point is made.

    Args:
        weights: A plain state dict; ``bundle.networks.weights`` has which network they are of.
        device: Where it shall run.
        backend: ``auto``, ``torch`` or ``int8``.
        folder: Of the quantised network.

    Raises:
        FileNotFoundError: There are no such weights.
        ValueError: They are damaged, or of another network than the file beside them says.
    """
    _check_backend(backend)
    description = read_description(weights)
    if backend != "torch" and description is not None and Path(weights).is_file():
        made_from = description.fingerprint
        if made_from is not None and description.sha256 == file_digest(weights):
            problem = _why_not(lambda: made_from, torch.device(device), folder)
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


def _why_not(
    made_from: Callable[[], str], device: torch.device, folder: str | Path | None
) -> Exception | None:
    """What keeps the quantised network from being used for weights of this fingerprint."""
    description = Path(folder or "") / DESCRIPTION
    if device.type != "cpu":
        return ValueError(f"backend int8 runs on CPUs, not on {device}: use --backend torch")
    if folder is None or not description.is_file():
        return FileNotFoundError(f"no {description}: make it with scripts/quantize.py")
    made = json.loads(description.read_text())
    if made.get("layout") != LAYOUT:
        return ValueError(
            f"{folder} was made by another version of this program: make it anew with "
            "scripts/quantize.py, or use --backend torch"
        )
    if made["weights"] != made_from():
        return ValueError(
            f"{folder} was made from other weights: make it anew with scripts/quantize.py, or use "
            "--backend torch"
        )
    if importlib.util.find_spec("openvino") is None:
        return MissingPackageError(MISSING.format("openvino"))
    return None


def quantize(network: TCMN, clips: Iterable[Clip], folder: str | Path) -> None:
    """Make a quantised network, by what its layers see in clips of the kind that it shall segment.

    Weights and activations get 8 bits, rounded so that they fit the range that the clips show
    (NNCF, post-training). Nothing is trained and no truth but the first frames' masks is used.

    Args:
        network: On a CPU, in evaluation mode.
        clips: Each of one video, sides multiples of 16; a few dozen, of all kinds.
        folder: Must not exist; it appears when all is written.

    Raises:
        FileExistsError: The folder exists.
        MissingPackageError: OpenVINO or NNCF is not installed.
    """
    openvino, nncf = _optional("openvino"), _optional("nncf")
    passes = importlib.import_module("openvino.passes")
    folder = Path(folder)
    if folder.exists():
        raise FileExistsError(f"{folder} exists: remove it or name another folder")
    plain = fold_batch_norm(network)
    inputs: dict[str, list[tuple[np.ndarray, ...]]] = {name: [] for name in PARTS}
    with torch.no_grad():
        for clip in clips:
            for part, tensors in _calls(plain, clip):
                inputs[part].append(tuple(x.movedim(1, -1).contiguous().numpy() for x in tensors))
    modules = {name: ChannelsLast(part(plain)) for name, part in PARTS.items()}
    with written_beside(folder) as beside:
        beside.mkdir()
        for name, module in modules.items():
            example = tuple(torch.from_numpy(x) for x in inputs[name][0])
            with torch.no_grad(), warnings.catch_warnings():
                # That sizes are read while tracing: they stay variable all the same (tests).
                warnings.simplefilter("ignore", torch.jit.TracerWarning)
                model = openvino.convert_model(module.eval(), example_input=example)
            manager = passes.Manager()
            # Or a part of a weight is no weight to NNCF.
            manager.register_pass(passes.ConstantFolding())
            manager.run_passes(model)
            model = nncf.quantize(
                model,
                nncf.Dataset(inputs[name]),
                preset=nncf.QuantizationPreset.MIXED,
                subset_size=len(inputs[name]),
            )
            openvino.save_model(model, str(beside / f"{name}.xml"))
        description = {
            "weights": fingerprint(network), "layout": LAYOUT, "nncf": nncf.__version__
        }  # fmt: skip
        (beside / DESCRIPTION).write_text(json.dumps(description, indent=2) + "\n")


def _calls(network: TCMN, clip: Clip) -> Iterator[tuple[str, tuple[Tensor, ...]]]:
    """What goes into each part while a clip is segmented."""
    keys: list[Tensor] = []
    values: list[Tensor] = []
    masks = clip[:, 3:, ..., 0]
    for image in clip[:, :3].unbind(-1):
        yield "encode", (image,)
        features = network.encode(image)
        if keys:
            readout = read_memory(torch.stack(keys, 2), torch.stack(values, 3), features.key)
            skips = network.decoder.skips(features.stride8, features.stride4)
            yield "decode", (readout[0], features.query, *skips)
            masks = network.segment(features, readout).softmax(1)[:, 1:]
        yield "memorize", (masks, features.stride16)
        keys.append(features.key)
        values.append(network.memorize(features, masks))


def _optional(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name != name:
            raise
        raise MissingPackageError(MISSING.format(name), name=name) from error
