"""A measured spectrum with its fitted law, saved as NetCDF."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from skild_physics import __version__
from skild_physics.files import replacing
from skild_physics.kspace import BASES, Basis, paper_factor, wavenumbers
from skild_physics.spectrum.fit import Fit, PowerLaw
from skild_physics.spectrum.radial import shells

SCHEMA = "skild_physics.spectrum"


@dataclass(frozen=True, eq=False)
class Spectrum:
    """Per-mode variance, radial profile and power law of a dataset, in the paper's normalisation.

    Attributes:
        variance: variance of every mode, shape (channel, N, N), paper's normalisation.
        basis: basis of the modes.
        n_samples: number of fields measured.
        profile: mean over shells and channels, shape (shell,).
        profile_stderr: its jackknife standard error, shape (shell,).
        fit: fitted law and its quality.
        fit_stderr: jackknife standard errors of (C, k0_squared, alpha).
        fit_range: smallest and largest wavenumber fitted, radians per box side.
        n_blocks: number of jackknife blocks.
        source: name of the data.
    """

    variance: NDArray[np.float64]
    basis: Basis
    n_samples: int
    profile: NDArray[np.float64]
    profile_stderr: NDArray[np.float64]
    fit: Fit
    fit_stderr: tuple[float, float, float]
    fit_range: tuple[float, float]
    n_blocks: int
    source: str

    @property
    def N(self) -> int:
        """Lattice size."""
        return int(self.variance.shape[-1])

    def per_mode(self, kind: Literal["measured", "fit"] = "measured") -> NDArray[np.float64]:
        """Isotropic variance of every orthonormal mode, shape (N, N), for the diffusion process.

        "measured" puts each shell's mean on its modes; "fit" evaluates the fitted law.

        Raises:
            ValueError: unknown kind.
        """
        factor2 = paper_factor(self.N, self.basis) ** 2
        if kind == "measured":
            return self.profile[shells(self.N, self.basis).of_mode] / factor2
        if kind == "fit":
            return self.fit.law(wavenumbers(self.N, self.basis)) / factor2
        raise ValueError(f"kind must be 'measured' or 'fit', got {kind!r}")

    def to_dataset(self) -> xr.Dataset:
        """The spectrum as labelled arrays with units and provenance."""
        k, modes, _ = shells(self.N, self.basis)
        k_attrs = {"units": "radian / box side", "long_name": "wavenumber k"}
        law, fit = self.fit.law, self.fit
        return xr.Dataset(
            {
                "variance": (
                    ("channel", "v", "u"),
                    self.variance,
                    {"units": "1", "long_name": "variance of each mode"},
                ),
                "S": (("shell",), self.profile, {"units": "1", "long_name": "variance spectrum"}),
                "S_stderr": (("shell",), self.profile_stderr, {"units": "1"}),
                "S_fit": (("shell",), law(k), {"units": "1", "long_name": "fitted law"}),
                "modes": (("shell",), modes, {"long_name": "modes in the shell"}),
            },
            coords={"k": (("shell",), k, k_attrs)},
            attrs={
                "schema": SCHEMA,
                "schema_version": 1,
                "package_version": __version__,
                "source": self.source,
                "basis": self.basis,
                "normalization": "paper",
                "n_samples": self.n_samples,
                "stderr": f"delete-one jackknife over {self.n_blocks} blocks of consecutive fields",
                "n_blocks": self.n_blocks,
                "fit_law": "C (k^2 + k0_squared)^(-alpha)",
                "fit_method": fit.method,
                "fit_C": law.C,
                "fit_C_stderr": self.fit_stderr[0],
                "fit_k0_squared": law.k0_squared,
                "fit_k0_squared_stderr": self.fit_stderr[1],
                "fit_alpha": law.alpha,
                "fit_alpha_stderr": self.fit_stderr[2],
                "fit_k_min": self.fit_range[0],
                "fit_k_max": self.fit_range[1],
                "fit_deviance": fit.deviance,
                "fit_degrees_of_freedom": fit.degrees_of_freedom,
                "fit_on_bound": ",".join(fit.on_bound),
            },
        )

    def save(self, path: str | Path) -> None:
        """Write a NetCDF-4 file, replacing an existing one at once."""
        with replacing(path) as temporary:
            self.to_dataset().to_netcdf(temporary, engine="h5netcdf")

    @classmethod
    def load(cls, path: str | Path) -> "Spectrum":
        """Read a file written by :meth:`save`.

        Raises:
            ValueError: the file is not a spectrum.
        """
        try:
            with xr.open_dataset(path, engine="h5netcdf") as dataset:
                data = dataset.load()
        except FileNotFoundError:
            raise ValueError(f"{path}: no such file") from None
        except (OSError, ValueError) as error:
            raise ValueError(f"{path}: not a NetCDF file ({error})") from None
        a = data.attrs
        if a.get("schema") != SCHEMA or a.get("basis") not in BASES:
            raise ValueError(f"{path}: not a spectrum written by fit-spectrum")
        if a["schema_version"] > 1:
            raise ValueError(f"{path}: written by a newer version of skild_physics")
        return cls(
            variance=data["variance"].values,
            basis=a["basis"],
            n_samples=int(a["n_samples"]),
            profile=data["S"].values,
            profile_stderr=data["S_stderr"].values,
            fit=Fit(
                PowerLaw(float(a["fit_C"]), float(a["fit_k0_squared"]), float(a["fit_alpha"])),
                a["fit_method"],
                float(a["fit_deviance"]),
                int(a["fit_degrees_of_freedom"]),
                tuple(filter(None, a["fit_on_bound"].split(","))),
            ),
            fit_stderr=(
                float(a["fit_C_stderr"]),
                float(a["fit_k0_squared_stderr"]),
                float(a["fit_alpha_stderr"]),
            ),
            fit_range=(float(a["fit_k_min"]), float(a["fit_k_max"])),
            n_blocks=int(a["n_blocks"]),
            source=a["source"],
        )
