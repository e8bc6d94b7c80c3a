"""One word or path, one stream of fields: the only place that tells kinds of data apart."""

import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from skild_physics.fields.arrays import array_stack
from skild_physics.fields.cifar10 import cifar10
from skild_physics.fields.images import DEFAULT_SIZE, image_folder, picture_suffixes
from skild_physics.fields.lattice import load_fields
from skild_physics.fields.stream import FieldStream, batch_length, slices


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
    """Fields of the word ``cifar10``, a folder of pictures, a .npy stack, or an HDF5 file.

    Args:
        source: the word or the path; a folder that is called cifar10 is ``./cifar10``.
        size: sites N per axis of a picture's fields, 128 if None; for folders, as the next four.
        tile: every patch of a picture, not its centre, see :func:`image_folder`.
        resize: shrink pictures first.
        grey: luminance instead of colours.
        strict: a picture that cannot be used is an error.
        data_dir: folder of the CIFAR-10 archive, see :func:`cifar10`.

    Raises:
        ValueError: nothing there, unreadable, or an option that does not apply to this source.
    """
    of_folders = {"size": size is not None, "tile": tile, "resize": resize, "grey": grey}
    of_folders["strict"] = strict
    path = Path(source)
    is_cifar10 = source in ("cifar10", Path("cifar10"))
    if not is_cifar10 and not os.path.exists(path):
        raise ValueError(f"{source}: no such file or folder")
    if not is_cifar10 and data_dir is not None:
        raise ValueError(f"{source}: --data-dir is for cifar10")
    if not is_cifar10 and path.is_dir():
        return image_folder(
            path,
            DEFAULT_SIZE if size is None else size,
            tile=tile,
            resize=resize,
            grey=grey,
            strict=strict,
        )
    for name, given in of_folders.items():
        if given:
            raise ValueError(f"{source}: --{name} is for folders of pictures")
    if is_cifar10:
        return cifar10(data_dir)
    if path.suffix == ".npy":
        return array_stack(path)
    if path.suffix.lower() in picture_suffixes():
        raise ValueError(f"{path}: one picture is not enough; pass the folder that holds it")
    return lattice_file(path)


def lattice_file(path: str | Path) -> FieldStream:
    """Spins of an ensemble or fields of a model, as float32 in the periodic basis.

    Raises:
        ValueError: the file cannot be opened, see :func:`load_fields`, or not square.
    """
    path = Path(path)
    fields = load_fields(path)
    count, size, width = fields.shape
    if size != width:
        fields.close()
        raise ValueError(f"{path}: fields of {size} x {width} sites; only square ones have modes")

    def read(start: int, stop: int) -> Iterator[NDArray[np.floating]]:
        for part in slices(start, min(stop, count), batch_length(1, size)):
            try:
                batch = fields[part].values
            except OSError:
                raise ValueError(
                    f"{path}: damaged; fields from {part.start} on cannot be read"
                ) from None
            yield batch[:, None].astype(np.float32)

    channel = "spin" if fields.name == "spins" else "field"
    return FieldStream(path.name, size, (channel,), count, "periodic", read, close=fields.close)
