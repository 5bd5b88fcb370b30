"""Training and evaluation in several processes, one for each GPU, which torchrun starts.

What processes tell each other goes through ``ignite.distributed``, where a single process that
nobody started is rank 0 of 1.
"""

import logging
import os
from collections.abc import Iterator, Mapping, Sequence, Sized
from statistics import fmean
from typing import TypeVar

import ignite.distributed as idist
import torch
from torch import nn
from torch.distributed import init_process_group
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import Sampler

Item = TypeVar("Item")


def start(device: torch.device) -> None:
    """Join the processes that torchrun started: by NCCL on GPUs, by Gloo on CPUs.

    Processes but the first log only errors from then on.

    Args:
        device: Device of this process.

    Raises:
        ValueError: The process was not started by torchrun.
    """
    if "RANK" not in os.environ:
        raise ValueError(
            "configs/multi_gpu_*.yaml are for several processes, but RANK is not set: start with "
            "torchrun --nproc_per_node=N -m monai.bundle run ..., or leave that config out"
        )
    if device.type == "cuda":
        torch.cuda.set_device(device)
    init_process_group("nccl" if device.type == "cuda" else "gloo")
    # Under Slurm, Ignite would take SLURM_LOCALID for the place on the node. That counts the
    # torchruns of a node, not what they start, and is not always set.
    job = os.environ.pop("SLURM_JOB_ID", None)
    try:
        idist.sync()
    finally:
        if job is not None:
            os.environ["SLURM_JOB_ID"] = job
    if idist.get_rank() > 0:
        logging.disable(logging.WARNING)


def stop() -> None:
    """Wait for the other processes, one of which may be writing a file, and part from them."""
    idist.barrier()
    idist.finalize()
    logging.disable(logging.NOTSET)


def distribute(network: nn.Module, optimizer: torch.optim.Optimizer) -> DistributedDataParallel:
    """Make the network average its gradients over the processes.

    The network itself stays as it is, so its state dict does.

    Args:
        network: On the device of this process.
        optimizer: Optimiser of the network. It is only asked for because freezing comes with it,
            and what learns must be settled before.
    """
    # Buffers are those of frozen BatchNorm, the same everywhere.
    return DistributedDataParallel(network, forward_sync_buffers=False)


class ShardSampler(Sampler[int]):
    """This process's share of a data set: every item goes to one process, in turn.

    ``torch.utils.data.DistributedSampler`` repeats items to give all processes as many, and does
    not follow a data set whose length changes, as ``ClipDataset``'s does where an epoch goes on.

    Args:
        dataset: The same in all processes.

    Raises:
        ValueError: There are fewer items than processes. One without would never join in when the
            others compute a metric.
    """

    def __init__(self, dataset: Sized) -> None:
        self.dataset = dataset
        self.rank, self.processes = idist.get_rank(), idist.get_world_size()
        if len(dataset) < self.processes:
            raise ValueError(
                f"a data set of {len(dataset)} cannot be shared by {self.processes} processes: "
                f"start torchrun with --nproc_per_node={max(1, len(dataset))} or fewer"
            )

    def __len__(self) -> int:
        return len(self._indices())

    def __iter__(self) -> Iterator[int]:
        return iter(self._indices())

    def _indices(self) -> range:
        return range(self.rank, len(self.dataset), self.processes)


def gather_shards(shard: Sequence[Item]) -> list[Item]:
    """What all processes made of their shares, in the order of the data set.

    Args:
        shard: One for each item that ``ShardSampler`` gave, in its order.
    """
    shards = idist.all_gather(list(shard))
    count = sum(len(one) for one in shards)
    return [shards[i % len(shards)][i // len(shards)] for i in range(count)]


def mean_over_processes(values: Mapping[str, float]) -> dict[str, float]:
    """Each value's mean over the processes that have it."""
    shares = idist.all_gather(dict(values))
    names = dict.fromkeys(name for share in shares for name in share)
    return {name: fmean(share[name] for share in shares if name in share) for name in names}
