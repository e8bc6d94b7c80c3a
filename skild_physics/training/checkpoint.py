"""Checkpoints that never unpickle anything.

model.safetensors holds what inference needs: the averaged weights, the spectrum S0, and the
configuration as JSON in the header. state.pt holds what resuming needs (weights, average,
optimiser, step) and is read with weights_only=True.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from skild_physics import __version__
from skild_physics.diffusion.process import Process
from skild_physics.files import replacing
from skild_physics.kspace import Basis
from skild_physics.networks import CompactUNet
from skild_physics.training.config import Config, NetworkConfig, parse_config

SCHEMA = "skild_physics.checkpoint"
_WEIGHTS = "network."


@dataclass(frozen=True)
class Model:
    """A trained network with the process it was trained on."""

    network: CompactUNet
    process: Process
    config: Config
    trained_steps: int


def build_network(config: NetworkConfig) -> CompactUNet:
    """The untrained network of a configuration."""
    return CompactUNet(config.channels, config.blocks, config.patch, config.embedding)


def build_process(config: Config, S0: Tensor, basis: Basis) -> Process:
    """The forward process of a configuration, for a spectrum of orthonormal modes (N, N)."""
    settings = config.process
    schedule = settings.schedule.build(S0.shape[-1], settings.tau)
    return Process(S0, schedule, basis, settings.k_c, settings.T)


def save_model(
    path: str | Path, weights: dict[str, Tensor], process: Process, config: Config, step: int
) -> None:
    """Write the inference checkpoint, replacing an existing one at once."""
    tensors = {_WEIGHTS + name: w.detach().cpu().contiguous() for name, w in weights.items()}
    tensors["S0"] = process.S0.cpu()
    header = {
        "schema": SCHEMA,
        "schema_version": "1",
        "package_version": __version__,
        "basis": process.basis,
        "trained_steps": str(step),
        "config": json.dumps(config.to_json()),
    }
    with replacing(path) as temporary:
        temporary.write_bytes(save(tensors, metadata=header))


def load_model(path: str | Path, device: torch.device | str = "cpu") -> Model:
    """Read an inference checkpoint; a folder stands for the model.safetensors in it.

    Raises:
        ValueError: the file is missing, foreign, broken, or of a newer schema.
    """
    path = Path(path)
    if path.is_dir():
        path = path / "model.safetensors"
    if not path.is_file():
        raise ValueError(f"{path}: no such file")
    try:
        with safe_open(path, framework="pt", device="cpu") as file:
            header = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise ValueError(f"{path}: not a readable checkpoint ({error})") from None
    if header.get("schema") != SCHEMA:
        raise ValueError(f"{path}: not a checkpoint written by skild-physics train")
    if int(header["schema_version"]) > 1:
        raise ValueError(f"{path}: written by a newer version of skild_physics")
    config = parse_config(json.loads(header["config"]), str(path))
    S0 = tensors.pop("S0").to(device)
    network = build_network(config.network)
    try:
        network.load_state_dict({k.removeprefix(_WEIGHTS): w for k, w in tensors.items()})
    except RuntimeError as error:
        raise ValueError(f"{path}: weights do not fit the network: {error}") from None
    network = network.to(device, memory_format=torch.channels_last).eval()  # type: ignore[call-overload]
    basis: Basis = "cosine" if header["basis"] == "cosine" else "periodic"
    return Model(network, build_process(config, S0, basis), config, int(header["trained_steps"]))


def save_state(path: str | Path, state: dict[str, Any]) -> None:
    """Write the training state, replacing an existing one at once."""
    with replacing(path) as temporary:
        torch.save(state, temporary)


def load_state(path: str | Path) -> dict[str, Any]:
    """Read a training state without running any code in it.

    Raises:
        ValueError: the file is broken or not a training state.
    """
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        # a damaged archive surfaces as one of several exception types
        raise ValueError(f"{path}: not a readable training state ({error})") from None
    if not isinstance(state, dict) or "step" not in state:
        raise ValueError(f"{path}: not a training state")
    return state
