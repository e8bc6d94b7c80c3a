"""What the machine offers: device, number format, compiler, memory."""

import ctypes
import resource
import shutil
import sys
from collections.abc import Callable
from typing import cast

import torch
from torch import nn


def default_device() -> torch.device:
    """The GPU if there is one, else the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def autocast_dtype(precision: str, device: torch.device) -> torch.dtype:
    """The type networks compute in: bfloat16 where the hardware multiplies it fast."""
    if precision == "auto":
        fast = device.type == "cuda" or torch.cpu.get_capabilities().get("amx_bf16", False)
        precision = "bfloat16" if fast else "float32"
    return {"bfloat16": torch.bfloat16, "float16": torch.float16, "float32": torch.float32}[
        precision
    ]


def compiled(
    network: nn.Module, example: Callable[[nn.Module], None], log: Callable[[str], None]
) -> nn.Module:
    """The network under torch.compile if that works here, else the network.

    Args:
        network: what to compile.
        example: runs a network the way it will be used, forward and backward.
        log: is told why it does not work.
    """
    if not torch.cuda.is_available() and not any(map(shutil.which, ("g++", "c++", "clang++"))):
        log("no C++ compiler: training without torch.compile")
        return network
    try:
        candidate = cast(nn.Module, torch.compile(network, dynamic=False))
        example(candidate)
    except Exception as error:
        # every backend fails in its own way
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        log(f"training without torch.compile, which failed: {reason}")
        torch.compiler.reset()
        return network
    return candidate


def keep_freed_memory() -> None:
    """Let glibc keep freed memory for the next allocation of this process.

    By default every large tensor is unmapped when freed, and each of its pages zeroed by the kernel
    when the next step makes it again.
    """
    m_mmap_max, m_trim_threshold = -4, -1
    if sys.platform == "linux":
        mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
        if mallopt is not None:
            mallopt(m_mmap_max, 0)
            mallopt(m_trim_threshold, 2**31 - 1)


def peak_memory(device: torch.device) -> int:
    """Largest memory so far in bytes: allocated on a GPU, or resident in this process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    kilo = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * kilo
