"""Checkpoints of trained models, which never unpickle anything.

model.safetensors holds what inference needs: the averaged weights, the spectrum S0, and in the
header, as JSON, the kind and configuration, and the parameters of the ensemble trained on.
"""

import hashlib
import json
from dataclasses import fields
from importlib.resources import files
from pathlib import Path
from typing import Annotated, Any

import torch
from pydantic import BaseModel, Field, FiniteFloat, Json, NonNegativeInt, PositiveInt
from safetensors.torch import load as parsed
from safetensors.torch import save
from torch import Tensor, nn

from skild_physics.claims import replacing
from skild_physics.config import Config, parse_config
from skild_physics.fields.arrangement import MAX_CHANNELS
from skild_physics.fields.arrays import unreadable
from skild_physics.files import InputError, check_file, check_none_given, meant
from skild_physics.kspace import Basis
from skild_physics.machine import default_device
from skild_physics.models.base import SAMPLING_PRECISIONS, Model, SamplingPrecision
from skild_physics.models.coarse import CoarseSkild
from skild_physics.models.conditional import Conditional
from skild_physics.models.scale_space import ScaleSpaceModel
from skild_physics.models.skild import Skild
from skild_physics.models.spin_pictures import CHANNELS
from skild_physics.requests import REQUEST
from skild_physics.schema import validated
from skild_physics.version import __version__

SCHEMA = "skild_physics.checkpoint"
SCHEMA_VERSION = 2
"""Version 1 knew lattice ensembles of one channel only."""
BUNDLED, BUNDLED_PHOTOGRAPHS = "bundled", "bundled-photographs"
"""Names of the checkpoints that come with the package."""
_FOLDERS = {BUNDLED: "ising64", BUNDLED_PHOTOGRAPHS: "photographs64"}
KINDS: dict[str, type[Model]] = {
    "skild": Skild,
    "conditional": Conditional,
    "coarse": CoarseSkild,
    "scale-space": ScaleSpaceModel,
}
"""Models by the kind of their configuration."""
_WEIGHTS, _ERRORS = "network.", "error_variance."
_SHA256 = "sha256"


def build_model(
    config: Config,
    channels: tuple[str, ...],
    S0: Tensor,
    basis: Basis,
    network: nn.Module | None = None,
    *,
    ends: tuple[int, ...] | None = None,
    **others: Any,
) -> Model:
    """The model that a configuration describes, of its own kind.

    Args:
        config: of the training.
        channels: names of the channels.
        S0: variance of every orthonormal mode, float64 (N, N), on the device of the model.
        basis: of the modes.
        network: in place of the one that the configuration describes.
        ends: of a scale-space process, the last step of every level, if it is known.
        others: attributes of the model.

    Raises:
        InputError: attributes that this kind does not have, or that do not fit.
    """
    kind = KINDS[config.kind]
    if "snr_threshold" not in {each.name for each in fields(kind)}:
        threshold = {"snr_threshold": others.pop("snr_threshold", None)}
        check_none_given(threshold, "is for active modes, which this model does not have")
    process = config.process.build(S0, basis)
    inner = len(channels)
    if config.data.spin_pixels is not None:
        if inner != 1:
            raise InputError(
                f"data.spin_pixels: is for lattices, which have one channel, not {inner} "
                f"({', '.join(channels)})"
            )
        inner = CHANNELS
    if network is None:
        network = config.build_network(process, inner)
    own = kind.own_parts(config, ends)
    return kind(network, process, config, channels, **own, **others)


def save_model(path: str | Path, model: Model, request: str | None = None) -> None:
    """Write the inference checkpoint, replacing an existing one at once.

    Args:
        path: the file.
        model: what is written.
        request: what it was made for, see :mod:`skild_physics.claims`.
    """
    tensors: dict[str, Tensor] = {}
    known: set[int] = set()
    for name, w in model.network.state_dict().items():
        # what parts of a network share is written under each of its names
        kept = w.detach().cpu().contiguous()
        tensors[_WEIGHTS + name] = kept.clone() if kept.data_ptr() in known else kept
        known.add(kept.data_ptr())
    tensors["S0"] = model.process.S0.cpu()
    header = {
        "schema": SCHEMA,
        "schema_version": str(SCHEMA_VERSION),
        "package_version": __version__,
        "basis": model.basis,
        "channels": json.dumps(model.channels),
        "trained_steps": str(model.trained_steps),
        "config": json.dumps(model.config.to_json()),
        "trained_on": json.dumps(dict(model.trained_on)),
        **model.extra_header(),
        **({} if request is None else {REQUEST: request}),
    }
    for level, variance in enumerate(model.errors()):
        tensors[f"{_ERRORS}{level}"] = variance.cpu().contiguous()
    with replacing(path) as temporary:
        temporary.write_bytes(_in_order(save(tensors, metadata=header)))


def _in_order(archive: bytes) -> bytes:
    """An archive of safetensors whose header is sorted, with a digest of all that it holds."""
    header, tensors = _parts(archive)
    header["__metadata__"][_SHA256] = _checksum(header, tensors)
    text = json.dumps(header, sort_keys=True, separators=(",", ":")).encode()
    # tensors begin at a multiple of eight bytes
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text + tensors


def _parts(archive: bytes) -> tuple[dict[str, Any], memoryview]:
    """Header and tensors of an archive of safetensors."""
    end = 8 + int.from_bytes(archive[:8], "little")
    return json.loads(archive[8:end]), memoryview(archive)[end:]


def _checksum(header: dict[str, Any], tensors: memoryview) -> str:
    """SHA-256 of header and tensors, in hexadecimal, without that which the header has."""
    about = {k: v for k, v in header["__metadata__"].items() if k != _SHA256}
    text = json.dumps({**header, "__metadata__": about}, sort_keys=True)
    return hashlib.sha256(text.encode() + hashlib.sha256(tensors).digest()).hexdigest()


def checkpoint_file(path: str | Path) -> Path:
    """The file that a checkpoint's name stands for, see :func:`load`.

    Raises:
        InputError: there is none.
    """
    path = Path(path)
    if str(path) in _FOLDERS and not path.exists():
        path = Path(str(files("skild_physics"))) / "pretrained" / _FOLDERS[str(path)]
    if not path.exists() and (other := meant(str(path), _FOLDERS)):
        raise InputError(f"{path}: no such file{other}")
    if path.is_dir():
        path = path / "model.safetensors"
    return check_file(path)


def load(
    path: str | Path,
    *,
    snr_threshold: float | None = None,
    precision: SamplingPrecision = "float32",
    draw: bool = True,
    network: nn.Module | None = None,
    device: torch.device | str | None = None,
) -> Model:
    """A trained model, of whichever kind; a folder stands for the model.safetensors in it.

    Args:
        path: the file or folder; or "bundled" for the model of critical Ising lattices that comes
            with the package, or "bundled-photographs" for its model of photographs (each has a
            card in the folder `pretrained`).
        snr_threshold: of a SKILD model: show the network only modes of a larger signal-to-noise
            ratio; 0: all modes; None: as it was trained.
        precision: what its network computes in when it is sampled with, "float32" or "bfloat16";
            the weights and all else are float32 or better.
        draw: of a scale-space model: draw x_0 at changes of level with the variance of the error
            of its estimate, if that was measured; False: put the estimate in as it is, as
            published.
        network: a module of your own, if it was trained with that; its weights are replaced.
        device: where its tensors go; None: the GPU of this process if there is one.

    Raises:
        InputError: the file is missing, foreign, broken, or of a newer schema, or options that
            such a model does not have.

    >>> import skild_physics as sk
    >>> sk.load("bundled").size
    64
    """
    if precision not in SAMPLING_PRECISIONS:
        raise InputError(
            f"`precision` must be one of {', '.join(SAMPLING_PRECISIONS)}, got {precision!r}"
        )
    name, path = str(path), checkpoint_file(path)
    device = default_device() if device is None else device
    header, tensors, sha256 = _read(path)
    errors = [name for name in sorted(tensors) if name.startswith(_ERRORS)]
    config = parse_config(header.config, str(path))
    others: dict[str, Any] = {
        "trained_steps": header.trained_steps,
        "precision": precision,
        "snr_threshold": snr_threshold,
        "origin": {"checkpoint": name, "checkpoint_sha256": sha256},
        "trained_on": header.trained_on,
    }
    variances = tuple(tensors.pop(name).to(device) for name in errors)
    if variances and draw:
        others["error_variance"] = variances
    if not (draw or config.process.changes_level):
        raise InputError("`draw`: is for models whose fields change their level")
    model = build_model(
        config,
        header.channels,
        tensors.pop("S0").to(device),
        header.basis,
        network,
        ends=header.ends,
        **others,
    )
    try:
        model.network.load_state_dict({k.removeprefix(_WEIGHTS): w for k, w in tensors.items()})
    except RuntimeError:
        # what torch says of it takes many lines
        whose = "network of its configuration; pass the `network` that it was trained with"
        whose = whose if network is None else "`network` that was passed"
        raise InputError(f"{path}: weights do not fit the {whose}") from None
    model.network.to(device, memory_format=torch.channels_last).eval()  # type: ignore[call-overload]
    return model


def is_whole(path: Path) -> bool:
    """Whether a file is a checkpoint, and not damaged."""
    try:
        _read(path)
    except InputError:
        return False
    return True


class _Header(BaseModel):
    """What the header of a checkpoint says."""

    schema_version: int
    basis: Basis
    channels: Json[Annotated[tuple[str, ...], Field(min_length=1, max_length=MAX_CHANNELS)]] = (
        "spin",
    )
    trained_steps: NonNegativeInt
    config: Json[dict[str, Any]]
    trained_on: Json[dict[str, str | int | FiniteFloat | None]] = {}
    ends: Json[tuple[PositiveInt, ...]] | None = None


def _read(path: Path) -> tuple[_Header, dict[str, Tensor], str]:
    """Header and tensors of a checkpoint, and the SHA-256 of the file.

    Raises:
        InputError: it is damaged, foreign, of a newer version, or not what a checkpoint is.
    """
    try:
        archive = path.read_bytes()
        tensors = parsed(archive)
        header, values = _parts(archive)
        about = header.get("__metadata__", {})
        digest = about.get(_SHA256)
        if digest is not None and digest != _checksum(header, values):
            raise InputError(f"{path}: damaged (its checksum differs)")
    except InputError:
        raise
    except Exception as error:
        # tensors of types that torch has not, headers that are nested too deeply, and the like
        raise unreadable(path, "checkpoint", error) from None
    if about.get("schema") != SCHEMA:
        raise InputError(f"{path}: not a checkpoint written by skild-physics train")
    found = validated(_Header, about, path)
    if found.schema_version > SCHEMA_VERSION:
        raise InputError(f"{path}: written by a newer version of skild_physics")
    if found.schema_version == 1:
        data = found.config.get("data")
        if not isinstance(data, dict) or "ensemble" not in data:
            raise InputError(f"{path}: its configuration names no ensemble")
        found.config["data"] = {"source": data["ensemble"]}
    _check_modes(path, tensors)
    return found, tensors, hashlib.sha256(archive).hexdigest()


def _check_modes(path: Path, tensors: dict[str, Tensor]) -> None:
    """Refuse what are no variances of modes.

    Raises:
        InputError: naming the tensor.
    """
    if "S0" not in tensors:
        raise InputError(f"{path}: has no `S0`")
    for name, values in tensors.items():
        if not values.isfinite().all():
            raise InputError(f"{path}: its {name} holds nan or infinity")
        if name != "S0" and not name.startswith(_ERRORS):
            continue
        shape = tuple(values.shape)
        if values.dtype != torch.float64 or len(shape) != 2 or len({*shape}) > 1 or 0 in shape:
            raise InputError(
                f"{path}: its {name} is {shape} of {values.dtype}, expected (N, N) of torch.float64"
            )
        if (values < 0).any() or (name == "S0" and not values.any()):
            raise InputError(f"{path}: its {name} holds values that no variance has")
