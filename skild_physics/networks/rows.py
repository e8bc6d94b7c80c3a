"""A linear layer whose rows do not depend on how many of them there are."""

from torch import Tensor, nn
from torch.nn import functional as F

ROWS = 4
"""BLAS sums fewer rows in another order, so that a field would depend on the batch it is in."""


class Linear(nn.Linear):
    """A linear layer of vectors (B, channels) that gives each the same, bit for bit, in any batch.

    So on processors; libraries of GPUs choose the order of sums by the size of the batch.
    """

    def forward(self, input: Tensor) -> Tensor:
        """The layer's output (B, channels)."""
        missing = ROWS - len(input)
        if missing <= 0:
            return super().forward(input)
        return super().forward(F.pad(input, (0, 0, 0, missing)))[: len(input)]
