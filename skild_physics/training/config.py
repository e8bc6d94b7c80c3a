"""The configuration of a training run: TOML in, validated, unknown keys are errors."""

import tomllib
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    PositiveFloat,
    PositiveInt,
    ValidationError,
    model_validator,
)

from skild_physics.diffusion.prediction import Prediction
from skild_physics.diffusion.schedule import (
    LinearSchedule,
    LogLinearSchedule,
    Schedule,
    linear_to_resolution,
)


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class DataConfig(_Section):
    """Where the training fields come from."""

    ensemble: Path
    """HDF5 ensemble written by generate-ising."""
    symmetries: bool = True
    """Augment with translations, rotations, reflections and spin flip."""


class LinearConfig(_Section):
    """lambda(t) = theta t / (lambda_i (1 - t) + lambda_f)^2."""

    kind: Literal["linear"] = "linear"
    theta: PositiveFloat = 9.0
    resolution: PositiveFloat | None = None
    """Effective resolution at t = 1, in pixels per side; sets lambda_i and lambda_f."""
    lambda_i: PositiveFloat | None = None
    lambda_f: PositiveFloat | None = None

    @model_validator(mode="after")
    def _one_way(self) -> "LinearConfig":
        explicit = (self.lambda_i is not None) + (self.lambda_f is not None)
        if (self.resolution is None) != (explicit == 2) or explicit == 1:
            raise ValueError("give either resolution, or both lambda_i and lambda_f")
        return self

    def build(self, N: int, tau: float) -> Schedule:
        """The schedule for N x N fields."""
        if self.resolution is not None:
            return linear_to_resolution(N, self.resolution, self.theta, tau)
        assert self.lambda_i is not None
        assert self.lambda_f is not None
        return LinearSchedule(self.lambda_i, self.lambda_f, self.theta)


class LogLinearConfig(_Section):
    """lambda(t) = t 10^(lambda_i + (lambda_f - lambda_i) t)."""

    kind: Literal["log-linear"]
    lambda_i: float
    lambda_f: float

    def build(self, N: int, tau: float) -> Schedule:
        """The schedule, the same for every N."""
        return LogLinearSchedule(self.lambda_i, self.lambda_f)


class ProcessConfig(_Section):
    """The forward process."""

    spectrum: Path
    """Spectrum written by fit-spectrum; sets S0 and the basis."""
    spectrum_kind: Literal["measured", "fit"] = "measured"
    """S0 from the measured radial profile, or from the fitted law."""
    schedule: Annotated[LinearConfig | LogLinearConfig, Field(discriminator="kind")]
    tau: PositiveFloat = 0.1
    """Signal-to-noise ratio that counts as resolved."""
    k_c: float = Field(default=0.0, ge=0)
    """Modes below k_c are attenuated like k_c, in radians per box side."""
    T: PositiveInt = 1000


class NetworkConfig(_Section):
    """The compact U-Net."""

    channels: tuple[PositiveInt, ...] = (32, 48, 64)
    """Channels of each level, finest first; each level halves the side."""
    blocks: tuple[PositiveInt, ...] = (1, 1, 2)
    """Residual blocks of each level, on the way down and on the way up."""
    patch: PositiveInt = 1
    """Side of the pixel patches that the finest level works on."""
    embedding: PositiveInt = 64
    """Width of the embedding of log lambda."""

    @model_validator(mode="after")
    def _levels(self) -> "NetworkConfig":
        if len(self.channels) != len(self.blocks):
            raise ValueError("channels and blocks must have one entry per level")
        return self

    @property
    def multiple(self) -> int:
        """Sides of fields must be multiples of this."""
        return int(self.patch * 2 ** (len(self.channels) - 1))


class TrainingConfig(_Section):
    """The optimisation."""

    prediction: Prediction = "v"
    shell_weight: bool = False
    """Weigh modes by the signal that a step removes from them (the paper's, for w and v)."""
    timesteps: Literal["uniform", "second-moment"] = "uniform"
    """How steps n are drawn: uniformly, or by the second moment of recent losses."""
    live_threshold: float | None = Field(default=None, gt=0)
    """Show the network only modes of a larger signal-to-noise ratio, on a smaller lattice."""
    live_multiple: PositiveInt | None = None
    """Sides of the smaller lattices are multiples of this; a quarter of the field's if not given.
    """
    steps: PositiveInt = 10_000
    batch_size: PositiveInt = 64
    learning_rate: PositiveFloat = 2e-3
    warmup_steps: int = Field(default=100, ge=0)
    hold: float = Field(default=0.3, ge=0, le=1)
    """Share of the run at full learning rate; then it falls to zero along a cosine."""
    weight_decay: float = Field(default=0.0, ge=0)
    clip: PositiveFloat = 1.0
    """Largest norm of the gradient."""
    ema: float = Field(default=0.998, ge=0, lt=1)
    """Decay of the moving average of the weights, shorter at the start."""
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    """auto: bfloat16 where the hardware multiplies it fast."""
    compile: bool = True
    """Use torch.compile where a C++ compiler is at hand."""
    seed: int = Field(default=0, ge=0)
    checkpoint_every: PositiveInt = 200
    """Steps between saved states."""

    def live_multiple_of(self, N: int) -> int:
        """What the sides of lattices of live modes are multiples of, for N x N fields."""
        return self.live_multiple or N // 4

    @model_validator(mode="after")
    def _one_way_to_draw(self) -> "TrainingConfig":
        if self.live_threshold is not None and self.timesteps != "uniform":
            raise ValueError("live_threshold needs timesteps = 'uniform'")
        return self


class Config(_Section):
    """A training run."""

    out: Path
    """Folder of the run."""
    data: DataConfig
    process: ProcessConfig
    network: NetworkConfig = NetworkConfig()
    training: TrainingConfig = TrainingConfig()

    def to_json(self) -> dict[str, Any]:
        """Plain values, for saving."""
        return self.model_dump(mode="json")


def _explain(error: ValidationError, source: str) -> str:
    problems = []
    for e in error.errors():
        where = ".".join(str(part) for part in e["loc"])
        problems.append(f"{where}: {e['msg']}" if where else e["msg"])
    return f"{source}: " + "; ".join(problems)


def parse_config(values: dict[str, Any], source: str = "config") -> Config:
    """Validate plain values.

    Raises:
        ValueError: naming every key that is unknown, missing or out of range.
    """
    try:
        return Config.model_validate(values)
    except ValidationError as error:
        raise ValueError(_explain(error, source)) from None


def load_config(path: str | Path, overrides: tuple[str, ...] = ()) -> Config:
    """Read a TOML file and apply overrides of the form "section.key=value".

    Relative paths in the file are taken from the file's folder.

    Raises:
        ValueError: no such file, bad TOML, a bad override, or invalid values.
    """
    path = Path(path)
    try:
        values = tomllib.loads(path.read_text())
    except FileNotFoundError:
        raise ValueError(f"{path}: no such file") from None
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise ValueError(f"{path}: {error}") from None
    for override in overrides:
        _apply(values, override)
    config = parse_config(values, str(path))
    base = path.parent
    return config.model_copy(
        update={
            "out": base / config.out,
            "data": config.data.model_copy(update={"ensemble": base / config.data.ensemble}),
            "process": config.process.model_copy(
                update={"spectrum": base / config.process.spectrum}
            ),
        }
    )


def _apply(values: dict[str, Any], override: str) -> None:
    key, equals, text = override.partition("=")
    parts = key.strip().split(".")
    if not equals or not all(parts):
        raise ValueError(f"--set takes section.key=value, got {override!r}")
    try:
        value = tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        value = text
    for part in parts[:-1]:
        values = values.setdefault(part, {})
        if not isinstance(values, dict):
            raise ValueError(f"--set {override}: {part} is not a section")
    values[parts[-1]] = value
