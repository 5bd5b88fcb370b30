"""Read every frame and mask of a data set: counts, all problems, and a picture to look at.

    python scripts/check_data.py --dataset cvc_clinicdb --dataset_dir CVC-ClinicDB

Exits with 0 if all is well, with 1 if something is wrong.
"""

import argparse
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from bundle.datasets.check import check_videos, describe
from bundle.datasets.contact_sheet import write_contact_sheet
from bundle.datasets.registry import READERS
from bundle.utils.options import print_error


def check(dataset: str, dataset_dir: Path, output_dir: Path) -> bool:
    """Print what is there and what is wrong, write the contact sheet, and say if all is well."""
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
        print("no contact sheet: no video has a sound mask that is not empty")
    return not survey.problems


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--dataset", required=True, choices=sorted(READERS), metavar="NAME", help=", ".join(READERS)
    )
    parser.add_argument(
        "--dataset_dir", required=True, type=Path, metavar="DIR", help="its root folder"
    )
    parser.add_argument(
        "--output_dir",
        type=Path,
        default=Path("output") / "check_data",
        metavar="DIR",
        help="where NAME.png goes (default: %(default)s)",
    )
    options = parser.parse_args(arguments)
    try:
        sound = check(options.dataset, options.dataset_dir, options.output_dir)
    except (OSError, ValueError) as error:
        print_error(type(error), error, error.__traceback__)
        return 1
    return 0 if sound else 1


if __name__ == "__main__":
    sys.exit(main())
