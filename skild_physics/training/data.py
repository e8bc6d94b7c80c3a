"""Random batches of the fields of any source, augmented with symmetries of their distribution.

The Boltzmann weight of the Ising torus without an external field does not change under
translations, the eight symmetries of the square and the global spin flip, so an augmented field is
as good a sample as the stored one. Photographs are taken to be as likely as their mirror images.

Spins and 8-bit pixels are both p / 127.5 - 1 for a byte p, so one byte per value holds them exactly
in memory, that of the GPU if there is one; everything else is held as float32. What does not fit is
read again whenever drawn.
"""

from bisect import bisect_right
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from itertools import chain
from typing import Any, Unpack

import numpy as np
import torch
import xarray as xr
from numpy.typing import NDArray
from torch import Tensor

from skild_physics.config.training import Symmetry
from skild_physics.fields import basis_of, batches, channels_of, open_fields, pictures_of
from skild_physics.fields.lazy import UnusableError, scaled
from skild_physics.fields.sources import Opening
from skild_physics.files import InputError
from skild_physics.kspace import Basis
from skild_physics.progress import logger

Take = Callable[[Tensor], Tensor]
MOST_HELDOUT = 256
CPU = torch.device("cpu")

_PICTURES = (("grey",), ("red", "green", "blue"))


@dataclass(frozen=True, eq=False)
class TrainingFields:
    """Square fields that can be drawn in any order.

    Attributes:
        name: shown to people.
        channels: names of the channels.
        size: sites N per axis.
        basis: natural basis of the modes.
        count: items that can be drawn.
        symmetry: what a batch is augmented with. "torus": translations, the eight symmetries of
            the square and the sign; "mirror": left and right; "none".
        take: ``take(indices)`` gives the fields with these int64 numbers below ``count``, shape
            (B,), in this order and as they are stored, float32 (B, C, N, N). Raises InputError if
            they cannot be read.
        device: of what ``take`` gives.
        skipped: why a picture was left out, by file; grows while pictures are read.
        attrs: what the source says about them.
    """

    name: str
    channels: tuple[str, ...]
    size: int
    basis: Basis
    count: int
    symmetry: Symmetry
    take: Take
    skipped: dict[str, str] = field(default_factory=dict)
    attrs: Mapping[str, Any] = field(default_factory=dict)
    device: torch.device = CPU


def open_training_fields(
    source: Any,
    *,
    heldout: int | None = 0,
    symmetry: Symmetry | None = None,
    memory: int = 4 * 2**30,
    device: torch.device = CPU,
    **opening: Unpack[Opening],
) -> tuple[TrainingFields, TrainingFields | None]:
    """The fields of a source to train on, and those held out (None if none are).

    All usable fields are loaded if they fit in memory. Otherwise each item is read whenever it is
    drawn, and a picture that must be skipped is replaced by the next usable one of its part.

    Args:
        source: anything that :func:`open_fields` takes.
        heldout: number of items, the last of the source, that are never trained on. All tiles of a
            picture are one item. None: an eighth, 256 at most.
        symmetry: None: "torus" for the Ising model on one, "mirror" for pictures, else "none".
        memory: bytes that loaded fields may take.
        device: where loaded fields are held; those that are not loaded come to the CPU.
        opening: see :func:`open_fields`; tiles only if all of them fit in memory.

    Raises:
        InputError: what :func:`open_fields` raises; ``heldout`` leaves nothing to train on; no
            usable picture in a part; tiles that do not fit in memory; "torus" for fields that are
            not periodic.
    """
    fields = open_fields(source, **opening)
    picture, name = pictures_of(fields), str(fields.attrs.get("source", "fields"))
    items = int(picture[-1]) + 1
    if heldout is None:
        heldout = default_heldout(items)
    if not 0 <= heldout < items:
        raise InputError(
            f"{name}: data.heldout must be at least 0 and less than the {items:,} items, got "
            f"{heldout:,}; by default it is an eighth"
        )
    basis, channels = basis_of(fields), channels_of(fields)
    if symmetry == "torus" and basis != "periodic":
        raise InputError(
            f"{name}: the symmetry 'torus' is for periodic fields, not for the {basis} basis of "
            "this source"
        )
    if symmetry is None:
        symmetry = _default_symmetry(fields, name)
    first = int(np.searchsorted(picture, items - heldout))
    parts = [fields[:first], fields[first:]] if heldout else [fields]
    skipped: dict[str, str] = {}
    loaded = _load(parts, memory, skipped)
    if loaded is not None:
        hold = _from_memory if device.type == "cpu" else partial(_from_device, device=device)
        found = [(sum(map(len, batches)), hold(batches)) for batches in loaded]
        if fields is not source:
            fields.close()
    elif items < len(fields):
        raise InputError(
            f"{name}: the tiles of {items:,} pictures take more than {memory / 2**30:.3g} GiB of "
            "memory; choose fewer pictures, or no tiles"
        )
    else:
        found = [(len(part), _from_source(part, skipped)) for part in parts]
    training, *others = [
        TrainingFields(
            name,
            channels,
            fields.shape[-1],
            basis,
            count,
            symmetry,
            take,
            skipped,
            {str(key): value for key, value in fields.attrs.items()},
            CPU if loaded is None else device,
        )
        for count, take in found
    ]
    return training, others[0] if others else None


def _default_symmetry(fields: xr.DataArray, name: str) -> Symmetry:
    """The symmetry that is known of the fields."""
    channels = channels_of(fields)
    if channels in _PICTURES:
        return "mirror"
    if fields.attrs.get("model") == "ising" and basis_of(fields) == "periodic":
        return "torus"
    if channels == ("spin",):
        logger.warning(
            f'{name}: spins of an unknown model, trained on as they are; data.symmetry = "torus" '
            "moves, turns, mirrors and flips them, as an Ising model on a torus allows"
        )
    return "none"


def default_heldout(items: int) -> int:
    """How many items of a source are held out, if that is not said."""
    count = max(1, min(MOST_HELDOUT, items // 8))
    if count < MOST_HELDOUT:
        logger.info(f"{count} of {items} items are held out; data.heldout sets another number")
    return count


def training_batch(
    fields: TrainingFields,
    batch_size: int,
    generator: torch.Generator,
    part: slice = slice(None),
) -> Tensor:
    """A random batch of augmented fields, drawn with replacement, float32 (B, C, N, N).

    Args:
        fields: what to draw from.
        batch_size: size of the whole batch.
        generator: source of the draws, on the CPU.
        part: make only these items. The draws are those of the whole batch, so parts that several
            processes make are together the batch that one would make.

    Raises:
        InputError: fields cannot be read.
    """
    indices = torch.randint(fields.count, (batch_size,), generator=generator)
    if fields.symmetry == "torus":
        elements = _draw_elements(batch_size, fields.size, generator)
        return _moved(fields.take(indices[part]), elements[:, part])
    if fields.symmetry == "mirror":
        mirrored = torch.randint(2, (batch_size, 1, 1, 1), generator=generator)[part] > 0
        batch = fields.take(indices[part])
        return torch.where(mirrored.to(batch.device), batch.flip(-1), batch)
    return fields.take(indices[part])


def random_symmetry(fields: Tensor, generator: torch.Generator) -> Tensor:
    """Each sample under its own random translation, point symmetry of the square and sign.

    Args:
        fields: shape (sample, L, L), or (sample, channel, L, L), whose channels move together; of
            any type that has negative values.
        generator: source of the draws, on the CPU.
    """
    return _moved(fields, _draw_elements(len(fields), fields.shape[-1], generator))


def _draw_elements(n: int, L: int, generator: torch.Generator) -> Tensor:
    """Shifts of y and x and four signs: of the field, of y, of x, of their exchange; (6, n)."""
    shifts = torch.randint(L, (2, n), generator=generator)
    return torch.cat([shifts, 1 - 2 * torch.randint(2, (4, n), generator=generator)])


def _moved(fields: Tensor, elements: Tensor) -> Tensor:
    n, L = len(fields), fields.shape[-1]
    elements, site = elements.to(fields.device), torch.arange(L, device=fields.device)
    shift_y, shift_x, sign, mirror_y, mirror_x, transpose = elements[..., None]
    y = ((mirror_y * site + shift_y) % L)[:, :, None]
    x = ((mirror_x * site + shift_x) % L)[:, None, :]
    origin = torch.where(transpose[..., None] > 0, y * L + x, x * L + y)
    others = [1] * (fields.ndim - 3)
    moved = torch.take_along_dim(fields.flatten(-2), origin.view(n, *others, L * L), -1)
    signed: Tensor = moved.view(fields.shape) * sign.view(n, *others, 1, 1).to(fields.dtype)
    return signed


def _compact(batch: NDArray[np.floating]) -> NDArray[Any]:
    """Bytes that ``scaled`` turns into exactly these values if there are any, else float32."""
    values = batch.astype(np.float32, copy=False)
    with np.errstate(over="ignore", invalid="ignore"):
        pixels = np.rint((values + 1) * np.float32(127.5)).astype(np.uint8)
    return pixels if np.array_equal(scaled(pixels), values) else values


def _load(
    parts: list[xr.DataArray], memory: int, skipped: dict[str, str]
) -> list[list[NDArray[Any]]] | None:
    """Compact batches of each part, or None once they exceed the memory."""
    if sum(part.size for part in parts) > memory:
        return None
    loaded: list[list[NDArray[Any]]] = []
    for part in parts:
        loaded.append([])
        for batch in batches(part, skipped=skipped):
            loaded[-1].append(_compact(batch))
            memory -= loaded[-1][-1].nbytes
            if memory < 0:
                return None
        if not loaded[-1]:
            raise _nothing_usable(part, skipped)
    return loaded


def _nothing_usable(part: xr.DataArray, skipped: dict[str, str]) -> InputError:
    name, reason = next(reversed(skipped.items()))
    first, last = part["sample"].values[[0, -1]] + 1
    return InputError(
        f"{part.attrs['source']}: all pictures {first:,} .. {last:,} were skipped, the last "
        f"{name}: {reason}"
    )


def _from_memory(batches: list[NDArray[Any]]) -> Take:
    shape = batches[0].shape[1:]
    ends = np.cumsum([len(batch) for batch in batches]).tolist()

    def take(indices: Tensor) -> Tensor:
        fields = np.empty((len(indices), *shape), np.float32)
        for i, index in enumerate(indices.tolist()):
            at = bisect_right(ends, index)
            fields[i] = _wide(batches[at][index - ends[at]])
        return torch.from_numpy(fields)

    return take


def _from_device(batches: list[NDArray[Any]], device: torch.device) -> Take:
    is_compact = all(batch.dtype == np.uint8 for batch in batches)
    whole = np.concatenate(batches if is_compact else [_wide(batch) for batch in batches])
    held = torch.from_numpy(whole).to(device)
    # a GPU would divide with another rounding
    values = torch.from_numpy(scaled(np.arange(256, dtype=np.uint8))).to(device)

    def take(indices: Tensor) -> Tensor:
        fields = held[indices.to(device)]
        return values[fields.long()] if is_compact else fields

    return take


def _wide(batch: NDArray[Any]) -> NDArray[np.float32]:
    return scaled(batch) if batch.dtype == np.uint8 else batch


def _from_source(part: xr.DataArray, skipped: dict[str, str]) -> Take:
    def read(index: int) -> NDArray[Any]:
        for usable in chain(range(index, len(part)), range(index)):
            for batch in batches(part, usable, usable + 1, skipped):
                found: NDArray[Any] = batch[0]
                return found
        raise _nothing_usable(part, skipped)

    def take(indices: Tensor) -> Tensor:
        drawn = part[indices.numpy()]
        try:
            fields = next(batches(drawn, length=len(drawn)))
        except UnusableError:
            fields = np.stack([read(index) for index in indices.tolist()])
        return torch.from_numpy(fields.astype(np.float32, copy=False))

    return take
