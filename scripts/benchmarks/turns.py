"""Each variant of a case in a process of its own, taking turns."""

import multiprocessing
import resource
import statistics
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib import import_module
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from benchmarks.cases import Case, Figures

STATUS = Path("/proc/self/status")


class Variant:
    """A process that has warmed up and waits for its turn.

    Args:
        case: With final settings.
        name: One of its variants.
        threads: Of PyTorch and OpenVINO.

    Raises:
        RuntimeError: The process failed; it has printed why.
    """

    def __init__(self, case: Case, name: str, threads: int) -> None:
        context = multiprocessing.get_context("spawn")
        self.name = name
        self._connection, theirs = context.Pipe()
        self.process = context.Process(
            target=serve, args=(theirs, case.module, name, dict(case.settings), threads)
        )
        self.process.start()
        theirs.close()
        self.ready: dict[str, Any] = self._receive()

    def run(self) -> Figures:
        """The figures of one run."""
        self._connection.send("run")
        figures: Figures = self._receive()
        return figures

    def finish(self) -> dict[str, Any]:
        """Peaks of memory; the process ends."""
        self._connection.send("finish")
        peaks: dict[str, Any] = self._receive()
        self.process.join()
        return peaks

    def _receive(self) -> Any:
        try:
            return self._connection.recv()
        except EOFError:
            self.process.join()
            raise RuntimeError(
                f"variant {self.name} failed, exit code {self.process.exitcode}: see above"
            ) from None


def serve(
    connection: Connection, module: str, variant: str, settings: dict[str, Any], threads: int
) -> None:
    """What the process does: prepare, warm up, run when asked to, tell how much memory it took."""
    import torch

    torch.set_num_threads(threads)
    prepare = import_module(f"benchmarks.{module}").prepare
    imported = peak_rss()
    workload = prepare(variant, settings)
    prepared = peak_rss()
    workload.warm_up()
    connection.send({"imported": imported, "prepared": prepared})
    while connection.recv() == "run":
        connection.send(workload.run())
    device = None
    if torch.cuda.is_available() and torch.cuda.is_initialized():
        device = round(torch.cuda.max_memory_allocated() / 2**20)
    connection.send({"peak": peak_rss(), "device": device})


def peak_rss() -> int:
    """Most resident memory of this process so far, MiB.

    Linux' ``ru_maxrss`` would not do: a process inherits that of the one it was started by.
    """
    if STATUS.is_file():
        line = next(x for x in STATUS.read_text().splitlines() if x.startswith("VmHWM:"))
        return round(int(line.split()[1]) / 1024)
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return round(most / (2**20 if sys.platform == "darwin" else 2**10))


@contextmanager
def started(case: Case, variants: Sequence[str], threads: int) -> Iterator[list[Variant]]:
    """Processes of some variants, started and warmed up one after the other; ended in any case."""
    running: list[Variant] = []
    try:
        for name in variants:
            running.append(Variant(case, name, threads))
        yield running
    finally:
        for variant in running:
            if variant.process.is_alive():
                variant.process.terminate()
            variant.process.join()


def measure(
    name: str, case: Case, variants: Sequence[str], runs: int, threads: int
) -> list[dict[str, Any]]:
    """One row for each variant, as docs/benchmarks.md describes it."""
    found: dict[str, list[Figures]] = {variant: [] for variant in variants}
    rows = []
    with started(case, variants, threads) as running:
        for _ in range(runs):
            for variant in running:
                found[variant.name].append(variant.run())
        for variant in running:
            peaks = variant.finish()
            memory = {**variant.ready, "peak": peaks["peak"]}
            rows.append(
                {
                    "case": name,
                    "variant": variant.name,
                    "settings": {**case.settings, "threads": threads},
                    "figures": summarize(found[variant.name]),
                    "rss_mb": memory,
                    "peak_device_mb": peaks["device"],
                }
            )
    return rows


def summarize(runs: Sequence[Mapping[str, float]]) -> dict[str, Any]:
    """Median and extremes of each figure, and all runs."""
    summary = {}
    for name in runs[0]:
        values = [round(run[name], 4) for run in runs]
        summary[name] = {
            "median": round(statistics.median(values), 4),
            "min": min(values),
            "max": max(values),
            "runs": values,
        }
    return summary
