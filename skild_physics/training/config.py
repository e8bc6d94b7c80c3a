"""The configuration of a training run: TOML in, validated, unknown keys are errors."""

import tomllib
from importlib.resources import files
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, PositiveFloat, PositiveInt, Tag, ValidationError, model_validator

from skild_physics.diffusion.downsampling import Downsampling
from skild_physics.diffusion.prediction import Prediction
from skild_physics.fields.sources import WORDS
from skild_physics.files import InputError
from skild_physics.training.data import Symmetry
from skild_physics.training.process_config import (
    AnyProcessConfig,
    ProcessConfig,
    ScaleSpaceConfig,
    Section,
    SpectrumLevelsConfig,
    kind_or,
)

CONFIGS = "configs"
_UNIONS = ("process", "network", "levels", "schedule")


class DataConfig(Section):
    """Where the training fields come from."""

    source: str
    """HDF5 file of fields or pictures, folder of pictures, .npy or .npz stack, or one of the words
    cifar10 and photographs."""
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


class ConditionConfig(Section):
    """What a conditional model (SR3) is told: a coarse field, interpolated on the full lattice."""

    factor: PositiveInt
    """Ratio of the sides of the full and the coarse field."""
    downsampling: Downsampling = "box"
    """How coarse fields are made of full ones."""


class CompactConfig(Section):
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
    whitened: bool = False
    """Show the network x_n with all modes of equal variance, too: for steep spectra."""

    @model_validator(mode="after")
    def _levels(self) -> "CompactConfig":
        if len(self.channels) != len(self.blocks):
            raise InputError("channels and blocks must have one entry per level")
        return self

    @property
    def multiple(self) -> int:
        """Sides of fields must be multiples of this."""
        return int(self.patch * 2 ** (len(self.channels) - 1))


class FlexiConfig(CompactConfig):
    """Flexi-UNet: the compact U-Net, of which a small field uses the deeper levels only."""

    kind: Literal["flexi"]  # type: ignore[assignment]
    channels: tuple[PositiveInt, ...] = (48, 64, 64, 64)
    """Channels of each level, finest first; each level halves the side."""
    blocks: tuple[PositiveInt, ...] = (2, 2, 2, 2)
    """Residual blocks of each level, on the way down and on the way up."""


class NCSNppConfig(Section):
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


NetworkConfig = Annotated[
    Annotated[CompactConfig, Tag("compact")]
    | Annotated[FlexiConfig, Tag("flexi")]
    | Annotated[NCSNppConfig, Tag("ncsnpp")],
    kind_or("compact"),
]


class TrainingConfig(Section):
    """The optimisation."""

    prediction: Prediction = "v"
    shell_weight: bool = False
    """Weigh modes by the signal that a step removes from them (the paper's, for w and v)."""
    timesteps: Literal["uniform", "second-moment"] = "uniform"
    """How steps n are drawn: uniformly, or by the second moment of recent losses."""
    min_snr: float | None = Field(default=None, gt=0)
    """Scale space: weigh the squared error of x_0 by min(SNR, this); by default the output's."""
    raising: float = Field(default=0.1, gt=0, lt=1)
    """Scale space: share of the steps that learn to change the level."""
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
    """What networks compute in; auto: bfloat16 where a run's first steps are faster for it."""
    compile: Literal["auto"] | bool = "auto"
    """Use torch.compile where it works; auto: where a run's first steps show that it pays."""
    threads: Literal["auto"] | PositiveInt = "auto"
    """Of one process; auto: as many as make a run's first steps faster, at most as many as
    OMP_NUM_THREADS says or the processor has cores."""
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
            raise InputError("live_threshold needs timesteps = 'uniform'")
        if self.batch_size % self.accumulate:
            raise InputError(
                f"batch_size = {self.batch_size} is not a multiple of accumulate = "
                f"{self.accumulate}"
            )
        return self


class Config(Section):
    """A training run."""

    out: Path
    """Folder of the run."""
    data: DataConfig
    process: AnyProcessConfig
    condition: ConditionConfig | None = None
    network: NetworkConfig = CompactConfig()
    training: TrainingConfig = TrainingConfig()

    @model_validator(mode="after")
    def _possible(self) -> "Config":
        process, settings = self.process, self.training
        if isinstance(process, ScaleSpaceConfig):
            self._possible_scale_space(process)
        elif settings.min_snr is not None:
            raise InputError("training.min_snr: goes with process.kind = 'scale-space'")
        elif isinstance(self.network, CompactConfig) and self.network.whitened:
            if settings.live_threshold is not None or self.condition is not None:
                raise InputError(
                    "network.whitened: goes without training.live_threshold and condition"
                )
        elif settings.live_threshold is not None and self.condition is not None:
            raise InputError("training.live_threshold: goes without condition")
        elif settings.live_threshold is not None and process.white is not None:
            raise InputError("training.live_threshold: a white process has no scale to leave out")
        return self

    def _possible_scale_space(self, process: ScaleSpaceConfig) -> None:
        settings = self.training
        other = {
            "condition": self.condition is not None,
            "training.live_threshold": settings.live_threshold is not None,
            "training.shell_weight": settings.shell_weight,
            "training.timesteps = 'second-moment'": settings.timesteps != "uniform",
        }
        other["network.whitened"] = getattr(self.network, "whitened", False)
        for name in (name for name, given in other.items() if given):
            raise InputError(f"{name} goes with process.kind = 'skild', not with 'scale-space'")
        if process.factors and not isinstance(self.network, FlexiConfig):
            raise InputError(
                f"network.kind = {self.network.kind!r} takes one level; several need 'flexi'"
            )
        if process.factors and settings.prediction not in ("x0", "v"):
            raise InputError(
                f"training.prediction = {settings.prediction!r}: changes of level need 'x0' or 'v'"
            )

    def to_json(self) -> dict[str, Any]:
        """Plain values, for saving."""
        return self.model_dump(mode="json")


def _explain(error: ValidationError, source: str) -> str:
    problems = []
    for e in error.errors():
        loc = [str(part) for part in e["loc"]]
        # pydantic names the member of a union after the union
        named = [part for before, part in pairwise(["", *loc]) if before not in _UNIONS]
        where = ".".join(named)
        message = e["msg"].removeprefix("Value error, ")
        problems.append(f"{where}: {message}" if where else message)
    return f"{source}: " + "; ".join(problems)


def parse_config(values: dict[str, Any], source: str = "config") -> Config:
    """Validate plain values.

    Raises:
        InputError: naming every key that is unknown, missing or out of range.
    """
    try:
        return Config.model_validate(values)
    except ValidationError as error:
        raise InputError(_explain(error, source)) from None


def shipped_names() -> list[str]:
    """Names of the configurations that load_config takes in place of a file."""
    folder = files("skild_physics.training").joinpath(CONFIGS)
    return sorted(file.name.removesuffix(".toml") for file in folder.iterdir())


def load_config(path: str | Path, overrides: tuple[str, ...] = ()) -> Config:
    """Read a TOML file and apply overrides of the form "section.key=value".

    Relative paths in the file are taken from the file's folder. The name of a shipped
    configuration stands for that configuration, with paths taken from the working directory.

    Raises:
        InputError: no such file, bad TOML, a bad override, or values that are invalid or unused.
    """
    path = Path(path)
    try:
        if not path.exists() and str(path) in shipped_names():
            text = files("skild_physics.training").joinpath(CONFIGS, f"{path}.toml").read_text()
        else:
            text = path.read_text()
        values = tomllib.loads(text)
    except FileNotFoundError:
        raise InputError(f"{path}: no such file, nor one of {', '.join(shipped_names())}") from None
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise InputError(f"{path}: {error}") from None
    for override in overrides:
        _apply(values, override)
    config = parse_config(values, str(path))
    _check_all_used(config, str(path))
    base = path.parent
    data, process = config.data, config.process
    source = data.source if data.source in WORDS else str(base / data.source)
    data_dir = base / data.data_dir if data.data_dir else None
    if isinstance(process, ProcessConfig):
        spectrum = base / process.spectrum if process.spectrum else None
        process = process.model_copy(update={"spectrum": spectrum})
    elif isinstance(process.levels, SpectrumLevelsConfig):
        levels = process.levels.model_copy(update={"file": base / process.levels.file})
        process = process.model_copy(update={"levels": levels})
    return config.model_copy(
        update={
            "out": base / config.out,
            "data": data.model_copy(update={"source": source, "data_dir": data_dir}),
            "process": process,
        }
    )


def _check_all_used(config: Config, source: str) -> None:
    """Refuse values that were given and that a run of the others does not read."""
    process, settings = config.process, config.training
    changes_level = isinstance(process, ScaleSpaceConfig) and bool(process.factors)
    has_spectrum = isinstance(process, ProcessConfig) and process.spectrum is not None
    is_white = isinstance(process, ProcessConfig) and process.white is not None
    for section, key, is_used, partner in (
        ("process", "degradation", changes_level, "process.factors"),
        ("process", "levels", changes_level, "process.factors"),
        ("process", "spectrum_kind", has_spectrum, "process.spectrum"),
        ("process", "k_c", not is_white, "process.spectrum or process.law"),
        ("training", "raising", changes_level, "process.factors"),
        ("training", "live_multiple", settings.live_threshold is not None, "live_threshold"),
    ):
        if key in getattr(config, section).model_fields_set and not is_used:
            raise InputError(f"{source}: {section}.{key} goes with {partner}")


def _apply(values: dict[str, Any], override: str) -> None:
    key, equals, text = override.partition("=")
    parts = key.strip().split(".")
    if not equals or not all(parts):
        raise InputError(f"`overrides`: expected section.key=value, got {override!r}")
    try:
        value = tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        value = text
    for part in parts[:-1]:
        values = values.setdefault(part, {})
        if not isinstance(values, dict):
            raise InputError(f"`overrides`: {part} is not a section, in {override!r}")
    values[parts[-1]] = value
