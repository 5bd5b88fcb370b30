"""Share work among processes that torchrun started, without a process group."""

import os
import time


def process_share() -> tuple[int, int]:
    """This process's number, and how many torchrun started; 0 and 1 if it did not."""
    return int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))


def wait_for_others() -> None:
    """Wait until all processes that torchrun started have come as far; takes no process group.

    For processes that work on their own: torchrun ends all of them as soon as one exits in error.
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
