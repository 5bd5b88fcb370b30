"""Compare two evaluations of the same protocol, video by video, with intervals of the difference.

    python scripts/studies/compare_evaluations.py BEFORE AFTER

BEFORE and AFTER are output folders of ``tcmn evaluate``. Prints a table in percentage points, or all
results as JSON with ``--json``.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from bundle.evaluation.comparison import compare
from bundle.evaluation.tables import gain_lines, to_json
from bundle.utils.options import print_error


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("before", type=Path, help="output folder of an evaluation")
    parser.add_argument("after", type=Path, help="output folder of another one")
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    options = parser.parse_args(arguments)
    try:
        found = compare(options.before, options.after)
    except (OSError, ValueError) as error:
        print_error(type(error), error, error.__traceback__)
        return 1
    print(to_json(found) if options.json else "\n".join(gain_lines(found)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
