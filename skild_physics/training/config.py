"""The configuration of a training run: TOML in, validated, unknown keys are errors."""

import difflib
import math
import tomllib
from importlib.resources import files
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import (
    BaseModel,
    ConfigDict,
    Discriminator,
    Field,
    PositiveFloat,
    PositiveInt,
    Tag,
    ValidationError,
    model_validator,
)

from skild_physics.diffusion.downsampling import Downsampling
from skild_physics.diffusion.prediction import Prediction
from skild_physics.diffusion.schedule import (
    LinearBetaSchedule,
    LinearSchedule,
    LogLinearSchedule,
    Schedule,
    linear_to_resolution,
)
from skild_physics.kspace import Basis
from skild_physics.training.data import Symmetry

CONFIGS = "configs"


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    @model_validator(mode="before")
    @classmethod
    def _known_keys(cls, values: Any) -> Any:
        unknown = [key for key in values if key not in cls.model_fields] if values else []
        if isinstance(values, dict) and unknown:
            raise ValueError("; ".join(_unknown(key, list(cls.model_fields)) for key in unknown))
        return values


def _unknown(key: str, known: list[str]) -> str:
    near = difflib.get_close_matches(key, known, n=1)
    return f"no key {key!r}, " + (f"did you mean {near[0]!r}?" if near else f"only {known}")


class DataConfig(_Section):
    """Where the training fields come from."""

    source: str
    """HDF5 ensemble of generate-ising, folder of pictures, .npy stack, or the word cifar10."""
    size: PositiveInt | None = None
    """Pixels per side of the fields cut from pictures."""
    tile: bool = False
    """Every patch of a picture, not its centre."""
    resize: bool = False
    """Shrink pictures before cutting."""
    grey: bool = False
    """Luminance instead of colours."""
    data_dir: Path | None = None
    """Folder of the CIFAR-10 archive."""
    symmetry: Symmetry | None = None
    """Augmentation: torus (translations, rotations, reflections, sign), mirror, or none; by
    default torus for Ising ensembles and mirror for pictures."""
    heldout: PositiveInt = 256
    """Items at the end of the source that are never trained on; the held-out loss is theirs."""
    memory_gib: PositiveFloat = 4.0
    """Fields are loaded if they take no more, else read when they are drawn, which is slower."""


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


class LinearBetaConfig(_Section):
    """-ln abar = beta_0 t + (beta_1 - beta_0) t^2 / 2 of every mode, for white processes."""

    kind: Literal["linear-beta"]
    beta_0: float = Field(default=0.002, ge=0)
    """T beta of the first step; the defaults are those of SR3."""
    beta_1: PositiveFloat = 20.0
    """T beta of the last step."""

    def build(self, N: int, tau: float) -> Schedule:
        """The schedule for N x N fields all of whose modes are attenuated like the highest."""
        return LinearBetaSchedule(self.beta_0, self.beta_1).scaled(1 / white_k_c(N) ** 2)


def white_k_c(N: int) -> float:
    """A k_c above all wavenumbers, so that every mode is attenuated alike."""
    return math.sqrt(2) * math.pi * N


class WhiteConfig(_Section):
    """S0 = 1 for every orthonormal mode, all modes attenuated alike: the process of DDPM."""

    size: PositiveInt
    """Pixels per side of the fields that it is for."""
    basis: Basis


class LawConfig(_Section):
    """S0(k) = C (k^2 + k0_squared)^(-alpha), in the normalisation of the paper."""

    size: PositiveInt
    """Pixels per side of the fields that it is for."""
    C: PositiveFloat
    k0_squared: PositiveFloat
    alpha: PositiveFloat
    basis: Basis


class ProcessConfig(_Section):
    """The forward process."""

    spectrum: Path | None = None
    """Spectrum written by fit-spectrum; sets S0 and the basis."""
    spectrum_kind: Literal["measured", "fit"] = "measured"
    """S0 from the measured radial profile, or from the fitted law."""
    law: LawConfig | None = None
    """S0 and basis without a file, for published models."""
    white: WhiteConfig | None = None
    """White noise, for the baselines."""
    schedule: Annotated[
        LinearConfig | LogLinearConfig | LinearBetaConfig, Field(discriminator="kind")
    ]
    tau: PositiveFloat = 0.1
    """Signal-to-noise ratio that counts as resolved."""
    k_c: float = Field(default=0.0, ge=0)
    """Modes below k_c are attenuated like k_c, in radians per box side."""
    T: PositiveInt = 1000

    @model_validator(mode="after")
    def _one_spectrum(self) -> "ProcessConfig":
        if sum(given is not None for given in (self.spectrum, self.law, self.white)) != 1:
            raise ValueError("give one of spectrum, a file of fit-spectrum, law, and white")
        if (self.white is not None) != isinstance(self.schedule, LinearBetaConfig):
            raise ValueError("white goes with schedule.kind = 'linear-beta', and no other does")
        return self


class ConditionConfig(_Section):
    """What a conditional model (SR3) is told: a coarse field, interpolated on the full lattice."""

    factor: PositiveInt
    """Ratio of the sides of the full and the coarse field."""
    downsampling: Downsampling = "box"
    """How coarse fields are made of full ones."""


class CompactConfig(_Section):
    """The compact U-Net."""

    kind: Literal["compact"] = "compact"
    channels: tuple[PositiveInt, ...] = (48, 64)
    """Channels of each level, finest first; each level halves the side."""
    blocks: tuple[PositiveInt, ...] = (2, 2)
    """Residual blocks of each level, on the way down and on the way up."""
    patch: PositiveInt = 2
    """Side of the pixel patches that the finest level works on."""
    embedding: PositiveInt = 64
    """Width of the embedding of log lambda."""

    @model_validator(mode="after")
    def _levels(self) -> "CompactConfig":
        if len(self.channels) != len(self.blocks):
            raise ValueError("channels and blocks must have one entry per level")
        return self

    @property
    def multiple(self) -> int:
        """Sides of fields must be multiples of this."""
        return int(self.patch * 2 ** (len(self.channels) - 1))


class NCSNppConfig(_Section):
    """NCSN++, the published backbone."""

    kind: Literal["ncsnpp"]
    channels: PositiveInt = 128
    """Channels of the finest level."""
    multipliers: tuple[PositiveInt, ...] = (1, 1, 2, 2, 2, 2)
    """Channels of each level over those of the finest; each level halves the side."""
    blocks: PositiveInt = 6
    """Residual blocks of each level."""
    attention: tuple[PositiveInt, ...] = (32, 16, 8)
    """Sides at which there is self-attention."""
    dropout: float = Field(default=0.1, ge=0, lt=1)
    output: Literal["orthonormal", "paper"] = "orthonormal"
    """Normalisation of the transform that gives the network's output its meaning; published models
    use the paper's, in which the raw output is N/2 times as large."""

    @property
    def multiple(self) -> int:
        """Sides of fields must be multiples of this."""
        return int(2 ** (len(self.multipliers) - 1))


def _kind(values: Any) -> str:
    return str(values.get("kind", "compact") if isinstance(values, dict) else values.kind)


NetworkConfig = Annotated[
    Annotated[CompactConfig, Tag("compact")] | Annotated[NCSNppConfig, Tag("ncsnpp")],
    Discriminator(_kind),
]


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
    """Fields of a step, over all processes and accumulated parts."""
    accumulate: PositiveInt = 1
    """Parts that each process evaluates one after the other, to save memory."""
    optimizer: Literal["adamw", "muon"] = "adamw"
    """muon: for convolutions between hidden channels, with AdamW for the rest."""
    learning_rate: PositiveFloat = 2e-3
    warmup_steps: int = Field(default=100, ge=0)
    hold: float = Field(default=0.3, ge=0, le=1)
    """Share of the run at full learning rate; then it falls to zero along a cosine."""
    betas: tuple[float, float] = (0.9, 0.99)
    """Of AdamW."""
    weight_decay: float = Field(default=0.0, ge=0)
    clip: PositiveFloat = 1.0
    """Largest norm of the gradient."""
    ema: float = Field(default=0.998, ge=0, lt=1)
    """Decay of the moving average of the weights, shorter at the start."""
    precision: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """auto: bfloat16 where the hardware multiplies it fast."""
    compile: bool = True
    """Use torch.compile where it works."""
    seed: int = Field(default=0, ge=0)
    checkpoint_every: PositiveInt = 200
    """Steps between saved states."""
    evaluate_every: PositiveInt = 1000
    """Steps between held-out losses and pictures of samples; also done at the end."""

    def live_multiple_of(self, N: int) -> int:
        """What the sides of lattices of live modes are multiples of, for N x N fields."""
        return self.live_multiple or N // 4

    @model_validator(mode="after")
    def _possible(self) -> "TrainingConfig":
        if self.live_threshold is not None and self.timesteps != "uniform":
            raise ValueError("live_threshold needs timesteps = 'uniform'")
        if self.batch_size % self.accumulate:
            raise ValueError(
                f"batch_size = {self.batch_size} is not a multiple of accumulate = "
                f"{self.accumulate}"
            )
        return self


class Config(_Section):
    """A training run."""

    out: Path
    """Folder of the run."""
    data: DataConfig
    process: ProcessConfig
    condition: ConditionConfig | None = None
    network: NetworkConfig = CompactConfig()
    training: TrainingConfig = TrainingConfig()

    @model_validator(mode="after")
    def _possible(self) -> "Config":
        if self.training.live_threshold is not None and self.process.white is not None:
            raise ValueError("training.live_threshold: a white process has no scale to leave out")
        return self

    def to_json(self) -> dict[str, Any]:
        """Plain values, for saving."""
        return self.model_dump(mode="json")


def _explain(error: ValidationError, source: str) -> str:
    problems = []
    for e in error.errors():
        where = ".".join(str(part) for part in e["loc"])
        message = e["msg"].removeprefix("Value error, ")
        problems.append(f"{where}: {message}" if where else message)
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


def shipped_names() -> list[str]:
    """Names of the configurations that load_config takes in place of a file."""
    folder = files("skild_physics.training").joinpath(CONFIGS)
    return sorted(file.name.removesuffix(".toml") for file in folder.iterdir())


def load_config(path: str | Path, overrides: tuple[str, ...] = ()) -> Config:
    """Read a TOML file and apply overrides of the form "section.key=value".

    Relative paths in the file are taken from the file's folder. The name of a shipped
    configuration stands for that configuration, with paths taken from the working directory.

    Raises:
        ValueError: no such file, bad TOML, a bad override, or invalid values.
    """
    path = Path(path)
    try:
        if not path.exists() and str(path) in shipped_names():
            text = files("skild_physics.training").joinpath(CONFIGS, f"{path}.toml").read_text()
        else:
            text = path.read_text()
        values = tomllib.loads(text)
    except FileNotFoundError:
        raise ValueError(f"{path}: no such file, nor one of {', '.join(shipped_names())}") from None
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise ValueError(f"{path}: {error}") from None
    for override in overrides:
        _apply(values, override)
    config = parse_config(values, str(path))
    base = path.parent
    data, process = config.data, config.process
    source = data.source if data.source == "cifar10" else str(base / data.source)
    data_dir = base / data.data_dir if data.data_dir else None
    spectrum = base / process.spectrum if process.spectrum else None
    return config.model_copy(
        update={
            "out": base / config.out,
            "data": data.model_copy(update={"source": source, "data_dir": data_dir}),
            "process": process.model_copy(update={"spectrum": spectrum}),
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
