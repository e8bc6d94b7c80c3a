"""The configuration of a training run: TOML in, validated, unknown keys are errors."""

import tomllib
from importlib.resources import files
from pathlib import Path
from typing import Annotated, Any

import torch
from pydantic import Discriminator, Tag, model_validator
from torch import nn

from skild_physics.config.network import CompactConfig, NetworkConfig
from skild_physics.config.process import SkildConfig
from skild_physics.config.scale_space import ScaleSpaceConfig
from skild_physics.config.section import Section, kind_or
from skild_physics.config.training import (
    CoarseConfig,
    ConditionConfig,
    DataConfig,
    TrainingConfig,
)
from skild_physics.diffusion.process import Process
from skild_physics.files import InputError, check_file, meant
from skild_physics.memory import check_memory
from skild_physics.schema import validated

MOST_BYTES = 2**20
_UNIONS = ("process", "network", "levels", "schedule", "condition")

ProcessConfig = Annotated[
    Annotated[SkildConfig, Tag("skild")] | Annotated[ScaleSpaceConfig, Tag("scale-space")],
    kind_or("skild"),
]


def _condition_kind(values: Any) -> str:
    if isinstance(values, dict):
        return (CoarseConfig if "factors" in values else ConditionConfig).kind
    return str(values.kind)


AnyConditionConfig = Annotated[
    Annotated[ConditionConfig, Tag(ConditionConfig.kind)]
    | Annotated[CoarseConfig, Tag(CoarseConfig.kind)],
    Discriminator(_condition_kind),
]


class Config(Section):
    """A training run."""

    out: Path
    """Folder of the run."""
    data: DataConfig
    process: ProcessConfig
    condition: AnyConditionConfig | None = None
    network: NetworkConfig = CompactConfig()
    training: TrainingConfig = TrainingConfig()

    @model_validator(mode="after")
    def _possible(self) -> "Config":
        self.process.check(self.network, self.training, self.condition)
        self.network.check(self.training, self.condition)
        if self.data.spin_pixels is not None and self.kind != "skild":
            raise InputError("data.spin_pixels: goes with process.kind = 'skild', and no condition")
        return self

    @property
    def kind(self) -> str:
        """Of the model: that of its condition or, without one, of its process."""
        return self.process.kind if self.condition is None else self.condition.kind

    def check_sizes(self, modes: int, N: int, network: nn.Module | None = None) -> None:
        """Refuse fields that the process, the network or the options are not for.

        Args:
            modes: modes per axis of the process's spectrum.
            N: side of the fields.
            network: in place of the one that is described here.

        Raises:
            InputError: naming what does not fit.
        """
        if modes != N:
            raise InputError(
                f"{self.process.name} is for N = {modes}, the fields of {self.data.source} have "
                f"L = {N}"
            )
        if self.condition is not None:
            self.condition.check_size(N)
        if network is None:
            self.network.check_sizes(N, self.process.sides(N))
            multiple = self.network.multiple_for(N)
        else:
            multiple = int(getattr(network, "multiple", 1))
            if N % multiple:
                raise InputError(
                    f"`network`: takes sides that are multiples of {multiple}, got L = {N}"
                )
        self.training.check_size(N, multiple)

    def build_network(self, process: Process, channels: int) -> nn.Module:
        """The untrained network, for a process of fields of so many channels."""
        condition = self.condition
        inputs, labels = (
            (0, 0) if condition is None else (condition.inputs(channels), condition.labels)
        )
        with torch.device("meta"):
            # takes no memory
            shapes = self.network.build(process, channels, inputs, labels)
        count = sum(each.numel() for each in shapes.parameters())
        check_memory(f"`network`: {count:,} parameters", 4 * count)
        return self.network.build(process, channels, inputs, labels)

    def to_json(self) -> dict[str, Any]:
        """Plain values, for saving."""
        return self.model_dump(mode="json")


def parse_config(values: dict[str, Any], source: str = "config") -> Config:
    """Validate plain values, under the names that keys have now or had before.

    Raises:
        InputError: naming every key that is unknown, missing or out of range.
    """
    return validated(Config, values, source, without=_UNIONS)


def _shipped() -> Any:
    return files("skild_physics.config").joinpath("shipped")


def shipped_names() -> list[str]:
    """Names of the configurations that load_config takes in place of a file."""
    return sorted(file.name.removesuffix(".toml") for file in _shipped().iterdir())


def load_config(path: str | Path, overrides: tuple[str, ...] = ()) -> Config:
    """Read a TOML file and apply overrides of the form "section.key=value".

    Relative paths in the file are taken from the file's folder. The name of a shipped
    configuration stands for that configuration, with paths taken from the working directory.

    >>> import skild_physics as sk
    >>> sk.load_config("ising64", ("training.steps=50",)).training.steps
    50

    Raises:
        InputError: no such file, bad TOML, a bad override, or values that are invalid or unused.
    """
    path = Path(path)
    try:
        if not path.exists() and str(path) in shipped_names():
            text = _shipped().joinpath(f"{path}.toml").read_text()
        else:
            if not path.exists():
                other = meant(str(path), shipped_names())
                known = other or f", nor one of {', '.join(shipped_names())}"
                raise InputError(f"{path}: no such file{known}")
            if check_file(path).stat().st_size > MOST_BYTES:
                raise InputError(f"{path}: is too large for a configuration")
            text = path.read_text()
        values = tomllib.loads(text)
    except InputError:
        raise
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"{path}: not readable as TOML ({error})") from None
    for override in overrides:
        _apply(values, override)
    config = parse_config(values, str(path))
    _check_all_read(config, str(path))
    try:
        config.network.check_prediction(config.training.prediction)
    except InputError as error:
        raise InputError(f"{path}: {error}") from None
    return config.with_paths(path.parent.joinpath)


def _check_all_read(config: Config, source: str) -> None:
    """Refuse values that were given and that a run of the others does not read."""
    process, training = config.process, config.training
    for name, section, unread in (
        ("process", process, process.unread()),
        ("training", training, training.unread(process.changes_level)),
    ):
        for key in (key for key in unread if key in section.model_fields_set):
            raise InputError(f"{source}: {name}.{key} goes with {unread[key]}")


def _apply(values: dict[str, Any], override: str) -> None:
    key, equals, text = override.partition("=")
    parts = key.strip().split(".")
    if not equals or not all(parts):
        raise InputError(f"`overrides`: expected section.key=value, got {override!r}")
    try:
        value = tomllib.loads(f"value = {text}")["value"]
    except (ValueError, RecursionError):
        value = text
    for part in parts[:-1]:
        values = values.setdefault(part, {})
        if not isinstance(values, dict):
            raise InputError(f"`overrides`: {part} is not a section, in {override!r}")
    values[parts[-1]] = value
