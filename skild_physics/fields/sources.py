"""One word or path, one stream of fields: the only place that tells kinds of data apart."""

import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from skild_physics.fields.arrays import array_stack
from skild_physics.fields.cifar10 import SIZE, cifar10
from skild_physics.fields.images import (
    DEFAULT_SIZE,
    image_folder,
    picture_size,
    picture_suffixes,
)
from skild_physics.fields.lattice import open_fields
from skild_physics.fields.photographs import photographs
from skild_physics.fields.stream import FieldStream, Split, batch_length, scaled, slices
from skild_physics.files import InputError, check_none_given

WORDS = ("cifar10", "cifar10-test", "photographs", "photographs-test")
"""Sources that are no files."""


def open_source(
    source: str | Path,
    *,
    size: int | None = None,
    tile: bool = False,
    resize: bool = False,
    grey: bool = False,
    strict: bool = False,
    data_dir: str | Path | None = None,
) -> FieldStream:
    """Fields of a word, a folder of pictures, a .npy or .npz stack, or an HDF5 file.

    Args:
        source: one of :data:`WORDS`, or the path; a folder that is called cifar10 is ``./cifar10``.
        size: sites N per axis of a picture's fields, 128 if None, or of patches of photographs, 64
            if None; of other sources, only their own.
        tile: every patch of a picture, not its centre, see :func:`image_folder`; for folders, as
            the next three.
        resize: shrink pictures first.
        grey: luminance instead of colours.
        strict: a picture that cannot be used is an error.
        data_dir: folder of the CIFAR-10 archive, see :func:`cifar10`.

    Raises:
        InputError: nothing there, unreadable, or an option that does not apply to this source.
    """
    path, word = Path(source), str(source) if source in (*WORDS, *map(Path, WORDS)) else ""
    if not word and not os.path.exists(path):
        raise InputError(f"{source}: no such file or folder")
    if not word.startswith("cifar10"):
        check_none_given({"data_dir": data_dir}, f"is for cifar10, not for {source}")
    if not word and path.is_dir():
        return image_folder(
            path,
            DEFAULT_SIZE if size is None else size,
            tile=tile,
            resize=resize,
            grey=grey,
            strict=strict,
        )
    not_this = f"is for folders of pictures, not for {source}"
    check_none_given({"tile": tile, "grey": grey, "strict": strict}, not_this)
    if word:
        check_none_given({"resize": resize}, not_this)
    if word.startswith("cifar10"):
        check_none_given({"size": size not in (None, SIZE)}, not_this)
    split: Split = "test" if word.endswith("-test") else "train"
    if word.startswith("cifar10"):
        return cifar10(data_dir, split)
    if word:
        return photographs(split=split) if size is None else photographs(size, split)
    if path.suffix.lower() in picture_suffixes():
        raise InputError(f"{path}: one picture is not enough; pass the folder that holds it")
    stream = array_stack(path) if path.suffix in (".npy", ".npz") else field_file(path)
    # of prepared pictures it may be said again what was done to them
    is_prepared = size == stream.size and stream.basis == "cosine"
    of_folders = {"size": size not in (None, stream.size), "resize": resize and not is_prepared}
    try:
        check_none_given(of_folders, not_this)
    except InputError:
        stream.close()
        raise
    return stream


def open_pictures(
    source: str | Path,
    size: int | None = None,
    *,
    resize: bool = False,
    grey: bool = False,
    data_dir: str | Path | None = None,
) -> FieldStream:
    """The same, but pictures of a folder as large as they are, if all are squares of one size.

    Raises:
        InputError: as :func:`open_source`, or the pictures are of several sizes or not square and
            no ``size`` is given.
    """
    if size is None and str(source) not in WORDS and os.path.isdir(source):
        check_none_given({"resize": resize}, f"of {source} goes with `size`")
        size = picture_size(source)
    return open_source(source, size=size, resize=resize, grey=grey, data_dir=data_dir)


def field_file(path: str | Path) -> FieldStream:
    """An HDF5 file of this package: spins of an ensemble, fields of a model, or pictures.

    Raises:
        InputError: the file cannot be opened, see :func:`load_fields`, or not square.
    """
    path = Path(path)
    fields, basis, channels = open_fields(path)
    count, size, width = len(fields), *fields.shape[-2:]
    if size != width:
        fields.close()
        raise InputError(f"{path}: fields of {size} x {width} sites; only square ones have modes")

    def read(start: int, stop: int) -> Iterator[NDArray[np.floating]]:
        for part in slices(start, min(stop, count), batch_length(len(channels), size)):
            try:
                batch = fields[part].values.reshape(-1, len(channels), size, size)
            except OSError:
                raise InputError(
                    f"{path}: damaged; fields from {part.start} on cannot be read"
                ) from None
            yield scaled(batch) if fields.name == "pixels" else batch.astype(np.float32)

    return FieldStream(path.name, size, channels, count, basis, read, close=fields.close)
