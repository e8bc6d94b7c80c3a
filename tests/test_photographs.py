"""Photographs that come with other packages."""

import sys

import numpy as np
import pytest
from field_files import everything, unit
from PIL import Image

from skild_physics.fields import channels_of, open_fields, pictures_of
from skild_physics.fields.photographs import photograph_files, photographs


def test_photographs_to_test_on_are_tiled():
    cat = np.asarray(Image.open(photograph_files("test")[0]))
    fields = open_fields("photographs-test")
    assert (fields.source, fields.basis) == ("photographs-test", "cosine")
    assert channels_of(fields) == ("red", "green", "blue")
    assert np.unique(pictures_of(fields)).tolist() == [0, 1]
    tiles = everything(fields[pictures_of(fields) == 0])
    assert tiles.shape == (28, 3, 64, 64)
    # a centred grid of 4 x 7 tiles in 300 x 451 pixels
    expected = cat[22 + 64 : 22 + 128, 1 + 64 : 1 + 128].transpose(2, 0, 1)
    np.testing.assert_array_equal(tiles[8], unit(expected))


def test_photographs_to_train_on_overlap_at_two_scales():
    fields = photographs(48)
    assert np.unique(fields["picture"]).tolist() == list(range(6))
    astronaut = everything(fields[fields["picture"].values == 0])
    full, half = ((512 - 48) // 12 + 1) ** 2, ((256 - 48) // 12 + 1) ** 2
    assert len(astronaut) == full + half
    np.testing.assert_array_equal(astronaut[1][..., :36], astronaut[0][..., 12:])
    # of 512 pixels, offsets 4 and 2: the first half-size patch shows the same corner
    shown = ((astronaut[0] + 1) * 127.5).reshape(3, 24, 2, 24, 2).mean((2, 4))
    np.testing.assert_allclose((astronaut[full, :, :24, :24] + 1) * 127.5, shown, atol=1.01)


def test_photographs_share_no_picture():
    assert not set(photograph_files("train")) & set(photograph_files("test"))


def test_photographs_that_are_not_installed_are_named(monkeypatch):
    module = sys.modules["skild_physics.fields.photographs"]
    monkeypatch.setattr(module, "find_spec", lambda package: None)
    with pytest.raises(ValueError, match=r"pip install 'skild_physics\[photographs\]'"):
        photographs()


@pytest.mark.parametrize(("size", "message"), [(3, "at least 4"), (301, "at most 300")])
def test_sizes_of_patches(size, message):
    with pytest.raises(ValueError, match=message):
        photographs(size, "test")
