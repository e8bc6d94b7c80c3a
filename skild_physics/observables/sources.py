"""What is evaluated: fields however they are given, each with its own parameters, checked."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import xarray as xr

from skild_physics.fields import open_fields
from skild_physics.files import InputError, check_none_given
from skild_physics.observables.measure import Boundary, Plan
from skild_physics.progress import logger

Binarize = Literal["sign", "none", "both"]


@dataclass(frozen=True)
class Taken:
    """Fields, at their inverse temperature, and what is measured of them."""

    fields: xr.DataArray
    plan: Plan
    beta: float


def opened_fields(label: str, source: Any) -> xr.DataArray:
    """Whatever fields are given as, as (sample, y, x)."""
    if isinstance(source, str | Path):
        fields = open_fields(source)
    elif isinstance(source, xr.DataArray):
        fields = source
    else:
        if type(source).__module__.partition(".")[0] == "torch":
            source = source.detach().cpu()
            source = (source.float() if source.is_floating_point() else source).numpy()
        values = np.asarray(source)
        dims = {3: ("sample", "y", "x"), 4: ("sample", "channel", "y", "x")}.get(values.ndim)
        if dims is None or values.dtype.kind not in "biuf":
            raise InputError(
                f"{label}: {values.dtype} of shape {values.shape}; fields are numbers of shape "
                "(sample, y, x)"
            )
        fields = xr.DataArray(values, dims=dims)
    named = [dim for dim in ("sample", "channel", "y", "x") if dim in fields.dims]
    if set(fields.dims) != set(named) or not {"sample", "y", "x"} <= set(named):
        raise InputError(f"{label}: dimensions {fields.dims}, where (sample, y, x) are due")
    if fields.sizes.get("channel", 1) > 1:
        raise InputError(f"{label}: holds fields of {fields.sizes['channel']} channels, not of one")
    if list(fields.dims) != named:
        fields = fields.transpose(*named)
    if "channel" in named:
        fields = fields.isel(channel=0, drop=True)
    if fields.dtype.kind in "biu" and fields.dtype != np.int8:
        if not (np.abs(fields.astype(np.int64)) == 1).all():
            raise InputError(f"{label}: spins must be -1 and +1; of 0 and 1 give 2 * x - 1")
        fields = fields.astype(np.int8)
    return fields


def provenance(opened: Mapping[str, xr.DataArray]) -> dict[str, Any]:
    """Attributes of a result: the model of the truth, and the files of sources that have one."""
    truth = next(iter(opened.values()))
    made: dict[str, Any] = {"model": "ising" if truth.attrs.get("model") == "ising" else ""}
    paths = {label: fields.encoding.get("source") for label, fields in opened.items()}
    files = [f"{label}={Path(path).name}" for label, path in paths.items() if path]
    return made | ({"files": files} if files else {})


def boundary_of(opened: Mapping[str, xr.DataArray], wanted: Boundary | None) -> Boundary:
    """What is wanted, or else the boundary that the truth says it has."""
    if wanted is not None:
        if wanted not in get_args(Boundary):
            raise InputError(f"`boundary` must be periodic or open, got {wanted!r}")
        return wanted
    stated: dict[str, Boundary] = {}
    for label, fields in opened.items():
        own: Any = fields.attrs.get("boundary")
        if own in get_args(Boundary):
            stated[label] = own
    if len(set(stated.values())) > 1:
        said = ", ".join(f"{label} is {each}" for label, each in stated.items())
        raise InputError(f"boundaries differ ({said}): pass `boundary=open` for all")
    truth = next(iter(opened.values()))
    # fields in a basis of cosines are not those of a torus
    fallback: Boundary = "open" if truth.attrs.get("basis") == "cosine" else "periodic"
    return next(iter(stated.values()), fallback)


def betas_of(opened: Mapping[str, xr.DataArray], given: float | None) -> dict[str, float]:
    """The inverse temperature of every source: its own, the one given, or that of the truth."""
    own = {label: fields.attrs.get("beta") for label, fields in opened.items()}
    if given is not None:
        if not 0 < given < np.inf:
            raise InputError(f"`beta` must be positive and finite, got {given:g}")
        if None not in own.values():
            raise InputError("`beta` is for sources that do not say theirs, and all of these do")
    truth = next(iter(opened))
    standing = next(float(b) for b in (own[truth], given, np.nan) if b is not None)
    absent = standing if given is None else given
    betas = {label: absent if b is None else float(b) for label, b in own.items()}
    for label, beta in betas.items():
        if abs(beta - standing) > 1e-12 * standing:
            logger.warning(f"{label} is at beta = {beta:.10g}, {truth} at {standing:.10g}")
    return betas


def binarized(
    sources: Mapping[str, xr.DataArray],
    plan: Plan,
    binarize: Binarize,
    betas: Mapping[str, float],
) -> dict[str, Taken]:
    """Continuous sources by their signs, as they are, or both."""
    if binarize not in get_args(Binarize):
        raise InputError(f"`binarize` must be sign, none or both, got {binarize!r}")
    if binarize == "none" and next(iter(sources.values())).dtype != np.int8:
        of_spins = {"block_spins": plan.block_spins or None, "clusters": plan.clusters}
        check_none_given(of_spins, "is of spins, and the truth is not binarized")
    found = {}
    for label, fields in sources.items():
        continuous = fields.dtype != np.int8
        if not continuous or binarize != "none":
            found[label] = Taken(fields, plan, betas[label])
        if continuous and binarize != "sign":
            raw = label if binarize == "none" else f"{label} (raw)"
            if raw in sources and raw != label:
                raise InputError(f"{label} as it is goes by {raw!r}, the label of another source")
            found[raw] = Taken(fields, replace(plan, binarize=False, block_spins=0), betas[label])
    return found


def check(sources: Mapping[str, xr.DataArray], plan: Plan) -> None:
    """Raise InputError for lattices of different sizes, or that have not what is planned."""
    truth, first = next(iter(sources.items()))
    L = first.shape[1]
    for label, fields in sources.items():
        _, ny, nx = fields.shape
        if ny != nx:
            raise InputError(f"{label} has {ny} x {nx} sites; only square fields are evaluated")
        if nx != L:
            raise InputError(f"{label} has {ny} x {nx} sites, {truth} {L} x {L}")
        if len(fields) < 2:
            raise InputError(f"{label} has a single field: at least 2 are needed")
    largest = L // 2 if plan.boundary == "periodic" else L - 1
    if plan.sides is not None and not all(1 <= r <= largest for r in plan.sides):
        raise InputError(f"`sides` must lie in 1 .. {largest} for L = {L}, got {list(plan.sides)}")
    times = plan.block_spins
    if times < 0 or L % 2**times or L >> times < 2:
        raise InputError(f"`block_spins={times}`: L = {L} cannot be halved {times} times")
