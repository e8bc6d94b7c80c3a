"""One word, path or array, one labelled array of fields: what tells kinds of data apart."""

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, TypedDict

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from skild_physics.fields.arrangement import AXES, Arranged, arranged
from skild_physics.fields.arrays import SAID, plain
from skild_physics.fields.choice import chosen
from skild_physics.fields.cifar10 import SIZE, cifar10
from skild_physics.fields.containers import of_dataset
from skild_physics.fields.edges import compare_edges
from skild_physics.fields.images import Split, image_folder
from skild_physics.fields.lattice import field_file, is_field_file
from skild_physics.fields.lazy import BATCH_VALUES, basis_of, labelled, named_channels
from skild_physics.fields.photographs import photographs
from skild_physics.fields.picture_files import PROVENANCE, holds_pictures
from skild_physics.fields.raw import raw_array, split_name
from skild_physics.fields.values import DataRange, Spins, check_numbers, understood
from skild_physics.files import InputError, check_none_given, meant
from skild_physics.kspace import BASES, Basis
from skild_physics.progress import logger

WORDS = ("cifar10", "cifar10-test", "photographs", "photographs-test")
"""Sources that are no files."""
Boundary = Literal["periodic", "open"]
_ATTRIBUTES = {"basis", "channels", "source"}
_OF_FOLDERS = (
    *("protocol", "relaxed", "downsampling", "factor", "model", "beta", "boundary", "basis"),
    *("protocol_of_input", "checkpoint_sha256_of_input"),
)
_OF_BOUNDARY: dict[str, Basis] = {"periodic": "periodic", "open": "cosine"}


class Opening(TypedDict, total=False):
    """Options of :func:`open_fields`, where they are handed on."""

    size: int | None
    tile: bool
    resize: bool
    grey: bool
    data_dir: str | Path | None
    L: int | None
    dims: Sequence[str] | None
    data_range: DataRange | None
    beta: float | None
    boundary: Boundary | None
    basis: Basis | None
    choose_seed: int | None


def open_fields(
    source: Any,
    *,
    samples: int | None = None,
    choose_seed: int | None = None,
    size: int | None = None,
    tile: bool = False,
    resize: bool = False,
    grey: bool = False,
    data_dir: str | Path | None = None,
    L: int | None = None,
    dims: Sequence[str] | None = None,
    data_range: DataRange | None = None,
    beta: float | None = None,
    boundary: Boundary | None = None,
    basis: Basis | None = None,
) -> xr.DataArray:
    """Square fields of anything that holds them, labelled, and read when they are looked at.

    What is written here is known to the last detail. Of anybody else's arrays it is recognised, and
    said, or asked for: which axis is what, see :mod:`skild_physics.fields.arrangement`, whether the
    numbers are spins, pixels or neither, see :mod:`skild_physics.fields.values`, and whether the
    fields live on a torus, see :mod:`skild_physics.fields.edges`.

    Args:
        source: a file: HDF5 or NetCDF (of several arrays one is named, as "file.h5:group/name"),
            .npy, .npz ("file.npz:name"), .pt with tensors ("file.pt:name"), a text of numbers,
            perhaps compressed by gzip, or one picture; a folder: of pictures, or a Zarr store; one
            of the words cifar10, cifar10-test, photographs and photographs-test (a folder of that
            name is ./cifar10); an array of NumPy or torch; or a DataArray.
        samples: the first so many fields; None: all.
        choose_seed: choose so many at random, with this seed; of as many fields the same ones
            wherever they are opened. None: the first.
        size: sites N per axis of a picture's fields; None: as large as pictures are, if all are
            squares of one size; of patches of photographs, 64 if None; of other sources only their
            own.
        tile: every patch of a picture, not its centre; for folders, as the next two.
        resize: shrink pictures first.
        grey: luminance instead of colours.
        data_dir: folder of the CIFAR-10 archive; None: the user's cache.
        L: side of fields that are flattened, or packed as bits; for arrays, as the next two.
        dims: what each axis is, of "sample", "channel", "y" and "x", in order; None: as it is
            called, or as the shape says.
        data_range: black and white of pixels, as (0, 1), or white alone, of which black is 0;
            (-1, 1) takes values as they are; None: bytes are 0 .. 255, and what looks like other
            pixels is asked for.
        beta: inverse temperature in 1/J, where the source does not say it.
        boundary: "periodic", of a torus, or "open", of patches, likewise.
        basis: natural basis of the modes, "periodic" or "cosine"; None: as the source or the
            boundary says, of spins periodic, else the one that the edges fit.

    Returns:
        int8 spins +-1 or floats, of pictures in [-1, 1]; see :mod:`skild_physics.fields.lazy`.

    Raises:
        InputError: nothing there, unreadable, not clear what it is, or an option that does not
            apply to this source.

    >>> import numpy as np
    >>> import skild_physics as sk
    >>> fields = sk.open(np.random.default_rng(0).integers(0, 2, (5, 64)), L=8, beta=0.3)
    >>> fields.dims, fields.shape, fields.dtype, fields.basis, fields.beta
    (('sample', 'y', 'x'), (5, 8, 8), dtype('int8'), 'periodic', 0.3)
    """
    # what is wrong with these is said before anything is opened
    chosen(0, samples, choose_seed)
    if beta is not None and not np.isfinite(beta):
        raise InputError(f"`beta` must be finite, got {beta:g}")
    _check_words("boundary", boundary, _OF_BOUNDARY)
    _check_words("basis", basis, BASES)
    of_pictures = {"size": size, "tile": tile, "resize": resize, "grey": grey, "data_dir": data_dir}
    of_arrays = {"L": L, "dims": dims, "data_range": data_range}
    if not isinstance(source, str | Path):
        check_none_given(of_pictures, "is for pictures, not for arrays")
        fields = _of_memory(source, of_arrays, boundary, basis)
    else:
        fields = _opened(source, of_pictures, of_arrays, boundary, basis)
    said = _said(fields, {"beta": beta, "boundary": boundary, "basis": basis})
    if said:
        stated = fields.assign_attrs(said)
        stated.set_close(fields.close)
        fields = stated
    if samples is None:
        return fields
    # of what is lazy a slice is read in one piece
    which = slice(samples) if choose_seed is None else chosen(len(fields), samples, choose_seed)
    taken = fields[which]
    taken.set_close(fields.close)
    return taken


def _check_words(name: str, given: str | None, words: Any) -> None:
    if given is not None and given not in words:
        raise InputError(f"`{name}` must be {' or '.join(words)}, got {given!r}")


def _said(fields: xr.DataArray, given: dict[str, Any]) -> dict[str, Any]:
    """What was said about fields that they do not say themselves.

    Raises:
        InputError: they say something else.
    """
    said = {name: value for name, value in given.items() if value is not None}
    for name in ("beta", "boundary"):
        own = fields.attrs.get(name)
        if name in said and name in fields.coords:
            raise InputError(
                f"{fields.attrs.get('source', 'fields')}: has a {name} for each field, not "
                f"`{name}={said[name]}`"
            )
        if name in said and own is not None and own != said[name]:
            raise InputError(
                f"{fields.attrs.get('source', 'fields')}: says {name} = {own}, not "
                f"`{name}={said[name]}`"
            )
    if "boundary" in said and "basis" not in said:
        said["basis"] = _OF_BOUNDARY[said["boundary"]]
    return said


def _of_memory(
    array: Any, of_arrays: dict[str, Any], boundary: Boundary | None, basis: Basis | None
) -> xr.DataArray:
    if isinstance(array, xr.Dataset):
        array = of_dataset("the dataset", None, array)
    if not isinstance(array, xr.DataArray):
        return _foreign(xr.DataArray(plain(array)), "array", of_arrays, boundary, basis)
    if _is_known(array):
        dims = tuple(axis for axis in AXES if axis in array.dims)
        array = array if array.dims == dims else array.transpose(*dims)
        check_none_given(of_arrays, "is for arrays of which nothing is known")
        known = _whole(array)
        if "sample" in known.coords:
            return known
        return known.assign_coords(sample=np.arange(len(known)))
    name = str(array.attrs.get("source") or array.name or "array")
    return _foreign(array, name, of_arrays, boundary, basis)


def _whole(array: xr.DataArray) -> xr.DataArray:
    """Lattices, or patches where they were cut out of some."""
    L, N = array.attrs.get("L"), array.shape[-1]
    if L in (None, N) or array.attrs["basis"] != "periodic" or "factor" in array.attrs:
        return array
    values = array[: max(1, BATCH_VALUES // N**2)].values
    # block spins are smaller, too, but still live on a torus
    fits = compare_edges(values.reshape(len(values), -1, N, N)).basis
    what = "patches, boundary open" if fits == "cosine" else "a torus"
    if fits != "periodic":
        logger.warning(f"{array.attrs['source']}: {N} x {N} of {L} x {L} sites: taken for {what}")
    return array.assign_attrs(basis="cosine", boundary="open") if fits == "cosine" else array


def _is_known(array: Any) -> bool:
    """Whether an array was opened or made here, and is what its attributes still say it is."""
    if not (isinstance(array, xr.DataArray) and array.attrs.keys() >= _ATTRIBUTES):
        return False
    if not {"sample", "y", "x"} <= set(array.dims) <= set(AXES):
        return False
    if array.attrs["channels"] != "spin":
        return bool(array.dtype != np.uint8)
    # arithmetic keeps attributes
    return set(np.unique(array.isel(sample=slice(64)).values)) != {0, 1}


def _foreign(
    raw: xr.DataArray,
    source: str,
    of_arrays: dict[str, Any],
    boundary: Boundary | None,
    basis: Basis | None,
    *,
    text: bool = False,
) -> xr.DataArray:
    """Fields of an array of which nothing is known but what it says itself, or was said."""
    check_numbers(raw.dtype, source)
    found = arranged(raw, source, of_arrays["L"], of_arrays["dims"], text=text)
    some = max(1, BATCH_VALUES // (found.channels * found.size**2))
    first = found(np.arange(min(found.count, some)))
    read, dtype = understood(found, first, found.count, source, of_arrays["data_range"])
    known = _known(raw, source)
    is_spins = isinstance(read, Spins)
    named = tuple(str(raw.attrs.get("channels", "")).split(","))
    if found.channels > 1:
        if len(named) != found.channels:
            named = tuple(f"channel {i + 1}" for i in range(found.channels))
    else:
        named = ("spin",) if is_spins else ("field",)
    chosen = basis or known.get("basis") or _OF_BOUNDARY.get(boundary or known.get("boundary", ""))
    if chosen is None:
        chosen = _basis(first, source, is_spins)
    fields = labelled(read, found.count, found.size, named, chosen, source, dtype=dtype)
    if is_spins:
        known["L"] = found.size
    coordinates = _coordinates(raw, found)
    if "beta" in coordinates:
        several = np.unique(coordinates["beta"][1])
        if len(several) == 1:
            known["beta"] = float(several[0])
            del coordinates["beta"]
        else:
            logger.warning(
                f"{source}: fields of several beta, {several[0]:g} .. {several[-1]:g}, which are "
                "not of one ensemble"
            )
    return fields.assign_attrs({**known, "basis": chosen}).assign_coords(coordinates)


def _known(raw: xr.DataArray, source: str) -> dict[str, Any]:
    """What an array says of itself in words that are known here."""
    said = {
        str(name): raw.coords[name].item()
        for name in SAID
        if name in raw.coords and raw.coords[name].ndim == 0
    }
    said |= {name: raw.attrs[name] for name in SAID if name in raw.attrs}
    temperatures = [name for name in ("T", "temperature") if said.pop(name, None) is not None]
    for name, words in (("boundary", _OF_BOUNDARY), ("basis", BASES)):
        if name in said and str(said[name]) not in words:
            logger.warning(f"{source}: {name} = {said.pop(name)!r} is not known, and not taken")
    if "beta" in said:
        try:
            said["beta"] = float(said["beta"])
        except (TypeError, ValueError):
            said["beta"] = np.nan
        if not np.isfinite(said["beta"]):
            logger.warning(f"{source}: its beta is no number, and not taken")
            del said["beta"]
    elif temperatures:
        logger.warning(f"{source}: its {temperatures[0]} is not taken; `beta` is 1/T in units of J")
    return said


def _basis(first: NDArray[Any], source: str, is_spins: bool) -> Basis | Literal["unknown"]:
    """The basis that the edges of the first fields fit; of spins periodic, whatever they fit."""
    if not np.isfinite(first).all():
        # who reads them says where
        return "unknown"
    edges = compare_edges(first)
    if is_spins:
        if edges.basis == "cosine":
            logger.warning(
                f"{source}: edges do not join (mean squared jump {edges.ratio:.3g} times that of "
                "neighbours); spins are taken for a torus, pass `boundary=open` for patches"
            )
        return "periodic"
    logger.info(f"{source}: {edges}")
    return edges.basis or "unknown"


def _coordinates(raw: xr.DataArray, found: Arranged) -> dict[str, Any]:
    """What a foreign array knows of each of its fields."""
    if found.chains is not None:
        return {"chain": ("sample", found.chains)}
    if "sample" not in found.axes:
        return {}
    dim = raw.dims[found.axes.index("sample")]
    known = {
        str(name): ("sample", values.values)
        for name, values in raw.coords.items()
        if values.dims == (dim,) and name != dim
    }
    if "sample" in raw.coords:
        known["sample"] = ("sample", raw["sample"].values)
    return known


def is_foreign(source: Any) -> bool:
    """Whether a source holds arrays of which nothing is known, which options can say more about."""
    if not isinstance(source, str | Path):
        return not _is_known(source)
    if str(source) in WORDS:
        return False
    path, name = split_name(source)
    return name is not None or not (holds_pictures(path) or is_field_file(path))


def _opened(
    source: str | Path,
    of_pictures: dict[str, Any],
    of_arrays: dict[str, Any],
    boundary: Boundary | None,
    basis: Basis | None,
) -> xr.DataArray:
    word = str(source) if source in (*WORDS, *map(Path, WORDS)) else ""
    if not word and not os.path.exists(source) and (other := meant(str(source), WORDS)):
        raise InputError(f"{source}: no such file or folder{other}")
    path, name = (Path(source), None) if word else split_name(source)
    if not word.startswith("cifar10"):
        check_none_given({"data_dir": of_pictures["data_dir"]}, f"is for cifar10, not for {source}")
    are_pictures = not word and name is None and holds_pictures(path)
    if word or are_pictures:
        check_none_given(of_arrays, f"is for arrays, not for {source}")
    if are_pictures:
        how = {key: value for key, value in of_pictures.items() if key != "data_dir"}
        said = said_by_folder(path)
        how["grey"] = how["grey"] or "," not in str(said.get("channels", "red,green,blue"))
        pictures = image_folder(path, **how)
        if said:
            kept = {name: said[name] for name in _OF_FOLDERS if name in said}
            pictures = pictures.assign_attrs(kept)
            pictures.encoding["source"] = str(path)
        return pictures
    size, resize = of_pictures["size"], of_pictures["resize"]
    not_this = f"is for folders of pictures, not for {source}"
    check_none_given({key: of_pictures[key] for key in ("tile", "grey")}, not_this)
    if word:
        check_none_given({"resize": resize}, not_this)
        split: Split = "test" if word.endswith("-test") else "train"
        if word.startswith("cifar10"):
            check_none_given({"size": size not in (None, SIZE)}, not_this)
            return cifar10(of_pictures["data_dir"], split)
        return photographs(split=split) if size is None else photographs(size, split)
    if name is None and is_field_file(path):
        check_none_given(of_arrays, f"is for arrays of which nothing is known, not for {source}")
        fields = field_file(path)
    else:
        fields = _of_file(path, name, of_arrays, boundary, basis)
    # of prepared pictures it may be said again what was done to them
    is_prepared = size == fields.shape[-1] and basis_of(fields) == "cosine"
    of_folders = {
        "size": size not in (None, fields.shape[-1]),
        "resize": resize and not is_prepared,
    }
    try:
        check_none_given(of_folders, not_this)
    except InputError:
        fields.close()
        raise
    return fields


def _of_file(
    path: Path,
    name: str | None,
    of_arrays: dict[str, Any],
    boundary: Boundary | None,
    basis: Basis | None,
) -> xr.DataArray:
    """Fields of a file that was not written here."""
    raw = raw_array(path, name)
    if raw.made is not None and of_arrays["data_range"] is None:
        of_arrays = of_arrays | {"data_range": 255}
    try:
        fields = _foreign(raw.array, raw.label, of_arrays, boundary, basis, text=raw.text)
    except InputError as error:
        raw.array.close()
        raise InputError(str(error).replace(raw.label, f"{path}", 1)) from None
    if raw.made is not None:
        fields = named_channels(fields.assign_attrs(_provenance(raw.made)))
    fields.encoding["source"] = str(path)
    fields.set_close(raw.array.close)
    return fields


def said_by_folder(folder: Path) -> dict[str, Any]:
    """What a folder of pictures that was written here says of them; nothing of any other."""
    made = folder / PROVENANCE
    return _provenance(made.read_text(errors="replace")) if made.is_file() else {}


def _provenance(made: str) -> dict[str, Any]:
    """What an archive that was written here says of its fields."""
    try:
        known = json.loads(made)
    except (ValueError, RecursionError):
        return {}
    return known if isinstance(known, dict) else {}
