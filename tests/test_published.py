import importlib.util
import os
import pickle
from argparse import Namespace
from pathlib import Path

import pytest
import torch
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from skild_physics.models.published import fit_weights, read_published

SOURCE = Path(__file__).parents[1] / "benchmarks" / "plain_ncsnpp.py"


def plain_network(channels=8, **changes):
    spec = importlib.util.spec_from_file_location("plain_ncsnpp", SOURCE)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    settings = {"multipliers": (1, 2), "blocks": 1, "attention": (4,), **changes}
    return module.PlainNCSNpp(8, channels, **settings)


@pytest.fixture
def network():
    torch.manual_seed(0)
    return plain_network()


def noise_like(weights):
    return {name: torch.randn_like(w) for name, w in weights.items()}


def saved(path, content, **settings):
    torch.save(content, path, **settings)
    return path


def assert_same(found, expected):
    assert list(found) == list(expected)
    for name, w in expected.items():
        assert found[name].dtype == torch.float32
        torch.testing.assert_close(found[name], w.float(), rtol=0, atol=0)


PREFIXES = [
    "",
    "module.",
    "_orig_mod.",
    "module._orig_mod.",
    "_orig_mod.module.",
    "net.",
    "model.",
    "ema_model.",
    "ema_model.module._orig_mod.",
    "module.net._orig_mod.",
]


@pytest.mark.parametrize("prefix", PREFIXES)
@pytest.mark.parametrize("zipped", [True, False])
def test_wrappers_leave_no_trace_in_the_names(tmp_path, network, prefix, zipped):
    ema, model = noise_like(network.state_dict()), network.state_dict()
    content = {
        "ema": {prefix + name: w for name, w in ema.items()},
        "model": {prefix + name: w for name, w in model.items()},
        "optimizer": {"state": {0: {"exp_avg": torch.ones(3)}}, "param_groups": [{"lr": 1e-4}]},
        "step": 1234,
    }
    path = saved(tmp_path / "last.pt", content, _use_new_zipfile_serialization=zipped)
    for use, expected in (("ema", ema), ("model", model)):
        found, step = read_published(path, use)
        assert_same(found, expected)
        assert step == 1234


def test_what_torch_itself_wraps(tmp_path, network):
    """AveragedModel (with its counter) of a compiled network; a block compiled on its own."""
    averaged = AveragedModel(torch.compile(network), multi_avg_fn=get_ema_multi_avg_fn(0.9))
    network.all_modules[3] = torch.compile(network.all_modules[3])
    content = {"ema": averaged.state_dict(), "model": network.state_dict()}
    assert {"n_averaged", "module._orig_mod.all_modules.2.bias"} <= set(content["ema"])
    assert "all_modules.3._orig_mod.Conv_0.bias" in content["model"]
    path = saved(tmp_path / "last.pt", content)
    bare = plain_network()
    for use in ("ema", "model"):
        weights, step = read_published(path, use)
        assert step == 0
        fit_weights(bare, weights, path)
        assert_same(
            bare.state_dict(), dict(zip(weights, network.state_dict().values(), strict=True))
        )


@pytest.mark.parametrize("prefix", ["", "module."])
def test_averages_without_names(tmp_path, network, prefix):
    """shadow_params in parameter order beside a state dict that begins with the sigmas buffer."""
    network.register_buffer("sigmas", torch.linspace(50, 0.01, 10))
    model = {prefix + name: w for name, w in network.state_dict().items()}
    shadow = [torch.randn_like(w) for w in network.parameters()]
    ema = {"decay": 0.999, "num_updates": 7, "shadow_params": shadow}
    path = saved(tmp_path / "checkpoint_1.pth", {"ema": ema, "model": model, "step": 7})
    names = [name for name, _ in network.named_parameters()]
    assert_same(read_published(path)[0], dict(zip(names, shadow, strict=True)))
    assert_same(read_published(path, "model")[0], dict(network.named_parameters()))

    for broken in (shadow[:-1], shadow[::-1], [*shadow[:-1], 1.0], None):
        wrong = {"ema": {"shadow_params": broken}, "model": model}
        with pytest.raises(ValueError, match="'shadow_params'"):
            read_published(saved(path, wrong))
    with pytest.raises(ValueError, match=r"'shadow_params' has no names.*'model'"):
        read_published(saved(path, {"ema": ema}))


@pytest.mark.parametrize(
    ("step", "expected"),
    [
        (7, 7),
        (torch.tensor(8), 8),
        (torch.tensor([9]), 9),
        (1e5, 100_000),
        ("10", 0),
        (float("nan"), 0),
        (torch.zeros(2), 0),
        (torch.zeros(1, device="meta"), 0),
    ],
)
def test_steps(tmp_path, step, expected):
    weights = {"all_modules.0.weight": torch.ones(2, 2)}
    for name in ("step", "train_steps"):
        path = saved(tmp_path / "a.pt", {"ema": weights, name: step})
        assert read_published(path)[1] == expected
    saved(path, {"ema": weights, "epoch": 2, "step": 3, "train_steps": 4})
    assert read_published(path)[1] == 4


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_float32_comes_back(tmp_path, dtype):
    weights = {"all_modules.0.weight": torch.randn(3, 2).to(dtype)}
    found, _ = read_published(saved(tmp_path / "a.pt", {"ema": weights}))
    assert_same(found, weights)


def test_weights_outlive_a_deleted_file_and_do_not_write_to_it(tmp_path):
    path = saved(tmp_path / "a.pt", {"ema": {"all_modules.0.weight": torch.ones(1000)}})
    before = path.read_bytes()
    found, _ = read_published(path)
    found["all_modules.0.weight"].mul_(3)
    assert path.read_bytes() == before
    path.unlink()
    assert float(found["all_modules.0.weight"].sum()) == 3000


class Bomb:
    """Writes a file when it is unpickled."""

    def __init__(self, call, *arguments):
        self.call, self.arguments = call, arguments

    def __reduce__(self):
        return self.call, self.arguments


def _by_pickle(content, path):
    path.write_bytes(pickle.dumps(content))


WRITERS = {
    "archive": torch.save,
    "old archive": lambda content, path: torch.save(
        content, path, _use_new_zipfile_serialization=False
    ),
    "protocol 4": lambda content, path: torch.save(content, path, pickle_protocol=4),
    "pickle": _by_pickle,
}


@pytest.mark.parametrize("writer", WRITERS)
@pytest.mark.parametrize("place", ["ema", "model", "optimizer", "config", "step"])
def test_nothing_is_unpickled(tmp_path, monkeypatch, writer, place):
    """A file that would run code is refused as a whole, wherever the code sits."""
    monkeypatch.setenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "1")
    fired = tmp_path / "fired"
    weights = {"all_modules.0.weight": torch.ones(2, 2)}
    path = tmp_path / "last.pt"
    for bomb in (Bomb(fired.write_text, "boom"), Bomb(os.system, f"touch {fired}")):
        WRITERS[writer]({"ema": weights, "model": weights, place: bomb}, path)
        with pytest.raises(ValueError, match="objects that will not be unpickled") as refusal:
            read_published(path)
        assert str(refusal.value).startswith(f"{path}: ")
        assert "\n" not in str(refusal.value)
        assert "weights_only" not in str(refusal.value)
        assert refusal.value.__cause__ is None
    assert not fired.exists()


def test_harmless_objects_are_passed_over_and_named_where_weights_should_be(tmp_path):
    weights = {"all_modules.0.weight": torch.ones(2, 2)}
    path = saved(tmp_path / "a.pt", {"ema": weights, "config": Namespace(lr=1e-4)})
    assert_same(read_published(path)[0], weights)
    path = saved(tmp_path / "a.pt", {"ema": torch.nn.Linear(2, 2)})
    with pytest.raises(ValueError, match=r"under 'ema'.* is a torch\.nn\.modules\.linear\.Linear$"):
        read_published(path)
    path = saved(tmp_path / "a.pt", {"ema": weights | {"all_modules.0.bias": Namespace()}})
    with pytest.raises(ValueError, match=r"'all_modules\.0\.bias' is a argparse\.Namespace"):
        read_published(path)
    old = {"ema": weights, "config": Namespace(lr=1e-4)}
    saved(path, old, _use_new_zipfile_serialization=False)
    with pytest.raises(ValueError, match=r"a\.pt: holds objects .*argparse\.Namespace"):
        read_published(path)


def test_broken_files(tmp_path, network):
    """Cut anywhere, or with bytes changed anywhere: one ValueError, or weights."""
    whole = saved(tmp_path / "whole.pt", {"ema": {"all_modules.0.weight": torch.ones(9)}})
    data = whole.read_bytes()
    path = tmp_path / "broken.pt"
    for length in [*range(0, len(data), 97), len(data) - 1]:
        path.write_bytes(data[:length])
        with pytest.raises(ValueError, match=r"broken\.pt: "):
            read_published(path)
    generator = torch.Generator().manual_seed(0)
    refused = 0
    for _ in range(150):
        damaged = bytearray(data)
        for place in torch.randint(len(data), (5,), generator=generator).tolist():
            damaged[place] ^= 0x55
        path.write_bytes(damaged)
        try:
            read_published(path)
        except ValueError as error:
            assert str(error).startswith(f"{path}: ")  # noqa: PT017
            refused += 1
    assert refused > 75


@pytest.mark.parametrize(
    "content", [b"", b"\0" * 500, b"hello\nworld\n", b"PK\x03\x04", b"\x89HDF"]
)
def test_files_of_other_kinds(tmp_path, content):
    path = tmp_path / "a.pt"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"a\.pt: "):
        read_published(path)


def test_foreign_files_tell_what_they_hold(tmp_path):
    path = tmp_path / "a.pt"
    for missing in (tmp_path / "nothing.pt", tmp_path):
        with pytest.raises(ValueError, match=r"no such file|is a folder"):
            read_published(missing)
    with pytest.raises(ValueError, match=r"a\.pt: holds a Tensor, expected .*'ema' and/or 'model'"):
        read_published(saved(path, torch.ones(2)))
    with pytest.raises(ValueError, match=r"under 'ema', expected .* found nothing"):
        read_published(saved(path, {}))
    weights = {"all_modules.0.weight": torch.ones(2, 2)}
    with pytest.raises(ValueError, match=r"no state dict under 'ema', .* found 'model', 'step'"):
        read_published(saved(path, {"model": weights, "step": 3}))
    with pytest.raises(ValueError, match=r"no state dict under 'model', .* found 'ema'"):
        read_published(saved(path, {"ema": weights}), "model")
    many = {f"layer{i}.weight": torch.ones(1) for i in range(20)}
    with pytest.raises(ValueError, match=r"all_modules.* found 'layer0.weight'.* and 12 more"):
        read_published(saved(path, {"ema": many}))
    two = {f"{prefix}.all_modules.0.weight": torch.ones(1) for prefix in ("ema_model", "model")}
    with pytest.raises(ValueError, match=r"several networks.*'model.'"):
        read_published(saved(path, {"ema": two}))
    repeated = torch.ones(1).expand(10**12)
    sparse = torch.ones(2).to_sparse()
    for strange in (torch.ones(2, device="meta"), sparse, torch.ones(2).int(), repeated):
        with pytest.raises(ValueError, match=r"all_modules.0.bias is not a dense"):
            read_published(saved(path, {"ema": {"module.all_modules.0.bias": strange}}))
    with pytest.raises(ValueError, match="use is 'ema' or 'model', got 'best'"):
        read_published(path, "best")


def test_fitting_weights(network):
    weights = noise_like(network.state_dict())
    fit_weights(network, weights, "a.pt")
    assert_same(network.state_dict(), weights)
    before = noise_like(network.state_dict())
    fit_weights(network, before, "a.pt")

    first, *rest = weights
    short = {name: weights[name] for name in rest} | {"all_modules.99.W": torch.ones(1)}
    short[rest[0]] = torch.ones(3, 1)
    message = (
        rf"a\.pt: of {len(weights)} tensors of the network, 1 missing \(first: {first}\); "
        r"1 unexpected \(first: all_modules\.99\.W\); "
        rf"1 of another shape \(first: {rest[0]}, \(3, 1\) in the file and \(32,\) in the "
        r"network\); another configuration\?$"
    )
    with pytest.raises(ValueError, match=message):
        fit_weights(network, short, "a.pt")
    assert_same(network.state_dict(), before)


@pytest.mark.parametrize(
    "changes",
    [{"channels": 16}, {"blocks": 2}, {"attention": ()}, {"multipliers": (1, 1)}, {"channels": 12}],
)
def test_another_configuration_is_one_line(network, changes):
    with pytest.raises(ValueError, match=r"^a\.pt: .*another configuration\?$"):
        fit_weights(plain_network(**changes), network.state_dict(), "a.pt")


def test_extra_weights_are_not_lost(tmp_path, network):
    """What the network has no place for reaches the strict comparison."""
    ema = {f"module.{name}": w for name, w in network.state_dict().items()}
    ema["module.label_embedding.weight"] = torch.ones(10, 8)
    weights, _ = read_published(saved(tmp_path / "a.pt", {"ema": ema}))
    with pytest.raises(ValueError, match=r"1 unexpected \(first: label_embedding.weight\)"):
        fit_weights(network, weights, "a.pt")
