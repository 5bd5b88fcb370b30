"""``tcmn check-data``: reads every frame and mask of a data set and says what is wrong with it."""

from functools import partial
from pathlib import Path

from bundle.datasets.check import check_videos, describe
from bundle.datasets.contact_sheet import write_contact_sheet
from bundle.datasets.registry import READERS
from bundle.utils.options import suggest


def check(dataset: str, dataset_dir: Path, output_dir: Path) -> bool:
    """Print what is there and what is wrong, write the contact sheet, and say if all is well.

    Args:
        dataset: A name in ``bundle.datasets.registry.READERS``.
        dataset_dir: The data set's root folder.
        output_dir: Where ``DATASET.png`` goes.

    Raises:
        ValueError: There is no reader of that name.
    """
    if dataset not in READERS:
        raise ValueError(
            f"unknown data set {dataset}{suggest(dataset, sorted(READERS), prefix='')}"
        )
    output_dir.mkdir(parents=True, exist_ok=True)
    survey = check_videos(partial(READERS[dataset], dataset_dir), dataset)
    print(f"{dataset} in {dataset_dir}")
    print(describe(survey))
    for title, lines in (("warnings", survey.warnings), ("problems", survey.problems)):
        print(f"{title}: {len(lines) or 'none'}")
        for line in lines:
            print(f"  {line}")
    if survey.shown:
        sheet = output_dir / f"{dataset}.png"
        count = write_contact_sheet(sheet, survey.shown)
        print(f"look at {sheet}: {count} of the videos with their masks")
    else:
        print("no contact sheet: no video has a readable mask with an object")
    return not survey.problems
