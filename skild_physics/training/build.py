"""The process and the untrained network that a configuration describes."""

import torch
from torch import Tensor, nn

from skild_physics import kspace
from skild_physics.diffusion.process import Process, white_k_c
from skild_physics.diffusion.scalespace import ScaleSpace, level_ends, level_ends_of_spectrum
from skild_physics.files import InputError
from skild_physics.kspace import Basis
from skild_physics.networks import CompactUNet, FlexiUNet, NCSNpp, StepNetwork, WhitenedInput
from skild_physics.spectrum import PowerLaw, Spectrum
from skild_physics.training.config import CompactConfig, Config, FlexiConfig
from skild_physics.training.process_config import (
    ConvexDecayConfig,
    ScaleSpaceConfig,
    StepLevelsConfig,
)


def spectrum_of(config: Config) -> tuple[Tensor, Basis]:
    """Variance of every orthonormal mode, float64 (N, N), and the basis.

    Raises:
        InputError: the file is missing or not a spectrum.
    """
    settings = config.process
    if isinstance(settings, ScaleSpaceConfig):
        return torch.ones(settings.size, settings.size, dtype=torch.float64), settings.basis
    law, white = settings.law, settings.white
    if white is not None:
        return torch.ones(white.size, white.size, dtype=torch.float64), white.basis
    if law is None:
        assert settings.spectrum is not None
        spectrum = Spectrum.load(settings.spectrum)
        return torch.as_tensor(spectrum.per_mode(settings.spectrum_kind)), spectrum.basis
    k = kspace.wavenumbers(law.size, law.basis)
    factor = kspace.normalization_factor(law.size, law.basis)
    return torch.as_tensor(PowerLaw(law.C, law.k0_squared, law.alpha)(k) / factor**2), law.basis


def build_process(config: Config, S0: Tensor, basis: Basis) -> Process:
    """The forward process of a configuration, for a spectrum of orthonormal modes (N, N)."""
    settings = config.process
    N = S0.shape[-1]
    if isinstance(settings, ScaleSpaceConfig):
        return Process(S0, settings.schedule.build(N, 0.0), basis, white_k_c(N), settings.T)
    schedule = settings.schedule.build(N, settings.tau)
    k_c = settings.k_c if settings.white is None else white_k_c(N)
    return Process(S0, schedule, basis, k_c, settings.T)


def build_scale_space(config: Config, ends: tuple[int, ...] | None = None) -> ScaleSpace | None:
    """The process of Scale Space Diffusion, if the configuration asks for one.

    Args:
        config: of the training.
        ends: last step of every level, where these are known already.

    Raises:
        InputError: levels that do not exist, or a spectrum that is missing or of other fields.
    """
    settings = config.process
    if not isinstance(settings, ScaleSpaceConfig):
        return None
    schedule, levels, sizes = settings.schedule.exponent(), settings.levels, settings.sizes
    if ends is None:
        if isinstance(levels, ConvexDecayConfig):
            ends = level_ends(len(sizes), settings.T, levels.gamma)
        elif isinstance(levels, StepLevelsConfig):
            ends = levels.ends
        else:
            spectrum = Spectrum.load(levels.file)
            S0 = torch.as_tensor(spectrum.per_mode("measured"))
            if (len(S0), spectrum.basis) != (settings.size, settings.basis):
                raise InputError(
                    f"{levels.file} is for N = {len(S0)} in the {spectrum.basis} basis, the "
                    f"process for {settings.size} in the {settings.basis} one"
                )
            ends = level_ends_of_spectrum(
                S0, settings.basis, sizes, schedule, levels.tau, settings.T
            )
    return ScaleSpace(sizes, ends, schedule, settings.degradation, settings.basis)


def build_network(config: Config, process: Process, channels: int) -> nn.Module:
    """The untrained network of a configuration, for fields of so many channels."""
    settings, told = config.network, channels if config.condition else 0
    if isinstance(settings, CompactConfig):
        shape = settings.channels, settings.blocks, settings.patch, settings.embedding
        more = channels, process.basis, told
        if isinstance(settings, FlexiConfig):
            return FlexiUNet(process.N, *shape, *more)
        if settings.whitened:
            return WhitenedInput(CompactUNet(*shape, channels, process.basis, channels), process)
        return CompactUNet(*shape, *more)
    network = NCSNpp(
        process.N,
        settings.channels,
        settings.multipliers,
        settings.blocks,
        settings.attention,
        settings.dropout,
        channels,
        told,
    )
    return StepNetwork(
        network, process.schedule, process.T, process.N, process.basis, settings.output
    )
