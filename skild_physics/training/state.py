"""The state of a training, which is read without running any code in it.

state.pt holds what resuming needs (weights, average, optimiser, step), is read with
weights_only=True, and has a predecessor, state.previous.pt, that takes its place if it is damaged.
"""

import os
import zipfile
from pathlib import Path
from typing import Any

import torch

from skild_physics.files import InputError, replacing


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
    try:
        # torch itself does not look at the checksums of its archives
        damaged = zipfile.ZipFile(path).testzip()
        if damaged is not None:
            raise InputError(f"checksum of {damaged} differs")
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        # a damaged archive surfaces as one of several exception types
        raise InputError(f"{path}: not a readable training state ({error})") from None
    if not isinstance(state, dict) or not {"step", "config"} <= state.keys():
        raise InputError(f"{path}: not a training state")
    return state
