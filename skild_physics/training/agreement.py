"""Whether the fields of a run are those that its process is for."""

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from skild_physics import kspace
from skild_physics.config import Config
from skild_physics.diffusion.process import Process
from skild_physics.files import InputError
from skild_physics.models.agreement import variance_ratios
from skild_physics.training.data import TrainingFields

CHECKED = 256
"""Fields that are looked at, from all of the source."""
FACTOR = 10.0
"""Ratio of variances, to either side, that a run is refused for."""
CONSTANT = 1e-8
"""Square of a mode without variance over the mean variance that is no rounding."""


def some_of(fields: TrainingFields) -> Tensor:
    """Fields from all of a source, on the CPU, (n, C, N, N)."""
    numbers = np.unique(np.linspace(0, fields.count - 1, min(CHECKED, fields.count)).astype(int))
    return fields.take(torch.from_numpy(numbers)).cpu()


def check_process(
    some: Tensor, name: str, process: Process, config: Config, log: Callable[[str], None]
) -> None:
    """Refuse fields that a process is not for, and say so where only their shape differs.

    Args:
        some: of the fields, see :func:`some_of`.
        name: of their source.
        process: what they are to be diffused by.
        config: of the run.
        log: receives what is said.

    Raises:
        InputError: their variance is another by a factor of ten, or modes that have none are not
            zero.
    """
    x = some.double().numpy()
    S0, whose, basis = process.S0.cpu().numpy(), config.process.name, process.basis
    ratios = variance_ratios(x, S0, basis)
    too_large = ratios.overall > FACTOR
    # small pictures may be diffused with white noise, as those of other channels beside them
    if too_large or (ratios.overall < 1 / FACTOR and not config.process.is_white):
        raise InputError(
            f"{name}: the variance of the fields is {ratios.overall:.3g} times that of "
            f"{whose}; "
            + ("scale them" if config.process.is_white else "measure theirs, or scale them")
        )
    modes = np.square(kspace.forward(x, basis)).mean(axis=(0, 1))
    constant = process.empty.cpu().numpy() & (modes > CONSTANT * S0.mean())
    if constant[0, 0]:
        raise InputError(
            f"{name}: the mean of every field is {x.mean():.4g}, but it has no variance in "
            f"{whose}, and stays zero; subtract it from the fields"
        )
    if constant.any():
        raise InputError(f"{name}: {whose} has no variance in modes that the fields have")
    if config.process.is_measured and ratios.differ:
        log(f"{name}: the spectrum of the fields is not that of {whose}: {ratios}")
