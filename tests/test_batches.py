"""A field is the same, bit for bit, in a batch of any size."""

import numpy as np
import pytest
import torch
from small_runs import one_thread

import skild_physics as sk
from skild_physics.networks.rows import Linear

one_thread = pytest.fixture(scope="module", autouse=True)(one_thread)


@pytest.mark.parametrize("rows", [1, 2, 3])
def test_rows_of_a_linear_layer_do_not_depend_on_each_other(rows):
    torch.manual_seed(0)
    layer, x = Linear(16, 64), torch.randn(32, 16)
    assert torch.equal(layer(x[:rows]), layer(x)[:rows])


def same(fields, others):
    """Up to rounding: some processors add in another order in larger batches."""
    np.testing.assert_allclose(fields, others, rtol=0, atol=1e-4)


def test_fields_do_not_depend_on_the_batch(tmp_path):
    model, few = sk.load("bundled"), sk.Multistep(3)
    coarse = sk.coarse_grain(sk.generate_ising(64, samples=5, seed=2, workers=1), factor=4)
    verbs = (
        lambda **how: model.generate(5, sampler=few, **how),
        lambda **how: model.super_resolve(coarse, 4, sampler=few, **how),
    )
    for i, verb in enumerate(verbs):
        together = verb(batch_size=5).values
        for batch_size in (1, 2, 3):
            same(verb(batch_size=batch_size), together)
        made = verb(batch_size=4, out=tmp_path / f"{i}.h5")
        same(made, together)


def test_batches_of_large_fields_are_small(monkeypatch):
    """They hold a bounded number of sites, and the same fields."""
    model, few = sk.load("bundled"), sk.Multistep(1)
    together, seen = model.generate(5, sampler=few).values, []
    model.network.register_forward_pre_hook(lambda module, given: seen.append(len(given[0])))
    monkeypatch.setattr("skild_physics.models.making.BATCH_SITES", 3 * 64**2)
    same(model.generate(5, sampler=few), together)
    monkeypatch.setattr("skild_physics.models.making.BATCH_SITES", 1)
    same(model.generate(5, sampler=few), together)
    assert seen == [3, 2, 2, 2, 2]


def test_another_batch_size_is_the_same_request(tmp_path):
    model, how = sk.load("bundled"), {"sampler": sk.Multistep(1), "out": tmp_path / "made.h5"}
    first = model.generate(3, batch_size=2, **how).values
    before = (tmp_path / "made.h5").read_bytes()
    np.testing.assert_array_equal(model.generate(3, batch_size=3, **how), first)
    assert (tmp_path / "made.h5").read_bytes() == before
    for other in ({"seed": 1}, {"sampler": sk.Multistep(2)}):
        with pytest.raises(sk.InputError, match="exists already"):
            model.generate(3, **how | other)
    with pytest.raises(sk.InputError, match="exists already"):
        model.generate(4, **how)
    torch.nn.init.ones_(next(model.network.parameters()))
    with pytest.raises(sk.InputError, match="exists already"):
        model.generate(3, **how)
