"""What the machine offers: device, compiler, memory."""

import ctypes
import resource
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import cast

import torch
from torch import Tensor, nn


def default_device() -> torch.device:
    """The GPU if there is one, else the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


class Runner(nn.Module):
    """A network that is run as it is or, while ``compiled`` is set, compiled.

    The first call of a compiled network raises whatever its backend does, many calls later, too.

    Args:
        network: takes tensors.
    """

    def __init__(self, network: nn.Module):
        super().__init__()
        self.network, self.compiled = network, False
        self._compiled: nn.Module | None = None

    def forget(self) -> None:
        """Compile anew when it is called next: the compiler gives up after so many variants."""
        torch.compiler.reset()
        self._compiled = None

    def forward(self, *inputs: Tensor) -> Tensor:
        """The output of the network.

        Raises:
            RuntimeError: there is no C++ compiler, which torch needs without a GPU.
        """
        if not self.compiled:
            output: Tensor = self.network(*inputs)
            return output
        if self._compiled is None:
            compilers = map(shutil.which, ("g++", "c++", "clang++"))
            if not torch.cuda.is_available() and not any(compilers):
                raise RuntimeError("no C++ compiler")
            self._compiled = cast(nn.Module, torch.compile(self.network, dynamic=False))
        output = self._compiled(*inputs)
        return output


def reason(error: Exception) -> str:
    """What an error says, in a line."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]


@contextmanager
def kept_threads() -> Iterator[None]:
    """Afterwards torch uses as many threads as before."""
    threads = torch.get_num_threads()
    try:
        yield
    finally:
        torch.set_num_threads(threads)


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
