"""Checkpoints that never unpickle anything.

model.safetensors holds what inference needs: the averaged weights, the spectrum S0, and the
configuration as JSON in the header. state.pt holds what resuming needs (weights, average,
optimiser, step), is read with weights_only=True, and has a predecessor, state.previous.pt, that
takes its place if it is damaged.
"""

import hashlib
import json
import os
import zipfile
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any, Literal, cast, get_args

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from skild_physics import __version__
from skild_physics.diffusion.adaptive import adaptive_denoiser
from skild_physics.diffusion.prediction import Denoiser, denoiser
from skild_physics.diffusion.process import Process
from skild_physics.diffusion.renormalization import critical_denoiser, critical_process
from skild_physics.diffusion.scalespace import ScaleSpace
from skild_physics.diffusion.scalespace_sampling import Estimate, estimator
from skild_physics.files import InputError, check_none_given, replacing
from skild_physics.kspace import Basis
from skild_physics.training.build import build_network, build_process, build_scale_space
from skild_physics.training.config import Config, parse_config
from skild_physics.training.process_config import ScaleSpaceConfig

SCHEMA = "skild_physics.checkpoint"
SCHEMA_VERSION = 2
"""Version 1 knew lattice ensembles of one channel only."""
BUNDLED, BUNDLED_PHOTOGRAPHS = "bundled", "bundled-photographs"
"""Names of the checkpoints that come with the package."""
SamplingPrecision = Literal["float32", "bfloat16"]
SAMPLING_PRECISIONS: tuple[str, ...] = get_args(SamplingPrecision)
_FOLDERS = {BUNDLED: "ising64", BUNDLED_PHOTOGRAPHS: "photographs64"}
_WEIGHTS, _ERRORS = "network.", "error_variance."


@dataclass(frozen=True)
class Model:
    """A trained network with the process it was trained on.

    Attributes:
        network: in evaluation mode.
        process: that of full fields; for a scale-space process that of its finest level.
        config: of the training.
        channels: their names.
        trained_steps: number of steps.
        scale_space: the process, if it is one of Scale Space Diffusion.
        error_variance: of its estimate at each change of level, finest first; see
            :func:`skild_physics.diffusion.scalespace_sampling.reverse`.
        precision: what the network computes in when it is sampled with.
    """

    network: nn.Module
    process: Process
    config: Config
    channels: tuple[str, ...]
    trained_steps: int
    scale_space: ScaleSpace | None = None
    error_variance: tuple[Tensor, ...] = ()
    precision: SamplingPrecision = "float32"

    def _output(self, x: Tensor, *others: Any) -> Tensor:
        """The network's output, float32, computed in the precision asked for."""
        dtype = getattr(torch, self.precision)
        with torch.autocast(x.device.type, dtype, enabled=dtype != torch.float32):
            output: Tensor = self.network(x, *others)
        return output.float()

    @property
    def tau(self) -> float:
        """Signal-to-noise ratio that counts as resolved."""
        process = self.config.process
        return 0.1 if isinstance(process, ScaleSpaceConfig) else process.tau

    def estimate(self) -> Estimate:
        """The estimate of x_0 of a model of Scale Space Diffusion.

        Raises:
            InputError: it is a SKILD model.
        """
        if self.scale_space is None:
            raise InputError("this is a SKILD model, a scale-space model is needed")
        return estimator(self._output, self.scale_space, self.config.training.prediction)

    @property
    def multiple(self) -> int:
        """The network takes fields of sides that are multiples of this."""
        return cast(int, self.network.multiple)

    def live_threshold(self, wanted: float | None = None) -> float | None:
        """The signal-to-noise ratio of live modes, as trained if none is wanted; 0: all modes.

        None if the model has no live modes: it is one of Scale Space Diffusion, is conditional, or
        its process attenuates all modes alike.

        Raises:
            InputError: one is wanted of such a model.
        """
        config, process = self.config, self.config.process
        is_white = isinstance(process, ScaleSpaceConfig) or process.white is not None
        if is_white or config.condition is not None:
            whose = "is for live modes, which this model does not have"
            check_none_given({"live_threshold": wanted}, whose)
            return None
        return (config.training.live_threshold if wanted is None else wanted) or 0.0

    def denoiser(
        self, process: Process | None = None, live_threshold: float | None = None
    ) -> Denoiser:
        """The estimate of x_0, by default as the model was trained.

        Args:
            process: another process than the model's, of its resized fields, say.
            live_threshold: evaluate on modes of a larger signal-to-noise ratio only, see
                :func:`skild_physics.diffusion.adaptive.adaptive_denoiser`; 0: on all modes.

        Raises:
            InputError: it is a scale-space model.
        """
        if self.scale_space is not None:
            raise InputError("this is a scale-space model, a SKILD model is needed")
        settings, process = self.config.training, process or self.process
        threshold = self.live_threshold(live_threshold)
        if not threshold:
            return denoiser(self._output, process, settings.prediction)
        # lattices of live modes of the same spacing as in training
        multiple = settings.live_multiple_of(self.process.N) * process.N // self.process.N
        if process.N % max(multiple, 1) or multiple % self.multiple:
            multiple = self.multiple
        return adaptive_denoiser(self._output, process, settings.prediction, threshold, multiple)

    def critical(self, N: int, live_threshold: float | None = None) -> tuple[Process, Denoiser]:
        """The process and the estimate of x_0 of critical fields of another size.

        See :mod:`skild_physics.diffusion.renormalization`.

        Args:
            N: side of the lattice, at least that of the model.
            live_threshold: see :meth:`denoiser`.

        Raises:
            InputError: as :func:`skild_physics.diffusion.renormalization.critical_process`.
        """
        process = critical_process(self.process, N)
        threshold = self.live_threshold(live_threshold)
        if not threshold or N == self.process.N:
            return process, self.denoiser(process, threshold)
        sides = [self.process.N]
        while 2 * sides[-1] < N:
            sides.append(2 * sides[-1])
        smaller = [critical_process(self.process, side) for side in sides]
        levels = [(each, self.denoiser(each, threshold)) for each in (*smaller, process)]
        return process, critical_denoiser(levels, threshold)

    def told(self, told: Tensor) -> Denoiser:
        """The estimate of x_0 of a conditional model that is told fields (B, C, N, N)."""

        def network(x: Tensor, lam: Tensor) -> Tensor:
            return self._output(torch.cat([x, told], dim=1), lam)

        return denoiser(network, self.process, self.config.training.prediction)


def save_model(path: str | Path, model: Model) -> None:
    """Write the inference checkpoint, replacing an existing one at once."""
    weights = model.network.state_dict()
    tensors = {_WEIGHTS + name: w.detach().cpu().contiguous() for name, w in weights.items()}
    tensors["S0"] = model.process.S0.cpu()
    for level, variance in enumerate(model.error_variance):
        tensors[f"{_ERRORS}{level}"] = variance.cpu().contiguous()
    header = {
        "schema": SCHEMA,
        "schema_version": str(SCHEMA_VERSION),
        "package_version": __version__,
        "basis": model.process.basis,
        "channels": json.dumps(model.channels),
        "trained_steps": str(model.trained_steps),
        "config": json.dumps(model.config.to_json()),
    }
    if model.scale_space is not None:
        header["ends"] = json.dumps(model.scale_space.ends)
    with replacing(path) as temporary:
        temporary.write_bytes(save(tensors, metadata=header))


def checkpoint_file(path: str | Path) -> Path:
    """The file that a checkpoint's name stands for, see :func:`load_model`.

    Raises:
        InputError: there is none.
    """
    path = Path(path)
    if str(path) in _FOLDERS and not path.exists():
        path = Path(str(files("skild_physics"))) / "pretrained" / _FOLDERS[str(path)]
    if path.is_dir():
        path = path / "model.safetensors"
    if not path.is_file():
        raise InputError(f"{path}: no such file")
    return path


def checkpoint_digest(path: str | Path) -> str:
    """SHA-256 of a checkpoint, in hexadecimal."""
    with open(checkpoint_file(path), "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def load_model(
    path: str | Path,
    device: torch.device | str = "cpu",
    precision: SamplingPrecision = "float32",
) -> Model:
    """Read an inference checkpoint; a folder stands for the model.safetensors in it.

    Args:
        path: the file or folder; or "bundled" for the model of critical Ising lattices that comes
            with the package, or "bundled-photographs" for its model of photographs (see their
            cards, pretrained/*/README.md).
        device: where its tensors go.
        precision: what its network computes in when it is sampled with; the weights and all else
            are float32 or better.

    Raises:
        InputError: the file is missing, foreign, broken, or of a newer schema.
    """
    path = checkpoint_file(path)
    try:
        with safe_open(path, framework="pt", device="cpu") as file:
            header = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise InputError(f"{path}: not a readable checkpoint ({error})") from None
    if header.get("schema") != SCHEMA:
        raise InputError(f"{path}: not a checkpoint written by skild-physics train")
    if int(header["schema_version"]) > SCHEMA_VERSION:
        raise InputError(f"{path}: written by a newer version of skild_physics")
    values = json.loads(header["config"])
    if int(header["schema_version"]) == 1:
        header["channels"] = '["spin"]'
        values["data"] = {"source": values["data"]["ensemble"]}
    config = parse_config(values, str(path))
    basis: Basis = "cosine" if header["basis"] == "cosine" else "periodic"
    channels = tuple(json.loads(header["channels"]))
    process = build_process(config, tensors.pop("S0").to(device), basis)
    ends = tuple(json.loads(header["ends"])) if "ends" in header else None
    scale_space = build_scale_space(config, ends)
    variances = [name for name in sorted(tensors) if name.startswith(_ERRORS)]
    error_variance = tuple(tensors.pop(name).to(device) for name in variances)
    network = build_network(config, process, len(channels))
    try:
        network.load_state_dict({k.removeprefix(_WEIGHTS): w for k, w in tensors.items()})
    except RuntimeError as error:
        raise InputError(f"{path}: weights do not fit the network: {error}") from None
    network = network.to(device, memory_format=torch.channels_last).eval()  # type: ignore[call-overload]
    steps = int(header["trained_steps"])
    return Model(network, process, config, channels, steps, scale_space, error_variance, precision)


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
