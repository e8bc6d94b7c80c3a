"""Training in one call: a configuration, the data, and what is to be different."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr
from torch import nn

from skild_physics.claims import filling
from skild_physics.config import Config, load_config
from skild_physics.fields import open_fields
from skild_physics.fields.lazy import content
from skild_physics.files import InputError, check_none_given
from skild_physics.machine import World, joined_world
from skild_physics.models.base import Model
from skild_physics.models.checkpoint import load
from skild_physics.models.objective import Loss, Objective, squared_error
from skild_physics.progress import Progress, logger, silent
from skild_physics.spectrum import Spectrum, fit_spectrum
from skild_physics.training.data import default_heldout
from skild_physics.training.folder import check_ours
from skild_physics.training.recording import Record, nowhere
from skild_physics.training.run import trained


def train(
    config: str | Path | Config,
    *,
    data: Any = None,
    spectrum: str | Path | Spectrum | None = None,
    steps: int | None = None,
    out: str | Path | None = None,
    overrides: Sequence[str] = (),
    loss: Loss = squared_error,
    objective: Objective | None = None,
    network: nn.Module | None = None,
    overwrite: bool = False,
    log: Record = nowhere,
    progress: Progress = silent,
) -> Model:
    """Train a model; the same call again goes on where it was interrupted, or loads it.

    Under torchrun all processes call it. SIGINT and SIGTERM end it after the current step, with
    that step's state saved.

    Args:
        config: name of a shipped configuration, a TOML file, or a Config.
        data: anything that :func:`skild_physics.fields.open_fields` takes; None: what the
            configuration says.
        spectrum: of the process, or its file; None: what the configuration says or, where ``data``
            are given, that of these, measured before and kept in the folder of the run.
        steps: of the optimisation; None: what the configuration says, as for ``out``.
        out: folder of the run.
        overrides: further values, each as "section.key=value".
        loss: (output, target), fields (B, C, M, M), -> the loss of each field (B,); a run that
            goes on does not know which it had before.
        objective: what to minimise, where a loss is not enough.
        network: a module of your own, untrained: ``network(x, lam)`` maps fields (B, C, M, M) and
            lambda M^2 (B,) to fields of that shape.
        overwrite: discard another run in the folder.
        log: called with numbers by name, and the step that they are of, as metrics.jsonl gets
            them: at every saved state and every evaluation.
        progress: shows how many steps are done.

    Returns:
        The trained model, with averaged weights.

    Raises:
        InputError: inputs that are missing or do not fit, or the folder holds another run.
        FloatingPointError: the loss became nan or infinite; the last saved state stays.
        KeyboardInterrupt: SIGINT, once the state is saved.

    >>> import tempfile
    >>> import skild_physics as sk
    >>> lattices = sk.generate_ising(L=16, samples=400)
    >>> small = ("network.channels=[8]", "network.blocks=[1]", "training.snr_threshold=0.1")
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     model = sk.train("ising64", data=lattices, steps=2, out=folder, overrides=small)
    >>> model.generate(1, sampler=sk.Multistep(2)).shape
    (1, 16, 16)
    """
    if not isinstance(config, Config):
        config = load_config(config, _overrides(overrides, steps, out))
    elif overrides or steps is not None or out is not None:
        raise InputError("`overrides`, `steps` and `out` go with the name of a configuration")
    parts: dict[str, Any] = {"loss": loss, "objective": objective, "network": network}
    if data is not None:
        config, parts["fields"] = _with_data(config, data)
    with joined_world() as world:
        fields = parts.get("fields")
        config = _with_spectrum(config, fields, spectrum, overwrite, progress, world)
        with progress("train", config.training.steps) as show:
            path, model = trained(
                config,
                progress=lambda step, loss: show(step, f"loss {loss:.4f}"),
                log=logger.info,
                overwrite=overwrite,
                record=log,
                **parts,
            )
    if model is not None and not path.exists():
        # of a process that does not write, on a disk of its own
        return model
    return load(path, network=network)


def _overrides(given: Sequence[str], steps: int | None, out: str | Path | None) -> tuple[str, ...]:
    named = {"training.steps": steps, "out": None if out is None else Path(out).absolute()}
    return (*given, *(f"{key}={value}" for key, value in named.items() if value is not None))


def _with_data(config: Config, data: Any) -> tuple[Config, xr.DataArray]:
    """The configuration of a run on these data, and the data, opened once.

    A run knows a file again by its name, an array by its values.
    """
    if isinstance(data, str | Path):
        fields, source = open_fields(data, **config.data.opening()), str(data)
    else:
        fields = open_fields(data, **config.data.opening())
        source = f"array-{content(fields)[:16]}"
    changed: dict[str, Any] = {"source": source}
    if "heldout" not in config.data.model_fields_set:
        changed["heldout"] = default_heldout(len(fields))
    return config.model_copy(update={"data": config.data.model_copy(update=changed)}), fields


def _with_spectrum(
    config: Config,
    fields: xr.DataArray | None,
    spectrum: str | Path | Spectrum | None,
    overwrite: bool,
    progress: Progress,
    world: World,
) -> Config:
    """The configuration of a run on the process of this spectrum, or of that of the fields."""
    path = config.out / "spectrum.nc"
    if getattr(config.process, "spectrum", None) is None:
        check_none_given({"spectrum": spectrum}, "goes with a process that has one of a file")
        return config
    if isinstance(spectrum, str | Path):
        path = Path(spectrum)
    elif spectrum is None and fields is None:
        return config
    elif world.is_main:
        _keep_spectrum(config.out, path, fields, spectrum, overwrite, progress)
    world.barrier()
    return config.model_copy(
        update={"process": config.process.model_copy(update={"spectrum": path})}
    )


def _keep_spectrum(
    out: Path,
    path: Path,
    fields: xr.DataArray | None,
    spectrum: Spectrum | None,
    overwrite: bool,
    progress: Progress,
) -> None:
    check_ours(out, overwrite)
    if path.exists():
        # what is none is not replaced
        Spectrum.load(path)
        if not overwrite:
            return _check_same(path, fields, spectrum)
    if spectrum is None:
        assert fields is not None
        logger.info(f"measuring the spectrum of the process, {path}")
        spectrum = fit_spectrum(fields, normalization="isotropic", progress=progress)
    with filling(out):
        spectrum.save(path)


def _check_same(path: Path, fields: xr.DataArray | None, spectrum: Spectrum | None) -> None:
    """Refuse a spectrum, kept in the folder of a run, that is another one.

    Raises:
        InputError: it is.
    """
    kept = Spectrum.load(path)
    if spectrum is not None:
        same = np.array_equal(kept.variance, spectrum.variance)
    else:
        assert fields is not None
        same = (kept.source, kept.N) == (fields.attrs.get("source", "fields"), fields.shape[-1])
    if not same:
        raise InputError(
            f"{path}: is another spectrum than that of this run; choose another `out`, or pass "
            "`overwrite=True`"
        )
