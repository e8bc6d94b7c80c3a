"""Critical Ising lattices made again from less and less, and their four-point correlators."""

import math
from dataclasses import dataclass
from importlib.resources import as_file, files
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from skild_physics import plots
from skild_physics.claims import replacing
from skild_physics.config import Config, load_config
from skild_physics.data_gen.ising import generate_ising
from skild_physics.data_gen.parameters import default_sweeps
from skild_physics.diffusion.sampler import Multistep
from skild_physics.fields import open_fields
from skild_physics.fields.resampling import coarse_grain
from skild_physics.files import InputError
from skild_physics.models.checkpoint import BUNDLED, build_model, load
from skild_physics.observables.evaluate import eval_correlators
from skild_physics.observables.exact import BETA_CRITICAL
from skild_physics.observables.results import Correlators
from skild_physics.pipeline.stages import Stages, once
from skild_physics.progress import Progress
from skild_physics.spectrum import Spectrum, fit_spectrum
from skild_physics.training.train import train

MADE = (
    *("train.h5", "heldout.h5", "spectrum.nc", "spectrum.png"),
    *("super_resolved.h5", "coarse.h5", "from_blocks.h5", "generated.h5"),
    *("config.toml", "correlators.nc", "correlators.png"),
)
"""Names of the files that the stages make, but for those of training."""
TEMPLATE = files("skild_physics.pipeline").joinpath("ising.toml")
# seed 1 is that of the fields the bundled model was trained on, though with other sweeps
TRAINED, HELDOUT = 1, 2


class IsingRun(NamedTuple):
    """What the pipeline found, and its figure."""

    spectrum: Spectrum
    quality: Correlators
    figure: Path


@dataclass(frozen=True)
class IsingCase:
    """The options of the case, see :func:`skild_physics.pipeline.reproduce.reproduce`."""

    L: int
    heldout: int
    factor: float
    n_evals: int
    samples: int
    retrain: bool
    overrides: tuple[str, ...]

    def settings(self) -> dict[str, Any]:
        """What tells runs apart."""
        return {
            "case": "ising",
            "L": self.L,
            "heldout": self.heldout,
            "factor": self.factor,
            "steps": self.n_evals,
            "retrain": self.retrain,
            "samples": self.samples if self.retrain else 0,
            "set": list(self.overrides),
            "sweeps": default_sweeps(self.L, BETA_CRITICAL),
        }

    def config(self, path: Path) -> Config:
        """Of the training.

        Args:
            path: of the file of its configuration.
        """
        heldout = max(1, min(256, self.samples // 8))
        return load_config(path, (f"data.heldout={heldout}", *self.overrides))

    def check(self) -> None:
        """Go through all stages with a few fields, in memory.

        Raises:
            InputError: options that one of them cannot be run with.
        """
        for name, least in (("L", 3), ("heldout", 2), ("samples", 2)):
            if getattr(self, name) < least:
                raise InputError(f"`{name}` must be at least {least}, got {getattr(self, name)}")
        Multistep(self.n_evals)
        spins = np.random.default_rng(0).choice(np.array([-1, 1], np.int8), (2, self.L, self.L))
        fields = open_fields(spins)
        fit_spectrum(fields)
        model = load(BUNDLED)
        if self.retrain:
            with as_file(TEMPLATE) as path:
                config = self.config(path)
            config.check_sizes(self.L, self.L)
            model = build_model(
                config, ("spin",), torch.ones(self.L, self.L, dtype=torch.float64), "periodic"
            )
        how: dict[str, Any] = {"sampler": Multistep(1)}
        model.reconstruct(fields, self.factor, **how)
        if self.L % self.factor == 0:
            coarse = coarse_grain(fields, factor=self.factor)
            model.super_resolve(coarse, self.factor, **how)

    def run(self, out: Path, progress: Progress) -> IsingRun:
        """All stages, those that are finished already not again.

        Args:
            out: folder of the run.
            progress: shows how far each stage is.
        """
        L, factor = self.L, self.factor
        stages = Stages(5 if self.retrain else 4)
        how: dict[str, Any] = {"sampler": Multistep(self.n_evals), "progress": progress}
        # from nothing there are more octaves to make
        whole = Multistep(math.ceil(1.5 * self.n_evals), order=3)

        with stages.next("critical Ising fields from an ordered start"):
            ensembles = {"heldout": (HELDOUT, self.heldout)}
            if self.retrain:
                ensembles = {"train": (TRAINED, self.samples), **ensembles}
            made = {
                name: generate_ising(
                    L, samples=n, seed=seed, out=out / f"{name}.h5", progress=progress
                )
                for name, (seed, n) in ensembles.items()
            }
            truth = made["heldout"]

        with stages.next("variance spectrum S0(k) and its power law"):
            path = out / "spectrum.nc"
            spectrum = fit_spectrum(made.get("train", truth), out=path, progress=progress)
            plots.save_figure(spectrum.plot(), out / "spectrum.png")

        model = load(BUNDLED)
        if self.retrain:
            with stages.next("training SKILD"):
                with replacing(out / "config.toml") as temporary:
                    temporary.write_text(TEMPLATE.read_text())
                model = train(self.config(out / "config.toml"), progress=progress)

        with stages.next(f"lattices of {L} x {L}, from {L / factor:g} x {L / factor:g} or nothing"):
            sources = {
                "truth": truth,
                "SKILD": once(
                    out / "super_resolved.h5",
                    lambda to: model.reconstruct(truth, factor, out=to, **how),
                ),
            }
            if L % factor == 0:
                coarse = once(
                    out / "coarse.h5", lambda to: coarse_grain(truth, factor=factor, out=to)
                )
                sources["from block averages"] = once(
                    out / "from_blocks.h5",
                    lambda to: model.super_resolve(coarse, factor, out=to, **how),
                )
            if model.size == L and model.can_generate:
                sources["unconditional"] = once(
                    out / "generated.h5",
                    lambda to: model.generate(self.heldout, out=to, **(how | {"sampler": whole})),
                )

        with stages.next("connected four-point correlators against the truth"):
            quality = eval_correlators(
                sources, binarize="sign", out=out / "correlators.nc", progress=progress
            )
            pictures = {
                "truth, held out": truth,
                f"effective resolution {L / factor:g}": sources["SKILD"]["start"],
                **{label: fields for label, fields in sources.items() if label != "truth"},
            }
            drawn = {title: fields[0].values for title, fields in pictures.items()}
            plots.save_figure(
                plots.correlator_figure(quality.dataset, drawn), out / "correlators.png"
            )
        return IsingRun(spectrum, quality, out / "correlators.png")
