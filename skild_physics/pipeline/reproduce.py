"""The paper's figure on two cores, in minutes."""

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from skild_physics.files import InputError, check_none_given
from skild_physics.pipeline.ising import MADE as OF_ISING
from skild_physics.pipeline.ising import IsingCase, IsingRun
from skild_physics.pipeline.photographs import MADE as OF_PHOTOGRAPHS
from skild_physics.pipeline.photographs import PhotographsCase, PhotographsRun
from skild_physics.pipeline.stages import run_folder
from skild_physics.progress import Progress, logger, silent

HELDOUT, FACTOR, SAMPLES = 384, 4.0, 40_000


def reproduce(
    case: Literal["ising", "photographs"] = "ising",
    *,
    L: int | None = None,
    heldout: int | None = None,
    factor: float | None = None,
    n_evals: int = 20,
    retrain: bool = False,
    samples: int | None = None,
    overrides: Sequence[str] = (),
    out: str | Path | None = None,
    overwrite: bool = False,
    progress: Progress = silent,
) -> IsingRun | PhotographsRun:
    """The whole pipeline on a small real case; interrupted or called again, it goes on.

    Args:
        case: "ising": held-out critical lattices, their spectrum, made again by super-resolution
            from what diffusion left of them, from their block averages, and unconditionally, and
            four-point correlators against the truth. "photographs": super-resolution by 2, 3 and 4
            of photographs the model was not trained on, and its quality.
        L: ising: side of the lattice; None: 64, or 32 to retrain.
        heldout: ising: fields to evaluate on; None: 384.
        factor: ising: ratio of resolutions; None: 4.
        n_evals: evaluations of the network per field, of unconditional ones half as many more.
        retrain: train a model instead of using the bundled one.
        samples: ising, to retrain: fields to train on; None: 40,000.
        overrides: to retrain: values of the training, each as "section.key=value".
        out: folder of the run; None: runs/CASE.
        overwrite: discard a run of other settings in the folder.
        progress: shows how far each stage is.

    Returns:
        Spectrum, quality and the path of the figure.

    Raises:
        InputError: options that do not apply, or a folder that holds something else.

    >>> import tempfile
    >>> import skild_physics as sk
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     run = sk.reproduce(heldout=16, n_evals=2, out=f"{folder}/run")
    >>> run.figure.name
    'correlators.png'
    """
    began = time.perf_counter()
    if case not in ("ising", "photographs"):
        raise InputError(f"`case` must be ising or photographs, got {case!r}")
    if case != "ising":
        of_ising = {"L": L, "heldout": heldout, "factor": factor, "samples": samples}
        check_none_given(of_ising, "goes with the case ising")
    if not retrain:
        to_retrain = {"samples": samples, "overrides": tuple(overrides)}
        check_none_given(to_retrain, "goes with `retrain=True`")
    out = Path("runs") / case if out is None else Path(out)
    given: IsingCase | PhotographsCase
    if case == "photographs":
        given = PhotographsCase(n_evals, retrain, tuple(overrides))
    else:
        given = IsingCase(
            L=(32 if retrain else 64) if L is None else L,
            heldout=HELDOUT if heldout is None else heldout,
            factor=FACTOR if factor is None else factor,
            n_evals=n_evals,
            samples=SAMPLES if samples is None else samples,
            retrain=retrain,
            overrides=tuple(overrides),
        )
    made = (*OF_ISING, *OF_PHOTOGRAPHS)
    with run_folder(out, given.settings(), made, overwrite, given.check):
        found = given.run(out, progress)
    logger.info(f"done in {time.perf_counter() - began:.0f} s")
    return found
