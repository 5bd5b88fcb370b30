"""``tcmn finetune PROJECT``: new weights from the videos of a project that are done."""

from collections.abc import Sequence
from pathlib import Path
from typing import Literal, cast

from tqdm import tqdm

from bundle.commands.export_project import FRAMES, require_project
from bundle.project.learning import (
    Progress,
    describe_weights_of,
    fine_tune,
    last_result,
    read_progress,
    take_back_weights,
    take_weights,
)
from bundle.utils.options import evaluate_text, read_options, suggest
from bundle.utils.paths import expand_user


def finetune_project(
    source: Path,
    arguments: Sequence[str],
    configs: Sequence[Path] = (),
    take: bool = False,
    take_back: bool = False,
    frames: str = "reviewed",
    valid_fraction: float | None = None,
    who: str | None = None,
) -> None:
    """Fine-tune, and say how the new weights compare; or take weights, or take them back.

    Args:
        source: Folder of a project, or the folder or list of videos that it lies beside.
        arguments: Values of the configs as the command line has them, ``--epochs 2``; also
            ``--weights`` and ``--device``.
        configs: Configs over ``configs/finetune.yaml``.
        take: See ``bundle.project.learning.fine_tune``, likewise what is not here.
        take_back: Only take back the weights that were taken last.
        frames: See there.
        valid_fraction: See there.
        who: Who begins it; the user of this process by default.

    Raises:
        FileNotFoundError: There is no project, video or weights.
        ValueError, VideoLockedError, OSError, KeyboardInterrupt: As ``fine_tune``.
    """
    project = require_project(expand_user(source), who)
    if frames not in FRAMES:
        raise ValueError(f"unknown --frames {frames}{suggest(frames, list(FRAMES), prefix='')}")
    if take_back:
        print(f"the project uses the {take_back_weights(project)} again")
        return
    values = {name: evaluate_text(text) for name, text in read_options(arguments).items()}
    last = last_result(project)
    waits = last is not None and not last.taken and last.name not in project.trainings
    if take and waits and not values and read_progress(project) is None:
        print(take_weights(project))
        return
    weights, device = values.pop("weights", None), values.pop("device", "auto")
    with tqdm(total=100, unit="%", leave=False, disable=None) as bar:

        def show(progress: Progress) -> None:
            bar.set_description(progress.stage)
            bar.update(round(100 * progress.total) - bar.n)

        result = fine_tune(
            project, take=take, frames=cast(Literal["all", "reviewed"], frames),
            valid_fraction=valid_fraction, weights=weights and expand_user(str(weights)),
            device=str(device), configs=configs, values=values, progress=show,
        )  # fmt: skip
    print(f"{result}\n{project.folder} uses the {describe_weights_of(project)}")
    if not result.taken:
        print(f"to use the new ones all the same: tcmn finetune {source} --take")
