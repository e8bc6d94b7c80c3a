"""Tensors of torch.save archives that hold objects of any class, of which nothing is run.

Such an archive is a zip file (torch.save of PyTorch 1.6 and later) of records that are not
compressed: NAME/data.pkl, a pickle, and NAME/data/KEY, the bytes of storage KEY, in the order of
NAME/byteorder. In the pickle a storage is the persistent id ("storage", type, KEY, device, count),
and a tensor the call

    torch._utils._rebuild_tensor_v2(storage, offset, size, stride, requires_grad, hooks),

counted in elements. A parameter is a call with its tensor, and a state dict is an OrderedDict.

A pickle is a program that names callables, and calls them. Here no name is ever looked up: those
of tensors, storages and OrderedDict stand for what this module does in their place, and every other
one for a class whose objects can be made, called, filled and given a state without any effect.
"""

import math
import pickle
import struct
import zipfile
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor

DTYPES = {
    "DoubleStorage": torch.float64,
    "FloatStorage": torch.float32,
    "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16,
    "LongStorage": torch.int64,
    "IntStorage": torch.int32,
    "ShortStorage": torch.int16,
    "CharStorage": torch.int8,
    "ByteStorage": torch.uint8,
    "BoolStorage": torch.bool,
}
_BUILTINS = ("builtins", "__builtin__")
_SYSTEM = ("os", "nt", "posix", "sys", "subprocess", "shutil", "runpy", "importlib", "ctypes")
# classes of theirs that settings hold, such as the type of a value
_PLAIN = (
    *("NoneType", "bool", "bytearray", "bytes", "complex", "dict", "ellipsis", "float"),
    *("frozenset", "int", "list", "long", "object", "range", "set", "slice", "str", "tuple"),
    *("type", "unicode", "xrange"),
)
_LOCAL_HEADER = 30


class StandIn:
    """An object of a class that was not looked up; nothing that is done to it has an effect."""

    __slots__ = ()

    def __new__(cls, *args: object, **named: object) -> "StandIn":
        """One, whatever it is made of."""
        return super().__new__(cls)

    def __init__(self, *args: object, **named: object) -> None:
        pass

    def __call__(self, *args: object, **named: object) -> Any:
        """Itself, whatever it is called with."""
        return self

    def _nothing(self, *args: object) -> None:
        pass

    __setitem__ = append = extend = add = _nothing


class _Storage(StandIn):
    """What a persistent id says."""

    __slots__ = ("count", "dtype", "key")
    count: int
    dtype: torch.dtype
    key: str


class _Tensor(StandIn):
    """Calls make tensors."""

    __slots__ = ("archive",)
    archive: "_Archive"

    def __call__(self, *args: Any, **named: object) -> Any:
        return self.archive.tensor(*args[:4])


class _Parameter(StandIn):
    """Calls give the tensor of a parameter."""

    __slots__ = ()

    def __call__(self, *args: Any, **named: object) -> Any:
        return args[0]


_STORAGES = {name: type(name, (StandIn,), {"__slots__": ()}) for name in DTYPES}
_DTYPE_OF = {_STORAGES[name]: dtype for name, dtype in DTYPES.items()}


class _Archive(pickle._Unpickler):
    """The unpickler of one archive.

    That of C takes as much memory as a file says that it numbers its objects.
    """

    stack: list[Any]

    def __init__(self, path: Path, archive: zipfile.ZipFile):
        infos = archive.infolist()
        found = [i.filename for i in infos if i.filename.rpartition("/")[2] == "data.pkl"]
        if len(found) != 1:
            raise pickle.UnpicklingError(f"{len(found)} records data.pkl, expected one")
        self._folder = found[0].removesuffix("data.pkl")
        self._records = {i.filename: i for i in infos}
        order = self._folder + "byteorder"
        if order in self._records and archive.read(order).strip() != b"little":
            raise pickle.UnpicklingError("numbers whose bytes are not in little-endian order")
        self._whole = torch.UntypedStorage.from_file(str(path), False, path.stat().st_size)
        super().__init__(archive.open(found[0]))

    def load_build(self) -> None:
        """Pass over the state of an object, of whatever kind."""
        self.stack.pop()

    dispatch = pickle._Unpickler.dispatch | {
        pickle.BUILD[0]: cast(Any, load_build),
        # its own takes as much memory as it is said to need, before it reads any
        pickle.BYTEARRAY8[0]: pickle._Unpickler.dispatch[pickle.BINBYTES8[0]],
    }

    def find_class(self, module: str, name: str) -> Any:
        """What stands for a global; none is looked up."""
        whole = f"{module}.{name}"
        if module == "torch" and name in _STORAGES:
            return _STORAGES[name]
        if whole == "collections.OrderedDict":
            return dict
        if whole in ("torch._utils._rebuild_tensor", "torch._utils._rebuild_tensor_v2"):
            made = _Tensor()
            made.archive = self
            return made
        if whole in (
            "torch._utils._rebuild_parameter",
            "torch._utils._rebuild_parameter_with_state",
        ):
            return _Parameter()
        if module.partition(".")[0] in _SYSTEM or (module in _BUILTINS and name not in _PLAIN):
            # a stand-in would do no harm, but whoever wrote this meant some
            raise ForeignCallError(whole)
        return type(whole, (StandIn,), {"__slots__": ()})

    def persistent_load(self, pid: Any) -> Any:
        """A storage; nothing of it is read yet."""
        if not (isinstance(pid, tuple) and len(pid) == 5 and pid[0] == "storage"):
            raise pickle.UnpicklingError("a persistent id that is no storage")
        _, kind, key, _, count = pid
        if kind not in _DTYPE_OF:
            # of a kind that no weights are of
            return StandIn()
        if not (isinstance(key, str) and isinstance(count, int) and count >= 0):
            raise pickle.UnpicklingError("a persistent id of a storage without a key or a size")
        storage = _Storage()
        storage.count, storage.dtype, storage.key = count, _DTYPE_OF[kind], key
        return storage

    def tensor(self, storage: Any, offset: Any, size: Any, stride: Any) -> Any:
        """A tensor that is mapped from the file, privately."""
        if type(storage) is StandIn:
            return storage
        numbers = (offset, *size, *stride) if type(size) is type(stride) is tuple else ()
        if not (
            type(storage) is _Storage
            and numbers
            and len(size) == len(stride)
            and all(type(number) is int and number >= 0 for number in numbers)
        ):
            raise pickle.UnpicklingError("a tensor that is not of a storage, a size and strides")
        last = offset + sum((n - 1) * step for n, step in zip(size, stride, strict=True))
        if math.prod(size) and last >= storage.count:
            raise pickle.UnpicklingError("a tensor that is larger than its storage")
        empty: Tensor = torch.empty(0, dtype=storage.dtype)
        return empty.set_(self._bytes(storage), offset, size, stride)

    def _bytes(self, storage: _Storage) -> torch.UntypedStorage:
        width = storage.dtype.itemsize
        length, name = storage.count * width, f"{self._folder}data/{storage.key}"
        record = self._records.get(name)
        if record is None or record.compress_type != zipfile.ZIP_STORED:
            raise pickle.UnpicklingError(f"no record {name} that is not compressed")
        header = bytes(self._whole[record.header_offset : record.header_offset + _LOCAL_HEADER])
        begin = record.header_offset + _LOCAL_HEADER + sum(struct.unpack("<HH", header[26:30]))
        if length > record.file_size or begin + length > len(self._whole):
            raise pickle.UnpicklingError(f"the record {name} is too short")
        found: torch.UntypedStorage = self._whole[begin : begin + length]
        if begin % width == 0:
            return found
        unaligned: Tensor = torch.empty(0, dtype=torch.uint8)
        return unaligned.set_(found).clone().untyped_storage()


class ForeignCallError(pickle.UnpicklingError):
    """An archive asks for a function of the interpreter or the system, its message."""


def read_inert(path: Path) -> object:
    """What an archive holds, with a :class:`StandIn` for every object that is no plain one.

    Plain are tensors, which stay mapped from the file, numbers, text, lists, tuples, sets and
    dictionaries.

    Args:
        path: a zip file of torch.save.

    Raises:
        ForeignCallError: it names a function of the interpreter or of the system.
        UnpicklingError: a pickle or a tensor that is none; other damage shows as other exceptions.
    """
    with zipfile.ZipFile(path) as archive:
        return _Archive(path, archive).load()
