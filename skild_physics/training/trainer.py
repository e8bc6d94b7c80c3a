"""Training: minimise E |f(x_n, lambda_n) - target|^2 over fields, steps n and noise.

The target is defined in k-space; since the basis is orthonormal, the mean squared error over modes
equals that over sites (Parseval), and the network's output needs no transform.

Step i of a run draws everything it needs from a generator seeded with (seed, i), so an interrupted
and resumed run is the same run.
"""

import json
import math
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from skild_physics import kspace
from skild_physics.diffusion.adaptive import live_intervals
from skild_physics.diffusion.loss import LossSecondMomentSteps, shell_weight
from skild_physics.diffusion.prediction import target
from skild_physics.diffusion.process import Process
from skild_physics.fields import open_ensemble
from skild_physics.files import replacing
from skild_physics.spectrum import Spectrum
from skild_physics.training.checkpoint import (
    build_network,
    build_process,
    load_state,
    save_model,
    save_state,
)
from skild_physics.training.config import Config, TrainingConfig
from skild_physics.training.data import training_batch

Progress = Callable[[int, float], None]


def default_device() -> torch.device:
    """The GPU if there is one, else the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def autocast_dtype(precision: str, device: torch.device) -> torch.dtype:
    """The type networks compute in: bfloat16 where the hardware multiplies it fast."""
    if precision == "auto":
        fast = device.type == "cuda" or torch.cpu.get_capabilities().get("amx_bf16", False)
        precision = "bfloat16" if fast else "float32"
    return {"bfloat16": torch.bfloat16, "float32": torch.float32}[precision]


def compiled(network: nn.Module, wanted: bool) -> tuple[nn.Module, bool]:
    """The network under torch.compile, if wanted and a C++ compiler is at hand."""
    usable = wanted and any(shutil.which(name) for name in ("g++", "c++", "clang++"))
    return (cast(nn.Module, torch.compile(network)) if usable else network), usable


def learning_rate(settings: TrainingConfig, step: int) -> float:
    """Linear warm-up, a plateau, then a cosine to zero at the last step."""
    warm = min(1.0, (step + 1) / (settings.warmup_steps + 1))
    hold = settings.hold * settings.steps
    done = max(0.0, (step - hold) / max(settings.steps - hold, 1))
    return settings.learning_rate * warm * 0.5 * (1 + math.cos(math.pi * done))


def training_losses(
    network: nn.Module,
    process: Process,
    settings: TrainingConfig,
    fields: Tensor,
    n: Tensor,
    generator: torch.Generator,
    dtype: torch.dtype = torch.float32,
) -> Tensor:
    """Mean squared error over modes of the prediction for each field of a batch, shape (B,).

    Args:
        network: maps fields and lambda to fields.
        process: the forward process; of fewer modes than the fields have to train on the low ones.
        settings: says what is predicted, and how modes are weighed.
        fields: x_0 in pixel space, float32 (B, C, N, N).
        n: steps in (0, T], float64, shape (B,).
        generator: source of the noise, on the CPU.
        dtype: type the network computes in.
    """
    device = process.S0.device
    M, N = process.N, fields.shape[-1]
    x_0 = kspace.forward(fields.to(device), process.basis)[..., :M, :M] * (M / N)
    eps = torch.randn(x_0.shape, generator=generator).to(device)
    steps = n[:, None]
    alpha, sigma = (c.float() for c in process.marginal(steps))
    wanted = target(settings.prediction, process, steps, x_0, eps)
    inputs = kspace.inverse(alpha * x_0 + sigma * eps, process.basis)
    lam = (process.lam(n) * M**2).float().to(device)
    with torch.autocast(device.type, dtype, enabled=dtype != torch.float32):
        output = network(inputs.contiguous(memory_format=torch.channels_last), lam)
    if settings.shell_weight:
        away = kspace.forward(output.float(), process.basis) - wanted
        weighted = shell_weight(process, steps).float() * away.square()
    else:
        weighted = (output.float() - kspace.inverse(wanted, process.basis)).square()
    losses: Tensor = weighted.mean(dim=(1, 2, 3))
    return losses


class Levels:
    """Lattices of live modes to train on, each with the interval of steps that belongs to it.

    Args:
        process: the forward process.
        settings: says which modes are live; without a threshold there is one level, the process.
    """

    def __init__(self, process: Process, settings: TrainingConfig):
        ends = {process.N: float(process.T)}
        if settings.live_threshold is not None:
            multiple = settings.live_multiple_of(process.N)
            ends = live_intervals(process, settings.live_threshold, multiple)
        self._levels = [
            (process if M == process.N else process.cropped(M), start, end)
            for (M, end), start in zip(ends.items(), [0.0, *ends.values()], strict=False)
        ]

    def draw(self, count: int, generator: torch.Generator) -> tuple[Process, Tensor]:
        """A lattice, as often as its steps are drawn, and steps n uniform among these."""
        u = 1 - torch.rand(count + 1, generator=generator, dtype=torch.float64)
        chosen = float(u[0]) * self._levels[-1][2]
        at, start, end = next(level for level in self._levels if chosen <= level[2])
        return at, start + u[1:] * (end - start)


def _average_with_warmup(decay: float) -> Callable[[Any, Any, Any], None]:
    @torch.no_grad()
    def update(averages: list[Tensor], weights: list[Tensor], updates: Tensor | int) -> None:
        warm = min(decay, (1 + float(updates)) / (10 + float(updates)))
        torch._foreach_lerp_(averages, weights, 1 - warm)

    return update


def _inputs(config: Config) -> tuple[Tensor, Spectrum]:
    """Spins (sample, L, L) and their spectrum, once they are known to fit each other."""
    spectrum = Spectrum.load(config.process.spectrum)
    with open_ensemble(config.data.ensemble) as data:
        spins = torch.from_numpy(data["spins"].values)
    if spins.shape[-1] != spectrum.N:
        raise ValueError(
            f"{config.process.spectrum} is for N = {spectrum.N}, the fields of "
            f"{config.data.ensemble} have L = {spins.shape[-1]}"
        )
    if spectrum.N % config.network.multiple:
        raise ValueError(
            f"network.channels: {len(config.network.channels)} levels of patch "
            f"{config.network.patch} need fields of a side that is a multiple of "
            f"{config.network.multiple}, got L = {spectrum.N}"
        )
    live = config.training.live_multiple_of(spectrum.N)
    if config.training.live_threshold is not None and (
        live % config.network.multiple or spectrum.N % live
    ):
        raise ValueError(
            f"training.live_multiple: lattices of live modes must have sides that divide L = "
            f"{spectrum.N} and that the network takes, multiples of {config.network.multiple}, "
            f"got {live}"
        )
    return spins, spectrum


def _state_of(config: Config, path: Path) -> dict[str, Any] | None:
    """The saved state of this very run, if there is one."""
    if not path.exists():
        return None
    state = load_state(path)
    if json.loads(state["config"]) != config.to_json():
        raise ValueError(
            f"{config.out}: holds a run of another configuration; choose another folder, or pass "
            "--overwrite to discard it"
        )
    return state


def train(
    config: Config,
    progress: Progress = lambda step, loss: None,
    log: Callable[[str], None] = lambda line: None,
    overwrite: bool = False,
) -> Path:
    """Run, or go on with, a training and return the path of its inference checkpoint.

    Args:
        config: the run.
        progress: called after every step with the number of steps done and a running loss.
        log: receives lines of text about the run.
        overwrite: discard an existing run in the same folder.

    Raises:
        ValueError: inputs are missing or do not fit together, or the folder holds another run.
        FloatingPointError: the loss became nan or infinite; the last saved state stays.
    """
    settings = config.training
    spins, spectrum = _inputs(config)
    model_path, state_path = config.out / "model.safetensors", config.out / "state.pt"
    state = None if overwrite else _state_of(config, state_path)
    if state is not None and state["step"] >= settings.steps and model_path.exists():
        log(f"{model_path}: trained already, {settings.steps} steps")
        return model_path
    config.out.mkdir(parents=True, exist_ok=True)

    device = default_device()
    dtype = autocast_dtype(settings.precision, device)
    process = build_process(
        config,
        torch.as_tensor(spectrum.per_mode(config.process.spectrum_kind)).to(device),
        spectrum.basis,
    )
    torch.manual_seed(settings.seed)
    network = build_network(config.network)
    network = network.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    average = AveragedModel(network, multi_avg_fn=_average_with_warmup(settings.ema))
    optimizer = torch.optim.AdamW(
        network.parameters(),
        lr=settings.learning_rate,
        betas=(0.9, 0.99),
        weight_decay=settings.weight_decay,
        fused=True,
    )
    levels = Levels(process, settings)
    important = LossSecondMomentSteps(process.T) if settings.timesteps == "second-moment" else None
    start, running = 0, math.nan
    if state is not None:
        if important is not None:
            important.load_state_dict(state["steps"])
        network.load_state_dict(state["network"])
        average.load_state_dict(state["average"])
        optimizer.load_state_dict(state["optimizer"])
        start, running = state["step"], state["running_loss"]
    step_network, is_compiled = compiled(network, settings.compile)
    parameters = sum(p.numel() for p in network.parameters())
    log(
        f"{parameters:,} parameters, {len(spins):,} fields of {spectrum.N} x {spectrum.N}, "
        f"{settings.steps:,} steps of {settings.batch_size} on {device}, "
        f"{str(dtype).removeprefix('torch.')}, "
        f"{'compiled' if is_compiled else 'eager'}"
        + (f", going on from step {start:,}" if start else "")
    )

    def save(step: int) -> None:
        save_state(
            state_path,
            {
                "step": step,
                "running_loss": running,
                "config": json.dumps(config.to_json()),
                "network": network.state_dict(),
                "average": average.state_dict(),
                "optimizer": optimizer.state_dict(),
                "steps": important.state_dict() if important is not None else {},
            },
        )
        save_model(model_path, average.module.state_dict(), process, config, step)

    metrics = _metrics_until(config.out / "metrics.jsonl", start)
    began = time.perf_counter()
    with metrics.open("a") as lines:
        for step in range(start, settings.steps):
            seed = np.random.SeedSequence([settings.seed, step]).generate_state(1, np.uint64)
            generator = torch.Generator().manual_seed(int(seed[0]))
            for group in optimizer.param_groups:
                group["lr"] = learning_rate(settings, step)
            fields = training_batch(spins, settings.batch_size, config.data.symmetries, generator)
            if important is None:
                at, n = levels.draw(settings.batch_size, generator)
                losses = training_losses(step_network, at, settings, fields, n, generator, dtype)
                loss = losses.mean()
            else:
                n, factor = important.draw(settings.batch_size, generator)
                losses = training_losses(
                    step_network, process, settings, fields, n, generator, dtype
                )
                important.update(n, losses.detach())
                loss = (losses * factor.to(losses)).mean()
            optimizer.zero_grad()
            torch.autograd.backward(loss)
            nn.utils.clip_grad_norm_(network.parameters(), settings.clip)
            value = loss.item()
            if not math.isfinite(value):
                raise FloatingPointError(
                    f"the loss became {value} at step {step}; {state_path} keeps the state before"
                )
            optimizer.step()
            average.update_parameters(network)
            running = value if math.isnan(running) else 0.99 * running + 0.01 * value
            progress(step + 1, running)
            if (step + 1) % settings.checkpoint_every == 0 or step + 1 == settings.steps:
                seconds = time.perf_counter() - began
                rate = settings.batch_size * (step + 1 - start) / seconds
                line = {"step": step + 1, "loss": running, "fields_per_second": round(rate, 1)}
                lines.write(json.dumps(line) + "\n")
                lines.flush()
                save(step + 1)
    return model_path


def _metrics_until(path: Path, step: int) -> Path:
    """The metrics file without what a resumed run writes again, or an interruption left half."""
    kept = []
    for line in path.read_text().splitlines() if path.exists() else []:
        try:
            if json.loads(line)["step"] > step:
                break
        except ValueError:
            break
        kept.append(line + "\n")
    with replacing(path) as temporary:
        temporary.write_text("".join(kept))
    return path
