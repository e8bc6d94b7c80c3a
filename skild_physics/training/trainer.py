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
from skild_physics.diffusion.prediction import target
from skild_physics.diffusion.process import Marginal, Process
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


def training_loss(
    network: nn.Module,
    process: Process,
    settings: TrainingConfig,
    fields: Tensor,
    generator: torch.Generator,
    dtype: torch.dtype = torch.float32,
) -> Tensor:
    """Mean squared error of the prediction for a batch at random times, n uniform in (0, T].

    Args:
        network: maps fields and lambda to fields.
        process: the forward process.
        settings: says what is predicted.
        fields: x_0 in pixel space, float32 (B, C, N, N).
        generator: source of the draws, on the CPU.
        dtype: type the network computes in.
    """
    device = process.S0.device
    n = (1 - torch.rand(len(fields), 1, generator=generator, dtype=torch.float64)) * process.T
    x_0 = kspace.forward(fields.to(device), process.basis)
    eps = torch.randn(fields.shape, generator=generator).to(device)
    marginal = Marginal(*(c.float() for c in process.marginal(n)))
    x_n = marginal.alpha * x_0 + marginal.sigma * eps
    wanted = target(settings.prediction, x_0, eps, marginal, process.S0.float())
    lam = process.lam(n[:, 0]).float().to(device)
    inputs = kspace.inverse(x_n, process.basis).contiguous(memory_format=torch.channels_last)
    with torch.autocast(device.type, dtype, enabled=dtype != torch.float32):
        output = network(inputs, lam)
    error: Tensor = output.float() - kspace.inverse(wanted, process.basis)
    return error.square().mean()


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
    start, running = 0, math.nan
    if state is not None:
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
            loss = training_loss(step_network, process, settings, fields, generator, dtype)
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
