"""The network as a training runs it: as it is, or compiled."""

import shutil
from typing import cast

import torch
from torch import Tensor, nn


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
