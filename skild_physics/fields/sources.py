"""One word, path or array, one labelled array of fields: what tells kinds of data apart."""

import os
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

from skild_physics.fields.arrays import array_fields, array_file, check_numbers
from skild_physics.fields.cifar10 import SIZE, cifar10
from skild_physics.fields.images import Split, image_folder, picture_suffixes
from skild_physics.fields.lattice import field_file
from skild_physics.fields.lazy import basis_of, of_bytes
from skild_physics.fields.photographs import photographs
from skild_physics.files import InputError, check_none_given

WORDS = ("cifar10", "cifar10-test", "photographs", "photographs-test")
"""Sources that are no files."""
_DIMS = (("sample", "y", "x"), ("sample", "channel", "y", "x"))


def open_fields(
    source: Any,
    *,
    samples: int | None = None,
    size: int | None = None,
    tile: bool = False,
    resize: bool = False,
    grey: bool = False,
    data_dir: str | Path | None = None,
) -> xr.DataArray:
    """Square fields of anything that holds them, labelled, and read when they are looked at.

    Args:
        source: an HDF5 file of this package, a .npy or .npz stack, a folder of pictures, one of the
            words cifar10, cifar10-test, photographs and photographs-test (a folder of that name is
            ./cifar10), an array of NumPy or torch, (sample, N, N), (sample, channel, N, N) or
            (sample, N, N, channel), or a DataArray (sample, y, x) or (sample, channel, y, x).
            Bytes 0 .. 255 are mapped to [-1, 1].
        samples: the first so many fields; None: all.
        size: sites N per axis of a picture's fields; None: as large as pictures are, if all are
            squares of one size; of patches of photographs, 64 if None; of other sources only their
            own.
        tile: every patch of a picture, not its centre; for folders, as the next two.
        resize: shrink pictures first.
        grey: luminance instead of colours.
        data_dir: folder of the CIFAR-10 archive; None: the user's cache.

    Returns:
        int8 spins +-1 or floats, of pictures in [-1, 1]; see :mod:`skild_physics.fields.lazy`.

    Raises:
        InputError: nothing there, unreadable, or an option that does not apply to this source.

    >>> import numpy as np
    >>> import skild_physics as sk
    >>> fields = sk.open(np.ones((5, 8, 8), np.int8))
    >>> fields.dims, fields.shape
    (('sample', 'y', 'x'), (5, 8, 8))
    """
    if samples is not None and samples < 1:
        raise InputError(f"`samples` must be at least 1, got {samples}")
    of_pictures = {"size": size, "tile": tile, "resize": resize, "grey": grey, "data_dir": data_dir}
    if not isinstance(source, str | Path):
        check_none_given(of_pictures, "is for pictures, not for arrays")
        fields = _labelled(source)
    else:
        fields = _opened(source, size, tile=tile, resize=resize, grey=grey, data_dir=data_dir)
    if samples is None:
        return fields
    first = fields[:samples]
    first.set_close(fields.close)
    return first


def _labelled(array: Any) -> xr.DataArray:
    if not isinstance(array, xr.DataArray):
        # a tensor may be on a GPU, and have a gradient
        plain = array.detach().cpu() if hasattr(array, "detach") else array
        return array_fields(np.asarray(plain))
    if array.dims not in _DIMS:
        raise InputError(
            f"fields have the dimensions (sample, y, x) or (sample, channel, y, x), got "
            f"({', '.join(map(str, array.dims))})"
        )
    if array.shape[-1] != array.shape[-2]:
        raise InputError(
            f"fields of {array.shape[-2]} x {array.shape[-1]} sites; only square ones have modes"
        )
    if not array.size:
        raise InputError(f"no fields in an array of shape {array.shape}")
    check_numbers(array.dtype, str(array.attrs.get("source", "array")))
    fields: xr.DataArray = of_bytes(array) if array.dtype == np.uint8 else array
    if "sample" in fields.coords:
        return fields
    return fields.assign_coords(sample=np.arange(len(fields)))


def _opened(
    source: str | Path,
    size: int | None,
    *,
    tile: bool,
    resize: bool,
    grey: bool,
    data_dir: str | Path | None,
) -> xr.DataArray:
    path, word = Path(source), str(source) if source in (*WORDS, *map(Path, WORDS)) else ""
    if not word and not os.path.exists(path):
        raise InputError(f"{source}: no such file or folder")
    if not word.startswith("cifar10"):
        check_none_given({"data_dir": data_dir}, f"is for cifar10, not for {source}")
    if not word and path.is_dir():
        return image_folder(path, size, tile=tile, resize=resize, grey=grey)
    not_this = f"is for folders of pictures, not for {source}"
    check_none_given({"tile": tile, "grey": grey}, not_this)
    if word:
        check_none_given({"resize": resize}, not_this)
    split: Split = "test" if word.endswith("-test") else "train"
    if word.startswith("cifar10"):
        check_none_given({"size": size not in (None, SIZE)}, not_this)
        return cifar10(data_dir, split)
    if word:
        return photographs(split=split) if size is None else photographs(size, split)
    if path.suffix.lower() in picture_suffixes():
        raise InputError(f"{path}: one picture is not enough; pass the folder that holds it")
    fields = array_file(path) if path.suffix in (".npy", ".npz") else field_file(path)
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
