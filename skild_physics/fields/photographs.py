"""Photographs that come with scikit-image and scikit-learn, cut into patches.

Real pictures that need no download: six to train on, one of them grey, and two others, a cat and a
cup of coffee, to test on.
"""

from importlib.util import find_spec
from pathlib import Path

import numpy as np
import xarray as xr
from numpy.typing import NDArray
from PIL import Image

from skild_physics.fields.images import RGB, Split, patches
from skild_physics.fields.lazy import labelled, scaled
from skild_physics.files import InputError

DEFAULT_SIZE = 64
# the rocket last: what is held out of a training is at the end, and it is mostly sky
_FILES: dict[Split, tuple[tuple[str, str], ...]] = {
    "train": (
        ("skimage", "data/astronaut.png"),
        ("sklearn", "datasets/images/china.jpg"),
        ("sklearn", "datasets/images/flower.jpg"),
        ("skimage", "data/motorcycle_left.png"),
        ("skimage", "data/camera.png"),
        ("skimage", "data/rocket.jpg"),
    ),
    "test": (("skimage", "data/chelsea.png"), ("skimage", "data/coffee.png")),
}


def photograph_files(split: Split) -> list[Path]:
    """Where the photographs of a part are.

    Raises:
        InputError: scikit-image or scikit-learn is not installed.
    """
    found = []
    for package, file in _FILES[split]:
        spec = find_spec(package)
        path = Path(spec.origin or "").parent / file if spec else Path(file)
        if not path.is_file():
            raise InputError(
                "the photographs come with scikit-image and scikit-learn: "
                "pip install 'skild_physics[photographs]'"
            )
        found.append(path)
    return found


def photographs(size: int = DEFAULT_SIZE, split: Split = "train") -> xr.DataArray:
    """Patches of photographs, as float32 in [-1, 1] in three channels; each knows its photograph.

    Args:
        size: pixels N per side.
        split: "train": patches of six photographs, and of these at half the resolution, a quarter
            of their side apart; "test": patches of two others, side by side.

    Raises:
        InputError: scikit-image or scikit-learn is not installed, or a photograph is smaller than
            ``size``.
    """
    if size < 4:
        raise InputError(f"`size` must be at least 4, got {size}")
    pictures = [Image.open(path).convert("RGB") for path in photograph_files(split)]
    smallest = min(min(picture.size) for picture in pictures)
    if size > smallest:
        raise InputError(f"`size` must be at most {smallest}, a photograph's side, got {size}")
    stride = size // 4 if split == "train" else size

    found: list[NDArray[np.uint8]] = []
    number: list[int] = []
    for i, picture in enumerate(pictures):
        scales = [picture]
        if split == "train":
            half = (picture.width // 2, picture.height // 2)
            scales.append(picture.resize(half, Image.Resampling.BOX))
        found += [patches(each, size, stride) for each in scales if min(each.size) >= size]
        number += [i] * (sum(map(len, found)) - len(number))
    pixels = np.concatenate(found)
    return labelled(
        lambda numbers: scaled(pixels[numbers]),
        len(pixels),
        size,
        RGB,
        "cosine",
        "photographs" if split == "train" else "photographs-test",
        picture=np.array(number),
    )
