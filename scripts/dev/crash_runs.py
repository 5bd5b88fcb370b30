"""Small runs by the shipped configs, which ``crashes.py`` kills, and a reader of their results."""

import csv
import hashlib
import json
import os
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import av
import monai.bundle
import nibabel as nib
import numpy as np
import pydicom
import torch
from PIL import Image
from pydicom.data import get_testdata_file

from bundle.io.writing.manifest import MANIFEST
from bundle.networks import TCMN

CONFIGS = Path(__file__).resolve().parents[2] / "configs"
NETWORK = {
    "backbone": "resnet18", "key_channels": 8, "value_channels": 8, "decoder_channels": [8, 8, 8],
    "stride_in_1x1": False, "context_channels": 0, "previous_mask": False, "partial_masks": False,
}  # fmt: skip
TINY: dict[str, Any] = {f"network_def#{name}": value for name, value in NETWORK.items()}
HEIGHT, WIDTH, FRAMES = 40, 48, 4
NEVER_EQUAL = ("seconds", "frames_per_second")
"""Keys of results that differ from run to run."""
IMPORTED = (
    "bundle.datasets.protocols", "bundle.datasets.registry", "bundle.evaluation.perturbations",
    "bundle.training.handlers", "bundle.apps.monai_label.requests", "bundle.backends.openvino",
    "pydicom.sr.codedict",
)  # fmt: skip
"""Modules that the runs need. They are imported here, once for all runs."""
for _name in IMPORTED:
    import_module(_name)


@dataclass(frozen=True)
class Kind:
    """One kind of run.

    Attributes:
        start: Function that runs it, given the folders of inputs and of results, and the weights.
        folders: Patterns of folders of results that must appear whole or not at all.
        earlier: Whether half of the trials begin with earlier results, of other weights.
        grows: Whether files change while it runs. Then after a kill each file must be readable, and
            tables must hold the first rows of the full ones.
        in_a_row: Most kills before a run may finish.
    """

    start: Callable[[Path, Path, str], None]
    folders: tuple[str, ...] = ()
    earlier: bool = False
    grows: bool = False
    in_a_row: int = 1


def run_config(files: tuple[str, ...], run_id: str, **options: Any) -> None:
    """Do what ``python -m monai.bundle run`` does, with the tiny network."""
    paths = [str(CONFIGS / name) for name in files]
    monai.bundle.run(run_id, config_file=paths, **TINY, **options)


def infer(inputs: Path, out: Path, weights: str, **options: Any) -> None:
    """Run configs/inference.yaml with small frames."""
    run_config(
        ("inference.yaml",), "run",
        output_dir=str(out), weights=str(inputs / weights), inference_size=32, progress=False,
        **options,
    )  # fmt: skip


def run_inference(inputs: Path, out: Path, weights: str) -> None:
    """Segment one video, write it in all formats, and replace earlier results."""
    formats = "auto,mha,rle"
    source = {"video": str(inputs / "cine.dcm"), "mask": str(inputs / "mask.png")}
    infer(inputs, out, weights, formats=formats, overwrite=True, **source)


def run_batch(inputs: Path, out: Path, weights: str) -> None:
    """Segment a folder of videos, skipping those that are done."""
    infer(inputs, out, weights, input_dir=str(inputs / "videos"))


def run_shared(inputs: Path, out: Path, weights: str) -> None:
    """Segment a list of videos in two processes that share it."""
    other = os.fork()
    os.environ |= {"RANK": "0" if other else "1", "WORLD_SIZE": "2"}
    infer(inputs, out, weights, input_dir=str(inputs / "list.csv"), formats="nifti,csv")
    if other and os.waitpid(other, 0)[1]:
        raise ValueError("the other process failed")


def run_training(inputs: Path, out: Path, weights: str) -> None:
    """Train for two epochs of two iterations, each with a validation, with a loader process."""
    options = {
        "layout": "davis", "size": 32, "batch_size": 2, "iterations_per_epoch": 2, "epochs": 2,
        "warm_up": 1, "threads": 1, "precision": "float32", "loss_table#every": 1,
    }  # fmt: skip
    run_config(
        ("train.yaml", "finetune.yaml"), "training",
        initial_weights=str(inputs / weights), output_dir=str(out), dataset_dir=str(inputs / "davis"),
        **options,
    )  # fmt: skip


def run_evaluation(inputs: Path, out: Path, weights: str) -> None:
    """Evaluate a protocol with baselines and a perturbation."""
    options = {"threads": 1, "precision": "float32", "inference_size": 32, "perturb": "erode:2"}
    run_config(
        ("train.yaml", "evaluate.yaml"), "evaluating",
        protocol="davis", dataset_dir=str(inputs / "davis"), output_dir=str(out),
        weights=str(inputs / weights), **options,
    )  # fmt: skip


KINDS = {
    "inference": Kind(run_inference, folders=("*",), earlier=True),
    "batch": Kind(run_batch, folders=("*",)),
    "shared": Kind(run_shared, folders=("*",)),
    "training": Kind(run_training, grows=True, in_a_row=3),
    "evaluation": Kind(run_evaluation, folders=("masks/*",), earlier=True),
}


def make_inputs(folder: Path) -> None:
    """Write the inputs: weights, videos of a bright disk that moves over noise, and their masks."""
    for seed, name in enumerate(("tiny.pt", "other.pt")):
        torch.manual_seed(seed)
        network = TCMN("resnet18", "resnet18", 8, 8, (8, 8, 8))
        network.decoder.predict.weight.data.mul_(10)  # masks that are neither empty nor full
        torch.save(network.state_dict(), folder / name)
    _write_dicom(folder / "cine.dcm")
    videos = folder / "videos"
    videos.mkdir()
    for name, shift in {"a": 0, "b": 3, "c": 6}.items():
        frames, masks = _draw_video(shift)
        Image.fromarray(masks[0] * 255).save(videos / f"{name}_mask.png")
        for t, (frame, mask) in enumerate(zip(frames, masks, strict=True)):
            for part, pixels in (("JPEGImages", frame), ("Annotations", mask)):
                path = folder / "davis" / part / name / f"{t:05d}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(pixels).save(path)
    shutil.copy(videos / "a_mask.png", folder / "mask.png")
    nib.save(nib.Nifti1Image(_draw_video(0)[0][..., 0].T, np.eye(4)), videos / "a.nii.gz")
    shutil.copytree(folder / "davis/JPEGImages/b", videos / "b")
    with av.open(str(videos / "c.avi"), "w") as container:
        stream = container.add_stream("ffv1", rate=25)
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "bgr0"
        for frame in _draw_video(6)[0]:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode())
    rows = [
        "video,mask",
        *(f"videos/{v},videos/{v[0]}_mask.png" for v in ("a.nii.gz", "b", "c.avi")),
    ]
    (folder / "list.csv").write_text("\n".join(rows) + "\n")


def _draw_video(shift: int) -> tuple[np.ndarray, np.ndarray]:
    """Frames (T, H, W, 3) and masks (T, H, W), uint8, with the disk ``shift`` pixels to the right."""
    rows, columns, times = np.ogrid[:HEIGHT, :WIDTH, :FRAMES]
    inside = (rows - 18) ** 2 + (columns - 16 - shift - 2 * times) ** 2 < 80
    masks = np.moveaxis(inside, -1, 0).astype(np.uint8)
    noise = np.random.default_rng(shift).integers(0, 80, (*masks.shape, 3))
    return (noise + 150 * masks[..., None]).astype(np.uint8), masks


def _write_dicom(path: Path) -> None:
    """Write the echocardiogram that comes with pydicom, with its pixels replaced by fewer ones."""
    cine = pydicom.dcmread(str(get_testdata_file("examples_ybr_color.dcm")))
    frames, _ = _draw_video(0)
    cine.file_meta.TransferSyntaxUID = pydicom.uid.ExplicitVRLittleEndian
    cine.NumberOfFrames, cine.Rows, cine.Columns = FRAMES, HEIGHT, WIDTH
    cine.PhotometricInterpretation, cine.PlanarConfiguration = "RGB", 0
    cine.PixelData = frames.tobytes()
    cine["PixelData"].VR = "OB"
    cine.save_as(path)


def read_result(path: Path) -> Any:
    """Read a file of results for comparison, without what differs from run to run, such as times.

    Raises:
        Exception: The file is damaged; the type depends on the format.
    """
    if path.suffix == ".pt":
        return _plain(torch.load(path, weights_only=True))
    if path.name == MANIFEST:
        return _check_manifest(path)
    if path.suffix == ".json":
        return _plain(json.loads(path.read_text()))
    if path.suffix == ".csv":
        with path.open(newline="") as file:
            return _plain(list(csv.DictReader(file)))
    if path.suffix == ".dcm":
        cine = pydicom.dcmread(path)
        return cine.pixel_array.tobytes(), [each.SegmentLabel for each in cine.SegmentSequence]
    if path.suffix == ".png":
        with Image.open(path) as picture:
            return picture.mode, picture.size, picture.tobytes()
    return path.read_bytes()


def _check_manifest(path: Path) -> Any:
    """Check the sizes and checksums of a manifest, and read the rest of it."""
    content = json.loads(path.read_text())
    for name, entry in content["files"].items():
        data = (path.parent / name).read_bytes()
        if entry != {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}:
            raise ValueError(f"{path} describes another {name}")
    return content | {"files": sorted(content["files"])}


def _plain(value: Any) -> Any:
    if isinstance(value, torch.Tensor):
        return value.dtype, value.shape, value.numpy().tobytes()
    if isinstance(value, Mapping):
        return {k: _plain(v) for k, v in value.items() if k not in NEVER_EQUAL}
    return [_plain(each) for each in value] if isinstance(value, (list, tuple)) else value
