"""Measure the variants of a case: each in a process of its own, one run of each in turn."""

import multiprocessing
import resource
import statistics
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib import import_module
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import psutil

from benchmarks.cases import QUIET_CORES, Case, Figures

STATUS = Path("/proc/self/status")


class Variant:
    """A process that measures one variant. It has warmed up and waits for its turn.

    Args:
        case: Case with its final settings.
        name: Name of the variant.
        threads: Threads of PyTorch and OpenVINO.

    Raises:
        RuntimeError: The process failed; it has printed the reason.
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

    def run(self) -> tuple[Figures, float]:
        """Measure one run. Returns its figures, and how many cores other programs used meanwhile."""
        begin, busy, own = time.perf_counter(), busy_seconds(), self._own_seconds()
        self._connection.send("run")
        figures: Figures = self._receive()
        others = busy_seconds() - busy - (self._own_seconds() - own)
        return figures, max(0.0, others / (time.perf_counter() - begin))

    def _own_seconds(self) -> float:
        """Processor time in seconds of the process, its children, and the calling process."""
        each = [psutil.Process(self.process.pid).cpu_times(), psutil.Process().cpu_times()]
        theirs = each[0].children_user + each[0].children_system
        return theirs + sum(times.user + times.system for times in each)

    def finish(self) -> dict[str, Any]:
        """End the process. Returns its peak memory in MiB: ``peak``, and ``device`` or None."""
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
    """Main function of a variant's process: prepare, warm up, run on request, report the memory."""
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


def busy_seconds() -> float:
    """Processor time that this machine has used since it started, in seconds, over all cores.

    Time that the hypervisor gave to other virtual machines is included.
    """
    times = psutil.cpu_times()._asdict()
    # The time of guests is part of the user time already.
    idle = ("idle", "iowait", "guest", "guest_nice")
    return float(sum(value for name, value in times.items() if name not in idle))


def peak_rss() -> int:
    """Peak resident memory of this process so far, in MiB.

    On Linux ``ru_maxrss`` is not usable: a process inherits it from its parent.
    """
    if STATUS.is_file():
        line = next(x for x in STATUS.read_text().splitlines() if x.startswith("VmHWM:"))
        return round(int(line.split()[1]) / 1024)
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return round(most / (2**20 if sys.platform == "darwin" else 2**10))


@contextmanager
def started(case: Case, variants: Sequence[str], threads: int) -> Iterator[list[Variant]]:
    """Start a process for each variant, one after the other. All end when the block does."""
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
    """Measure all variants. Returns a row for each, in the format of docs/benchmarks.md."""
    found: dict[str, list[Figures]] = {variant: [] for variant in variants}
    others: dict[str, list[float]] = {variant: [] for variant in variants}
    rows = []
    with started(case, variants, threads) as running:
        for _ in range(runs):
            for variant in running:
                figures, cores = variant.run()
                found[variant.name].append(figures)
                others[variant.name].append(round(cores, 2))
        for variant in running:
            peaks = variant.finish()
            memory = {**variant.ready, "peak": peaks["peak"]}
            rows.append(
                {
                    "case": name,
                    "variant": variant.name,
                    "settings": {**case.settings, "threads": threads},
                    "figures": summarize(found[variant.name], others[variant.name]),
                    "others_cores": others[variant.name],
                    "rss_mb": memory,
                    "peak_device_mb": peaks["device"],
                }
            )
    return rows


def quiet(others: Sequence[float]) -> list[int]:
    """Numbers of the runs that count: those without other load, or all if there are none."""
    alone = [number for number, cores in enumerate(others) if cores <= QUIET_CORES]
    return alone or list(range(len(others)))


def summarize(runs: Sequence[Mapping[str, float]], others: Sequence[float]) -> dict[str, Any]:
    """Compute median, minimum and maximum of each figure over the runs that count.

    Args:
        runs: Figures of each run.
        others: Cores that other programs used during each run.

    Returns:
        By figure: ``median``, ``min``, ``max``, and ``runs``, the values of all runs.
    """
    summary = {}
    for name in runs[0]:
        values = [round(run[name], 4) for run in runs]
        counted = [values[number] for number in quiet(others)]
        summary[name] = {
            "median": round(statistics.median(counted), 4),
            "min": min(counted),
            "max": max(counted),
            "runs": values,
        }
    return summary
