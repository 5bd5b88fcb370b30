"""Share work among independent processes that torchrun started, without a process group."""

import os
import time


def process_share() -> tuple[int, int]:
    """Number of this process and number of processes that torchrun started; (0, 1) without it."""
    return int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))


def wait_for_others() -> None:
    """Wait until all processes that torchrun started have called this, without a process group.

    It is for processes that work independently: torchrun ends all as soon as one exits with an error.
    """
    if process_share()[1] == 1:
        return
    from torch.distributed import is_torchelastic_launched, rendezvous

    if not is_torchelastic_launched():
        return
    store, _, processes = next(rendezvous("env://"))
    arrived = store.add("arrived", 1)
    while arrived < processes:
        time.sleep(0.5)
        arrived = store.add("arrived", 0)
