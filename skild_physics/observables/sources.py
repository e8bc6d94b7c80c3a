"""What is evaluated: fields however they are given, each with its own parameters, checked."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import xarray as xr

from skild_physics.fields import open_fields
from skild_physics.fields.sources import Opening, is_foreign
from skild_physics.files import InputError, check_none_given
from skild_physics.observables.measure import Boundary, Plan
from skild_physics.progress import logger

RAW = " (raw)"
"""What the label of continuous fields ends in, beside that of their signs."""

Binarize = Literal["sign", "none", "both"]


@dataclass(frozen=True)
class Taken:
    """Fields, at their inverse temperature, and what is measured of them."""

    fields: xr.DataArray
    plan: Plan
    beta: float


def opened_fields(label: str, source: Any, of_arrays: Opening) -> xr.DataArray:
    """Whatever fields are given as, as (sample, y, x).

    Args:
        label: of the source, for messages.
        source: anything that :func:`skild_physics.fields.open_fields` takes.
        of_arrays: what is said of arrays of which nothing is known.

    Raises:
        InputError: as :func:`skild_physics.fields.open_fields`, several channels, or integers that
            are no spins.
    """
    try:
        fields = open_fields(source, **(of_arrays if is_foreign(source) else {}))
    except InputError as error:
        raise InputError(f"{label}: {error}") from error
    if isinstance(source, xr.DataArray) and "sample" not in source.coords:
        # which of the truth's they are made from is not known
        fields = fields.drop_vars("sample")
    if "beta" in fields.coords and fields["beta"].ndim:
        several = np.unique(fields["beta"].values)
        if len(several) > 1:
            raise InputError(
                f"{label}: fields of several beta, {several[0]:g} .. {several[-1]:g}; evaluate "
                "those of each alone"
            )
        fields = fields.assign_attrs(beta=float(several[0]))
    if fields.sizes.get("channel", 1) > 1:
        raise InputError(f"{label}: holds fields of {fields.sizes['channel']} channels, not of one")
    if "channel" in fields.dims:
        fields = fields.isel(channel=0, drop=True)
    if fields.dtype.kind in "iu" and fields.dtype != np.int8:
        if not (np.abs(fields.astype(np.int64)) == 1).all():
            raise InputError(f"{label}: integers are spins, -1 and +1; give other fields as floats")
        fields = fields.astype(np.int8)
    return fields


def provenance(opened: Mapping[str, xr.DataArray]) -> dict[str, Any]:
    """Attributes of a result: the model of the truth, the files of sources, and who was relaxed."""
    truth = next(iter(opened.values()))
    made: dict[str, Any] = {"model": "ising" if truth.attrs.get("model") == "ising" else ""}
    paths = {label: fields.encoding.get("source") for label, fields in opened.items()}
    files = [f"{label}={Path(path).name}" for label, path in paths.items() if path]
    return made | ({"files": files} if files else {}) | relaxed_sources(opened)


def relaxed_sources(opened: Mapping[str, xr.DataArray]) -> dict[str, list[str]]:
    """An attribute of a result that says which sources were relaxed, and how; none if none was."""
    said = [
        f"{label} was relaxed: {fields.attrs['relaxed']}"
        for label, fields in opened.items()
        if "relaxed" in fields.attrs
    ]
    return {"relaxed": said} if said else {}


def relaxed_notes(attributes: Mapping[str, Any]) -> list[str]:
    """What :func:`relaxed_sources` left in a result, in sentences."""
    return [f"({each})" for each in np.atleast_1d(attributes.get("relaxed", [])).tolist()]


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
        elif fields.attrs.get("basis") == "cosine":
            # what has modes in a basis of cosines is no torus
            stated[label] = "open"
    if len(set(stated.values())) > 1:
        said = ", ".join(f"{label} is {each}" for label, each in stated.items())
        raise InputError(f"boundaries differ ({said}): pass `boundary=open` for all")
    return next(iter(stated.values()), "periodic")


def betas_of(opened: Mapping[str, xr.DataArray], given: float | None) -> dict[str, float]:
    """The inverse temperature of every source: its own, or else the one given, or nan."""
    own = {label: fields.attrs.get("beta") for label, fields in opened.items()}
    if given is not None:
        if not np.isfinite(given):
            raise InputError(f"`beta` must be finite, got {given:g}")
        if None not in own.values():
            raise InputError("`beta` is for sources that do not say theirs, and all of these do")
    absent = np.nan if given is None else given
    betas = {label: float(absent if b is None else b) for label, b in own.items()}
    truth, standing = next(iter(betas.items()))
    for label, beta in betas.items():
        if abs(beta - standing) > 1e-12 * abs(standing):
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
            raw = label if binarize == "none" else label + RAW
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


def shown_labels(results: xr.Dataset) -> list[str]:
    """Labels of sources without those of raw fields whose signs have one of their own."""
    labels = [str(label) for label in results["source"].values]
    return [
        label
        for label in labels
        if not label.endswith(RAW) or label.removesuffix(RAW) not in labels
    ]
