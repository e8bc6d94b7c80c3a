"""Normal draws that do not depend on how fields are divided into batches."""

from collections.abc import Sequence
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from skild_physics.files import InputError


class Noise(Protocol):
    """A source of standard normal draws of the shape of a tensor."""

    def like(self, x: Tensor) -> Tensor:
        """Independent N(0, 1) draws, shape, dtype and device of x."""
        ...


class SampleNoise:
    """Normal draws with one generator per sample, so that batches do not change results.

    Args:
        seed: integer root seed.
        indices: number of each sample in its ensemble.
    """

    def __init__(self, seed: int, indices: Sequence[int]):
        self._generators = []
        for index in indices:
            word = np.random.SeedSequence(seed, spawn_key=(index,)).generate_state(1, np.uint64)
            self._generators.append(torch.Generator().manual_seed(int(word[0])))

    def like(self, x: Tensor) -> Tensor:
        """Independent N(0, 1) draws, shape, dtype and device of x, one generator per x[i]."""
        if len(x) != len(self._generators):
            raise InputError(f"x must hold {len(self._generators)} samples, got {len(x)}")
        draws = [torch.randn(x.shape[1:], generator=g) for g in self._generators]
        return torch.stack(draws).to(x)


class Twice:
    """The draws of one sample, for two that are to be the same.

    Args:
        noise: of the one.
    """

    def __init__(self, noise: Noise):
        self._noise = noise

    def like(self, x: Tensor) -> Tensor:
        """Draws N(0, 1), shape, dtype and device of x, the same for x[0] and x[1]."""
        return self._noise.like(x[:1]).expand_as(x)
