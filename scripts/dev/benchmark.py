"""Measure speed and memory by the rules of docs/benchmarks.md, or compare two files of measurements.

python scripts/dev/benchmark.py --cases video video_3_objects --runs 3 --output new.json
python scripts/dev/benchmark.py --cases video --compare old.json
python scripts/dev/benchmark.py --compare old.json --measured new.json
"""

import argparse
import json
import os
import platform
import subprocess
import sys
import time
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from benchmarks.cases import CASES, QUIET_CORES, change_settings
from benchmarks.compare import SCHEMA, Contents, compare, differences, load, table
from benchmarks.turns import measure

from bundle.utils.atomic_write import written_beside

ROOT = Path(__file__).resolve().parents[2]
LIBRARIES = ("torch", "monai", "numpy", "openvino")


def surroundings() -> dict[str, Any]:
    """Describe the machine, the library versions and the commit, on which the figures depend too."""
    return {
        **{name: _version(name) for name in LIBRARIES},
        "python": platform.python_version(),
        "system": platform.platform(),
        "processor": _processor(),
        "cores": os.cpu_count(),
        "commit": _git("rev-parse", "--short", "HEAD"),
        "changed": bool(_git("status", "--porcelain", "--untracked-files=no")),
        "time": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
    }


def measure_cases(options: argparse.Namespace) -> dict[str, Any]:
    """Measure all cases that the options name, and print each row when it is done.

    Returns:
        What is written as JSON: schema, surroundings and results.

    Raises:
        ValueError: A case lacks a variant or a setting that the options name.
    """
    results = []
    for name in options.cases:
        case = change_settings(CASES[name], options.set)
        variants = options.variants or case.variants
        if unknown := sorted(set(variants) - set(case.variants)):
            raise ValueError(f"case {name} has no variant {unknown[0]!r}: {list(case.variants)}")
        rows = measure(name, case, variants, options.runs, options.threads)
        print("\n".join(map(describe, rows)), flush=True)
        results += rows
    return {"schema": SCHEMA, "surroundings": surroundings(), "results": results}


def describe(row: dict[str, Any]) -> str:
    """Say in one line the median, minimum and maximum of each figure, and the memory."""
    figures = [
        f"{name} {each['median']:.3g} ({each['min']:.3g} to {each['max']:.3g})"
        for name, each in row["figures"].items()
    ]
    memory = row["rss_mb"]
    figures.append(f"RSS {memory['imported']} + {memory['peak'] - memory['imported']} MiB")
    figures.append(tell_others(row["others_cores"]))
    if row["peak_device_mb"] is not None:
        figures.append(f"device {row['peak_device_mb']} MiB")
    return f"{row['case']}, {row['variant']}: {'; '.join(figures)}"


def tell_others(cores: list[float]) -> str:
    """Say how many cores other programs used during the runs, and how many runs are left out for it."""
    used = f"others used {min(cores):g} to {max(cores):g} cores"
    disturbed = sum(each > QUIET_CORES for each in cores)
    if not disturbed:
        return used
    if disturbed == len(cores):
        return f"{used}: NO QUIET RUN, read ratios and processor time only"
    return f"{used}: {disturbed} of {len(cores)} runs left out"


def write(path: Path, contents: Contents) -> None:
    """Write the figures as JSON. The file appears whole or not at all."""
    with written_beside(path) as beside:
        beside.write_text(json.dumps(contents, indent=1) + "\n")


def _git(*arguments: str) -> str | None:
    done = subprocess.run(
        ["git", "-C", str(ROOT), *arguments], capture_output=True, text=True, check=False
    )
    return done.stdout.strip() if done.returncode == 0 else None


def _version(library: str) -> str | None:
    try:
        return version(library)
    except PackageNotFoundError:
        return None


def _processor() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.is_file() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument(
        "--cases", nargs="+", choices=CASES, default=["video"], help="what to measure"
    )
    parser.add_argument("--variants", nargs="+", help="variants of the cases (default: all)")
    parser.add_argument(
        "--set",
        nargs="+",
        default=[],
        metavar="NAME=VALUE",
        help="change settings of the cases, listed in benchmarks/cases.py",
    )
    parser.add_argument("--runs", type=int, default=3, help="runs of each variant")
    parser.add_argument(
        "--threads", type=int, default=os.cpu_count(), help="threads of PyTorch and OpenVINO"
    )
    parser.add_argument("--output", type=Path, help="write the figures to this JSON file")
    parser.add_argument(
        "--compare", type=Path, metavar="OLD", help="compare with the figures of this JSON file"
    )
    parser.add_argument(
        "--measured",
        type=Path,
        metavar="NEW",
        help="compare the figures of this JSON file instead of measuring",
    )
    options = parser.parse_args(arguments)
    if min(options.runs, options.threads) < 1:
        parser.error("--runs and --threads must be at least 1")
    try:
        old = load(options.compare) if options.compare else None
        new = load(options.measured) if options.measured else measure_cases(options)
        if options.output:
            write(options.output, new)
        if old:
            print("\n".join([*differences(old, new), table(compare(old, new))]))
    except (ValueError, FileNotFoundError, RuntimeError) as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
