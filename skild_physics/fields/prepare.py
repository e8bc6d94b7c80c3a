"""Pictures decoded once, into one HDF5 file of bytes that everything takes in their place."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from skild_physics.claims import discard
from skild_physics.fields.clipping import pixels
from skild_physics.fields.hdf5 import check_attributes, write_pictures
from skild_physics.fields.identity import pictures_content
from skild_physics.fields.lazy import channels_of, log_skipped, numbered, pictures_of
from skild_physics.fields.picture_files import is_picture
from skild_physics.fields.sources import WORDS, open_fields
from skild_physics.files import InputError, check_apart, check_output
from skild_physics.progress import Progress, logger, silent
from skild_physics.requests import REQUEST, is_made, matches, request
from skild_physics.shards import Arrays, in_shards, read_shards

SHARD = 256
"""Pictures that an interruption loses at most."""


def prepare_images(
    source: str | Path,
    *,
    out: str | Path,
    samples: int | None = None,
    choose_seed: int | None = None,
    size: int | None = None,
    tile: bool = False,
    resize: bool = False,
    grey: bool = False,
    strict: bool = False,
    data_dir: str | Path | None = None,
    overwrite: bool = False,
    progress: Progress = silent,
) -> xr.DataArray:
    """Decode pictures into an HDF5 file; interrupted, the same call goes on.

    Under torchrun all processes call it and share the work.

    Args:
        source: folder of pictures, one picture, or one of the words that open_fields takes.
        out: the file.
        samples: the first so many pictures, or patches; None: all.
        choose_seed: choose so many at random, see :func:`skild_physics.fields.open_fields`.
        size: with ``tile``, ``resize``, ``grey`` and ``data_dir``, see
            :func:`skild_physics.fields.open_fields`.
        tile: every patch of a picture.
        resize: shrink pictures first.
        grey: luminance instead of colours.
        strict: a picture that cannot be used is an error; else it is counted, and named in the
            file's attribute `skipped`.
        data_dir: folder of the CIFAR-10 archive.
        overwrite: replace an existing file.
        progress: shows how many pictures are done.

    Returns:
        The fields as they are in the file, in [-1, 1].

    Raises:
        InputError: what open_fields raises, an output that may not be written, or no usable
            picture.

    >>> import numpy as np, pathlib, tempfile
    >>> from PIL import Image
    >>> import skild_physics as sk
    >>> with tempfile.TemporaryDirectory() as folder, tempfile.TemporaryDirectory() as out:
    ...     for i in range(3):
    ...         Image.fromarray(np.full((8, 8, 3), i, np.uint8)).save(f"{folder}/{i}.png")
    ...     sk.prepare_images(folder, out=f"{out}/pictures.h5").shape
    (3, 3, 8, 8)
    """
    out = check_output(out, overwrite=True)
    check_apart({"out": out}, source)
    given = {"size": size, "tile": tile, "resize": resize, "grey": grey, "data_dir": data_dir}
    of_all = {"samples": samples, "choose_seed": choose_seed}
    fields = open_fields(source, **of_all, **given)  # type: ignore[arg-type]
    if str(source) not in WORDS and Path(source).is_file() and not is_picture(source):
        raise InputError(f"{source}: holds fields already; only folders of pictures are prepared")
    numbers = np.unique(pictures_of(fields), return_inverse=True)[1]
    channels, N = channels_of(fields), fields.shape[-1]
    names = fields["name"].values if "name" in fields.coords else None
    count = int(numbers[-1]) + 1

    def shard(first: int, last: int) -> dict[str, NDArray[Any]]:
        start, stop = np.searchsorted(numbers, [first, last]).tolist()
        skipped: dict[str, str] = {}
        kept: list[int] = []
        found = [np.empty((0, len(channels), N, N), np.uint8)]
        for number, batch in numbered(fields, start, stop, None if strict else skipped):
            found.append(pixels(batch))
            kept += range(number, number + len(batch))
        made = {"pixels": np.concatenate(found), "skipped": np.array(json.dumps(skipped))}
        return made | ({"name": names[kept].astype(str)} if names is not None else {})

    def fits(arrays: Arrays, number: int) -> bool:
        made = arrays["pixels"]
        json.loads(str(arrays["skipped"]))
        return (
            made.dtype == np.uint8
            and made.shape[1:] == (len(channels), N, N)
            and len(made) <= number * max(1, len(fields))
            and ("name" in arrays) == (names is not None)
        )

    said = {name: str(value) for name, value in (given | {"strict": strict}).items() if value}
    said |= {name: str(value) for name, value in of_all.items() if value is not None}
    settings: dict[str, str | int] = {"source": str(source), "items": count, **said}
    check_attributes(settings, out)
    known = str(source) if str(source) in WORDS else pictures_content(source)
    asked = request(pictures=known, size=N, channels=channels, fields=len(fields), said=said)
    if is_made(out, asked, overwrite):
        return _reopened(out, fields)

    def write() -> None:
        if matches(out, asked, overwrite):
            return
        skipped: dict[str, str] = {}
        named: list[str] = []
        for each in read_shards(out, count, SHARD):
            skipped |= json.loads(str(each["skipped"]))
            named += each["name"].tolist() if "name" in each else []
        parts = (each["pixels"] for each in read_shards(out, count, SHARD))
        try:
            write_pictures(out, parts, channels, N, made_of, skipped, named)
        except InputError:
            # pictures are repaired, and then looked at again
            discard(out)
            raise

    made_of = settings | {REQUEST: asked}
    in_shards(
        out,
        made_of,
        count,
        SHARD,
        shard,
        fits,
        write,
        "decode",
        progress,
        overwrite=overwrite,
    )
    return _reopened(out, fields)


def _reopened(out: Path, of: xr.DataArray) -> xr.DataArray:
    made = open_fields(out)
    log_skipped(json.loads(made.attrs["skipped"]), of)
    logger.info(f"{len(made)} fields of {made.shape[-1]} x {made.shape[-1]}")
    return made
