"""Batches of lattice fields, augmented with the exact symmetries of the critical Ising torus.

Translations, the eight symmetries of the square and the global spin flip leave the Boltzmann
weight unchanged, so an augmented field is as good a sample as the stored one.
"""

import torch
from torch import Tensor


def random_symmetry(fields: Tensor, generator: torch.Generator) -> Tensor:
    """Each field under its own random translation, point symmetry of the square and spin flip.

    Args:
        fields: shape (sample, L, L).
        generator: source of the draws, on the CPU.
    """
    n, L, _ = fields.shape
    site = torch.arange(L)
    shift = torch.randint(L, (2, n, 1), generator=generator)
    flip, mirror_y, mirror_x, transpose = 1 - 2 * torch.randint(2, (4, n, 1), generator=generator)
    y = ((mirror_y * site + shift[0]) % L)[:, :, None]
    x = ((mirror_x * site + shift[1]) % L)[:, None, :]
    source = torch.where(transpose[..., None] > 0, y * L + x, x * L + y)
    moved = fields.reshape(n, -1).gather(1, source.reshape(n, -1)).reshape(n, L, L)
    signed: Tensor = moved * flip[..., None].to(fields.dtype)
    return signed


def training_batch(
    spins: Tensor, batch_size: int, symmetries: bool, generator: torch.Generator
) -> Tensor:
    """A random batch of fields, float32 (batch_size, 1, L, L), from int8 spins (sample, L, L)."""
    chosen = torch.randint(len(spins), (batch_size,), generator=generator)
    fields = spins[chosen]
    if symmetries:
        fields = random_symmetry(fields, generator)
    return fields[:, None].float()
