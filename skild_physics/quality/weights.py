"""Files of published weights: found in a folder, never downloaded, and identified by their hash."""

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import platformdirs
import torch
from torch import Tensor

from skild_physics.files import InputError


@dataclass(frozen=True)
class WeightFile:
    """Weights in a file.

    Attributes:
        path: the file.
        sha256: its SHA-256.
        published: whether that is the hash of the published file.
    """

    path: Path
    sha256: str
    published: bool


def default_folder() -> Path:
    """Where weights are looked for by default: in the user's cache."""
    return platformdirs.user_cache_path("skild_physics") / "weights"


def find_weights(metric: str, url: str, folder: str | Path | None = None) -> WeightFile:
    """The file of a metric's weights, which the user has put there.

    Args:
        metric: what needs it.
        url: where it is published; it contains the file's name and its SHA-256, or the first eight
            digits of that.
        folder: where it is; None: :func:`default_folder`.

    Raises:
        InputError: there is no such file, or it cannot be read.
    """
    path = Path(folder or default_folder()).expanduser() / url.rpartition("/")[2]
    if not path.is_file():
        raise InputError(
            f"{metric}: no weights at {path}; download {url} and put it there, "
            "or pass `weights=FOLDER`, the folder that holds it"
        )
    try:
        with open(path, "rb") as file:
            found = hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from None
    hashes = re.findall(r"/([0-9a-f]{64})/|-([0-9a-f]{8})\.pth$", url)[0]
    return WeightFile(path, found, found.startswith("".join(hashes)))


def load_state(file: WeightFile) -> Mapping[str, Tensor]:
    """The tensors of a file by their names; nothing else is unpickled.

    Raises:
        InputError: it is damaged or holds other things.
    """
    try:
        state = torch.load(file.path, map_location="cpu", weights_only=True)
    except Exception as error:
        # damaged archives and pickles raise what they like
        reason = (str(error).strip() or type(error).__name__).split(".")[0].splitlines()[0]
        raise InputError(f"{file.path}: not readable as weights ({reason})") from None
    if not isinstance(state, Mapping) or not all(map(torch.is_tensor, state.values())):
        raise InputError(f"{file.path}: holds other things than tensors by name")
    return state


def load_into(network: torch.nn.Module, state: Mapping[str, Tensor], file: WeightFile) -> None:
    """Give a network its weights.

    Raises:
        InputError: they are those of another network.
    """
    try:
        network.load_state_dict(state)
    except RuntimeError as error:
        raise other_network(file, error) from None


def other_network(file: WeightFile, error: Exception) -> InputError:
    """What to raise if the names or shapes of a file's tensors do not fit."""
    reason = " ".join(str(error).split())
    return InputError(f"{file.path}: weights of another network ({reason[:200]})")
