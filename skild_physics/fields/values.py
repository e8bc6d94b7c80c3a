"""What the numbers of an array are: spins, pixels of pictures, or a field in units of its own.

Two values are spins, the lower -1 and the higher +1, whatever they are and of whatever type. Bytes
0 .. 255 are pixels, which become fields in [-1, 1]. Floats and signed integers are taken as they
are, unless they look like pixels of another range, 0 .. 1 or 0 .. 255: of three channels these are
pictures, and of one channel nobody can know, so the range is asked for.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from skild_physics.fields.lazy import Read, scaled, slices
from skild_physics.files import InputError
from skild_physics.progress import logger

DataRange = float | tuple[float, float]
FEWEST_LEVELS = 16
"""Pictures whose bytes are all smaller than this may be something else."""
FEW, RARE = 8, 0.01
"""Values of which two are nearly all, and the share of the others that are errors."""
ALLOWED_OUTSIDE, FAR_OUTSIDE, MOSTLY = 0.01, 0.25, 0.8


@dataclass(frozen=True)
class Spins:
    """Two values as int8 -1 and +1."""

    read: Read
    low: float
    high: float
    source: str

    def __call__(self, numbers: NDArray[np.int64]) -> NDArray[np.int8]:
        """These fields; raises InputError where there is a third value."""
        values = self.read(numbers)
        as_they_are = values.dtype == np.int8 and (self.low, self.high) == (-1, 1)
        if as_they_are and (np.abs(values) == 1).all():
            return values
        up = values == self.high
        other = ~(up | (values == self.low))
        if other.any():
            first = int(np.argmax(other.reshape(len(numbers), -1).any(axis=1)))
            value = values[first][other[first]].flat[0]
            raise InputError(
                f"{self.source}: field {numbers[first]} holds {value!s} among the two values "
                f"{self.low:g} and {self.high:g}"
            )
        spins: NDArray[np.int8] = np.where(up, np.int8(1), np.int8(-1))
        return spins


@dataclass(frozen=True)
class Pixels:
    """Values of a known range as float32 in [-1, 1]."""

    read: Read
    low: float
    high: float
    source: str

    def __call__(self, numbers: NDArray[np.int64]) -> NDArray[np.float32]:
        """These fields; raises InputError where they are of another range."""
        values = self.read(numbers)
        if values.dtype == np.uint8 and (self.low, self.high) == (0, 255):
            return scaled(values)
        _far_outside(values, numbers, self.low, self.high, self.source)
        inside = (values.astype(np.float64) - self.low) / (self.high - self.low)
        return (2 * inside - 1).astype(np.float32)


def check_numbers(dtype: np.dtype[Any], source: str) -> None:
    """Refuse what is no field.

    Raises:
        InputError: no integers, floats or truth values.
    """
    if dtype.kind not in "biuf":
        raise InputError(f"{source}: holds {dtype}; fields are integers or floats")


def understood(
    read: Read,
    first: NDArray[Any],
    count: int,
    source: str,
    data_range: DataRange | None,
) -> tuple[Read, np.dtype[Any]]:
    """How fields are to be read so that they are what the package calls fields, and their type.

    Args:
        read: gives fields by their numbers, (n, channel, N, N).
        first: some of the first of them.
        count: how many there are.
        source: their name, for messages.
        data_range: black and white of pictures, as (0, 1), or white alone, of which black is 0;
            (-1, 1): values are taken as they are; None: as this module says.

    Raises:
        InputError: no numbers, or a range that is not known or not that of the values.
    """
    dtype, channels = first.dtype, first.shape[1]
    levels = _few_levels(first, read, count) if channels == 1 else None
    if data_range is not None:
        low, high = limits(data_range)
        if levels is not None and set(levels) <= {low, high}:
            return Spins(read, low, high, source), np.dtype(np.int8)
        if (low, high) == (-1, 1):
            return read, dtype
        if dtype == np.uint8 and (high > 255 or first.max() > max(high, FEWEST_LEVELS)):
            logger.warning(f"{source}: bytes are 0 .. 255, whatever `data_range` says of others")
            low, high = 0.0, 255.0
        _check_range(first, low, high, source)
        return Pixels(read, low, high, source), np.dtype(np.float32)
    if levels is not None:
        spins = _spins(levels, dtype, source)
        if spins is not None:
            return Spins(read, *spins, source), np.dtype(np.int8)
    white = _white(first, dtype, channels, source)
    if white is None:
        return read, dtype
    return Pixels(read, 0.0, white, source), np.dtype(np.float32)


def limits(data_range: DataRange) -> tuple[float, float]:
    """Black and white.

    Raises:
        InputError: not one or two numbers, white above black.
    """
    try:
        black, white = (0.0, data_range) if np.ndim(data_range) == 0 else data_range  # type: ignore[misc]
        low, high = float(black), float(white)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        low = high = np.nan
    if not (np.isfinite([low, high]).all() and low < high):
        raise InputError(
            f"`data_range` is black and white, as 0,1, or white alone, got {data_range!r}"
        )
    return low, high


def _few_levels(first: NDArray[Any], read: Read, count: int) -> tuple[float, ...] | None:
    """The one or two values that occur, in order; None if there are more.

    Those of a few that are nearly all, too: the others are errors, as reading will say.
    """
    found: set[Any] = set()
    for part in slices(0, count, len(first)):
        values = (read(np.arange(part.start, part.stop)) if part.start else first).ravel()
        if len(np.unique(values[:4096])) > FEW:
            return None
        some, times = np.unique(values, return_counts=True)
        if len(some) > FEW or not np.isfinite(some).all():
            return None
        if len(some) > 2:
            most = np.argsort(times)[-2:]
            few = times.sum() - times[most].sum()
            return tuple(sorted(some[most].tolist())) if few < RARE * len(values) else None
        found |= set(some.tolist())
        if len(found) >= 2:
            break
    return tuple(sorted(found)) if len(found) <= 2 else None


def _spins(
    levels: tuple[float, ...], dtype: np.dtype[Any], source: str
) -> tuple[float, float] | None:
    """The values of spins down and up; None if these are none."""
    if dtype.kind == "b":
        levels = (False, True)
    if len(levels) == 1:
        value = levels[0]
        if dtype.kind == "u" and value == 1:
            raise InputError(
                f"{source}: all values are 1: spins 0 and 1, or pixels? pass "
                "`data_range=1` or `data_range=255`"
            )
        return (-1, 1) if abs(value) == 1 else None
    low, high = levels
    if (low, high) != (-1, 1):
        logger.warning(f"{source}: the two values {low:g} and {high:g} are spins -1 and +1")
    return low, high


def _white(first: NDArray[Any], dtype: np.dtype[Any], channels: int, source: str) -> float | None:
    """The value of white, of which black is 0; None: these are no pixels.

    Raises:
        InputError: nobody can know.
    """
    low, high = first.min(), first.max()
    if dtype == np.uint8 and (high >= FEWEST_LEVELS or high == 0):
        return 255.0
    said = f"{source}: values {low:g} .. {high:g}"
    if dtype.kind == "u":
        raise InputError(
            f"{said} of {dtype}: pixels of which range? pass `data_range`, as {_usual(high):g}; "
            "spins have two values"
        )
    inside = np.mean((first >= 0) & (first <= 1))
    white: float | None
    near = low >= -FAR_OUTSIDE and high <= 1 + FAR_OUTSIDE and low < high
    if dtype.kind == "f" and near and inside > MOSTLY and high > 0.5:
        white = 1.0
        if channels >= 3 and inside < 1 - ALLOWED_OUTSIDE:
            raise InputError(
                f"{said} in {channels} channels: pixels 0 .. 1 that overshoot, or -1 .. 1? pass "
                "`data_range=1` or `data_range=-1,1`"
            )
    else:
        whole = dtype.kind == "i" or bool((first == np.rint(first)).all())
        pixels = whole and low >= 0 and FEWEST_LEVELS <= high <= 255
        white = 255.0 if pixels else None
    if white is None:
        if channels >= 3 and low >= -FAR_OUTSIDE * high and high > 1:
            raise InputError(
                f"{said} in {channels} channels: pixels of which range? pass `data_range`, as "
                f"{_usual(high):g}, or -1,1 for values that are to be taken as they are"
            )
        return None
    if channels >= 3:
        logger.warning(f"{said} in {channels} channels are pictures of range 0 .. {white:g}")
        return white
    raise InputError(
        f"{said}: pixels, or a field as it is? pass `data_range={white:g}` for pixels 0 .. "
        f"{white:g}, `data_range=-1,1` for a field as it is"
    )


def _usual(high: float) -> float:
    """White of pixels of which the brightest is so bright."""
    return next((white for white in (1.0, 255.0, 65535.0) if high <= white), float(high))


def _far_outside(
    values: NDArray[Any], numbers: NDArray[np.int64], low: float, high: float, source: str
) -> None:
    """Refuse fields of which more than a little lies far outside of a range.

    What interpolation overshoots by is near.
    """
    margin = FAR_OUTSIDE * (high - low)
    outside = (values < low - margin) | (values > high + margin)
    if not outside.any():
        return
    shares = outside.reshape(len(values), -1).mean(axis=1)
    worst = int(shares.argmax())
    if shares[worst] > ALLOWED_OUTSIDE:
        field = values[worst]
        raise InputError(
            f"{source}: {100 * shares[worst]:.3g} % of the values of field {numbers[worst]}, "
            f"{field.min():g} .. {field.max():g}, lie outside `data_range={low:g},{high:g}`"
        )


def _check_range(first: NDArray[Any], low: float, high: float, source: str) -> None:
    _far_outside(first, np.arange(len(first)), low, high, source)
    if np.ptp(first) < (high - low) / 16:
        logger.warning(
            f"{source}: values {first.min():g} .. {first.max():g} are a small part of "
            f"{low:g} .. {high:g}"
        )
