"""Normal draws that do not depend on how fields are divided into batches."""

from collections.abc import Sequence
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from skild_physics.diffusion.philox import key_words, normal_fields
from skild_physics.files import InputError


class Noise(Protocol):
    """A source of standard normal draws of the shape of a tensor."""

    def like(self, x: Tensor) -> Tensor:
        """Independent N(0, 1) draws, shape, dtype and device of x."""
        ...


class SampleNoise:
    """Normal draws of each sample by itself, so that neither batches nor devices change them.

    Args:
        seed: integer root seed.
        indices: number of each sample in its ensemble.
    """

    def __init__(self, seed: int, indices: Sequence[int]):
        keys = []
        for index in indices:
            word = np.random.SeedSequence(seed, spawn_key=(index,)).generate_state(1, np.uint64)
            keys.append(int(word[0]))
        self._words, self._draw = key_words(keys, torch.device("cpu")), 0

    def like(self, x: Tensor) -> Tensor:
        """Independent N(0, 1) draws, shape, dtype and device of x, those of a sample in x[i]."""
        if len(x) != len(self._words):
            raise InputError(f"x must hold {len(self._words)} samples, got {len(x)}")
        self._words = self._words.to(x.device, non_blocking=True)
        draws = normal_fields(self._words, x.shape[1:], self._draw)
        self._draw += 1
        return draws.to(x.dtype)


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
