"""Train and evaluate in several processes, one for each GPU, started by torchrun.

Processes communicate by ``ignite.distributed``, in which a single process is rank 0 of 1.
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
    """Connect the processes that torchrun started, by NCCL on GPUs and Gloo on CPUs.

    All processes but the first then log errors only.

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
    # Under Slurm, Ignite would use SLURM_LOCALID as the local rank. That counts the torchruns of a
    # node and not their processes, and is not always set.
    job = os.environ.pop("SLURM_JOB_ID", None)
    try:
        idist.sync()
    finally:
        if job is not None:
            os.environ["SLURM_JOB_ID"] = job
    if idist.get_rank() > 0:
        logging.disable(logging.WARNING)


def stop() -> None:
    """Wait for the other processes, one of which may be writing a file, and disconnect."""
    idist.barrier()
    idist.finalize()
    logging.disable(logging.NOTSET)


def distribute(network: nn.Module, optimizer: torch.optim.Optimizer) -> DistributedDataParallel:
    """Wrap the network so that its gradients are averaged over the processes.

    The network itself and its state dict are not changed.

    Args:
        network: On the device of this process.
        optimizer: Optimiser of the network; unused. In a config, this argument ensures that it is
            made first, since it freezes parameters.
    """
    # Buffers are those of frozen BatchNorm, the same in all processes.
    return DistributedDataParallel(network, forward_sync_buffers=False)


class ShardSampler(Sampler[int]):
    """This process's share of a data set: items are dealt to the processes in turn.

    ``torch.utils.data.DistributedSampler`` repeats items so that all processes have equally many, and
    does not support a data set whose length changes, like ``ClipDataset`` in a resumed epoch.

    Args:
        dataset: The same in all processes.

    Raises:
        ValueError: There are fewer items than processes. A process without items would block the
            others when they compute a metric.
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
    """Collect the results of all processes, in the order of the data set.

    Args:
        shard: Result of each item from ``ShardSampler``, in its order.
    """
    shards = idist.all_gather(list(shard))
    count = sum(len(one) for one in shards)
    return [shards[i % len(shards)][i // len(shards)] for i in range(count)]


def mean_over_processes(values: Mapping[str, float]) -> dict[str, float]:
    """Mean of each value over the processes that have it."""
    shares = idist.all_gather(dict(values))
    names = dict.fromkeys(name for share in shares for name in share)
    return {name: fmean(share[name] for share in shares if name in share) for name in names}
