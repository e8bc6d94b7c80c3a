"""What a run has in its folder, and whose the folder is."""

import json
import os
import re
from pathlib import Path

from skild_physics.files import InputError
from skild_physics.training.state import load_state, previous

NOTE = "run.json"
FILES = ("state.pt", "state.previous.pt", "model.safetensors", "metrics.jsonl")
"""Beside the note, and pictures in the folder of samples."""
SAMPLES = "samples"


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
        names = (*FILES, SAMPLES, NOTE)
        foreign = [out / name for name in names if os.path.lexists(out / name)]
    elif overwrite:
        foreign = sorted(others_among_samples(out))
    if foreign:
        raise InputError(f"{foreign[0]}: is not of a run of training; choose another folder")


def _is_state(path: Path) -> bool:
    try:
        load_state(path)
    except InputError:
        return False
    return True


def others_among_samples(out: Path) -> set[Path]:
    """What is in the folder of samples, but for the pictures of a run."""
    folder = out / SAMPLES
    return set(folder.iterdir() if folder.is_dir() else ()) - _pictures(out)


def _pictures(out: Path) -> set[Path]:
    found = (out / SAMPLES).glob("*.png")
    return {path for path in found if path.is_file() and re.fullmatch(r"\d{7,}", path.stem)}


def discard_run(out: Path) -> None:
    """Remove all that a run made but its note, which says until then whose the folder is."""
    for path in (*(out / name for name in FILES), *_pictures(out)):
        path.unlink(missing_ok=True)
    if (out / SAMPLES).is_dir():
        (out / SAMPLES).rmdir()
