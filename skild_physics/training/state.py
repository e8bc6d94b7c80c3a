"""The state of a training, which is read without running any code in it.

state.pt holds what resuming needs (weights, average, optimiser, step), is read with
weights_only=True, and has a predecessor, state.previous.pt, that takes its place if it is damaged.
"""

import os
from pathlib import Path
from typing import Any

import torch
from pydantic import BaseModel, ConfigDict, Json, NonNegativeInt

from skild_physics.claims import replacing
from skild_physics.fields.arrays import check_archive, unreadable
from skild_physics.files import InputError, check_file
from skild_physics.schema import validated


def previous(path: Path) -> Path:
    """Where the state before the newest one is kept."""
    return path.with_suffix(f".previous{path.suffix}")


def save_state(path: str | Path, state: dict[str, Any]) -> None:
    """Write the training state; the one it replaces becomes the previous one.

    Raises:
        OSError: it cannot be written, for want of space above all; nothing has changed then.
    """
    path = Path(path)
    with replacing(path) as temporary:
        try:
            torch.save(state, temporary)
        except RuntimeError as error:
            # how torch reports a full disk
            reason = str(error).splitlines()[0]
            raise OSError(f"{path}: cannot be written, is the disk full? ({reason})") from None
        if path.exists():
            os.replace(path, previous(path))


def load_state(path: str | Path) -> dict[str, Any]:
    """Read a training state without running any code in it.

    Raises:
        InputError: the file is broken or not a training state.
    """
    path = check_file(path)
    try:
        check_archive(path)
        state = torch.load(path, map_location="cpu", weights_only=True)
    except InputError as error:
        reason = str(error).removeprefix(f"{path}: ")
        raise InputError(f"{path}: not a readable training state ({reason})") from None
    except Exception as error:
        # a damaged archive surfaces as one of several exception types
        raise unreadable(path, "training state", error) from None
    if not isinstance(state, dict) or not {"step", "config"} <= state.keys():
        raise InputError(f"{path}: not a training state")
    validated(_State, state, path)
    return state


class _State(BaseModel):
    """What a state says of the run."""

    model_config = ConfigDict(strict=True)

    step: NonNegativeInt
    running_loss: float
    config: Json[dict[str, Any]]


def check_like(found: Any, own: Any, where: str) -> None:
    """Refuse entries that are not of the form of those that they are to replace.

    Args:
        found: of a state.
        own: of the part of the training that is to load it.
        where: what they are, for the message.

    Raises:
        InputError: other keys, types or shapes, or weights that are not finite.
    """
    if isinstance(own, torch.Tensor):
        fits = isinstance(found, torch.Tensor) and found.shape == own.shape
        if not (fits and found.dtype == own.dtype and found.isfinite().all()):
            raise InputError(f"{where} is no such tensor as the training has")
    elif isinstance(own, dict):
        if not isinstance(found, dict) or found.keys() != own.keys():
            raise InputError(f"{where} has other entries than the training")
        for key, value in own.items():
            check_like(found[key], value, f"{where}.{key}")
    elif isinstance(own, list | tuple):
        if not isinstance(found, list | tuple) or len(found) != len(own):
            raise InputError(f"{where} is not as long as that of the training")
        for i, (each, value) in enumerate(zip(found, own, strict=True)):
            check_like(each, value, f"{where}.{i}")
    elif type(found) is not type(own):
        raise InputError(f"{where} is of another type than that of the training")


def check_moments(found: Any, own: torch.optim.Optimizer, where: str) -> None:
    """Refuse what an optimiser remembers of other weights.

    Args:
        found: its state in a file.
        own: the optimiser that is to load it.
        where: what they are, for the message.

    Raises:
        InputError: other settings, numbers of weights or shapes, or values that are not finite.
    """
    if not isinstance(found, dict) or not isinstance(found.get("state"), dict):
        raise InputError(f"{where} has no `state`")
    groups, own_groups = found.get("param_groups"), own.state_dict()["param_groups"]
    if not isinstance(groups, list) or len(groups) != len(own_groups):
        raise InputError(f"{where} has other groups of weights than the training")
    for group, own_group in zip(groups, own_groups, strict=True):
        # versions of torch differ in what there is to set
        common = own_group.keys() & (group.keys() if isinstance(group, dict) else {"params"})
        check_like(group, {**group, **{key: own_group[key] for key in common}}, where)
    weights = [weight for group in own.param_groups for weight in group["params"]]
    for number, moments in found["state"].items():
        if number not in range(len(weights)) or not isinstance(moments, dict):
            raise InputError(f"{where} is of other weights than those of the training")
        for name, values in moments.items():
            shapes = (weights[number].shape, ())
            if not isinstance(values, torch.Tensor) or values.shape not in shapes:
                raise InputError(f"{where}: {name} is not of the shape of its weights")
            if not (values.is_floating_point() and values.isfinite().all()):
                raise InputError(f"{where}: {name} is not of finite numbers")
