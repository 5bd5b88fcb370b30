"""Save checkpoints and the best weights; a resumed training has the losses of an uninterrupted one."""

import logging
import signal
import threading
from collections.abc import Mapping
from pathlib import Path
from types import FrameType
from typing import Any

import ignite.distributed as idist
import torch
from ignite.engine import Engine, Events
from ignite.handlers import Checkpoint, DiskSaver
from monai.handlers import CheckpointSaver

from bundle.networks.weights import WeightsDescription, describe_weights
from bundle.utils.atomic_write import StagingFolder
from bundle.utils.bundle_files import program_version

logger = logging.getLogger(__name__)


class ResumableCheckpoint:
    """Saves the whole state of a training as ``last.pt``, and loads it at the start.

    It saves after each epoch. On SIGTERM it saves after the current iteration and stops the training.
    The new file is renamed into place, so a killed run or a full disk leaves the previous one intact.
    Random clips depend on seed, epoch and index only, so no random state is saved. With several
    processes the first saves and all load; SIGTERM to one of them stops all.

    Args:
        objects: Name -> object with a state dict: network, optimiser, schedule, loss. The trainer and
            its gradient scaler are added.
        folder: Folder of ``last.pt``.
        resume: Whether to load an existing checkpoint. If not, an existing one is an error, so that it
            is not overwritten.
        settings: Name -> value of settings that must not change when a training is resumed.

    Raises:
        FileExistsError: There is a checkpoint and ``resume`` is off.
        ValueError: It has other settings, another network or another number of iterations per epoch,
            or the processes find different checkpoints.
    """

    def __init__(
        self,
        objects: Mapping[str, Any],
        folder: str | Path,
        resume: bool = True,
        settings: Mapping[str, Any] | None = None,
    ) -> None:
        self.objects, self.folder, self.resume = dict(objects), Path(folder), resume
        self.settings = _Settings(settings or {})
        self._terminated = False

    def attach(self, engine: Engine) -> None:
        self.scaler = _Scaler(engine)
        path = self.folder / "last.pt"
        if path.exists():
            if not self.resume:
                raise FileExistsError(
                    f"{path} exists: choose another output_dir, or --resume true to go on from it"
                )
            self._load(engine, path)
        begins = idist.all_gather(engine.state.iteration)
        if min(begins) < max(begins):
            raise ValueError(
                f"the processes go on from different iterations of {path}: {begins} by rank. "
                "output_dir must be a folder that all nodes share"
            )
        saver = Checkpoint(
            {
                **self.objects,
                "scaler": self.scaler,
                "settings": self.settings,
                "trainer": engine,
            },
            _ReplacingSaver(self.folder, "last.pt"),
            filename_pattern="last.pt",
            n_saved=1,
        )
        engine.add_event_handler(Events.STARTED, _describe, self.objects, path)
        engine.add_event_handler(Events.EPOCH_COMPLETED, saver)
        engine.add_event_handler(Events.STARTED, self._listen)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self._stop_if_told, saver)

    def _load(self, engine: Engine, path: Path) -> None:
        state = torch.load(path, map_location="cpu", weights_only=True)
        if changed := self.settings.changes(state.get("settings", {})):
            raise ValueError(
                f"{path} was trained with other settings: {'; '.join(changed)}. Go on with the "
                "same, or choose another output_dir"
            )
        wanted, length = engine.state.max_epochs, engine.state.epoch_length
        if length != state["trainer"]["epoch_length"]:
            raise ValueError(
                f"{path} has {state['trainer']['epoch_length']} iterations per epoch, this "
                f"training {length}: go on with as many, or choose another output_dir"
            )
        # A training may be resumed for longer than it was planned, its schedule too.
        planned = [(o, o.t_total) for o in self.objects.values() if hasattr(o, "t_total")]
        try:
            Checkpoint.load_objects({**self.objects, "trainer": engine}, state)
        except (RuntimeError, ValueError, KeyError) as error:
            raise ValueError(
                f"{path} does not fit this training ({str(error).splitlines()[-1].strip()}): go on "
                "with the same network and optimiser, or choose another output_dir"
            ) from error
        self.scaler.load_state_dict(state.get("scaler", {}))
        for schedule, steps in planned:
            schedule.t_total = steps
        engine.state.max_epochs = wanted
        logger.info(
            "resumed from %s after epoch %d, iteration %d",
            path,
            engine.state.epoch,
            engine.state.iteration,
        )
        if engine.state.iteration >= wanted * length:
            # Ignite would take it for a new training and begin with epoch 1.
            logger.warning("all %d epochs are done: nothing to train", wanted)
            engine.add_event_handler(Events.STARTED, lambda engine: engine.terminate())

    def _listen(self, engine: Engine) -> None:
        if threading.current_thread() is not threading.main_thread():
            return  # only the main thread may set handlers; a server stops its own workers

        def note(number: int, frame: FrameType | None) -> None:
            self._terminated = True

        before = signal.signal(signal.SIGTERM, note)
        for event in (Events.COMPLETED, Events.TERMINATE):
            engine.add_event_handler(event, lambda _: signal.signal(signal.SIGTERM, before))

    def _stop_if_told(self, engine: Engine, saver: Checkpoint) -> None:
        # Processes may get the signal at different moments, but must stop after the same iteration.
        if idist.all_reduce(int(self._terminated), "MAX"):
            saver(engine)
            logger.warning(
                "SIGTERM: stopped after iteration %d, run the same command to go on",
                engine.state.iteration,
            )
            engine.terminate(skip_completed=True)


def ignore_first_sigterm(worker: int) -> None:
    """Make a data loader's worker ignore the first SIGTERM; for ``worker_init_fn``.

    Launchers send SIGTERM to workers too, which would interrupt the last iteration. The loader stops
    its workers itself; a second SIGTERM, which it may send, ends them.

    Args:
        worker: Number of the worker; unused.
    """

    def once(number: int, frame: FrameType | None) -> None:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)

    signal.signal(signal.SIGTERM, once)


class _Scaler:
    """Restores the trainer's gradient scaler, if any, after MONAI has made a new one at the start."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.loaded: dict[str, Any] = {}
        engine.add_event_handler(Events.STARTED, self._restore)

    def state_dict(self) -> dict[str, Any]:
        scaler = getattr(self.engine, "scaler", None)
        return {} if scaler is None else scaler.state_dict()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.loaded = dict(state)

    def _restore(self) -> None:
        if self.loaded and self.engine.scaler is not None:
            self.engine.scaler.load_state_dict(self.loaded)


class _Settings:
    """Settings with a state dict, so that a checkpoint can hold them."""

    def __init__(self, values: Mapping[str, Any]) -> None:
        self.values = {name: _plain(value) for name, value in values.items()}

    def changes(self, saved: Mapping[str, Any]) -> list[str]:
        return [
            f"{name} was {saved[name]}, is {value}"
            for name, value in self.values.items()
            if name in saved and saved[name] != value
        ]

    def state_dict(self) -> dict[str, Any]:
        return self.values


def _plain(value: Any) -> Any:
    """A value that can be saved and compared: numbers unchanged, lists and mappings as text."""
    return value if isinstance(value, (int, float, type(None))) else str(value)


class BestWeights(CheckpointSaver):
    """Saves the weights with the best validation score; the file is complete at every moment.

    MONAI's own saver deletes the old file before it writes the new one.

    Args:
        folder: Folder of the file.
        objects: Name -> object with a state dict.
        file: Name of the file.
    """

    def __init__(
        self, folder: str | Path, objects: Mapping[str, Any], file: str = "best.pt"
    ) -> None:
        super().__init__(str(folder), dict(objects), save_key_metric=True, key_metric_filename=file)
        self.checkpoint: Checkpoint = self._key_metric_checkpoint
        self.checkpoint.save_handler = _ReplacingSaver(folder, file)
        self._objects, self._path = objects, Path(folder) / file

    def attach(self, engine: Engine) -> None:
        """Attach to an evaluator."""
        super().attach(engine)
        engine.add_event_handler(Events.STARTED, _describe, self._objects, self._path)


def _describe(objects: Mapping[str, Any], path: Path) -> None:
    """Write the description of the network beside the weights, without the checksum of the file."""
    network = objects.get("network")
    definition = getattr(getattr(network, "module", network), "definition", None)
    if idist.get_rank() == 0 and definition is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
        describe_weights(path, WeightsDescription(definition, program_version()))


class _ReplacingSaver(DiskSaver):
    """Replaces the old file by renaming the new one; Ignite would delete the old one first.

    Args:
        folder: Made if it does not exist.
        file: Name of the file; Ignite's own name is ignored.
    """

    def __init__(self, folder: str | Path, file: str) -> None:
        super().__init__(str(folder), create_dir=True, require_empty=False)
        self.path = Path(folder) / file

    def remove(self, filename: str) -> None:
        pass

    def __call__(self, checkpoint: Mapping, filename: str, metadata: Mapping | None = None) -> None:
        if idist.get_rank() != self.save_on_rank:
            return
        try:
            with StagingFolder(self.path) as staging:
                with staging.new.open("wb") as file:
                    torch.save(checkpoint, file)
                staging.move_into_place()
        except (OSError, RuntimeError) as error:
            # On a full disk PyTorch raises another error while it handles the system's.
            cause = error.__context__ if isinstance(error.__context__, OSError) else error
            raise OSError(
                f"cannot save {self.path} ({cause}): is the disk full? The previous checkpoint is "
                "untouched: make room and run the same command again to go on from it"
            ) from error
