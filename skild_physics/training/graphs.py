"""Work on a GPU that is launched at once: CUDA graphs.

A step of a small network is thousands of kernels of a few microseconds each, and a Python thread
takes longer to launch one than the GPU to run it. A graph holds the launches; what it computes is
the same.
"""

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

WARM = 2
"""Times that work is done as it is before it is captured: libraries allocate on first use."""


class NotCapturedError(RuntimeError):
    """Work that no graph can hold; nothing of it was done."""


@dataclass(eq=False)
class _Graph:
    done: int = 0
    graph: Any = None
    inputs: Sequence[Tensor] = ()
    output: Any = None


class Graphs:
    """Work by name, captured once it has been done a few times, and replayed then.

    All share memory, so an output holds until other work is done.

    Args:
        device: a GPU.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self.forget()

    @property
    def count(self) -> int:
        """Of captured graphs."""
        return sum(each.graph is not None for each in self._graphs.values())

    def forget(self) -> None:
        """Capture anew, since tensors that work changes have been replaced."""
        self._graphs: dict[Hashable, _Graph] = {}
        self._pool: Any = None

    def __call__(self, name: Hashable, work: Callable[..., Any], *inputs: Tensor) -> Any:
        """What work gives of tensors, on their device.

        Args:
            name: the same only for the same work on tensors of the same shapes.
            work: waits for nothing, and reads and writes no tensors but these and ones that stay.
            inputs: on the GPU.

        Raises:
            NotCapturedError: this is not so.
        """
        held = self._graphs.setdefault(name, _Graph())
        if held.done < WARM:
            held.done += 1
            return work(*inputs)
        if held.graph is None:
            held.inputs = [each.clone() for each in inputs]
            self._capture(held, work)
        for own, given in zip(held.inputs, inputs, strict=True):
            own.copy_(given)
        held.graph.replay()
        return held.output

    def _capture(self, held: _Graph, work: Callable[..., Any]) -> None:
        with torch.cuda.device(self._device):
            before, graph = torch.cuda.current_stream(), torch.cuda.CUDAGraph()
            self._pool = self._pool or torch.cuda.graph_pool_handle()
            try:
                own = torch.cuda.Stream()  # type: ignore[no-untyped-call]
                with torch.cuda.graph(graph, pool=self._pool, stream=own):
                    held.output = work(*held.inputs)
            except Exception as error:
                # a capture that fails leaves its own stream behind
                torch.cuda.set_stream(before)
                raise NotCapturedError(str(error)) from error
        held.graph = graph
