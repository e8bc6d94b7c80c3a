"""Weights from checkpoints of published code, by the names that its networks give them.

Those of score_sde are named all_modules.N. They lie in a torch.save archive of a dictionary with
the state dicts ``ema`` and ``model``, or with an ``ema`` that only lists its tensors in the order
of the parameters (``shadow_params``, Song et al., arXiv 2011.13456), perhaps beside an optimiser
and a step. The published SKILD code writes ``model``, ``ema``, ``opt``, ``epoch``, ``train_steps``
and ``config``, a ConfigDict of ml_collections.

Those of guided diffusion are named input_blocks.N, middle_block.N and the like. They lie in an
archive of a state dict or, as the published code of Scale Space Diffusion writes it, of a
dictionary with a state dict ``model`` and a ``step``; averages and last weights have files of their
own.

Whatever wrapped the network put its own prefix before the names.

Archives are read with weights_only=True, and by :mod:`skild_physics.models.inert` where they hold
objects of other classes, such as that ConfigDict: these are passed over, and no code in it runs.
"""

import hashlib
import re
import zipfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from pickle import UnpicklingError
from typing import Any, Literal

import torch
from torch import Tensor, nn

from skild_physics.config import load_config
from skild_physics.fields.arrays import check_archive
from skild_physics.files import InputError, check_apart, check_file
from skild_physics.models.base import Model
from skild_physics.models.checkpoint import build_model, load, save_model
from skild_physics.models.inert import ForeignCallError, StandIn, read_inert
from skild_physics.networks import StepNetwork
from skild_physics.requests import check_result, is_made, matches, request

CHANNELS = {1: ("field",), 3: ("red", "green", "blue")}
SPIN = ("spin",)
LABELS = "label_emb.weight"
"""Weights that guided diffusion has for class labels, shape (label, width)."""
# entries of a state dict that no optimiser trains
_BUFFERS = ("sigmas", "n_averaged")


def import_checkpoint(
    checkpoint: str | Path,
    *,
    config: str | Path,
    out: str | Path,
    weights: Literal["ema", "model"] = "ema",
    overrides: Sequence[str] = (),
    overwrite: bool = False,
) -> Model:
    """A model of the published code as one of this package, which is written, too.

    Only tensors are read: other objects are passed over, and nothing in the file is run.

    Args:
        checkpoint: a .pt file of the published code.
        config: what it was trained as: the name of a published configuration, or a TOML file.
        out: folder of the imported model; if it holds the one asked for already, that is returned.
        weights: the moving average, or the last weights; files of guided diffusion hold one.
        overrides: values of the configuration, each as "section.key=value".
        overwrite: replace an existing model.

    Raises:
        InputError: a file that is missing, foreign or of another network, or an output that may
            not be written.

    >>> import skild_physics as sk
    >>> sk.import_checkpoint("missing.pt", config="ising128-x4", out="imported")
    Traceback (most recent call last):
    skild_physics.files.InputError: missing.pt: no such file
    """
    made = load_config(config, tuple(overrides))
    names = made.network.published_names
    if names is None:
        raise InputError(f"{config}: published models have network.kind = 'ncsnpp' or 'guided'")
    module, first = names
    path = check_result(Path(out) / "model.safetensors", overwrite)
    check_apart({"out": path}, checkpoint)
    with open(check_file(checkpoint), "rb") as file:
        content = hashlib.file_digest(file, "sha256").hexdigest()
    asked = request(
        what="import-checkpoint", checkpoint=content, config=made.to_json(), weights=weights
    )
    if is_made(path, asked, overwrite):
        return load(path)
    tensors, step = read_published(checkpoint, weights, module)
    if LABELS in tensors:
        raise InputError(
            f"{checkpoint}: was trained with {len(tensors[LABELS])} class labels ({LABELS}), which "
            "models here do not have"
        )
    stem = tensors.get(first)
    channels = CHANNELS.get(stem.shape[1] if stem is not None and stem.ndim == 4 else 0)
    if channels is None:
        raise InputError(f"{checkpoint}: its first convolution takes neither 1 nor 3 channels")
    if made.data.spin_pixels is not None:
        if channels == CHANNELS[3]:
            channels = SPIN
        else:
            data = made.data.model_copy(update={"spin_pixels": None})
            made = made.model_copy(update={"data": data})
    model = build_model(made, channels, *made.process.modes(), trained_steps=step)
    assert isinstance(model.network, StepNetwork)
    fit_weights(model.network.network, tensors, checkpoint)
    if not matches(path, asked, overwrite):
        save_model(path, model, asked)
    return load(path)


def read_published(
    path: str | Path, use: Literal["ema", "model"] = "ema", module: str = "all_modules"
) -> tuple[dict[str, Tensor], int]:
    """Weights by name, in float32, and the training step, 0 if none is stated.

    Weights that are float32 in the file stay mapped from it: leave the file as it is while they
    are in use.

    Args:
        path: the archive.
        use: the averaged weights, or those that the optimiser last saw, where a file holds both.
        module: that names of weights begin with, all_modules or input_blocks.

    Raises:
        InputError: the file is missing, broken, or foreign, calls functions of the interpreter or
            the system, or lacks the weights asked for.
    """
    if use not in ("ema", "model"):
        raise InputError(f"use is 'ema' or 'model', got {use!r}")
    path = Path(path)
    content = _load(path)
    if not isinstance(content, dict):
        raise InputError(
            f"{path}: holds a {type(content).__name__}, expected a dictionary with the state "
            "dicts 'ema' and/or 'model'"
        )
    entries = content.get(use)
    if module == "input_blocks" and not isinstance(entries, dict):
        # weights of one kind
        entries = content.get("model", content)
    if not isinstance(entries, dict):
        found = f"found {_listed(content)}"
        if isinstance(entries, StandIn):
            found = f"which is a {type(entries).__name__}"
        raise InputError(
            f"{path}: no state dict under '{use}', expected 'ema' and/or 'model', {found}"
        )
    if "shadow_params" in entries:
        weights = _shadow(entries["shadow_params"], content.get("model"), path)
    else:
        weights = _named(entries, f"{path}: '{use}'" if use in content else str(path), module)
    return weights, _step(content.get("train_steps")) or _step(content.get("step"))


def fit_weights(network: nn.Module, weights: Mapping[str, Tensor], path: str | Path) -> None:
    """Copy weights into a network that has exactly these names and shapes.

    Args:
        network: changed in place, or not at all.
        weights: as ``read_published`` returns them.
        path: where they come from, for the message.

    Raises:
        InputError: names or shapes differ; one line with how many and the first of each kind.
    """
    own = network.state_dict()
    missing = [name for name in own if name not in weights]
    unexpected = [name for name in weights if name not in own]
    reshaped = [
        f"{name}, {tuple(weights[name].shape)} in the file and {tuple(w.shape)} in the network"
        for name, w in own.items()
        if name in weights and weights[name].shape != w.shape
    ]
    kinds = {"missing": missing, "unexpected": unexpected, "of another shape": reshaped}
    faults = [f"{len(names)} {kind} (first: {names[0]})" for kind, names in kinds.items() if names]
    if faults:
        raise InputError(
            f"{path}: of {len(own)} tensors of the network, " + "; ".join(faults) + "; "
            "another configuration?"
        )
    network.load_state_dict(weights, strict=True)


def _load(path: Path) -> object:
    path = check_file(path)
    try:
        check_archive(path)
        mappable = zipfile.is_zipfile(path)
        return torch.load(path, map_location="cpu", weights_only=True, mmap=mappable)
    except InputError:
        raise
    except UnpicklingError as error:
        if mappable:
            return _load_inert(path)
        # the text alone tells what was refused
        refused = re.search(r"GLOBAL ([\w.]+)", str(error))
        raise _refusal(path, refused[1] if refused else None) from None
    except Exception as error:
        raise _unreadable(path, error) from None


def _load_inert(path: Path) -> object:
    try:
        return read_inert(path)
    except ForeignCallError as error:
        raise _refusal(path, str(error)) from None
    except Exception as error:
        raise _unreadable(path, error) from None


def _refusal(path: Path, name: str | None) -> InputError:
    first = f" (the first is {name})" if name else ", or is no checkpoint"
    return InputError(
        f"{path}: holds objects that will not be unpickled{first}; expected an archive of "
        "tensors, numbers and text"
    )


def _unreadable(path: Path, error: Exception) -> InputError:
    # a damaged archive surfaces as one of several exception types
    reason = ": ".join(filter(None, [type(error).__name__, re.split(r"\n|\. ", str(error))[0]]))
    return InputError(f"{path}: not readable as an archive that torch.save wrote ({reason})")


def _named(entries: Mapping[Any, Any], where: str, module: str) -> dict[str, Tensor]:
    """The tensors of a state dict by the names that the bare network gives them, in order."""
    weights: dict[str, Tensor] = {}
    for name, w in entries.items():
        if isinstance(w, StandIn):
            raise InputError(f"{where}: {name!r} is a {type(w).__name__}, expected a plain tensor")
    tensors = {k: w for k, w in entries.items() if isinstance(k, str) and isinstance(w, Tensor)}
    parts = [re.match(rf"((?:.*?\.)?){module}\.", name) for name in tensors]
    prefixes = {part[1] for part in parts if part}
    if not prefixes:
        raise InputError(f"{where} has no weights named {module}.N..., found {_listed(entries)}")
    if len(prefixes) > 1:
        raise InputError(
            f"{where} has weights of several networks, with the prefixes {_listed(prefixes)}"
        )
    (prefix,) = prefixes
    for name, w in tensors.items():
        bare = name.removeprefix(prefix).replace("_orig_mod.", "")
        if bare.rpartition(".")[2] not in _BUFFERS:
            weights[bare] = _float32(w, f"{where}: {name}")
    return weights


def _shadow(averages: object, model: object, path: Path) -> dict[str, Tensor]:
    """The averages by name; they lie in the order of the trainable entries of the state dict."""
    if not isinstance(model, dict):
        raise InputError(
            f"{path}: 'shadow_params' has no names, and there is no state dict under 'model' to "
            "take them from"
        )
    named = _named(model, f"{path}: 'model'", "all_modules")
    if not isinstance(averages, list) or len(averages) != len(named):
        count = len(averages) if isinstance(averages, list) else "no list of"
        raise InputError(
            f"{path}: 'shadow_params' has {count} tensors, expected one for each of the "
            f"{len(named)} in 'model'"
        )
    weights = {}
    for (name, w), average in zip(named.items(), averages, strict=True):
        if not isinstance(average, Tensor) or average.shape != w.shape:
            raise InputError(
                f"{path}: the entry of 'shadow_params' for {name} is not a tensor of shape "
                f"{tuple(w.shape)}"
            )
        weights[name] = _float32(average, f"{path}: the entry of 'shadow_params' for {name}")
    return weights


def _float32(w: Tensor, where: str) -> Tensor:
    if (
        w.is_meta
        or w.layout != torch.strided
        or not w.is_floating_point()
        # one that repeats itself is stored as small as it likes
        or w.numel() * w.element_size() > w.untyped_storage().nbytes()
    ):
        raise InputError(f"{where} is not a dense floating-point tensor with values in the file")
    return w.detach().float()


def _step(step: object) -> int:
    if isinstance(step, Tensor) and step.numel() == 1 and not step.is_meta:
        step = step.item()
    if isinstance(step, int) or (isinstance(step, float) and step.is_integer()):
        return int(step)
    return 0


def _listed(keys: Iterable[object]) -> str:
    names = [repr(key) for key in keys]
    return (
        ", ".join(names[:8]) + (f" and {len(names) - 8} more" if len(names) > 8 else "")
        or "nothing"
    )
