"""The part of a configuration that describes the network."""

from abc import abstractmethod
from typing import Annotated, ClassVar, Literal

from pydantic import Field, PositiveInt, Tag, model_validator
from torch import nn

from skild_physics.config.section import MOST_LEVELS, Depth, Section, Side, Width, kind_or
from skild_physics.config.training import AnyCondition, TrainingConfig
from skild_physics.diffusion.prediction import Prediction
from skild_physics.diffusion.process import Process
from skild_physics.files import InputError
from skild_physics.networks import (
    CompactUNet,
    FlexiUNet,
    GuidedUNet,
    NCSNpp,
    StepNetwork,
    WhitenedInput,
)

Levels = Annotated[tuple[Width, ...], Field(min_length=1, max_length=MOST_LEVELS)]


class AnyNetwork(Section):
    """A kind of network, and what a run can ask of it."""

    kind: str
    published_names: ClassVar[tuple[str, str] | None] = None
    """Of a network that weights of published code fit, how its tensors are named: the module that
    all are in or that the first ones are in, and the convolution that first meets the fields."""

    @property
    def takes_levels(self) -> bool:
        """Fields of all levels of a scale-space process, and changes of the level."""
        return False

    @property
    @abstractmethod
    def multiple(self) -> int:
        """Sides of fields must be multiples of this."""

    @abstractmethod
    def build(
        self, process: Process, channels: int, conditioning: int = 0, labels: int = 0
    ) -> nn.Module:
        """The untrained network.

        Args:
            process: of the fields that it is for.
            channels: of these fields.
            conditioning: channels that the input has in addition, for conditional models.
            labels: how many of these, the last ones, are constant over a field.
        """

    @property
    def needs_spectrum(self) -> bool:
        """Whether it is made for the spectrum of full fields."""
        return False

    def multiple_for(self, N: int) -> int:
        """What sides must be multiples of where the full fields are N x N."""
        return self.multiple

    def check(self, training: TrainingConfig, condition: AnyCondition | None) -> None:
        """Refuse options that do not go with this network.

        Raises:
            InputError: naming the option.
        """

    def check_prediction(self, prediction: Prediction) -> None:
        """Refuse what a new run or an import cannot mean; older checkpoints may say it.

        Raises:
            InputError: naming the option.
        """

    def check_sizes(self, N: int, sides: tuple[int, ...]) -> None:
        """Refuse fields that are too small or of odd sides.

        Args:
            N: side of the full fields.
            sides: that of the fields on every level of the process.

        Raises:
            InputError: naming the key.
        """
        if N % self.multiple:
            raise InputError(
                f"network.channels: the network halves fields until their sides must be multiples "
                f"of {self.multiple}, got L = {N}"
            )


class CompactConfig(AnyNetwork):
    """The compact U-Net."""

    kind: Literal["compact"] = "compact"
    channels: Levels = (48, 64)
    """Channels of each level, finest first; each level halves the side."""
    blocks: Annotated[tuple[Depth, ...], Field(max_length=MOST_LEVELS)] = (2, 2)
    """Residual blocks of each level, on the way down and on the way up."""
    patch: Side = 2
    """Side of the pixel patches that the finest level works on."""
    embedding: Width = 64
    """Width of the embedding of log lambda."""
    whitened: bool = False
    """Show the network its fields with all modes of equal variance, too: for steep spectra."""

    @model_validator(mode="after")
    def _levels(self) -> "CompactConfig":
        if len(self.channels) != len(self.blocks):
            raise InputError("channels and blocks must have one entry per level")
        return self

    @property
    def multiple(self) -> int:
        """Sides of fields must be multiples of this."""
        return int(self.patch * 2 ** (len(self.channels) - 1))

    @property
    def needs_spectrum(self) -> bool:
        """Whether it is made for the spectrum of full fields."""
        return self.whitened

    def check(self, training: TrainingConfig, condition: AnyCondition | None) -> None:
        """See :meth:`AnyNetwork.check`."""
        if self.whitened and training.snr_threshold is not None:
            raise InputError("network.whitened: goes without training.snr_threshold")

    def build(
        self, process: Process, channels: int, conditioning: int = 0, labels: int = 0
    ) -> nn.Module:
        """See :meth:`AnyNetwork.build`."""
        shape = self.channels, self.blocks, self.patch, self.embedding, channels, process.basis
        if not self.whitened:
            return CompactUNet(*shape, conditioning, labels)
        # the first channels of whatever a network is conditioned on are a field
        whitened = 2 * channels if conditioning else channels
        network = CompactUNet(*shape, conditioning + whitened, labels)
        return WhitenedInput(network, process, whitened)


class FlexiConfig(CompactConfig):
    """Flexi-UNet: the compact U-Net, of which a small field uses the deeper levels only."""

    kind: Literal["flexi"]  # type: ignore[assignment]
    channels: Levels = (48, 64, 64, 64)
    """Channels of each level, finest first; each level halves the side."""
    blocks: Annotated[tuple[Depth, ...], Field(max_length=MOST_LEVELS)] = (2, 2, 2, 2)
    """Residual blocks of each level, on the way down and on the way up."""

    @property
    def takes_levels(self) -> bool:
        """See :attr:`AnyNetwork.takes_levels`."""
        return True

    def check_sizes(self, N: int, sides: tuple[int, ...]) -> None:
        """See :meth:`AnyNetwork.check_sizes`."""
        depth = len(self.channels)
        for M in sides:
            if N / M not in [2**level for level in range(depth)]:
                raise InputError(
                    f"network.channels: a Flexi-UNet of {depth} levels takes fields of {N} over "
                    f"1, 2, .., {2 ** (depth - 1)} sites per side, not {M}"
                )
        super().check_sizes(N, sides)

    def build(
        self, process: Process, channels: int, conditioning: int = 0, labels: int = 0
    ) -> nn.Module:
        """See :meth:`AnyNetwork.build`."""
        shape = self.channels, self.blocks, self.patch, self.embedding
        return FlexiUNet(process.N, *shape, channels, process.basis, conditioning)


class NCSNppConfig(AnyNetwork):
    """NCSN++, the published backbone."""

    published_names: ClassVar[tuple[str, str]] = ("all_modules", "all_modules.2.weight")

    kind: Literal["ncsnpp"]
    channels: Width = 128
    """Channels of the finest level."""
    multipliers: Levels = (1, 1, 2, 2, 2, 2)
    """Channels of each level over those of the finest; each level halves the side."""
    blocks: Depth = 6
    """Residual blocks of each level."""
    attention: tuple[PositiveInt, ...] = (32, 16, 8)
    """Sides at which there is self-attention."""
    dropout: float = Field(default=0.1, ge=0, lt=1)
    output: Literal["orthonormal", "paper"] = "orthonormal"
    """Normalisation of the transform that gives the network's output its meaning; published models
    of eps and v use the paper's, in which the raw output is N/2 times as large."""

    @property
    def multiple(self) -> int:
        """Sides of fields must be multiples of this."""
        return int(2 ** (len(self.multipliers) - 1))

    def multiple_for(self, N: int) -> int:
        """What sides must be multiples of; the paper's normalisation is that of one size."""
        return N if self.output == "paper" else self.multiple

    def check_prediction(self, prediction: Prediction) -> None:
        """See :meth:`AnyNetwork.check_prediction`.

        Fields in the paper's normalisation are compared with those in the same one: published
        networks that predict x_0, the previous step or w give these in pixels, as they are.
        """
        if self.output == "paper" and prediction not in ("eps", "v"):
            raise InputError(
                f"training.prediction = {prediction!r}: published networks give it in pixels, "
                "which network.output = 'orthonormal' stands for; 'paper' goes with eps and v"
            )

    def build(
        self, process: Process, channels: int, conditioning: int = 0, labels: int = 0
    ) -> nn.Module:
        """See :meth:`AnyNetwork.build`."""
        network = NCSNpp(
            process.N,
            self.channels,
            self.multipliers,
            self.blocks,
            self.attention,
            self.dropout,
            channels,
            conditioning,
        )
        return StepNetwork(
            network, process.schedule, process.T, process.N, process.basis, self.output
        )


class GuidedConfig(AnyNetwork):
    """Flexi-UNet as published, of the blocks of guided diffusion, or the plain U-Net of these."""

    published_names: ClassVar[tuple[str, str]] = ("input_blocks", "input_blocks.0.0.weight")

    kind: Literal["guided"]
    channels: Width = 128
    """Channels of the finest level, a multiple of 32."""
    multipliers: Levels = (1, 2, 3, 4)
    """Channels of each level over those of the finest; each level halves the side."""
    blocks: Depth = 2
    """Residual blocks of each level."""
    attention: tuple[PositiveInt, ...] = (16, 8)
    """Sides at which there is self-attention."""
    heads: Depth = 4
    """Of the attention."""
    dropout: float = Field(default=0.0, ge=0, lt=1)
    flexi: bool = True
    """Flexi-UNet; false: the plain network of the baseline with one level, DDPM."""

    @property
    def takes_levels(self) -> bool:
        """See :attr:`AnyNetwork.takes_levels`."""
        return self.flexi

    @property
    def multiple(self) -> int:
        """Sides of fields must be multiples of this."""
        return int(2 ** (len(self.multipliers) - 1))

    def check(self, training: TrainingConfig, condition: AnyCondition | None) -> None:
        """See :meth:`AnyNetwork.check`."""
        if condition is not None or training.snr_threshold is not None:
            raise InputError("network.kind = 'guided': goes without condition and snr_threshold")

    def check_sizes(self, N: int, sides: tuple[int, ...]) -> None:
        """See :meth:`AnyNetwork.check_sizes`."""
        depth = len(self.multipliers)
        for M in sides:
            level = max(each for each in range(depth) if each == 0 or M * 2**each <= N)
            if M % 2 ** (depth - 1 - level):
                raise InputError(
                    f"network.multipliers: fields of {M} of {N} sites per side are to be halved "
                    f"{depth - 1 - level} times, and cannot"
                )

    def build(
        self, process: Process, channels: int, conditioning: int = 0, labels: int = 0
    ) -> nn.Module:
        """See :meth:`AnyNetwork.build`."""
        shape = self.channels, self.multipliers, self.blocks, self.attention, self.heads
        network = GuidedUNet(process.N, *shape, self.dropout, channels, self.flexi)
        return StepNetwork(network, process.schedule, process.T, process.N, process.basis)


NetworkConfig = Annotated[
    Annotated[CompactConfig, Tag("compact")]
    | Annotated[FlexiConfig, Tag("flexi")]
    | Annotated[NCSNppConfig, Tag("ncsnpp")]
    | Annotated[GuidedConfig, Tag("guided")],
    kind_or("compact"),
]
