"""Choose a device and the precision that is fastest on it, and query free memory."""

import ctypes
import os
import platform
from contextlib import AbstractContextManager
from typing import Any

import psutil
import torch

PRECISIONS = {"float32": None, "bfloat16": torch.bfloat16, "float16": torch.float16}


def process_device() -> torch.device:
    """The GPU of this process, by its local rank (``LOCAL_RANK``); the CPU if there is no GPU.

    Raises:
        ValueError: The node has more processes than GPUs.
    """
    place, count = int(os.environ.get("LOCAL_RANK", 0)), torch.cuda.device_count()
    if count == 0:
        return torch.device("cpu")
    if place >= count:
        raise ValueError(
            f"process {place + 1} of this node has no GPU of its own, there are {count}: start "
            f"torchrun with --nproc_per_node={count}"
        )
    return torch.device("cuda", place)


def find_device(name: str | torch.device) -> torch.device:
    """The device of a name; ``auto`` is CUDA or MPS (Apple) if there is one, else the CPU.

    With several GPUs, each process that torchrun started gets its own.

    Raises:
        ValueError: The name is unknown, or this machine has no such device.
    """
    if name == "auto":
        found = torch.accelerator.current_accelerator(check_available=True)
        if found is None or found.type not in ("cuda", "mps"):
            return torch.device("cpu")
        return process_device() if found.type == "cuda" else found
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise ValueError(f"unknown device {name!r}: expected auto, cpu, cuda or cuda:N") from error
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise ValueError(
            f"device {name} was asked for, but PyTorch finds {torch.cuda.device_count()} CUDA "
            "devices here: use --device cpu, or auto"
        )
    return device


def autocast(precision: str, device: torch.device) -> AbstractContextManager[Any]:
    """A context manager that sets mixed precision for a device.

    Args:
        precision: ``float32``, ``bfloat16``, ``float16``, or ``auto``: float16 on CUDA, bfloat16 on
            CPUs where it is faster (see ``bfloat16_pays``), else float32.
        device: The device.
    """
    dtype = PRECISIONS.get(precision)
    if precision == "auto" and device.type == "cuda":
        dtype = torch.float16
    elif precision == "auto" and device.type == "cpu":
        dtype = torch.bfloat16 if bfloat16_pays() else None
    return torch.autocast(device.type, dtype=dtype, enabled=dtype is not None)


def bfloat16_pays() -> bool:
    """Whether this CPU is faster in bfloat16 than in float32.

    It is with AMX, and on AMD's with AVX-512's bfloat16. Intel's without AMX are slower by the latter.
    """
    found = torch.cpu.get_capabilities()
    amd = str(found.get("cpu_name", "")).startswith("AMD")
    return bool(found.get("amx_bf16") or (amd and found.get("avx512_bf16")))


def blend_type(precision: str, device: torch.device) -> torch.dtype:
    """Number type for averaging memory: bfloat16 on CPUs where it pays or if asked for, else float32.

    On CUDA reading memory is a small part of a frame.
    """
    if device.type != "cpu" or precision not in ("auto", "bfloat16"):
        return torch.float32
    return torch.bfloat16 if precision == "bfloat16" or bfloat16_pays() else torch.float32


def free_bytes(device: torch.device) -> int:
    """Free memory in bytes of a CUDA device; for other devices, of the machine."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    return int(psutil.virtual_memory().available)


def keep_freed_memory() -> None:
    """Make the C library keep freed memory for the next step of a training.

    By default glibc returns large blocks to the system at once. Getting them back page by page takes a
    tenth of a training step on CPUs. Other C libraries are not changed.
    """
    if platform.libc_ver()[0] == "glibc":
        library = ctypes.CDLL(None)
        library.mallopt(-3, 2**30)  # M_MMAP_THRESHOLD: smaller blocks come from the heap
        library.mallopt(-1, 2**31 - 1)  # M_TRIM_THRESHOLD: so much of the heap may be unused
