"""Fine-tuning on the videos of a project that are done: trained, compared, and taken if better.

::

    tcmn-project/trainings/
      split.json               which patients train and which validate, in all trainings
      <date and time>/         one training
        plan.json              what it begins with
        data_set/              the masks at its beginning, see ``bundle.project.export``
        run/                   what the training writes, see docs/train.md
        model.pt, model.json   the new weights
        before/, after/        the evaluations of both on the videos that validate
        result.json            how they compare; without it the training goes on the next time
        progress.json          how far it is

The new weights never take the place of a file: the project says which it uses.
"""

import json
import logging
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal, TypeAlias

import numpy as np
import torch
from filelock import SoftFileLease, Timeout

from bundle.datasets.splits import PARTS
from bundle.evaluation.comparison import read_scores
from bundle.evaluation.records import VideoScores, select
from bundle.evaluation.statistics import Estimate, gains, summarise
from bundle.io.reading.decode import natural_key
from bundle.networks.weights import file_digest, read_description, save_weights
from bundle.project.export import MANIFEST, export_project
from bundle.project.files import local_time, read_json, write_json
from bundle.project.state import VERSION, VideoState
from bundle.project.store import Project
from bundle.utils.atomic_write import written_beside
from bundle.utils.bundle_files import bundle_root
from bundle.utils.options import suggest

logger = logging.getLogger(__name__)

Stage: TypeAlias = Literal["data set", "training", "old weights", "new weights"]
STAGES: tuple[Stage, ...] = ("data set", "training", "old weights", "new weights")
PLAN, RESULT, PROGRESS, SPLIT, WEIGHTS = (
    "plan.json", "result.json", "progress.json", "split.json", "model.pt"
)  # fmt: skip
VALID_SHARE = 0.2
NEVER = 10**6
"""Epochs between validations: none, since whoever chose by them would favour the new weights."""
WRITE_S = 0.5
"""Between two writes of the progress."""


@dataclass(frozen=True)
class Result:
    """How new weights compare with old ones; J in percent, over the videos that validate.

    Attributes:
        name: Of the training.
        train: Number of videos that it learned from.
        valid: Number of videos that both were compared on.
        before: J of the old weights.
        after: J of the new weights.
        gain: Mean difference, with its 95 % interval paired by frame, over videos.
        better: Whether the interval lies above 0.
        taken: Whether the project uses them.
    """

    name: str
    train: int
    valid: int
    before: float
    after: float
    gain: Estimate
    better: bool
    taken: bool

    def __str__(self) -> str:
        videos = f"{self.valid} video{'s' if self.valid > 1 else ''}"
        text = f"J on {videos}: {self.before:.1f} % before, {self.after:.1f} % after"
        mean, low, high = (self.gain[name] for name in ("mean", "low", "high"))
        if low is None:
            text += ", no interval from one video"
        else:
            text += f"; gain {mean:+.1f} points, 95 % interval {low:+.1f} to {high:+.1f}"
        if self.taken:
            why = "" if self.better else ", since you said so"
            return f"{text}. The project uses the new weights{why}."
        return f"{text}. The project keeps the old weights."


@dataclass(frozen=True)
class Progress:
    """How far a training is.

    Attributes:
        name: Of the training.
        stage: What is done.
        share: Of that stage.
    """

    name: str
    stage: Stage
    share: float

    @property
    def total(self) -> float:
        """Share of the whole; training takes most of it."""
        begins = {"data set": 0.0, "training": 0.02, "old weights": 0.8, "new weights": 0.9}
        ends = [*list(begins.values())[1:], 1.0]
        begin, end = begins[self.stage], ends[STAGES.index(self.stage)]
        return begin + (end - begin) * self.share


def fine_tune(
    project: Project,
    *,
    take: bool = False,
    frames: Literal["all", "reviewed"] = "reviewed",
    valid_fraction: float | None = None,
    weights: str | Path | None = None,
    device: str = "auto",
    configs: Sequence[str | Path] = (),
    values: Mapping[str, Any] | None = None,
    progress: Callable[[Progress], None] = lambda progress: None,
) -> Result:
    """Fine-tune the weights that the project uses on its videos that are done.

    One that was interrupted goes on, with the masks that it began with. The new weights are the
    training's running average; no validation has chosen among them, so that the comparison is fair.

    Args:
        project: Whose videos.
        take: Use the new weights even if they are not better.
        frames: ``reviewed``: learn from and compare on masks that somebody gave or accepted;
            ``all``: on all of videos that are done. What the old weights found agrees with them.
        valid_fraction: Share of the patients whose videos are compared on; by default 0.2, and two
            patients at least where there are four. Patients stay on the side that they once got.
        weights: What to begin with, if the project has none of its own; by default the shipped ones.
        device: ``auto``, ``cpu``, ``cuda``, ``cuda:N``.
        configs: Configs over ``configs/finetune.yaml``.
        values: Values of the configs, by name.
        progress: Told how far it is.

    Returns:
        How the new weights compare with the old ones, and whether they were taken.

    Raises:
        ValueError: Too few videos are done, all of one patient, or their masks are too few; a value
            is unknown; or a video has changed.
        FileNotFoundError: A video or the weights are not there any more.
        VideoLockedError: Somebody has a video open.
        OSError: Somebody is fine-tuning already, or there is no room.
        KeyboardInterrupt: The process was told to end; the next call goes on.
    """
    root = project.folder / "trainings"
    root.mkdir(exist_ok=True)
    values = dict(values or {})
    _check_values(configs, values)
    begin = project.weights_file() or Path(weights or bundle_root() / "models" / WEIGHTS)
    if not begin.is_file():
        raise FileNotFoundError(f"no weights at {begin}: check the path")
    lock = SoftFileLease(root / "training.lock", thread_local=False)
    try:
        lock.acquire(timeout=0)
    except Timeout as error:
        raise OSError(
            f"somebody is fine-tuning {project.folder} already: wait until that has ended"
        ) from error
    try:
        plan = {
            "weights": file_digest(begin), "frames": frames, "valid_fraction": valid_fraction,
            "configs": [str(each) for each in configs], "values": values,
        }  # fmt: skip
        folder = _find_unfinished(root, plan) or _begin(root, project, plan)
        training = _Training(folder, begin, device, configs, values, progress)
        _export(project, training, plan)
        training.train()
        result = training.compare()
        if result.better or take:
            project.use_weights(folder.name)
            result = replace(result, taken=True)
        write_json(
            folder / RESULT, {"version": VERSION, "finished": local_time(), **asdict(result)}
        )
        _clear(folder)
        return result
    finally:
        lock.release()


def take_weights(project: Project) -> Result:
    """Use the weights of the last training, whatever they reached.

    Raises:
        ValueError: There are none, or they are used already.
    """
    result = last_result(project)
    if result is None or result.taken:
        raise ValueError(
            f"{project.folder} has no new weights that wait to be taken: fine-tune first"
        )
    project.use_weights(result.name)
    return _note_taken(project, result, True)


def take_back_weights(project: Project) -> str:
    """Use the weights again that the project used before those of its last training.

    Returns:
        What it uses now.

    Raises:
        ValueError: It uses none of its own.
    """
    dropped = project.take_back_weights()
    result = read_result(project, dropped)
    if result is not None:
        _note_taken(project, result, False)
    return describe_weights_of(project)


def describe_weights_of(project: Project) -> str:
    """Which weights a project uses, in words: shipped ones, or weights of a day and time."""
    if not project.trainings:
        return "shipped weights"
    when = time.strptime(project.trainings[-1][:15], "%Y%m%d-%H%M%S")
    return f"weights of {when.tm_mday} {time.strftime('%b %Y, %H:%M', when)}"


def last_result(project: Project) -> Result | None:
    """The result of the newest training that has ended; None if there is none."""
    names = [path.parent.name for path in (project.folder / "trainings").glob(f"*/{RESULT}")]
    return read_result(project, max(names)) if names else None


def read_result(project: Project, name: str) -> Result | None:
    """The result of a training; None if it has none.

    Raises:
        ValueError: It is damaged, or of a newer version.
    """
    path = project.folder / "trainings" / name / RESULT
    if not path.is_file():
        return None
    content = read_json(path, "training")
    return Result(**{key: content[key] for key in Result.__dataclass_fields__})


def read_progress(project: Project) -> Progress | None:
    """How far the newest training is; None if it has ended, or nothing is known."""
    plans = sorted((project.folder / "trainings").glob(f"*/{PLAN}"))
    if not plans or (plans[-1].parent / RESULT).exists():
        return None
    try:
        return Progress(**json.loads((plans[-1].parent / PROGRESS).read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):  # not yet there
        return None


def _note_taken(project: Project, result: Result, taken: bool) -> Result:
    path = project.folder / "trainings" / result.name / RESULT
    write_json(path, {**read_json(path, "training"), "taken": taken})
    return replace(result, taken=taken)


def _config_files(configs: Sequence[str | Path], name: str) -> list[str]:
    root = bundle_root() / "configs"
    return [str(root / "train.yaml"), str(root / f"{name}.yaml"), *map(str, configs)]


def _check_values(configs: Sequence[str | Path], values: Mapping[str, Any]) -> None:
    from monai.bundle import ConfigParser  # here, since it takes seconds, which the page need not

    known = ConfigParser(ConfigParser.load_config_files(_config_files(configs, "finetune")))
    for name in values:
        if name.partition("#")[0] not in known:
            names = [str(each) for each in known.get() if each != "imports"]
            raise ValueError(f"unknown option --{name}{suggest(name, names)}")


def _find_unfinished(root: Path, plan: Mapping[str, Any]) -> Path | None:
    """The newest training, if it has not ended and began with the same."""
    plans = sorted(root.glob(f"*/{PLAN}"))
    if not plans or (plans[-1].parent / RESULT).exists():
        return None
    begun = read_json(plans[-1], "training")
    if any(begun.get(key) != json.loads(json.dumps(value)) for key, value in plan.items()):
        return None
    logger.info("going on with the training in %s", plans[-1].parent)
    return plans[-1].parent


def _begin(root: Path, project: Project, plan: Mapping[str, Any]) -> Path:
    names = choose_videos(project, plan["frames"])
    patients = {name: project.videos[name].patient for name in names}
    sides = split_patients(list(patients.values()), root / SPLIT, plan["valid_fraction"])
    folder = root / time.strftime("%Y%m%d-%H%M%S")
    while folder.exists():
        folder = folder.with_name(f"{folder.name}x")
    folder.mkdir()
    write_json(root / SPLIT, {"version": VERSION, **_by_part(sides)})
    parts = {name: sides[patient] for name, patient in patients.items()}
    write_json(
        folder / PLAN,
        {"version": VERSION, "created": local_time(), "who": project.who, **plan, "parts": parts},
    )
    return folder


def choose_videos(project: Project, frames: str = "reviewed") -> list[str]:
    """The videos to learn from: those that are done and have two masks to compare.

    Raises:
        ValueError: They are too few, or of one patient.
    """
    done = [name for name in project.videos if project.state(name).stage(project.limits) == "done"]
    usable = [name for name in done if _has_pair(project.state(name), frames)]
    needs = "fine-tuning needs 2 of 2 patients, one to learn from and one to compare on"
    if len(done) < 2:
        raise ValueError(
            f"{len(done)} of {len(project.videos)} videos are done, and {needs}: finish more (D)"
        )
    if len(usable) < 2:
        raise ValueError(
            f"{len(usable)} of {len(done)} videos that are done have two reviewed masks, and {needs}: "
            "accept frames of them (A, Shift+A), or take all masks (frames all)"
        )
    if len({project.videos[name].patient for name in usable}) < 2:
        raise ValueError(
            f"the {len(usable)} videos to learn from are of one patient, and {needs}: finish videos of "
            "another one, or name patients in a list of videos"
        )
    return usable


def _has_pair(state: VideoState, frames: str) -> bool:
    """Whether a mask to begin with and a later one are there."""
    chosen = {i: m for i, m in state.masks.items() if frames == "all" or i in state.reviewed}
    shown = [i for i, mask in chosen.items() if mask.facts.areas]
    return bool(shown) and max(chosen) > min(shown)


def split_patients(
    patients: Sequence[str], path: Path, valid_fraction: float | None = None
) -> dict[str, str]:
    """Which patients train and which validate; those that a file names stay where they were.

    Args:
        patients: All of them, in any order.
        path: What an earlier training wrote; it need not be there.
        valid_fraction: Share that validates; by default ``VALID_SHARE``, two at least of four.

    Returns:
        Patient to part, those of the file included.

    Raises:
        ValueError: The file puts all on one side, or is damaged.
    """
    names = sorted(set(patients), key=natural_key)
    known: dict[str, str] = {}
    if path.exists():
        content = read_json(path, "split")
        known = {patient: part for part in PARTS for patient in content.get(part, ())}
    share = VALID_SHARE if valid_fraction is None else valid_fraction
    wanted = round(share * len(names))
    if valid_fraction is None and len(names) >= 4:
        wanted = max(wanted, 2)
    wanted = min(max(wanted, 1), len(names) - 1)
    sides = dict(known)
    new = [name for name in names if name not in known]
    for place in np.random.default_rng(0).permutation(len(new)):
        count = sum(sides.get(name) == "valid" for name in names)
        sides[new[place]] = "valid" if count < wanted else "train"
    found = {sides[name] for name in names}
    if len(found) < 2:
        raise ValueError(
            f"all patients of videos that are done are on the side {found.pop()!r} of {path}: finish "
            "videos of other patients, or remove that file to draw anew"
        )
    return sides


def _by_part(sides: Mapping[str, str]) -> dict[str, list[str]]:
    return {part: [name for name, side in sides.items() if side == part] for part in PARTS}


def _export(project: Project, training: "_Training", plan: Mapping[str, Any]) -> None:
    """The data set, if an interrupted training has not written it."""
    parts = read_json(training.folder / PLAN, "training")["parts"]
    if not training.data_set.is_dir():
        export_project(
            project, training.data_set, "video_folder", frames=plan["frames"], parts=parts,
            progress=lambda share: training.tell("data set", share),
        )  # fmt: skip


def _clear(folder: Path) -> None:
    """Remove what a training that has ended needs no more: copies of videos, and its checkpoints."""
    shutil.copyfile(folder / "data_set" / MANIFEST, folder / MANIFEST)
    shutil.rmtree(folder / "data_set", ignore_errors=True)
    for name in ("last.pt", "last.json", "best.pt", "best.json"):
        (folder / "run" / name).unlink(missing_ok=True)


class _Training:
    """One training in its folder; each step that is done already is passed over."""

    def __init__(
        self,
        folder: Path,
        weights: Path,
        device: str,
        configs: Sequence[str | Path],
        values: Mapping[str, Any],
        progress: Callable[[Progress], None],
    ) -> None:
        self.folder, self.data_set = folder, folder / "data_set"
        self._weights, self._device = weights, device
        self._configs, self._values = configs, values
        self._progress, self._told = progress, 0.0

    def tell(self, stage: Stage, share: float) -> None:
        progress = Progress(self.folder.name, stage, min(share, 1.0))
        self._progress(progress)
        if time.monotonic() - self._told > WRITE_S or share >= 1:
            self._told = time.monotonic()
            with written_beside(self.folder / PROGRESS) as beside:
                beside.write_text(json.dumps(asdict(progress)), encoding="utf-8")

    def train(self) -> None:
        """Train, and write the new weights.

        Raises:
            KeyboardInterrupt: SIGTERM came.
        """
        if (self.folder / WEIGHTS).is_file() and read_description(self.folder / WEIGHTS):
            return
        run = self.folder / "run"
        values = {
            "val_interval": NEVER, **self._values, "layout": "video_folder",
            "output_dir": str(run), "split_file": str(self.data_set / SPLIT),
            "initial_weights": str(self._weights), "resume": True,
        }  # fmt: skip
        workflow = self._make("finetune", "training", values)
        trainer = workflow.parser.get_parsed_content("train#trainer")

        def tell(engine: Any) -> None:
            total = engine.state.max_epochs * engine.state.epoch_length
            self.tell("training", engine.state.iteration / total)

        from ignite.engine import Events

        trainer.add_event_handler(Events.ITERATION_COMPLETED, tell)
        workflow.run()
        state = trainer.state
        if state.iteration < state.max_epochs * state.epoch_length:
            logger.warning(
                "stopped after iteration %d of %d: the same command goes on",
                state.iteration,
                state.max_epochs * state.epoch_length,
            )
            raise KeyboardInterrupt
        last = run / "last.pt"
        average = torch.load(last, map_location="cpu", weights_only=True)["ema"]
        description = read_description(last)
        assert description is not None  # the training has written it
        before = read_description(self._weights)
        seen = () if before is None else before.seen
        save_weights(self.folder / WEIGHTS, average, description.network, last, seen)

    def compare(self) -> Result:
        """Evaluate both on the videos that validate."""
        scores = [
            self._evaluate("before", "old weights", self._weights),
            self._evaluate("after", "new weights", self.folder / WEIGHTS),
        ]
        # Whatever the structures are called: the mean is over all of them.
        first, second = ([replace(one, class_name="object") for one in each] for each in scores)
        (row,) = gains(first, second)
        gain: Estimate = row["jaccard"]
        before, after = (summarise(each)["mean"]["jaccard"]["mean"] for each in (first, second))
        split = json.loads((self.data_set / SPLIT).read_text(encoding="utf-8"))
        low = gain["low"]
        return Result(
            self.folder.name, len(split["train"]), len({one.video for one in second}),
            before, after, gain, low is not None and low > 0, False,
        )  # fmt: skip

    def _evaluate(self, name: str, stage: Stage, weights: Path) -> list[VideoScores]:
        target = self.folder / name
        if not target.is_dir():
            with written_beside(target) as beside:
                values = {
                    "protocol": "video_folder", "split": str(self.data_set / SPLIT),
                    "output_dir": str(beside), "weights": str(weights), "backend": "auto",
                    "int8_dir": None, "baselines": False, "save_masks": False,
                    **{k: v for k, v in self._values.items() if k in ("precision", "inference_size")},
                }  # fmt: skip
                workflow = self._make("evaluate", "evaluating", values)
                evaluator = workflow.parser.get_parsed_content("validate#evaluator")

                def tell(engine: Any) -> None:
                    self.tell(stage, engine.state.iteration / engine.state.epoch_length)

                from ignite.engine import Events

                evaluator.add_event_handler(Events.ITERATION_COMPLETED, tell)
                workflow.run()
        return select(read_scores(target))

    def _make(self, config: str, run_id: str, values: Mapping[str, Any]) -> Any:
        from monai.bundle import ConfigWorkflow  # here, since it takes seconds

        root = bundle_root()
        configs = self._configs if config == "finetune" else ()
        workflow = ConfigWorkflow(
            config_file=_config_files(configs, config),
            meta_file=str(root / "configs" / "metadata.json"), workflow_type="train",
            run_id=run_id, logging_file=False, bundle_root=str(root),
            dataset_dir=str(self.data_set), device=self._device, **values,
        )  # fmt: skip
        workflow.initialize()
        return workflow
