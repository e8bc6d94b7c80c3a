"""A measured spectrum with its fitted law, saved as NetCDF."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, overload

import numpy as np
import xarray as xr
from numpy.typing import NDArray
from pydantic import BaseModel, Field, FiniteFloat, NonNegativeFloat, NonNegativeInt, PositiveInt
from rich.table import Table

from skild_physics.disk import write_netcdf
from skild_physics.fields.hdf5_files import loaded, open_netcdf
from skild_physics.files import InputError
from skild_physics.kspace import (
    Basis,
    Momentum,
    Normalization,
    normalization_factor,
    wavenumbers,
)
from skild_physics.observables.jackknife import MIN_BLOCKS
from skild_physics.schema import plain_attributes, validated
from skild_physics.spectrum.fit import PARAMETERS, Fit, Goodness, Method, PowerLaw
from skild_physics.spectrum.moments import Statistic
from skild_physics.spectrum.radial import shells
from skild_physics.tables import Printed, with_error
from skild_physics.version import __version__

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

SCHEMA = "skild_physics.spectrum"
SCHEMA_VERSION = 2
P_REJECTED = 1e-3

K_ATTRS = {
    "continuum": {"units": "radian / box side", "long_name": "wavenumber k"},
    "lattice": {"units": "radian / box side", "long_name": "lattice momentum 2N sin(k/2N)"},
}


@dataclass(frozen=True, eq=False, repr=False)
class Spectrum(Printed):
    """Per-mode variance, radial profile and power law of a dataset.

    Attributes:
        variance: variance of every mode, shape (channel, N, N), in the stated normalisation.
        channels: names of the channels.
        basis: basis of the modes.
        normalization: of variance, S and the law: the paper's or the isotropic one.
        momentum: what k means: the continuum wavenumber or the lattice momentum.
        n_samples: number of fields measured; None if unknown.
        S: mean over shells, shape (channel, shell).
        S_stderr: its standard error, shape (channel, shell).
        profile_stderr: standard error of the mean over channels, shape (shell,).
        fit: fitted law, with the errors it would have for Gaussian modes.
        covariance: of (ln C, ln k0^2, alpha), shape (3, 3): jackknife over blocks of fields, or the
            Gaussian one where only a variance map was given. Zero where a parameter is held; nan
            from fewer than 8 blocks, as all errors are.
        goodness: chi-square of the fit, allowing for non-Gaussian modes where there are blocks.
        fit_range: smallest and largest wavenumber fitted, radians per box side.
        n_blocks: number of jackknife blocks; 0 if errors are Gaussian.
        source: name of the data.
        statistic: whose variance it is: that of the modes, or of their magnitudes; see
            :mod:`skild_physics.spectrum.moments`. Of a variance map it is not known, and taken to
            be that of the modes.

    >>> import skild_physics as sk
    >>> spectrum = sk.fit_spectrum(sk.generate_ising(L=16, samples=64))
    >>> spectrum.per_mode().shape
    (16, 16)
    """

    variance: NDArray[np.float64]
    channels: tuple[str, ...]
    basis: Basis
    normalization: Normalization
    momentum: Momentum
    n_samples: int | None
    S: NDArray[np.float64]
    S_stderr: NDArray[np.float64]
    profile_stderr: NDArray[np.float64]
    fit: Fit
    covariance: NDArray[np.float64]
    goodness: Goodness
    fit_range: tuple[float, float]
    n_blocks: int
    source: str
    statistic: Statistic = "variance"

    @property
    def N(self) -> int:
        """Lattice size."""
        return int(self.variance.shape[-1])

    @property
    def k(self) -> NDArray[np.float64]:
        """Wavenumber of each shell, radians per box side, shape (shell,)."""
        return shells(self.N, self.basis, self.momentum).k

    @property
    def profile(self) -> NDArray[np.float64]:
        """Mean over shells and channels, shape (shell,)."""
        mean: NDArray[np.float64] = self.S.mean(axis=0)
        return mean

    @property
    def law_stderr(self) -> tuple[float, float, float]:
        """Standard errors of (C, k0^2, alpha), to first order from those of their logarithms."""
        return _stderr(self.fit.law, self.covariance)

    @property
    def errors(self) -> str:
        """How the standard errors were made."""
        if 0 < self.n_blocks < MIN_BLOCKS:
            return f"none, from {self.n_blocks} blocks of fields: fewer than {MIN_BLOCKS}"
        if self.n_blocks:
            return f"delete-one jackknife over {self.n_blocks} blocks of consecutive fields"
        if self.n_samples is None:
            return "unknown: the number of fields behind the variance map was not given"
        return f"Gaussian modes, {self.n_samples} fields"

    def tables(self) -> list[Table]:
        """The fitted parameters with their errors."""
        law, (C, k02, alpha) = self.fit.law, self.law_stderr
        table = Table("S0(k) = C (k^2 + k0^2)^(-alpha)", "value", title=self.source)
        table.add_row("C", with_error(law.C, C))
        table.add_row("k0^2  [(rad/side)^2]", with_error(law.k0_squared, k02))
        table.add_row("alpha", with_error(law.alpha, alpha))
        return [table]

    def notes(self) -> list[str]:
        """How it was fitted, how well, and whether the law is to be believed."""
        fit, good = self.fit, self.goodness
        notes = [
            f"{fit.method} fit of {self.n_samples or 'an unknown number of'} fields, {self.basis} "
            f"basis, {self.momentum} momentum",
            f"k = {self.fit_range[0]:.4g} .. {self.fit_range[1]:.4g} radians per box side",
            f"errors: {self.errors}",
        ]
        if self.statistic == "magnitude":
            notes.append(
                "variance of the magnitude of each mode, as in published spectra: 1 - 2/pi = 0.36 "
                "of the variance for Gaussian modes"
            )
        if self.n_samples is None:
            notes.append("with n_samples, the number of fields behind the map, errors are known")
        notes.append(
            f"the shells scatter about the law by {100 * fit.scatter:.2g} % (root mean square)"
        )
        if fit.on_bound:
            names = ", ".join(fit.on_bound)
            notes.append(f"warning: on its bound, so no optimum and no error bar: {names}")
        if fit.method == "paper" or self.n_samples is None:
            return notes
        notes.append(
            f"goodness of fit: chi-square {good.chi_square:.1f} for {good.degrees_of_freedom:.1f} "
            f"degrees of freedom, p = {good.p_value:.2g}"
        )
        if good.p_value < P_REJECTED:
            # without the first waves, and well below the edge, where lattices show
            low, high = 2 * float(self.k[1]), np.pi * self.N / 3
            notes += [
                "warning: this law is rejected in this range of k, so the errors are those of the",
                "best approximation to the data by it. The measured spectrum needs no law; for one",
                f"try a narrower range, such as k_min = {low:.3g} and k_max = {high:.3g}"
                + (", and the lattice momentum" if self.basis == "periodic" else ""),
            ]
        else:
            notes.append("the law is consistent with the spectrum in this range")
        return notes

    @overload
    def plot(self, ax: None = None) -> "Figure": ...

    @overload
    def plot(self, ax: "Axes") -> "Axes": ...

    def plot(self, ax: "Axes | None" = None) -> "Figure | Axes":
        """The spectrum on logarithmic axes with its fit, and their ratio below; the figure.

        Args:
            ax: draw the spectrum with its fit here, and nothing else; it is returned then.
        """
        # imported here, as in all results: measuring does not need matplotlib
        from skild_physics.plots import draw_spectra, spectrum_figure

        return spectrum_figure([self]) if ax is None else draw_spectra(ax, [self])

    def per_mode(
        self, kind: Literal["measured", "fit"] = "measured", N: int | None = None
    ) -> NDArray[np.float64]:
        """Isotropic variance of every orthonormal mode, shape (N, N), for the diffusion process.

        Args:
            kind: "measured" puts each shell's mean on its modes; "fit" evaluates the fitted law.
            N: another lattice size, by the fitted law: the same box and wavenumbers, more modes.

        Raises:
            InputError: unknown kind, or another size with "measured".
        """
        N = self.N if N is None else N
        factor2 = normalization_factor(N, self.basis, self.normalization) ** 2
        if kind == "measured":
            if N != self.N:
                raise InputError(
                    f"the measured spectrum is for N = {self.N}; use kind 'fit' for N = {N}"
                )
            return self.profile[shells(N, self.basis, self.momentum).of_mode] / factor2
        if kind == "fit":
            return self.fit.law(wavenumbers(N, self.basis, self.momentum)) / factor2
        raise InputError(f"kind must be 'measured' or 'fit', got {kind!r}")

    def to_dataset(self) -> xr.Dataset:
        """The spectrum as labelled arrays with units and provenance."""
        modes = shells(self.N, self.basis, self.momentum).modes
        units = {"units": "1"}
        attrs: dict[str, Any] = {
            "schema": SCHEMA,
            "schema_version": SCHEMA_VERSION,
            "package_version": __version__,
            "source": self.source,
            "basis": self.basis,
            "momentum": self.momentum,
            "normalization": self.normalization,
            "statistic": self.statistic,
            "stderr": self.errors,
            "n_blocks": self.n_blocks,
            "fit_law": "C (k^2 + k0_squared)^(-alpha)",
            "fit_method": self.fit.method,
            "fit_k_min": self.fit_range[0],
            "fit_k_max": self.fit_range[1],
            "fit_on_bound": ",".join(self.fit.on_bound),
            "fit_deviance": self.fit.deviance,
            "fit_degrees_of_freedom": self.fit.degrees_of_freedom,
            "fit_scatter": self.fit.scatter,
            "fit_chi_square": self.goodness.chi_square,
            "fit_chi_square_degrees_of_freedom": self.goodness.degrees_of_freedom,
            "fit_p_value": self.goodness.p_value,
        }
        if self.n_samples is not None:
            attrs["n_samples"] = self.n_samples
        gaussian = _stderr(self.fit.law, self.fit.covariance)
        for i, name in enumerate(PARAMETERS):
            attrs[f"fit_{name}"] = getattr(self.fit.law, name)
            attrs[f"fit_{name}_stderr"] = self.law_stderr[i]
            attrs[f"fit_{name}_stderr_gaussian"] = gaussian[i]
        pair = ("parameter", "parameter_too")
        return xr.Dataset(
            {
                "variance": (
                    ("channel", "v", "u"),
                    self.variance,
                    {"units": "1", "long_name": "variance of each mode"},
                ),
                "S": (("k",), self.profile, {"units": "1", "long_name": "variance spectrum"}),
                "S_stderr": (("k",), self.profile_stderr, units),
                "S_channel": (("channel", "k"), self.S, units),
                "S_channel_stderr": (("channel", "k"), self.S_stderr, units),
                "S_fit": (("k",), self.fit.law(self.k), {"units": "1", "long_name": "fitted law"}),
                "modes": (("k",), modes, {"long_name": "modes in the shell"}),
                "covariance": (pair, self.covariance, {"long_name": "of the fitted parameters"}),
                "covariance_gaussian": (pair, self.fit.covariance, units),
            },
            coords={
                "k": (("k",), self.k, K_ATTRS[self.momentum]),
                "channel": list(self.channels),
                "parameter": ["ln C", "ln k0_squared", "alpha"],
            },
            attrs=attrs,
        )

    def save(self, path: str | Path, request: str | None = None) -> None:
        """Write a NetCDF-4 file, replacing an existing one at once.

        Args:
            path: the file.
            request: what it was made for, see :mod:`skild_physics.claims`.
        """
        write_netcdf(path, {None: self.to_dataset()}, request)

    @classmethod
    def load(cls, path: str | Path) -> "Spectrum":
        """Read a file written by :meth:`save`.

        Raises:
            InputError: the file is not a spectrum, or of another version.
        """
        with open_netcdf(path) as dataset:
            data = loaded(dataset, path)
        if data.attrs.get("schema") != SCHEMA:
            raise InputError(f"{path}: not a spectrum written by fit-spectrum")
        a = validated(_Attributes, plain_attributes(data.attrs), path)
        if a.schema_version > SCHEMA_VERSION:
            raise InputError(f"{path}: written by a newer version of skild_physics")
        if a.schema_version < SCHEMA_VERSION:
            raise InputError(f"{path}: written by an older version; run fit-spectrum again")
        arrays = _arrays(data, a, path)
        return cls(
            variance=arrays["variance"],
            channels=tuple(map(str, data["channel"].values)),
            basis=a.basis,
            normalization=a.normalization,
            momentum=a.momentum,
            n_samples=a.n_samples,
            S=arrays["S_channel"],
            S_stderr=arrays["S_channel_stderr"],
            profile_stderr=arrays["S_stderr"],
            fit=Fit(
                law=PowerLaw(a.fit_C, a.fit_k0_squared, a.fit_alpha),
                method=a.fit_method,
                covariance=arrays["covariance_gaussian"],
                deviance=a.fit_deviance,
                degrees_of_freedom=a.fit_degrees_of_freedom,
                on_bound=tuple(filter(None, a.fit_on_bound.split(","))),
                scatter=a.fit_scatter,
            ),
            covariance=arrays["covariance"],
            goodness=Goodness(a.fit_chi_square, a.fit_chi_square_degrees_of_freedom),
            fit_range=(a.fit_k_min, a.fit_k_max),
            n_blocks=a.n_blocks,
            source=a.source,
            statistic=a.statistic,
        )


class _Attributes(BaseModel):
    """What the file of a spectrum says of it."""

    schema_version: int
    source: str
    basis: Basis
    momentum: Momentum
    normalization: Normalization
    statistic: Statistic = "variance"
    n_samples: PositiveInt | None = None
    n_blocks: NonNegativeInt
    fit_method: Method
    fit_k_min: NonNegativeFloat
    fit_k_max: NonNegativeFloat
    fit_on_bound: str
    fit_deviance: float
    fit_degrees_of_freedom: int
    fit_scatter: float
    fit_chi_square: float
    fit_chi_square_degrees_of_freedom: float
    fit_C: FiniteFloat = Field(gt=0)
    fit_k0_squared: FiniteFloat = Field(ge=0)
    fit_alpha: FiniteFloat


def _arrays(
    data: xr.Dataset, about: _Attributes, path: str | Path
) -> dict[str, NDArray[np.float64]]:
    """The arrays of a file by their names.

    Raises:
        InputError: one is missing, of another shape or type than the others let expect, or holds
            what no variance is.
    """
    shape = data["variance"].shape if "variance" in data else ()
    if len(shape) != 3 or shape[1] != shape[2] or 0 in shape:
        raise InputError(f"{path}: its `variance` has the shape {shape}, not (channel, N, N)")
    channels, N, _ = shape
    count = len(shells(N, about.basis, about.momentum).k)
    expected = {
        "variance": shape,
        "channel": (channels,),
        "S_channel": (channels, count),
        "S_channel_stderr": (channels, count),
        "S_stderr": (count,),
        "covariance": (3, 3),
        "covariance_gaussian": (3, 3),
    }
    found = {}
    for name, wanted in expected.items():
        if name not in data or data[name].shape != wanted:
            there = f"has the shape {data[name].shape}" if name in data else "is missing"
            raise InputError(f"{path}: its `{name}` {there}, expected {wanted}")
        if name == "channel":
            continue
        if data[name].dtype.kind != "f":
            raise InputError(f"{path}: its `{name}` holds {data[name].dtype}, expected floats")
        found[name] = data[name].values.astype(np.float64, copy=False)
    for name in ("variance", "S_channel"):
        if not (np.isfinite(found[name]) & (found[name] >= 0)).all():
            raise InputError(f"{path}: its `{name}` holds values that no variance has")
    return found


def _stderr(law: PowerLaw, covariance: NDArray[np.float64]) -> tuple[float, float, float]:
    C, k0_squared, alpha = np.sqrt(np.diag(covariance)).tolist()
    return law.C * C, law.k0_squared * k0_squared, alpha
