"""Devices of a machine, the precision that is fastest on them, and free memory."""

import ctypes
import os
import platform
from contextlib import AbstractContextManager
from typing import Any

import psutil
import torch

PRECISIONS = {"float32": None, "bfloat16": torch.bfloat16, "float16": torch.float16}


def process_device() -> torch.device:
    """The GPU of this process, by its place on the node; the CPU where there is no GPU.

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
    """The device of that name; ``auto`` is CUDA or MPS (Apple) if there is one, else the CPU.

    Of several GPUs each process that torchrun started gets its own.

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
    """Mixed precision for a device.

    ``auto``: float16 on CUDA; on a CPU bfloat16 where that is faster, which takes AMX tile units;
    elsewhere float32.
    """
    dtype = PRECISIONS.get(precision)
    if precision == "auto" and device.type == "cuda":
        dtype = torch.float16
    elif precision == "auto" and device.type == "cpu":
        dtype = torch.bfloat16 if torch.cpu.get_capabilities().get("amx_bf16") else None
    return torch.autocast(device.type, dtype=dtype, enabled=dtype is not None)


def blend_type(precision: str, device: torch.device) -> torch.dtype:
    """What memory is blended in: bfloat16 on CPUs with AMX unless ``precision`` says otherwise.

    Elsewhere float32: without AMX bfloat16 is slower than float32, and on CUDA the read is a small
    part of a frame.
    """
    if device.type != "cpu" or precision not in ("auto", "bfloat16"):
        return torch.float32
    pays = precision == "bfloat16" or torch.cpu.get_capabilities().get("amx_bf16")
    return torch.bfloat16 if pays else torch.float32


def free_bytes(device: torch.device) -> int:
    """Free memory of a device; of the machine where the device does not say."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    return int(psutil.virtual_memory().available)


def keep_freed_memory() -> None:
    """Have the C library keep what is freed, for the next step of a training to take.

    By default glibc gives large blocks back at once. The next step then gets them page by page, which
    takes a tenth of its time on CPUs. Other C libraries are left alone.
    """
    if platform.libc_ver()[0] == "glibc":
        library = ctypes.CDLL(None)
        library.mallopt(-3, 2**30)  # M_MMAP_THRESHOLD: blocks below that come from the heap
        library.mallopt(-1, 2**31 - 1)  # M_TRIM_THRESHOLD: of which so much may lie free
