"""What a run has in its folder, and whose the folder is."""

import json
import os
import re
from pathlib import Path

from skild_physics.files import InputError
from skild_physics.training.state import load_state, previous

NOTE = "run.json"
FILES = ("state.pt", "state.previous.pt", "model.safetensors", "metrics.jsonl")
"""Beside the note, and what is numbered by steps in folders of its own."""
SAMPLES, KEPT = "samples", "kept"
FOLDERS = {SAMPLES: ".png", KEPT: ".safetensors"}
"""Folders, and the suffix of what a run has in them."""


def check_ours(out: Path, overwrite: bool) -> None:
    """Refuse to replace what no run made.

    Raises:
        InputError: naming it.
    """
    try:
        is_run = {"package_version", "config"} <= json.loads((out / NOTE).read_text()).keys()
    except (OSError, ValueError, AttributeError, RecursionError):
        # a note that is damaged may still be beside the state of its run
        is_run = any(map(_is_state, (out / "state.pt", previous(out / "state.pt"))))
    foreign: list[Path] = []
    if not is_run:
        names = (*FILES, *FOLDERS, NOTE)
        foreign = [out / name for name in names if os.path.lexists(out / name)]
    elif overwrite:
        foreign = sorted(set().union(*(others_in(out, name) for name in FOLDERS)))
    if foreign:
        raise InputError(f"{foreign[0]}: is not of a run of training; choose another folder")


def _is_state(path: Path) -> bool:
    try:
        load_state(path)
    except InputError:
        return False
    return True


def numbered(out: Path, name: str, step: int) -> Path:
    """The file of a step in one of the folders."""
    return out / name / f"{step:07d}{FOLDERS[name]}"


def others_in(out: Path, name: str) -> set[Path]:
    """What is in one of the folders, but for what a run has there."""
    folder = out / name
    return set(folder.iterdir() if folder.is_dir() else ()) - _own(out, name)


def _own(out: Path, name: str) -> set[Path]:
    found = (out / name).glob(f"*{FOLDERS[name]}")
    return {path for path in found if path.is_file() and re.fullmatch(r"\d{7,}", path.stem)}


def discard_run(out: Path) -> None:
    """Remove all that a run made but its note, which says until then whose the folder is."""
    own = [path for name in FOLDERS for path in _own(out, name)]
    for path in (*(out / name for name in FILES), *own):
        path.unlink(missing_ok=True)
    for name in FOLDERS:
        if (out / name).is_dir():
            (out / name).rmdir()
