"""Archives of torch.save with objects of any class: their tensors, and no effect of anything."""

import contextlib
import io
import os
import pickle
import resource
import sys
import zipfile
from collections import OrderedDict
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch

from skild_physics.models.inert import DTYPES, ForeignCallError, StandIn, read_inert

SETTINGS = '''
from enum import Enum
from pathlib import Path

class Kind(Enum):
    LINEAR = "linear"

class Reference:
    """Of a value with its type, as nested settings hold them."""
    def __init__(self, value):
        self._value, self._type, self._operations = value, type(value), []

class ConfigDict:
    """Fields reached as attributes, which a state sets one by one."""
    def __init__(self, **fields):
        object.__setattr__(self, "_fields", {k: Reference(v) for k, v in fields.items()})
        object.__setattr__(self, "_locked", True)

    def __getattr__(self, name):
        raise AttributeError(name)

    def __setattr__(self, name, value):
        raise AttributeError(name)

    def __getstate__(self):
        return {"_fields": self._fields, "_locked": self._locked}

    def __setstate__(self, state):
        Path(FIRED).write_text("boom")

    def __iter__(self):
        return iter(self._fields)

class Items(list):
    pass

class Named(dict):
    pass

class Members(set):
    pass
'''


@pytest.fixture
def settings(tmp_path, monkeypatch):
    """A module of settings, which cannot be imported once the fixture's context is left."""
    module = ModuleType("ml_settings")
    module.FIRED = str(tmp_path / "fired")
    monkeypatch.setitem(sys.modules, "ml_settings", module)
    exec(SETTINGS, module.__dict__)
    return module


def written(path, content, **how):
    torch.save(content, path, **how)
    sys.modules.pop("ml_settings", None)
    return path


def archive(path, program, storages=None):
    """An archive whose pickle is a program given byte for byte."""
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("a/data.pkl", program)
        for key, values in (storages or {}).items():
            file.writestr(f"a/data/{key}", values)
    return path


def test_an_archive_without_foreign_objects_is_what_torch_reads(tmp_path):
    torch.manual_seed(0)
    dtypes = [each for each in DTYPES.values() if each.is_floating_point]
    content = {
        "tensors": [torch.randn(3, 4).to(dtype) for dtype in dtypes],
        "whole": [torch.arange(4), torch.ones(2, dtype=torch.bool), torch.tensor(3)],
        "views": (torch.arange(12.0).reshape(3, 4)[1:, ::2], torch.arange(6.0).reshape(2, 3).T),
        "empty": torch.empty(0, 3),
        "parameter": torch.nn.Parameter(torch.randn(2)),
        "ordered": torch.nn.Linear(3, 2).state_dict(),
        "plain": [1, 2.5, "text", None, True, (1, (2,)), {3: 4}, 2**70],
    }
    shared = torch.randn(5)
    content["shared"] = [shared, shared[2:]]
    path = written(tmp_path / "a.pt", content)
    ours, theirs = read_inert(path), torch.load(path, weights_only=True)
    assert list(ours) == list(theirs)
    assert ours["plain"] == theirs["plain"]
    for name in ("tensors", "whole", "views", "shared", "empty", "parameter", "ordered"):
        mine, its = ours[name], theirs[name]
        if isinstance(mine, dict):
            assert list(mine) == list(its)
            mine, its = list(mine.values()), list(its.values())
        for one, other in zip(mine, its, strict=True):
            assert one.dtype == other.dtype
            torch.testing.assert_close(one, other.detach(), rtol=0, atol=0)
    mine = ours["shared"]
    mine[0][2] = 7
    assert float(mine[1][0]) == 7
    assert float(torch.load(path, weights_only=True)["shared"][0][2]) != 7


@pytest.mark.parametrize("protocol", [1, 2, 3, 4, 5])
def test_objects_of_any_class_stand_still(tmp_path, settings, protocol):
    config = settings.ConfigDict(lr=2e-4, kind=settings.Kind.LINEAR, nested=settings.ConfigDict())
    others = [settings.Items([1, 2]), settings.Named(a=1), settings.Members({1}), Path("x")]
    others += [np.float64(3), np.arange(3), {1, 2}, frozenset("a"), b"bytes", 1 + 2j]
    others += [config, torch.float32, torch.Size([2]), torch.device("cpu"), int, OrderedDict(a=1)]
    content = {"config": config, "others": others, "w": torch.arange(3.0)}
    path = written(tmp_path / "a.pt", content, pickle_protocol=protocol)
    assert "ml_settings" not in sys.modules
    found = read_inert(path)
    assert isinstance(found["config"], StandIn)
    assert found["others"][10] is found["config"]
    assert len(found["others"]) == len(others)
    torch.testing.assert_close(found["w"], content["w"])
    assert not (tmp_path / "fired").exists()


class Calls:
    """Pickled as a call, with what is done to its result."""

    def __init__(self, call, *arguments, state=None, items=None, pairs=None):
        self.parts = (call, arguments, state, items, pairs)

    def __reduce__(self):
        call, arguments, state, items, pairs = self.parts
        return call, arguments, state, items and iter(items), pairs and iter(pairs)


def test_what_a_file_calls_is_not_called(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    fired = tmp_path / "fired"
    code = f"open({str(fired)!r}, 'w')"
    bombs = [
        Calls(os.system, f"touch {fired}"),
        Calls(eval, code),
        Calls(exec, code),
        Calls(__import__, "this"),
        Calls(getattr, Calls(__import__, "os"), "system"),
        Calls(pickle.loads, pickle.dumps(Calls(os.system, f"touch {fired}"))),
        Calls(torch.load, "a.pt", None),
        Calls(torch.hub.load, "a", "b"),
        Calls(fired.write_text, "boom"),
        Calls(io.open, str(fired), "w"),
        Calls(Path, str(fired), state=Calls(eval, code), items=[1], pairs=[(1, 2)]),
    ]
    for bomb in bombs:
        for content in ({"config": bomb}, {"config": [bomb, {"a": bomb}], "w": torch.ones(1)}):
            path = written(tmp_path / "a.pt", content)
            try:
                read_inert(path)
            except pickle.UnpicklingError as error:
                assert "\n" not in str(error)  # noqa: PT017
            assert not fired.exists()
    with pytest.raises(ForeignCallError, match=r"^(posix|nt)\.system$"):
        read_inert(written(tmp_path / "a.pt", bombs[0]))
    with pytest.raises(ForeignCallError, match=r"^__builtin__\.getattr$"):
        read_inert(written(tmp_path / "a.pt", bombs[4]))


G = b"c%b\n%b\n"
PROGRAMS = {
    "a stand-in that is called, and its result": G % (b"x", b"y") + b")R(K\x01tR(K\x02tR.",
    "a chain of made classes": G % (b"x", b"y") + b")\x81" + G % (b"x", b"z") + b")\x81\x86R.",
    "a state for a class": G % (b"x", b"y") + b"}(U\x01aK\x01ub.",
    "a state of slots for a class": G % (b"x", b"y") + b"N}(U\x01aK\x01u\x86b.",
    "a state for Tensor": G % (b"torch", b"Tensor") + b"N}(U\x05numelK\x01u\x86b.",
    "a state for a rebuilder": G % (b"torch._utils", b"_rebuild_tensor_v2")
    + b"N}(U\x0c__defaults__K\x01u\x86b.",
    "a state for a method": G % (b"torch._utils", b"_rebuild_parameter")
    + b"}(U\x08__code__K\x01ub.",
    "a state for OrderedDict": G % (b"collections", b"OrderedDict")
    + b")RN}(U\x05itemsK\x01u\x86b.",
    "a state for OrderedDict itself": G % (b"collections", b"OrderedDict")
    + b"N}(U\x05itemsK\x01u\x86b.",
    "a state for a storage": G % (b"torch", b"FloatStorage") + b"}(U\x05dtypeK\x01ub.",
    "items for a class": G % (b"x", b"y") + b"(K\x01K\x02u(K\x03e.",
    "a name with dots": G % (b"torch", b"os.system") + b"(U\x02lstR.",
    "an old instance": b"(U\x02lsix\ny\n.",
    "an old object": b"(" + G % (b"x", b"y") + b"K\x01o.",
    "a call by stack": b"\x8c\x01x\x8c\x01y\x93(K\x01tR.",
    "a call by names": G % (b"x", b"y") + b")}(U\x01aK\x01u\x92.",
}


@pytest.mark.parametrize("name", PROGRAMS)
def test_programs_change_nothing(tmp_path, name):
    ordered, defaults = dict(vars(OrderedDict)), torch._utils._rebuild_tensor_v2.__defaults__
    of_tensor, numel = set(vars(torch.Tensor)), torch.Tensor.numel
    try:
        found = read_inert(archive(tmp_path / "a.pt", b"\x80\x02" + PROGRAMS[name]))
    except Exception as error:
        known = pickle.UnpicklingError | TypeError | IndexError | AttributeError
        assert isinstance(error, known), error  # noqa: PT017
    else:
        assert isinstance(found, StandIn | dict | type)
    assert dict(vars(OrderedDict)) == ordered
    assert torch._utils._rebuild_tensor_v2.__defaults__ == defaults
    assert set(vars(torch.Tensor)) == of_tensor
    assert torch.Tensor.numel is numel
    assert not hasattr(StandIn, "a")


STORAGE = b"(U\x07storage" + G % (b"torch", b"FloatStorage") + b"U\x010U\x03cpuK%ctQ"
TENSOR = G % (b"torch._utils", b"_rebuild_tensor_v2") + b"(%b%btR."


@pytest.mark.parametrize(
    ("count", "rest"),
    [
        (4, b"K\x00K\x05\x85K\x01\x85"),
        (4, b"K\x03K\x02\x85K\x01\x85"),
        (4, b"K\x00K\x02\x85K\x04\x85"),
        (4, b"K\x04K\x02\x85K\x00\x85"),
        (4, b"J\xff\xff\xff\xffK\x02\x85K\x01\x85"),
        (4, b"K\x00K\x02\x85J\xff\xff\xff\xff\x85"),
        (4, b"K\x00K\x02\x85))"),
        (4, b"NK\x02\x85K\x01\x85"),
        (4, b"K\x00U\x01a\x85K\x01\x85"),
        (99, b"K\x00K\x02\x85K\x01\x85"),
    ],
)
def test_tensors_lie_in_their_storages(tmp_path, count, rest):
    values = np.arange(4, dtype="<f4").tobytes()
    whole = TENSOR % (STORAGE % 4, b"K\x00K\x04\x85K\x01\x85")
    found = read_inert(archive(tmp_path / "a.pt", b"\x80\x02" + whole, {"0": values}))
    assert found.tolist() == [0, 1, 2, 3]
    path = archive(tmp_path / "a.pt", b"\x80\x02" + TENSOR % (STORAGE % count, rest), {"0": values})
    with pytest.raises(pickle.UnpicklingError):
        read_inert(path)


def test_tensors_come_of_nothing_else(tmp_path):
    """A storage that is made by a call, by another persistent id, or is not there."""
    size = b"K\x00K\x04\x85K\x01\x85"
    made = G % (b"x", b"y") + b")R"
    assert isinstance(read_inert(archive(tmp_path / "a.pt", b"\x80\x02" + made + b".")), StandIn)
    for storage in (made, b"K\x01", STORAGE % 4, b"(U\x06modulet" + b"Q", b"K\x01Q"):
        path = archive(tmp_path / "b.pt", b"\x80\x02" + TENSOR % (storage, size))
        with pytest.raises(pickle.UnpicklingError):
            read_inert(path)


def test_what_a_file_claims_takes_no_memory(tmp_path):
    """Numbers of objects, and lengths of what is not there."""
    for program in (
        b"Nr\xff\xff\xff\xff.",
        b"\x96\x00\x00\x00\x00\x01\x00\x00\x00.",
        b"\x8e\x00\x00\x00\x00\x01\x00\x00\x00.",
        b"\x8b\xff\xff\xff\x7f.",
        b"X\xff\xff\xff\x7f.",
    ):
        path = archive(tmp_path / "a.pt", b"\x80\x05" + program)
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        with contextlib.suppress(pickle.UnpicklingError, EOFError):
            assert read_inert(path) is None
        assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 2**18


def test_archives_of_another_byte_order_or_none(tmp_path):
    path = written(tmp_path / "a.pt", {"w": torch.ones(3)})
    other = tmp_path / "b.pt"
    for changed in ("byteorder", "data.pkl"):
        with zipfile.ZipFile(path) as old, zipfile.ZipFile(other, "w") as new:
            for name in old.namelist():
                if not name.endswith(changed):
                    new.writestr(name, old.read(name))
                elif changed == "byteorder":
                    new.writestr(name, b"big")
        with pytest.raises(pickle.UnpicklingError, match=r"little-endian|data\.pkl, expected"):
            read_inert(other)
