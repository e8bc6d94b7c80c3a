"""What every run has, whatever its process and network: data, a condition, the optimisation."""

from abc import abstractmethod
from collections.abc import Callable
from pathlib import Path
from typing import ClassVar, Literal, Self

from pydantic import Field, PositiveFloat, PositiveInt, model_validator

from skild_physics.config.section import Section
from skild_physics.diffusion.prediction import Prediction
from skild_physics.fields.downsampling import Downsampling
from skild_physics.fields.sources import WORDS, Boundary, Opening
from skild_physics.files import InputError
from skild_physics.kspace import Basis

Service = Literal["tensorboard", "wandb"]
Symmetry = Literal["torus", "mirror", "none"]


class DataConfig(Section):
    """Where the training fields come from."""

    source: str
    """File of fields, of this package or anybody's, folder of pictures, or one of the words cifar10
    and photographs; see :func:`skild_physics.fields.open_fields`, as for the next ten."""
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
    L: PositiveInt | None = None
    """Side of flattened fields."""
    dims: tuple[str, ...] | None = None
    """What each axis of an array is, of sample, channel, y and x."""
    data_range: float | tuple[float, float] | None = None
    """Pixels that are no bytes: their white, or black and white."""
    beta: float | None = None
    """Inverse temperature in 1/J of lattices that do not say it."""
    boundary: Boundary | None = None
    """Of a torus, periodic, or of patches, open."""
    basis: Basis | None = None
    """Natural basis of the modes."""
    symmetry: Symmetry | None = None
    """Augmentation: torus (translations, rotations, reflections, sign), mirror, or none; by
    default torus for the Ising model on one, mirror for pictures and none for others."""
    heldout: PositiveInt = 256
    """Items at the end of the source that are never trained on; the held-out loss is theirs. By
    default an eighth of fewer than 2048."""
    spin_pixels: tuple[float, float] | None = None
    """Train on lattices as pictures of red, green and blue, as published models did, in which these
    are the pixels of spins -1 and +1; what the model takes and makes are lattices."""
    memory_gib: PositiveFloat = 4.0
    """Fields are loaded if they take no more, else read when they are drawn, which is slower."""

    @model_validator(mode="after")
    def _two_pixels(self) -> Self:
        if self.spin_pixels is not None and self.spin_pixels[0] >= self.spin_pixels[1]:
            raise InputError("spin_pixels must be two numbers, the smaller one first")
        return self

    def opening(self) -> Opening:
        """What the source cannot say, as :func:`skild_physics.fields.open_fields` wants it."""
        return {
            "size": self.size,
            "tile": self.tile,
            "resize": self.resize,
            "grey": self.grey,
            "data_dir": self.data_dir,
            "L": self.L,
            "dims": self.dims,
            "data_range": self.data_range,
            "beta": self.beta,
            "boundary": self.boundary,
            "basis": self.basis,
        }

    def with_paths(self, change: Callable[[Path], Path]) -> Self:
        """The same values with every path changed; a source that is a word is none."""
        changed = super().with_paths(change)
        if self.source in WORDS:
            return changed
        return changed.model_copy(update={"source": str(change(Path(self.source)))})


class AnyCondition(Section):
    """What a network is shown beside the noisy field."""

    kind: ClassVar[str]
    """Of the models that have it."""
    fixed_steps: ClassVar[bool] = False
    """Steps n can only be drawn uniformly."""

    @property
    def optional(self) -> bool:
        """Whether some fields are trained on without one."""
        return False

    @abstractmethod
    def check_size(self, N: int) -> None:
        """Refuse fields of a side that has no coarse fields.

        Raises:
            InputError: naming the key.
        """

    def inputs(self, channels: int) -> int:
        """Channels that the network takes beside those of the noisy field."""
        return channels

    @property
    def labels(self) -> int:
        """How many of these, the last ones, are constant over a field."""
        return 0


class ConditionConfig(AnyCondition):
    """The conditioning of SR3: a coarse field, interpolated on the full lattice."""

    kind: ClassVar[str] = "conditional"

    factor: PositiveInt
    """Ratio of the sides of the full and the coarse field."""
    downsampling: Downsampling = "box"
    """How coarse fields are made of full ones."""

    def check_size(self, N: int) -> None:
        """Refuse fields of a side that has no coarse fields.

        Raises:
            InputError: the factor does not divide N.
        """
        if N % self.factor:
            raise InputError(f"condition.factor = {self.factor} does not divide L = {N}")


class CoarseConfig(AnyCondition):
    """Coarse fields of any factor, made in one of several ways, or none at all."""

    kind: ClassVar[str] = "coarse"
    fixed_steps: ClassVar[bool] = True
    factors: tuple[float, float]
    """The smallest and the largest ratio of the sides of the full and the coarse field."""
    kernels: dict[Downsampling, PositiveFloat]
    """How coarse fields are made, each with its share in training, in any units."""
    whole: float = Field(default=0.5, ge=0, le=1)
    """Share of coarse fields whose factor is a whole number, each as often as the others; the
    logarithm of the factor is uniform for the rest."""
    unconditional: float = Field(default=0.3, ge=0, lt=1)
    """Share of fields that are trained on without a coarse field."""
    consistent: bool = False
    """Train on estimates that agree with the coarse field, as sampling uses them, and show the
    network by how much its input does not."""
    start_snr: PositiveFloat = 0.01
    """Signal-to-noise ratio, where sampling starts, of the modes that a coarse field does not hold;
    fields that have one are trained on up to there."""
    focus: tuple[float, float] | None = None
    """Half of the steps n of fields that are shown whole, where they reach it, are drawn where x_n
    has an effective resolution between these two, the lower one first."""
    canonical: bool = False
    """Estimates of spins agree with averages over whole blocks as the means of independent spins
    whose sum is known, not to first order in what they lack."""

    @model_validator(mode="after")
    def _possible(self) -> Self:
        low, high = self.factors
        if not 1 < low <= high:
            raise InputError("factors must be two numbers above 1, the smaller one first")
        if self.focus is not None and not 0 < self.focus[0] < self.focus[1]:
            raise InputError("focus must be two positive numbers, the smaller one first")
        if not self.kernels:
            raise InputError("kernels must name one at least")
        return self

    @property
    def optional(self) -> bool:
        """See :attr:`AnyCondition.optional`."""
        return self.unconditional > 0

    def sides(self, N: int) -> tuple[int, ...]:
        """Sides of the coarse fields of N x N ones."""
        low, high = self.factors
        return tuple(M for M in range(1, N) if low <= N / M <= high)

    def check_size(self, N: int) -> None:
        """See :meth:`AnyCondition.check_size`."""
        if not self.sides(N):
            raise InputError(
                f"condition.factors: no coarse field of L = {N} has one between "
                f"{self.factors[0]:g} and {self.factors[1]:g}"
            )

    def inputs(self, channels: int) -> int:
        """See :meth:`AnyCondition.inputs`."""
        return channels * (1 + self.consistent) + 4 + self.labels

    @property
    def labels(self) -> int:
        """See :attr:`AnyCondition.labels`."""
        return len(self.kernels) + 1


class TrainingConfig(Section):
    """The optimisation."""

    _RENAMED: ClassVar[dict[str, str]] = {
        "live_threshold": "snr_threshold",
        "live_multiple": "active_multiple",
        "raising": "level_changes",
    }

    prediction: Prediction = "v"
    shell_weight: bool = False
    """Weigh modes by the signal that a step removes from them (the paper's, for w and v; that of w
    is whitened)."""
    timesteps: Literal["uniform", "second-moment"] = "uniform"
    """How steps n are drawn: uniformly, or by the second moment of recent losses."""
    min_snr: float | None = Field(default=None, gt=0, allow_inf_nan=True)
    """Scale space: weigh the squared error of x_0 by min(SNR, this), inf: by SNR; by default the
    output's, which is that of x_0 where x0 is predicted."""
    max_snr: float | None = Field(default=None, gt=0)
    """Scale space: weigh it by max(SNR, this) instead."""
    inverse_snr: bool = False
    """Scale space: weigh it by 1 / SNR instead."""
    level_changes: float = Field(default=0.1, gt=0, lt=1)
    """Scale space: share of the steps that learn to change the level."""
    snr_threshold: float | None = Field(default=None, gt=0)
    """Show the network only modes of a larger signal-to-noise ratio, on a smaller lattice; all of
    fields that are conditioned on coarse ones."""
    active_multiple: PositiveInt | None = None
    """Sides of the lattices of active modes are multiples of this; a quarter of the field's if not
    given."""
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
    clip: float = Field(default=1.0, gt=0, allow_inf_nan=True)
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
    keep_every: PositiveInt | None = None
    """Steps between models that stay in the folder kept; by default the last alone does."""
    log: Service | None = Field(default=None, exclude=True)
    """tensorboard or wandb: send losses there, too; no part of what a run is, and not kept."""

    def active_multiple_of(self, N: int) -> int:
        """What the sides of lattices of active modes are multiples of, for N x N fields."""
        return self.active_multiple or N // 4

    def check_size(self, N: int, multiple: int) -> None:
        """Refuse fields of a side of which there are no lattices of active modes.

        Args:
            N: side of the fields.
            multiple: the network takes sides that are multiples of this.

        Raises:
            InputError: the network does not take these lattices, or they do not divide N.
        """
        active = self.active_multiple_of(N)
        if self.snr_threshold is not None and (active % multiple or N % active):
            raise InputError(
                f"training.active_multiple: lattices of active modes must have sides that divide "
                f"L = {N} and that the network takes, multiples of {multiple}, got {active}"
            )

    def unread(self, changes_level: bool) -> dict[str, str]:
        """Keys that a run does not read, each with the key that would make it do so."""
        return ({} if changes_level else {"level_changes": "process.factors"}) | (
            {} if self.snr_threshold is not None else {"active_multiple": "snr_threshold"}
        )

    @property
    def snr_weights(self) -> list[str]:
        """Which keys weigh the squared error of x_0 by the signal-to-noise ratio."""
        given = {
            "min_snr": self.min_snr is not None,
            "max_snr": self.max_snr is not None,
            "inverse_snr": self.inverse_snr,
        }
        return [name for name in given if given[name]]

    @model_validator(mode="after")
    def _possible(self) -> "TrainingConfig":
        if len(self.snr_weights) > 1:
            raise InputError(f"give one of {' and '.join(self.snr_weights)}")
        if self.snr_threshold is not None and self.timesteps != "uniform":
            raise InputError("snr_threshold needs timesteps = 'uniform'")
        if self.batch_size % self.accumulate:
            raise InputError(
                f"batch_size = {self.batch_size} is not a multiple of accumulate = "
                f"{self.accumulate}"
            )
        return self
