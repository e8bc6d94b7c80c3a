"""A device "gpu" where there is none: tensors of the CPU that say they are not.

What a real device refuses is refused here, too: tensors of two devices in one operation, a
generator of the other device. Whenever the CPU has to wait for a value, that is counted. All is
computed for real, so results can be compared with those of the CPU.
"""

from collections import Counter
from contextlib import contextmanager

import torch
from torch.utils import _pytree as pytree
from torch.utils import backend_registration
from torch.utils._python_dispatch import TorchDispatchMode

NAME = "gpu"
aten = torch.ops.aten
# what copies between devices, or reads the other's shape or index only
_MIXED = {
    aten._to_copy.default,
    aten.copy_.default,
    aten.index.Tensor,
    aten.index_put_.default,
    aten._index_put_impl_.default,
}
available = hasattr(torch._C._acc, "register_python_privateuseone_device_guard")


class DeviceError(RuntimeError):
    """What a real device would have refused."""


class OnGPU(torch.Tensor):
    """A tensor whose values are those of ``held``."""

    @staticmethod
    def __new__(cls, real, requires_grad=False):
        made = torch.Tensor._make_wrapper_subclass(
            cls,
            real.shape,
            strides=real.stride(),
            storage_offset=real.storage_offset(),
            dtype=real.dtype,
            device=f"{NAME}:0",
            requires_grad=requires_grad,
        )
        made.held = real
        return made

    __torch_function__ = torch._C._disabled_torch_function_impl

    def data_ptr(self):
        return self.held.data_ptr()

    def __deepcopy__(self, memo):
        made = OnGPU(self.held.clone(), self.requires_grad)
        memo[id(self)] = made
        return torch.nn.Parameter(made, self.requires_grad) if self._is_param_like else made

    @property
    def _is_param_like(self):
        return isinstance(self, torch.nn.Parameter)

    def __repr__(self):
        return f"OnGPU({tuple(self.shape)})"

    @classmethod
    def __torch_dispatch__(cls, func, types, args=(), kwargs=None):
        return _run(func, args, kwargs or {})


class Generator(torch.Generator):
    """One that says which device it is for."""

    def __new__(cls, device="cpu"):
        made = super().__new__(cls, "cpu")
        made.claimed = torch.device(device).type
        return made


_counts: Counter[str] = Counter()


def _is_gpu(device):
    return device is not None and torch.device(device).type == NAME


def _run(func, args, kwargs):
    flat, spec = pytree.tree_flatten((args, kwargs))
    tensors = [x for x in flat if isinstance(x, torch.Tensor)]
    ours = [x for x in tensors if isinstance(x, OnGPU)]
    device = kwargs.get("device")
    wanted = _is_gpu(device) if device is not None else bool(ours)
    if func in (aten._local_scalar_dense.default, aten.is_nonzero.default, aten.equal.default):
        if ours:
            _counts["reads"] += 1
        wanted = False
    elif ours:
        if func is aten.copy_.default:
            wanted = isinstance(args[0], OnGPU)
        elif func not in _MIXED and any(
            not isinstance(x, OnGPU) and x.ndim and x.numel() for x in tensors
        ):
            shapes = [(tuple(x.shape), x.device.type) for x in tensors]
            raise DeviceError(f"{func}: tensors of two devices, {shapes}")
        if func in (aten._to_copy.default, aten.copy_.default) and not wanted:
            _counts["reads"] += 1
        if func is aten.nonzero.default:
            _counts["reads"] += 1
    for x in flat:
        claimed = getattr(x, "claimed", "cpu") if isinstance(x, torch.Generator) else None
        if claimed is not None and claimed != (NAME if wanted else "cpu"):
            raise DeviceError(f"{func}: a generator of another device")
    if wanted:
        _counts["launches"] += 1
        sources = args[1:] if func is aten.copy_.default else args
        if func in (aten._to_copy.default, aten.copy_.default):
            _counts["uploads"] += not any(isinstance(x, OnGPU) for x in sources)
    real = [x.held if isinstance(x, OnGPU) else x for x in flat]
    args_, kwargs_ = pytree.tree_unflatten(real, spec)
    if _is_gpu(device):
        kwargs_["device"] = torch.device("cpu")
    out = func(*args_, **kwargs_)
    by_id = {id(x.held): x for x in ours}

    def wrapped(x):
        if not isinstance(x, torch.Tensor):
            return x
        if id(x) in by_id:
            return by_id[id(x)]
        return OnGPU(x) if wanted else x

    return pytree.tree_map(wrapped, out)


class _Factories(TorchDispatchMode):
    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        return _run(func, args, kwargs or {})


@contextmanager
def pretended(monkeypatch):
    """Tensors on "gpu" can be made; gives the counts of launches and of reads by the CPU."""
    _register()
    monkeypatch.setattr(torch, "Generator", Generator)
    _counts.clear()
    # the threads of other devices are counted before the first gradient of a process, and stay so
    with _Factories(), torch.autograd.set_multithreading_enabled(False):
        yield _counts


_registered: list[torch.library.Library] = []


class _Module(backend_registration._DummyBackendModule):
    def get_amp_supported_dtype(self):
        return [torch.bfloat16, torch.float16]


def _register():
    if _registered:
        return
    backend_registration._setup_privateuseone_for_python_backend(NAME, backend_module=_Module())
    library = torch.library.Library("_", "IMPL", "AutocastPrivateUse1")
    library.fallback(torch.library.fallthrough_kernel)
    _registered.append(library)
