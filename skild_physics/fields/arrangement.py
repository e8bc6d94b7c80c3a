"""Which axis of an array is what: its fields as (sample, channel, y, x), by names or by shape.

Named axes are known by their names, whatever their order. Others by their shape: (sample, N, N),
(sample, channel, N, N), (sample, N, N, channel), one field (N, N), or fields that were flattened,
(sample, N^2); with the side N given also packed bits, (sample, N^2/8) or (sample, N, N/8), and all
in a row. What fits two of these is asked for.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from skild_physics.files import InputError
from skild_physics.progress import logger

MAX_CHANNELS = 4
AXES = ("sample", "channel", "y", "x")
_NAMES = {
    "sample": "sample samples time t n step iteration sweep config configuration configurations "
    "realization realisation member ensemble number batch snapshot snapshots record index draw run",
    "chain": "chain chains replica replicas walker walkers",
    "channel": "channel channels band bands colour color rgb component c",
    "y": "y row rows lat latitude ny h height northing north_south south_north rlat yc",
    "x": "x column columns col cols lon longitude nx w width easting west_east east_west rlon xc",
}
_AXIS = {name: axis for axis, names in _NAMES.items() for name in names.split()}
_PARAMETERS = {"beta", "temperature", "temp", "coupling", "kappa", "l", "size", "k", "j"}
"""Axes whose fields are not of one ensemble."""


@dataclass(frozen=True, eq=False)
class Arranged:
    """Fields by their numbers (n,), as an array (n, channel, N, N).

    Attributes:
        raw: the array, perhaps read where it is looked at.
        axes: what each of its axes is, of AXES or "chain", or "flat", y and x in one, or "bits", x
            as bits.
        count: number of fields, of all chains.
        channels: of each.
        size: side N.
    """

    raw: xr.DataArray
    axes: tuple[str, ...]
    count: int
    channels: int
    size: int

    def __call__(self, numbers: NDArray[np.int64]) -> NDArray[Any]:
        """These fields, in this machine's byte order."""
        if "chain" not in self.axes:
            return self._of(self.raw, self.axes, numbers)
        place = self.axes.index("chain")
        axes = (*self.axes[:place], *self.axes[place + 1 :])
        found = np.empty((len(numbers), self.channels, self.size, self.size), self.raw.dtype)
        chain, time = np.divmod(numbers, self.count // self.raw.shape[place])
        for each in np.unique(chain):
            own = self.raw.isel({self.raw.dims[place]: int(each)})
            found[chain == each] = self._of(own, axes, time[chain == each])
        return found.astype(found.dtype.newbyteorder("="), copy=False)

    @property
    def chains(self) -> NDArray[np.int64] | None:
        """The chain of each field, shape (count,), or None; their fields follow one another."""
        if "chain" not in self.axes:
            return None
        number = self.raw.shape[self.axes.index("chain")]
        return np.repeat(np.arange(number), self.count // number)

    def _of(
        self, raw: xr.DataArray, axes: tuple[str, ...], numbers: NDArray[np.int64]
    ) -> NDArray[Any]:
        if "sample" in axes:
            part = raw.isel({raw.dims[axes.index("sample")]: numbers})
            values = np.asarray(part.values)
        else:
            values = np.asarray(raw.values)[None][numbers]
            axes = ("sample", *axes)
        if axes[-1] == "bits":
            width = self.size if "y" in axes else self.size**2
            values = np.unpackbits(values, axis=-1, count=width)
        order = [axes.index(each) for each in (*AXES, "flat", "bits") if each in axes]
        found = values.transpose(order).reshape(len(numbers), self.channels, self.size, self.size)
        return np.ascontiguousarray(found, found.dtype.newbyteorder("="))


def arranged(
    raw: xr.DataArray,
    source: str,
    L: int | None = None,
    dims: Sequence[str] | None = None,
    *,
    text: bool = False,
) -> Arranged:
    """Find the fields in an array.

    Args:
        raw: any numbers; axes called dim_0, dim_1, ... have no names.
        source: its name, for messages.
        L: side of flattened or packed fields; None: as the shape says.
        dims: what each axis is, of chain, sample, channel, y and x; None: as names and shape say.
        text: its lines may be as long as they like.

    Raises:
        InputError: no square fields, or more than one way to see them.
    """
    if not raw.ndim:
        raise InputError(f"{source}: holds one number, no fields")
    if dims is not None:
        names = dims.split(",") if isinstance(dims, str) else dims
        dims = [_AXIS.get(name.lower(), name) for name in names]
        known = len(set(dims)) == len(dims) and set(dims) <= {"chain", *AXES}
        if len(dims) != raw.ndim or not known:
            raise InputError(
                f"{source}: `dims` must say of each of {raw.ndim} axes {tuple(raw.shape)} whether "
                f"it is chain, sample, channel, y or x, got {','.join(dims)}"
            )
        axes: tuple[str, ...] | None = tuple(dims)
    else:
        axes = _named(raw, source)
    if axes is None:
        raw, axes = _shaped(raw, source, L, text)
    if "chain" in axes and "sample" not in axes:
        axes = tuple("sample" if axis == "chain" else axis for axis in axes)
    sizes = dict(zip(axes, raw.shape, strict=True))
    N = L or math.isqrt(sizes["flat"]) if "flat" in axes else sizes.get("y", L or 0)
    if axes[-1] != "bits" and "flat" not in axes:
        if not {"y", "x"} <= set(axes):
            raise InputError(f"{source}: axes {', '.join(axes)}; fields have y and x")
        if sizes["y"] != sizes["x"]:
            raise InputError(
                f"{source}: fields of {sizes['y']} x {sizes['x']} sites; only square ones have "
                "modes"
            )
        if L not in (None, N):
            raise InputError(f"{source}: fields of {N} x {N} sites, not of `L={L}`")
    elif axes[-1] == "bits":
        assert L is not None
        N = L
        logger.warning(
            f"{source}: bytes are bits of {L} x {L} spins, in the order of numpy.packbits"
        )
    if raw.dtype == np.uint8 and axes == ("sample", "y", "x") and sizes["sample"] in (3, 4):
        logger.warning(
            f"{source}: {sizes['sample']} fields, not one of {sizes['sample']} channels; `dims` "
            "says otherwise"
        )
    channels = sizes.get("channel", 1)
    if channels > MAX_CHANNELS:
        raise InputError(f"{source}: {channels} channels; fields have at most {MAX_CHANNELS}")
    if not raw.size:
        raise InputError(f"{source}: no fields in an array of shape {tuple(raw.shape)}")
    count = sizes.get("sample", 1) * sizes.get("chain", 1)
    return Arranged(raw, axes, count, channels, N)


def _named(raw: xr.DataArray, source: str) -> tuple[str, ...] | None:
    """What the axes are by their names, None if they have none."""
    names = [str(dim) for dim in raw.dims]
    if all(name.startswith(("dim_", "phony_dim_")) for name in names):
        return None
    axes = [_AXIS.get(name.lower()) for name in names]
    several = [name for name in names if name.lower() in _PARAMETERS]
    if several:
        raise InputError(
            f"{source}: fields of several {several[0]} are not of one ensemble; select one"
        )
    unknown = [place for place, axis in enumerate(axes) if axis is None]
    missing = [axis for axis in ("sample", "y", "x") if axis not in axes]
    # one that is missing is the one that is not known
    if len(unknown) == len(missing) == 1:
        axes[unknown[0]] = missing[0]
    elif unknown or not {"y", "x"} <= set(axes):
        raise InputError(
            f"{source}: dimensions ({', '.join(names)}): which is what? pass `dims` with one of "
            "chain, sample, channel, y and x for each, in this order"
        )
    found = tuple(axis for axis in axes if axis is not None)
    if len(set(found)) < len(found):
        raise InputError(f"{source}: dimensions ({', '.join(names)}) mean the same; pass `dims`")
    return found


def _shaped(
    raw: xr.DataArray, source: str, L: int | None, text: bool
) -> tuple[xr.DataArray, tuple[str, ...]]:
    """What the axes are by their lengths; fields in a row get an axis of their own."""
    # of up to four numbers a line may be a table of places and values
    is_stream = raw.ndim == 1 or raw.shape[-1] > MAX_CHANNELS or raw.shape[-1] == L
    if text and L and is_stream and raw.size and raw.size % L**2 == 0:
        # numbers in a row, wherever its lines end
        return _cut(raw, L), ("sample", "y", "x")
    shape, is_bytes = raw.shape, raw.dtype == np.uint8
    match shape:
        case (_, n, N, M) if N == M and 1 <= n <= MAX_CHANNELS:
            return raw, AXES
        case (_, N, M, n) if N == M and 1 <= n <= MAX_CHANNELS:
            return raw, ("sample", "y", "x", "channel")
        case (_, N, M) if N == M:
            return raw, ("sample", "y", "x")
        case (N, M, n) if N == M and n <= MAX_CHANNELS:
            return raw, ("y", "x", "channel")
        case (_, N, M) if L == N and is_bytes and M == -(-N // 8):
            return raw, ("sample", "y", "bits")
        case (n, M):
            ways = _flat((n, M), source, L, is_bytes)
            # rows may be parts of longer ones
            if len(ways) > 1 or (L is None and () in ways.values()):
                raise InputError(
                    f"{source}: shape {shape}: {' or '.join(ways)}? pass the side as `L`"
                )
            if ways:
                (axes,) = ways.values()
                return (_cut(raw, M), ("sample", "y", "x")) if axes == () else (raw, axes)
        case (n,) if L and n:
            if is_bytes and 8 * n % L**2 == 0 and raw.values.max() > 1:
                raise InputError(
                    f"{source}: {n} bytes of fields, or of {8 * n // L**2} as bits? unpack bits "
                    "first, with numpy.unpackbits"
                )
            if n % L**2:
                raise InputError(f"{source}: {n} numbers are no fields of {L} x {L}")
            return _cut(raw, L), ("sample", "y", "x")
        case (n,) if n:
            raise InputError(f"{source}: {n} numbers in a row; pass the side as `L`")
        case (_, _, N, M) if N == M:
            raise InputError(
                f"{source}: shape {tuple(shape)}: which axes are the first two? pass "
                "`dims=chain,sample,y,x` or another order"
            )
    raise InputError(
        f"{source}: shape {tuple(shape)}; a stack of fields is (sample, N, N), (sample, channel, "
        "N, N) or (sample, N, N, channel) with 1 to 4 channels, or flattened, (sample, N * N); "
        "`dims` says what each axis is, `L` what the side is; pictures that are not square are "
        "compared as files"
    )


def _flat(
    shape: tuple[int, int], source: str, L: int | None, is_bytes: bool
) -> dict[str, tuple[str, ...]]:
    """Ways to see an array (n, M), with its axes, none where it must be cut first."""
    n, M = shape
    root = math.isqrt(M)
    if L and M != L**2 and M % L**2 == 0 and 1 < M // L**2 <= MAX_CHANNELS and n != M:
        raise InputError(
            f"{source}: flattened fields of {M // L**2} channels; give them as (sample, channel, "
            f"{L}, {L}) or (sample, {L}, {L}, channel)"
        )
    ways: dict[str, tuple[str, ...]] = {}
    if n == M and L in (None, M):
        ways[f"one field of {M} x {M}"] = ("y", "x")
    elif M > 1 and n > M and n % M == 0 and L in (None, M):
        ways[f"{n // M} fields of {M} x {M}, one below the other"] = ()
    if root > 1 and root**2 == M and L in (None, root):
        ways[f"{n} flattened fields of {root} x {root}"] = ("sample", "flat")
    if not ways and L and is_bytes and M == -(-(L**2) // 8):
        ways["bits"] = ("sample", "bits")
    return ways


def _cut(raw: xr.DataArray, L: int) -> xr.DataArray:
    return xr.DataArray(raw.values.reshape(-1, L, L), attrs=raw.attrs)
