"""Random processes for property-based tests."""

import numpy as np
import torch
from hypothesis import strategies as st

from skild_physics.diffusion.process import Process
from skild_physics.diffusion.schedule import LinearSchedule, LogLinearSchedule, linear_to_resolution
from skild_physics.kspace import BASES, wavenumbers

schedules = st.one_of(
    st.builds(
        LinearSchedule,
        lambda_i=st.floats(0, 1000),
        lambda_f=st.floats(1.0, 500),
        theta=st.floats(1, 10),
    ),
    st.builds(LogLinearSchedule, lambda_i=st.floats(-6, -3), lambda_f=st.floats(-3, 0)),
    st.builds(
        linear_to_resolution,
        size=st.integers(8, 64),
        resolution=st.floats(0.3, 8),
        theta=st.floats(1, 10),
        tau=st.floats(1e-4, 0.5),
    ),
)


@st.composite
def processes(draw, max_size=12):
    """A process with a random spectrum: a power law times independent factors per mode."""
    N = draw(st.integers(2, max_size))
    basis = draw(st.sampled_from(BASES))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    law = (wavenumbers(N, basis) ** 2 + draw(st.floats(0.5, 5))) ** -draw(st.floats(0, 1.5))
    S0 = torch.tensor(law * rng.lognormal(0, 0.5, size=(N, N)))
    return Process(
        S0,
        draw(schedules),
        basis,
        draw(st.sampled_from([0.0, 3.0, 31.2])),
        draw(st.integers(2, 1000)),
    )


@st.composite
def process_and_steps(draw):
    """A process and two whole steps 0 <= m < n <= T of it."""
    process = draw(processes())
    n = draw(st.integers(1, process.T))
    return process, n, draw(st.integers(0, n - 1))
