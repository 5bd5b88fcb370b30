"""Let PyTorch's threads sleep while they wait, so that others can use their cores."""

import functools
import threading

import torch

SOME = 2**18
"""Numbers that PyTorch adds with all its threads."""


def wait_passively() -> None:
    """Have PyTorch's threads sleep between two operations instead of spinning, from now on.

    GNU's OpenMP, which PyTorch comes with on Linux, has a thread that waits spin for some three
    milliseconds, and so take a core from OpenVINO's threads or from another program's. It leaves that
    when it sees more threads than cores. So one more thread is made here that has used PyTorch, with
    OpenMP's threads of its own, and sleeps for good. ``GOMP_SPINCOUNT`` and ``OMP_WAIT_POLICY`` do the
    same, but only from before PyTorch is imported, which is not always ours to choose.
    """
    if torch.get_num_threads() > 1:
        _oversubscribe()


@functools.cache
def _oversubscribe() -> None:
    used = threading.Event()

    def use_and_sleep() -> None:
        torch.ones(SOME).add_(1)
        used.set()
        threading.Event().wait()

    threading.Thread(target=use_and_sleep, name="openmp-oversubscribed", daemon=True).start()
    used.wait()
