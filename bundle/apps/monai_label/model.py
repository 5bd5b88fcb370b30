"""The network of the label server: loading it, and fine-tuning it on submitted labels."""

import importlib
import logging
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import monai.bundle
import torch

from bundle.apps.monai_label.options import refuse
from bundle.apps.monai_label.requests import RequestInferer
from bundle.backends.openvino import optimize
from bundle.inference.config import read_inference_config
from bundle.io.reading.volumes import source_name
from bundle.networks.tcmn import VideoNetwork
from bundle.networks.weights import load_weights, read_description, save_weights

logger = logging.getLogger(__name__)


def of_monailabel(module: str, name: str) -> Any:
    """A class or function of MONAI Label; where that is not installed ``object``, to be read only."""
    try:
        return getattr(importlib.import_module(f"monailabel.{module}"), name)
    except ModuleNotFoundError as error:
        if error.name != "monailabel":
            raise
        return object


TrainTask: Any = of_monailabel("interfaces.tasks.train", "TrainTask")
device_list: Any = of_monailabel("utils.others.generic", "device_list")
name_to_device: Any = of_monailabel("utils.others.generic", "name_to_device")


class ServedModel:
    """The network and inferer of configs/inference.yaml, shared by all requests.

    The weights are those that a training in the app left, else the shipped ones. They are loaded anew
    when their file changes.

    Args:
        root: The bundle's folder.
        own_weights: Where a training puts its weights.
    """

    def __init__(self, root: Path, own_weights: Path) -> None:
        self.root, self.own_weights = root, own_weights
        self._config = read_inference_config(root=root)
        self.shipped = Path(self._config.get_parsed_content("weights"))
        self.int8_dir = Path(self._config.get_parsed_content("int8_dir"))
        self.inferer: RequestInferer = self._config.get_parsed_content("inferer")
        self._lock = threading.Lock()
        self._loaded: dict[str, tuple[tuple[Path, int], Any]] = {}

    @property
    def weights(self) -> Path:
        return self.own_weights if self.own_weights.is_file() else self.shipped

    def network(self, device: str) -> VideoNetwork:
        """The network on a device, with the newest weights."""
        with self._lock:
            state = self.weights, self.weights.stat().st_mtime_ns
            if device not in self._loaded or self._loaded[device][0] != state:
                logger.info("loading %s for %s", state[0], device)
                self._config["weights"] = str(state[0])
                self._config.parse()  # else it would be the same object again
                network = self._config.get_parsed_content("network_def")
                network = load_weights(network, state[0]).eval()
                self._loaded[device] = state, optimize(network, device, "auto", self.int8_dir)
            return self._loaded[device][1]


class FineTuneTask(TrainTask):
    """Fine-tunes on the videos whose labels were submitted; the server then uses the new weights.

    Runs configs/train.yaml and finetune.yaml of the bundle. Everything is kept in a folder of its own
    below the app's ``model``.
    """

    NUMBERS: Mapping[str, int | float] = {"epochs": 6, "iterations_per_epoch": 50, "batch_size": 4}
    """Options of the configs that a request may set, and their defaults."""

    def __init__(self, model: ServedModel) -> None:
        super().__init__("Fine-tunes on the submitted labels")
        self.model = model

    def config(self) -> dict[str, Any]:
        return {
            "device": device_list(),
            **self.NUMBERS,
            "from_shipped_weights": False,  # else from those of the last training
        }

    def __call__(self, request: Mapping[str, Any], datastore: Any) -> dict[str, Any]:
        numbers = {}
        for name, default in self.NUMBERS.items():
            try:
                numbers[name] = type(default)(request.get(name) or default)
            except (TypeError, ValueError):
                refuse(f"{name} is {request[name]!r}: give a number")
        pairs = datastore.datalist()
        if len(pairs) < 2:
            refuse(
                f"{len(pairs)} videos have a submitted label: submit at least 2, one to learn from and "
                "one to check with"
            )
        folder = self.model.own_weights.parent / time.strftime("training-%Y%m%d-%H%M%S")
        videos = self._lay_out(pairs, folder / "videos")
        shipped = str(request.get("from_shipped_weights", False)).lower() == "true"
        weights = self.model.shipped if shipped else self.model.weights
        configs = self.model.root / "configs"
        files = configs / "train.yaml", configs / "finetune.yaml"
        # 3D Slicer sends an empty run_id, with which MONAI would run all that is in the config.
        monai.bundle.run(
            run_id="training",
            init_id=None,
            final_id=None,
            meta_file=str(configs / "metadata.json"),
            config_file=[str(file) for file in files],
            bundle_root=str(self.model.root),
            layout="video_folder",
            dataset_dir=str(videos),
            output_dir=str(folder),
            initial_weights=str(weights),
            device=torch.device(name_to_device(request.get("device"))),
            resume=False,
            **numbers,
        )
        self._publish(folder / "best.pt", weights)
        return {"videos": len(pairs), "weights": str(self.model.own_weights)}

    def _lay_out(self, pairs: list[dict[str, str]], folder: Path) -> Path:
        """The stored videos and labels in the layout ``video_folder``."""
        folder.mkdir(parents=True)
        for pair in pairs:
            image, label = Path(pair["image"]), Path(pair["label"])
            suffix = label.name[len(source_name(label)) :]
            (folder / image.name).symlink_to(image)
            (folder / f"{source_name(image)}_mask{suffix}").symlink_to(label)
            if image.suffix == ".mhd":  # its pixels lie beside it
                for data in image.parent.glob(f"{image.stem}.*raw"):
                    (folder / data.name).symlink_to(data)
        return folder

    def _publish(self, trained: Path, begun_from: Path) -> None:
        state = torch.load(trained, map_location="cpu", weights_only=True)
        description, before = read_description(trained), read_description(begun_from)
        assert description is not None  # the training has written it
        seen = () if before is None else before.seen
        save_weights(self.model.own_weights, state, description.network, trained, seen)
