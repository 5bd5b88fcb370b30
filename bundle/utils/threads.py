"""Make PyTorch's idle threads sleep instead of spin, so that other threads can use their cores."""

import functools
import threading

import torch

SOME = 2**18
"""Size of a tensor that is large enough for PyTorch to use all its threads."""


def wait_passively() -> None:
    """Make PyTorch's threads sleep between operations instead of spinning, from now on.

    On Linux, PyTorch uses GNU's OpenMP, whose waiting threads spin for about three milliseconds and so
    take cores from OpenVINO or other programs. It stops spinning if there are more threads than cores.
    So this starts one more thread, which uses PyTorch once, and thereby has OpenMP threads of its own,
    and then sleeps forever. ``GOMP_SPINCOUNT`` and ``OMP_WAIT_POLICY`` have the same effect, but only
    if they are set before PyTorch is imported.
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
