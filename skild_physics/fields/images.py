"""Folders of pictures as square fields, decoded by a few threads in a fixed order."""

import os
import warnings
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache, partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import xarray as xr
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from skild_physics.fields.lazy import UnusableError, labelled, scaled
from skild_physics.fields.picture_files import (
    common_size,
    find_pictures,
    formats,
    picture_names,
    stored_size,
)
from skild_physics.files import InputError, check_none_given
from skild_physics.progress import logger

Split = Literal["train", "test"]
RGB = ("red", "green", "blue")
MOST_THREADS = 8


def image_folder(
    source: str | Path,
    size: int | None = None,
    *,
    tile: bool = False,
    resize: bool = False,
    grey: bool = False,
    threads: int | None = None,
) -> xr.DataArray:
    """All pictures below a folder, in natural order, as float32 in [-1, 1], decoded when looked at.

    By default the central size x size pixels of each picture, at their native resolution. Pictures
    are turned upright as their EXIF data say; transparency and all frames but the first are
    dropped. Hidden files and folders are not looked at. Reading a picture that is damaged, smaller
    than ``size``, larger than Pillow's limit, or of 32-bit numbers raises
    :class:`skild_physics.fields.lazy.UnusableError`.

    Args:
        source: folder to look in, subfolders and those that are links too; or one picture.
        size: sites N per axis; None: that of the pictures, if all are squares of one size.
        tile: take every patch of a centred grid of size x size patches without overlap; those of
            one picture have the same coordinate `picture`.
        resize: shrink before cropping: halve with a box filter while the shorter side is at least
            twice the size, then make it the size with a bicubic filter.
        grey: luminance, one channel, instead of red, green and blue.
        threads: decoding threads; None: one per core, up to 8. Results do not depend on it.

    Returns:
        Fields with the coordinate `name`, the path of their picture below the folder, without its
        suffix.

    Raises:
        InputError: no pictures, an unreadable folder, size < 1, both tile and resize, or no size
            where pictures are of several.
    """
    if size is not None and size < 1:
        raise InputError(f"`size` must be at least 1, got {size}")
    if tile and resize:
        raise InputError("`tile` and `resize` exclude each other")
    folder, files = find_pictures(source)
    if size is None:
        check_none_given({"tile": tile, "resize": resize}, f"of {source} goes with `size`")
        size = common_size(source, folder, files)
    decode = partial(_patches, folder, size=size, tile=tile, resize=resize, grey=grey)
    # patches of one picture are asked for one after another
    prepare = lru_cache(maxsize=2 * MOST_THREADS if tile else 0)(decode)
    counts = [_tiles(folder / file, size) if tile else 1 for file in files]
    picture = np.repeat(np.arange(len(files)), counts)
    first = np.cumsum([0, *counts])
    shape = (1 if grey else 3, size, size)

    def read(numbers: NDArray[np.int64]) -> NDArray[np.float32]:
        wanted = dict.fromkeys(picture[numbers].tolist())
        results = _in_threads(prepare, [files[i] for i in wanted], threads)
        found = dict(zip(wanted, results, strict=True))
        fields = np.empty((len(numbers), *shape), np.float32)
        for field, number in zip(fields, numbers.tolist(), strict=True):
            i = int(picture[number])
            result = found[i]
            if isinstance(result, str):
                raise UnusableError(folder, files[i], result)
            field[:] = scaled(result[number - first[i]])
        return fields

    fields = labelled(
        read,
        len(picture),
        size,
        ("grey",) if grey else RGB,
        "cosine",
        Path(source).resolve().name if Path(source).is_dir() else Path(source).name,
        picture=picture if tile else None,
    )
    # references to texts: one long name makes no column of long names
    names = np.array(picture_names(files), object)
    fields = fields.assign_coords(name=("sample", names[picture]))
    fields.encoding["source"] = str(source)
    return fields


def decoded(
    folder: Path,
    files: list[str],
    size: int | None = None,
    *,
    resize: bool = False,
    grey: bool = False,
) -> list[NDArray[np.uint8] | str]:
    """Pictures as bytes (channel, y, x), of any sizes, or why they cannot be used.

    Args:
        folder: where they are.
        files: their paths below it.
        size: see :func:`image_folder`; None: all pixels.
        resize: see there.
        grey: see there.
    """
    decode = partial(_patches, folder, size=size, tile=False, resize=resize, grey=grey)
    return [
        found if isinstance(found, str) else _whole_bytes(found[0])
        for found in _in_threads(decode, files, None)
    ]


def _whole_bytes(pixels: NDArray[Any]) -> NDArray[np.uint8]:
    # of 16 bits there are fractions
    whole = pixels if pixels.dtype == np.uint8 else np.rint(pixels).astype(np.uint8)
    return np.ascontiguousarray(whole)


def _tiles(path: Path, size: int) -> int:
    """The number of patches of a picture, of which the header is read; 1 if it cannot be used."""
    width, height = stored_size(path) or (size, size)
    return max(1, (width // size) * (height // size))


def _in_threads(
    prepare: Callable[[str], NDArray[Any] | str], files: list[str], threads: int | None
) -> list[NDArray[Any] | str]:
    threads = threads or min(MOST_THREADS, os.cpu_count() or 1)
    # filters of warnings belong to the whole process: no thread may work outside this block
    with warnings.catch_warnings(), ThreadPoolExecutor(min(threads, len(files) or 1)) as pool:
        warnings.simplefilter("ignore")
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        return list(pool.map(prepare, files))


def _patches(
    folder: Path, file: str, *, size: int | None, tile: bool, resize: bool, grey: bool
) -> NDArray[Any] | str:
    """Patches of one picture, shape (n, channel, y, x), 0 to 255, or why there are none."""
    picture = _picture(folder / file, size or 1, grey)
    if isinstance(picture, str):
        return picture
    if size is None:
        found = np.moveaxis(np.atleast_3d(np.asarray(picture)), -1, 0)[None]
    else:
        if resize:
            picture = _resized(picture, size)
        if not tile:
            left, top = ((side - size) // 2 for side in picture.size)
            picture = picture.crop((left, top, left + size, top + size))
        found = patches(picture, size, size)
    return found.repeat(3, axis=1) if picture.mode == "F" and not grey else found


def _picture(path: Path, size: int, grey: bool) -> Image.Image | str:
    """A picture, upright, of mode RGB, L or F, or why it cannot be used."""
    try:
        with Image.open(path, formats=formats()) as opened:
            width, height = opened.size
            if min(width, height) < size:
                return f"{width} x {height} pixels, smaller than {size} x {size}"
            if opened.mode in ("I", "F"):
                return f"32-bit pixels (mode {opened.mode}) are not supported"
            frames = getattr(opened, "n_frames", 1)
            if frames > 1:
                logger.warning(f"{path}: only the first of its {frames} pictures is taken")
            ImageOps.exif_transpose(opened, in_place=True)
            return _converted(opened, grey)
    except UnidentifiedImageError:
        return "not a picture"
    except Exception as error:
        if path.is_symlink() and not path.exists():
            return "a broken link"
        # decoders report damage through many exception types
        message = getattr(error, "strerror", None) or str(error) or type(error).__name__
        return str(message).splitlines()[0]


def patches(picture: Image.Image, size: int, stride: int) -> NDArray[Any]:
    """A centred grid of patches of a picture of mode RGB, L or F (16 bits, as 0 to 255).

    Args:
        picture: at least ``size`` on either side.
        size: pixels N per side of a patch.
        stride: pixels from one patch to the next; less than ``size``: patches overlap.

    Returns:
        Pixels from 0 to 255, shape (patch, channel, N, N), rows of patches first.
    """
    left, top = ((side - size) % stride // 2 for side in picture.size)
    pixels = np.atleast_3d(np.asarray(picture))[top:, left:]
    windows = np.lib.stride_tricks.sliding_window_view(pixels, (size, size), axis=(0, 1))
    found = windows[::stride, ::stride].reshape(-1, pixels.shape[2], size, size)
    # bicubic filters overshoot; Pillow itself clips only 8-bit pixels
    return np.clip(found, 0, 255) if picture.mode == "F" else found


def _converted(picture: Image.Image, grey: bool) -> Image.Image:
    """8-bit RGB or L; of 16-bit pictures mode F, still from 0 to 255."""
    if picture.mode.startswith("I;16"):
        return Image.fromarray(np.asarray(picture).astype(np.float32) / np.float32(257))
    colour = picture if picture.mode == "RGB" else picture.convert("RGB")
    return colour.convert("L") if grey else colour


def _resized(picture: Image.Image, size: int) -> Image.Image:
    while min(picture.size) >= 2 * size:
        half = (picture.width // 2, picture.height // 2)
        picture = picture.resize(half, Image.Resampling.BOX)
    scale = size / min(picture.size)
    return picture.resize(
        (round(picture.width * scale), round(picture.height * scale)), Image.Resampling.BICUBIC
    )
