"""Critical Ising lattices made again from less and less, and their four-point correlators."""

from importlib.resources import files
from pathlib import Path
from typing import Any, NamedTuple

from skild_physics.config import load_config
from skild_physics.data_gen.ising import generate_ising
from skild_physics.diffusion.sampler import Multistep
from skild_physics.fields.resampling import coarse_grain
from skild_physics.files import replacing
from skild_physics.models.checkpoint import BUNDLED, load
from skild_physics.observables.evaluate import eval_correlators
from skild_physics.observables.results import Correlators
from skild_physics.pipeline.stages import Stages, claim, once
from skild_physics.plots import correlator_figure, save_figure
from skild_physics.progress import Progress
from skild_physics.spectrum import Spectrum, fit_spectrum
from skild_physics.training.train import train

MADE = (
    "spectrum.nc",
    "super_resolved.h5",
    "coarse.h5",
    "from_blocks.h5",
    "generated.h5",
)
# seed 1 is that of the fields the bundled model was trained on
TRAINED, HELDOUT = 1, 2


class IsingRun(NamedTuple):
    """What the pipeline found, and its figure."""

    spectrum: Spectrum
    quality: Correlators
    figure: Path


def reproduce_ising(
    out: Path,
    *,
    L: int,
    heldout: int,
    factor: float,
    n_evals: int,
    samples: int,
    retrain: bool,
    overrides: tuple[str, ...],
    overwrite: bool,
    progress: Progress,
) -> IsingRun:
    """See :func:`skild_physics.pipeline.reproduce.reproduce`."""
    settings = {"case": "ising", "L": L, "heldout": heldout, "factor": factor, "steps": n_evals}
    settings |= {"retrain": retrain, "samples": samples if retrain else 0, "set": list(overrides)}
    fresh = claim(out, settings, MADE, overwrite)
    stages = Stages(5 if retrain else 4)
    how: dict[str, Any] = {"sampler": Multistep(n_evals), "progress": progress}

    with stages.next("critical Ising fields: Wolff clusters from an ordered start"):
        ensembles = {"heldout": (HELDOUT, heldout)}
        if retrain:
            ensembles = {"train": (TRAINED, samples), **ensembles}
        made = {
            name: generate_ising(
                L, samples=n, seed=seed, out=out / f"{name}.h5", overwrite=fresh, progress=progress
            )
            for name, (seed, n) in ensembles.items()
        }
        truth = made["heldout"]

    with stages.next("variance spectrum S0(k) and its power law"):
        path = out / "spectrum.nc"
        if not path.exists():
            fit_spectrum(made.get("train", truth), out=path, progress=progress)
        spectrum = Spectrum.load(path)
        save_figure(spectrum.plot(), out / "spectrum.png")

    model = load(BUNDLED)
    if retrain:
        with stages.next("training SKILD"):
            with replacing(out / "config.toml") as temporary:
                template = files("skild_physics.pipeline").joinpath("ising.toml")
                temporary.write_text(template.read_text())
            fitting = f"data.heldout={max(1, min(256, samples // 8))}"
            config = load_config(out / "config.toml", (fitting, *overrides))
            model = train(config, overwrite=fresh, progress=progress)

    with stages.next(f"lattices of {L} x {L}, from {L / factor:g} x {L / factor:g} or nothing"):
        sources = {
            "truth": truth,
            "SKILD": once(
                out / "super_resolved.h5",
                lambda to: model.reconstruct(truth, factor, out=to, **how),
            ),
        }
        if L % factor == 0:
            coarse = once(out / "coarse.h5", lambda to: coarse_grain(truth, factor=factor, out=to))
            sources["from block averages"] = once(
                out / "from_blocks.h5",
                lambda to: model.super_resolve(coarse, factor, out=to, **how),
            )
        if model.size == L and model.can_generate:
            sources["unconditional"] = once(
                out / "generated.h5",
                lambda to: model.generate(heldout, out=to, **how),
            )

    with stages.next("connected four-point correlators against the truth"):
        quality = eval_correlators(sources, binarize="sign", progress=progress)
        quality.save(out / "correlators.nc")
        pictures = {
            "truth, held out": truth,
            f"effective resolution {L / factor:g}": sources["SKILD"]["start"],
            **{label: fields for label, fields in sources.items() if label != "truth"},
        }
        drawn = {title: fields[0].values for title, fields in pictures.items()}
        save_figure(correlator_figure(quality.dataset, drawn), out / "correlators.png")
    return IsingRun(spectrum, quality, out / "correlators.png")
