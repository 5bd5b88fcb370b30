"""Compare two files of measurements: how much faster the newer one is."""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks.cases import QUIET_CORES

SCHEMA = "tcmn-benchmark/1"

Contents = Mapping[str, Any]


class Ratio(NamedTuple):
    """One figure, before and after.

    Attributes:
        old: Median of the older runs.
        new: Median of the newer runs.
        times: ``old / new``; above 1 the new figure is better.
        apart: Whether the ranges (minimum to maximum) of old and new runs do not overlap.
    """

    case: str
    variant: str
    figure: str
    old: float
    new: float
    times: float
    apart: bool


def load(path: Path) -> Contents:
    """Read a file that scripts/dev/benchmark.py wrote.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: The file is not JSON, or has another schema.
    """
    if not path.is_file():
        raise FileNotFoundError(f"no figures at {path}: write some with --output {path}")
    try:
        contents = json.loads(path.read_text())
    except ValueError as error:
        raise ValueError(f"{path} is not JSON: {error}") from error
    found = contents.get("schema") if isinstance(contents, dict) else None
    if found != SCHEMA:
        raise ValueError(f"{path} has schema {found!r}, expected {SCHEMA!r}: measure it anew")
    return contents


def compare(old: Contents, new: Contents) -> list[Ratio]:
    """Compare all figures that both files have, where case, variant and settings are the same.

    Raises:
        ValueError: There is no such figure.
    """
    ratios = list(_ratios(old, new))
    if not ratios:
        raise ValueError(
            f"nothing to compare: the old figures are of {_names(old)}, the new ones of "
            f"{_names(new)}, or their settings differ"
        )
    return ratios


def differences(old: Contents, new: Contents) -> list[str]:
    """List what else differs between two files, such as versions: it may explain a ratio."""
    before, after = old["surroundings"], new["surroundings"]
    lines = [
        f"{name}: {before.get(name)} -> {after.get(name)}"
        for name in sorted({*before, *after} - {"time"})
        if before.get(name) != after.get(name)
    ]
    rows = _rows(old)
    for age, contents in (("old", old), ("new", new)):
        for key, row in _rows(contents).items():
            cores = row.get("others_cores", [])
            if cores and min(cores) > QUIET_CORES:
                lines.append(f"{' '.join(key)}: no quiet run among the {age} ones")
    for key, row in _rows(new).items():
        if key in rows and rows[key]["settings"] != row["settings"]:
            lines.append(f"{' '.join(key)}: not compared, the settings differ")
    return lines


def table(ratios: list[Ratio]) -> str:
    """Format the ratios, one line a figure. A star marks ranges that overlap."""
    heads = ("case", "variant", "figure", "old", "new", "times better")
    cells = [
        (r.case, r.variant, r.figure, f"{r.old:g}", f"{r.new:g}", f"{r.times:.2f}{'*' * (not r.apart)}")
        for r in ratios
    ]  # fmt: skip
    widths = [max(len(row[i]) for row in [heads, *cells]) for i in range(len(heads))]
    lines = [
        "  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)).rstrip()
        for row in [heads, *cells]
    ]
    return "\n".join([*lines, "* the ranges of the runs overlap"])


def _ratios(old: Contents, new: Contents) -> Iterator[Ratio]:
    rows = _rows(old)
    for key, row in _rows(new).items():
        before = rows.get(key)
        if before is None or before["settings"] != row["settings"]:
            continue
        for figure, now in row["figures"].items():
            if figure in before["figures"]:
                was = before["figures"][figure]
                apart = was["max"] < now["min"] or now["max"] < was["min"]
                yield _ratio(*key, figure, was["median"], now["median"], apart)
        peaks = before["rss_mb"]["peak"], row["rss_mb"]["peak"]
        yield _ratio(*key, "peak_rss_mb", *peaks, peaks[0] != peaks[1])
        peaks = before["peak_device_mb"], row["peak_device_mb"]
        if None not in peaks:
            yield _ratio(*key, "peak_device_mb", *peaks, peaks[0] != peaks[1])


def _ratio(
    case: str, variant: str, figure: str, old: float, new: float, apart: bool
) -> Ratio:  # fmt: skip
    times = old / new if new else float("inf" if old else 1)
    return Ratio(case, variant, figure, old, new, times, apart)


def _rows(contents: Contents) -> dict[tuple[str, str], Any]:
    return {(row["case"], row["variant"]): row for row in contents["results"]}


def _names(contents: Contents) -> str:
    return ", ".join(" ".join(key) for key in _rows(contents)) or "nothing"
