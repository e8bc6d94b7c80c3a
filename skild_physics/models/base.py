"""What every model can be asked for: fields, made from noise or from other fields.

A kind of model says where the reverse process starts (``prior``, ``diffused``, ``observed``,
``rescaled``), and lists only what it can; the verbs are written once, here:

    generate        unconditional samples
    reconstruct     fields at full resolution, diffused and made again: the paper's paired protocol
    super_resolve   from real coarse fields
    enlarge         from smaller critical fields: inverse renormalisation
"""

import hashlib
import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import KW_ONLY, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, Literal, Self, Unpack, get_args

import numpy as np
import torch
import xarray as xr
from torch import Tensor, nn

from skild_physics.config import Config
from skild_physics.diffusion.philox import BIT_GENERATOR
from skild_physics.diffusion.process import Process
from skild_physics.diffusion.reverse import BATCH_SIZE, Sampled, Start, nothing, sample
from skild_physics.diffusion.sampler import Multistep, Sampler
from skild_physics.fields import batches, channels_of, open_fields, pictures_of
from skild_physics.fields.downsampling import Downsampling
from skild_physics.fields.lazy import content
from skild_physics.fields.picture_files import holds_pictures
from skild_physics.fields.sources import Opening
from skild_physics.files import InputError, json_text
from skild_physics.kspace import Basis
from skild_physics.memory import MOST_COMPRESSED, check_disk, check_memory
from skild_physics.models.agreement import (
    CHECKED,
    IMPOSSIBLE,
    NO_SPINS,
    check_range,
    variance_ratios,
)
from skild_physics.models.making import (
    GIVEN_START,
    How,
    Load,
    input_attributes,
    loaded,
    opened_states,
    parameters_of,
    sampled,
)
from skild_physics.models.objective import Loss, Objective, squared_error
from skild_physics.models.spin_pictures import CHANNELS, SpinPictures
from skild_physics.progress import Progress, logger, silent

SamplingPrecision = Literal["float32", "bfloat16"]
SAMPLING_PRECISIONS: tuple[str, ...] = get_args(SamplingPrecision)
KEEP = 0.25
"""Of the resolution of a lattice: its artefacts fall with the square of a mode's wavenumber."""
MOST_UNLIKE = 4.0
"""Factor between the variance of given states and the process', which few of them may miss by."""
SAMPLES = 64
PREVIEW_EVALS = 10


@dataclass(frozen=True, eq=False, repr=False)
class Model(ABC):
    """A trained network with the process it was trained on.

    Attributes:
        network: in evaluation mode; maps fields and lambda to fields.
        process: that of full fields; for a scale-space process that of its finest level.
        config: of the training.
        channels: their names.
        trained_steps: number of steps.
        precision: what the network computes in when it is sampled with.
        origin: where it was loaded from, for the provenance of what it makes.
        trained_on: what its training fields said they are, which what it makes is, too: "model",
            "beta" in 1/J and "boundary" of a lattice ensemble.

    >>> import skild_physics as sk
    >>> model = sk.load("bundled")
    >>> model.size, model.channels, model.basis
    (64, ('spin',), 'periodic')
    """

    network: nn.Module
    process: Process
    config: Config
    channels: tuple[str, ...]
    _: KW_ONLY
    trained_steps: int = 0
    precision: SamplingPrecision = "float32"
    origin: Mapping[str, str] = field(default_factory=dict)
    trained_on: Mapping[str, Any] = field(default_factory=dict)

    name: ClassVar[str]
    default_sampler: ClassVar[Sampler] = Multistep()

    # what a kind says

    @classmethod
    def own_parts(cls, config: Config, ends: tuple[int, ...] | None) -> dict[str, Any]:
        """Attributes of this kind alone, from the configuration and what a checkpoint knows.

        Args:
            config: of the training.
            ends: of a scale-space process, the last step of every level, if it is known.
        """
        return {}

    def prior(self, L: int) -> Start:
        """The start of unconditional samples of side L.

        Raises:
            InputError: the model cannot make them.
        """
        raise InputError(f"{self.name} cannot generate: use super_resolve")

    @abstractmethod
    def diffused(self, M: int, factor: float) -> Start:
        """The start from fields of side M at full resolution.

        Raises:
            InputError: a side or a factor that the model does not serve.
        """

    @abstractmethod
    def observed(self, M: int, factor: float, kernel: Downsampling | None) -> Start:
        """The start from real coarse fields of side M.

        Args:
            M: their side.
            factor: ratio of the sides.
            kernel: how they were made; None: unknown.

        Raises:
            InputError: a side, a factor or a kernel that the model does not serve.
        """

    def rescaled(self, M: int, factor: float, keep: float) -> Start:
        """The start from smaller critical fields of side M.

        Raises:
            InputError: the model cannot enlarge, or does not serve the side or the factor.
        """
        raise InputError(f"{self.name} cannot enlarge: it knows no rescaled protocol")

    @abstractmethod
    def objective(self, loss: Loss = squared_error) -> Objective:
        """What its training minimises.

        Args:
            loss: of the network's output and its target, fields (B, C, M, M), for each field (B,).
        """

    def calibrated(self, heldout: Tensor, batch_size: int) -> Self:
        """The model with what its sampling must know of its errors, from held-out fields."""
        return self

    def errors(self) -> tuple[Tensor, ...]:
        """What :meth:`calibrated` found, for the checkpoint."""
        return ()

    def about(self) -> dict[str, Any]:
        """What else fields say about the model that made them; None: does not apply."""
        return {}

    def extra_header(self) -> dict[str, str]:
        """What else the header of the checkpoint says."""
        return {}

    # what follows

    @property
    def size(self) -> int:
        """Side of the fields it was trained on."""
        return self.process.N

    @property
    def basis(self) -> Basis:
        """Basis of its modes."""
        return self.process.basis

    @property
    def multiple(self) -> int:
        """The network takes fields of sides that are multiples of this."""
        return int(getattr(self.network, "multiple", 1))

    @property
    def snr(self) -> float:
        """Signal-to-noise ratio that counts as resolved."""
        return self.config.process.snr

    def __repr__(self) -> str:
        count = sum(p.numel() for p in self.network.parameters())
        return (
            f"{self.name} of {self.size} x {self.size} fields ({', '.join(self.channels)}), "
            f"{type(self.network).__name__} with {count:,} parameters, {self.trained_steps:,} steps"
        )

    @property
    def spin_pictures(self) -> SpinPictures | None:
        """How lattices are shown to a network that was trained on pictures of them."""
        pixels = self.config.data.spin_pixels
        return None if pixels is None else SpinPictures(*pixels)

    def pictured(self, fields: Tensor) -> Tensor:
        """Fields (B, C, M, M) as the network is trained on them."""
        return fields if self.spin_pictures is None else self.spin_pictures.of(fields)

    def output(self, x: Tensor, *others: Any) -> Tensor:
        """The network's output, float32, computed in the precision asked for."""
        dtype = getattr(torch, self.precision)
        with torch.autocast(x.device.type, dtype, enabled=dtype != torch.float32):
            output: Tensor = self.network(x, *others)
        return output.float()

    @property
    def can_generate(self) -> bool:
        """Whether it makes unconditional samples."""
        try:
            self.prior(self.size)
        except InputError:
            return False
        return True

    def preview_start(self) -> Start:
        """Where a training's pictures of samples start."""
        return self.prior(self.size)

    def preview(self, truth: Tensor) -> Sampled:
        """A few samples, as a training run shows them, beside held-out fields (sample, C, N, N).

        Both are pictures where the network is trained on those.
        """
        sampler = type(self.default_sampler)(PREVIEW_EVALS + self.extra_evals)
        return sample(self.preview_start(), truth, sampler)

    @property
    def extra_evals(self) -> int:
        """Evaluations that it takes before any are spent on quality."""
        return 0

    def generate(
        self,
        samples: int | None = None,
        *,
        L: int | None = None,
        start: Any = None,
        sampler: Sampler | None = None,
        seed: int = 0,
        batch_size: int = BATCH_SIZE,
        out: str | Path | None = None,
        start_out: str | Path | None = None,
        overwrite: bool = False,
        progress: Progress = silent,
    ) -> xr.DataArray:
        """Unconditional samples.

        Every field has a seed of its own: the result is the same whatever the batch size and the
        number of processes of torchrun, bit for bit on most processors; GPUs and some processors
        round batches of other sizes in another way. With ``out`` an interrupted call goes on when
        it is repeated, and one that was finished returns what it made.

        Args:
            samples: number of fields; None: 64, or as many as ``start`` holds.
            L: side of the lattice; a larger one than the model's is made by scale invariance, for
                critical Ising fields. None: the model's.
            start: see :meth:`reconstruct`.
            sampler: how; None: what suits the model.
            seed: integer root of all draws.
            batch_size: fields at a time, at most; of more than 256 sites a side fewer, 2**22 sites.
            out: HDF5 file; .npz; or, without a suffix, a folder of PNG pictures. None: in memory.
            start_out: .npy file of what the reverse process starts from, in pixels.
            overwrite: replace an existing result.
            progress: shows how many fields are done.

        Returns:
            float32 (sample, y, x) or (sample, channel, y, x), with how they were made.

        Raises:
            InputError: the model cannot generate, values out of range, or other states than these.

        >>> import skild_physics as sk
        >>> sk.load("bundled").generate(2, sampler=sk.Multistep(n_evals=2)).shape
        (2, 64, 64)
        """
        how = self._how(sampler, seed, batch_size, out, start_out, overwrite, progress)
        if samples is None:
            samples = SAMPLES if start is None else len(opened_states(start, self.basis))
        if samples < 1:
            raise InputError(f"`samples` must be at least 1, got {samples}")
        self._check_possible(self.size if L is None else L, samples, how)
        prior = self._of_lattices(self.prior(self.size if L is None else L))
        given = nothing(samples, len(self.channels))
        made = {"protocol": "generation", "size": prior.size}
        made |= self._parameters(other_size=prior.size != self.size)
        return self._made(
            prior, lambda first, last: given[first:last], samples, made, how, begin=start
        )

    def reconstruct(
        self,
        fields: Any,
        factor: float,
        *,
        samples: int | None = None,
        start: Any = None,
        sampler: Sampler | None = None,
        seed: int = 0,
        batch_size: int = BATCH_SIZE,
        out: str | Path | None = None,
        start_out: str | Path | None = None,
        overwrite: bool = False,
        progress: Progress = silent,
        **opening: Unpack[Opening],
    ) -> xr.DataArray:
        """Fields at full resolution, diffused to N / factor and made again from there.

        This is the paired protocol of arXiv 2605.26032: the result can be compared with the truth
        field by field. It measures reconstruction, and needs the answer to start from.

        Args:
            fields: anything that :func:`skild_physics.fields.open_fields` takes, not trained on.
            factor: ratio of the resolutions, any real number of at least 1.
            samples: the first so many of them; None: all.
            start: what the reverse process starts from, in pixels, of this or another code: what
                ``start_out`` wrote, a result in HDF5 that has it, or anything else that
                :func:`skild_physics.fields.open_fields` takes; or a .pt file whose tensor x_init_k
                holds modes, as the published code keeps them. The first ones, as many as are made.
                None: drawn. Later noise is the same in both cases.
            sampler: with ``seed``, ``batch_size``, ``out``, ``overwrite`` and ``progress``, see
                :meth:`generate`.
            seed: integer root of all draws.
            batch_size: fields at a time.
            out: file or folder to write.
            start_out: .npy file of what the reverse process starts from, in pixels.
            overwrite: replace existing results.
            progress: shows how many fields are done.
            opening: see :func:`skild_physics.fields.open_fields`.

        Returns:
            float32 fields with the coordinate `start`, what the reverse process started from.

        Raises:
            InputError: fields or a factor that the model does not serve.

        >>> import skild_physics as sk
        >>> truth = sk.generate_ising(L=64, samples=2, seed=2)
        >>> again = sk.load("bundled").reconstruct(truth, 4, sampler=sk.Multistep(2))
        >>> again.shape, round(again.effective_resolution)
        ((2, 64, 64), 16)
        """
        how = self._how(sampler, seed, batch_size, out, start_out, overwrite, progress)
        given = self._opened(fields, samples, opening)
        begin = self.diffused(given.shape[-1], factor)
        return self._from(begin, given, {"protocol": "paired", "factor": factor}, how, start)

    def super_resolve(
        self,
        coarse: Any,
        factor: float,
        *,
        kernel: Downsampling | None = None,
        samples: int | None = None,
        start: Any = None,
        sampler: Sampler | None = None,
        seed: int = 0,
        batch_size: int = BATCH_SIZE,
        out: str | Path | None = None,
        start_out: str | Path | None = None,
        overwrite: bool = False,
        progress: Progress = silent,
        **opening: Unpack[Opening],
    ) -> xr.DataArray:
        """Fields of ``factor`` times the side that agree with real coarse ones.

        Args:
            coarse: anything that :func:`skild_physics.fields.open_fields` takes.
            factor: ratio of the sides, any real number of at least 1.
            kernel: how they were made coarse; None: as they say, see
                :func:`skild_physics.fields.resampling.coarse_grain`.
            samples: with all others, see :meth:`reconstruct`.
            sampler: how.
            seed: integer root of all draws.
            batch_size: fields at a time.
            out: file or folder to write.
            start_out: .npy file of what the reverse process starts from, in pixels.
            overwrite: replace existing results.
            progress: shows how many fields are done.
            opening: see :func:`skild_physics.fields.open_fields`.

        Returns:
            float32 fields with the coordinate `start`; the attribute `consistency_residual` is the
            root mean square of what is left of the coarse fields when these are taken from the
            result, coarse-grained again, over their own.

        Raises:
            InputError: fields, a factor or a kernel that the model does not serve.

        >>> import skild_physics as sk
        >>> coarse = sk.coarse_grain(sk.generate_ising(L=64, samples=2, seed=2), factor=4)
        >>> fine = sk.load("bundled").super_resolve(coarse, 4, sampler=sk.Multistep(2))
        >>> fine.shape, fine.consistency_residual < 1e-5
        ((2, 64, 64), True)
        """
        how = self._how(sampler, seed, batch_size, out, start_out, overwrite, progress)
        given = self._opened(coarse, samples, opening)
        self._check_possible(given.shape[-1] * factor, len(given), how)
        kernel = kernel or given.attrs.get("downsampling")
        begin = self.observed(given.shape[-1], factor, kernel)
        made = {"protocol": "observed", "factor": factor, "downsampling_of_input": kernel}
        return self._from(begin, given, made, how, start)

    def enlarge(
        self,
        fields: Any,
        factor: float,
        *,
        keep: float = KEEP,
        samples: int | None = None,
        start: Any = None,
        sampler: Sampler | None = None,
        seed: int = 0,
        batch_size: int = BATCH_SIZE,
        out: str | Path | None = None,
        start_out: str | Path | None = None,
        overwrite: bool = False,
        progress: Progress = silent,
        **opening: Unpack[Opening],
    ) -> xr.DataArray:
        """Critical fields of ``factor`` times the side, with the large scales of smaller ones.

        This is inverse renormalisation: see :mod:`skild_physics.diffusion.renormalization`.

        Args:
            fields: critical fields, anything that :func:`skild_physics.fields.open_fields` takes.
            factor: ratio of the sides.
            keep: effective resolution at the start over the side of the fields.
            samples: with all others, see :meth:`reconstruct`.
            sampler: how.
            seed: integer root of all draws.
            batch_size: fields at a time.
            out: file or folder to write.
            start_out: .npy file of what the reverse process starts from, in pixels.
            overwrite: replace existing results.
            progress: shows how many fields are done.
            opening: see :func:`skild_physics.fields.open_fields`.

        Returns:
            float32 fields with the coordinate `start`.

        Raises:
            InputError: the model cannot enlarge, or fields or values that it does not serve.

        >>> import skild_physics as sk
        >>> truth = sk.generate_ising(L=64, samples=1, seed=2)
        >>> sk.load("bundled").enlarge(truth, 2, sampler=sk.Multistep(2)).shape
        (1, 128, 128)
        """
        how = self._how(sampler, seed, batch_size, out, start_out, overwrite, progress)
        if not 0 < keep <= 1:
            raise InputError(f"`keep` must lie between 0 and 1, got {keep:g}")
        given = self._opened(fields, samples, opening)
        self._check_possible(given.shape[-1] * factor, len(given), how)
        begin = self.rescaled(given.shape[-1], factor, keep)
        made = {"protocol": "rescaled", "factor": factor, "keep": keep}
        return self._from(begin, given, made, how, start)

    def side(self, M: int, factor: float) -> int:
        """The side of a lattice ``factor`` times as wide as M.

        Raises:
            InputError: the network does not take it.
        """
        N = round(M * factor) if math.isfinite(factor) else 0
        if N < M or abs(N - M * factor) > 0.01 or N % self.multiple:
            raise InputError(
                f"{M} x {M} fields times {factor:g} would be {M * factor:g} wide; the network "
                f"takes multiples of {self.multiple}"
            )
        return N

    def _check_possible(self, side: float, count: int, how: How) -> None:
        """Refuse fields that neither the memory nor the disk can hold.

        Raises:
            InputError: saying what they would take.
        """
        size, several = float(side) * side * len(self.channels), min(count, how.at_once(side))
        what = f"{count:,} fields of {side:g} x {side:g}"
        # a step has the fields, their noise, what is made of them, and their modes in float64
        check_memory(f"{what}, {several} at a time,", 32 * several * size)
        if how.out is None:
            check_memory(what, 4 * count * size)
        else:
            check_disk(what, Path(how.out).parent, count * size / MOST_COMPRESSED)

    def _how(self, sampler: Sampler | None, *others: Any) -> How:
        return How(sampler or self.default_sampler, *others)

    def _opened(self, fields: Any, samples: int | None, opening: Opening) -> xr.DataArray:
        """Fields of as many channels as the model's.

        Raises:
            InputError: the source cannot be read, or its channels are not those of the model.
        """
        channels = len(self.channels)
        if channels == 1 and holds_pictures(fields):
            opening["grey"] = True
        opened = open_fields(fields, samples=samples, **opening)
        if isinstance(fields, str | Path):
            opened.encoding.setdefault("source", str(fields))
        found = channels_of(opened)
        if len(found) != channels:
            raise InputError(
                f"{opened.attrs.get('source', 'fields')}: has {len(found)} channels "
                f"({', '.join(found)}), the model {channels} ({', '.join(self.channels)})"
            )
        return opened

    def _from(
        self, start: Start, given: xr.DataArray, made: Mapping[str, Any], how: How, begin: Any
    ) -> xr.DataArray:
        how.check_inputs(given)
        start = self._of_lattices(start)
        self._compare(given, start, is_full=made["protocol"] != "observed")
        attributes = {
            **input_attributes(given),
            **made,
            **self._parameters(given, other_size=made["protocol"] == "rescaled"),
            "starting_step": start.n,
            "effective_resolution": start.resolution,
            "snr": start.snr,
        }
        return self._made(
            start, partial(loaded, given), len(given), attributes, how, given, begin=begin
        )

    def _of_lattices(self, start: Start) -> Start:
        return start if self.spin_pictures is None else self.spin_pictures.start(start)

    def _compare(self, given: xr.DataArray, start: Start, *, is_full: bool) -> None:
        """Say so if fields are not such as the model was trained on.

        Raises:
            InputError: they are so far from it that they cannot be meant.
        """
        first, name = given[:CHECKED], str(given.attrs.get("source", "fields"))
        fields = np.concatenate(list(batches(first)))
        check_range(fields, self.channels, name)
        if is_full and self.channels == ("spin",) and np.abs(np.abs(fields) - 1).mean() > NO_SPINS:
            logger.warning(
                f"{name}: the model was trained on spins +-1, which these fields are not"
            )
        if start.expected is None or self.config.process.is_white:
            return
        S0 = start.expected.cpu().numpy()
        ratios = variance_ratios(fields, S0, self.basis, pictures_of(first))
        if ratios.overall > IMPOSSIBLE:
            raise InputError(
                f"{name}: the variance is {ratios.overall:.3g} times that of the model's training "
                "fields; scale the values to theirs"
            )
        if self.config.process.is_measured and ratios.differ:
            logger.warning(
                f"{name}: the spectrum is not that of the model's training fields: {ratios}"
            )

    def _made(
        self,
        start: Start,
        load: Load,
        count: int,
        made: Mapping[str, Any],
        how: How,
        given: xr.DataArray | None = None,
        *,
        begin: Any = None,
    ) -> xr.DataArray:
        states = None if begin is None else self._states(begin, start, count, how)
        if states is not None:
            made = {**made, GIVEN_START: content(states)}
        drawn = {"bit_generator": BIT_GENERATOR, "seed": how.seed}
        attributes = {**made, **self._provenance(how.sampler), **drawn}
        attributes = {name: value for name, value in attributes.items() if value is not None}
        logger.info(
            f"{count} fields of {start.size} x {start.size}, {how.sampler.n_evals} evaluations "
            f"({how.sampler.name}) from n = {start.n:.1f} of {start.process.T}, effective "
            f"resolution {start.resolution:.4g}"
        )
        if self.spin_pictures is not None:
            logger.info(f"the model is one of pictures; lattices are the {self.spin_pictures}")
        return sampled(start, load, count, attributes, how, given, self._weights, states)

    def _states(self, source: Any, start: Start, count: int, how: How) -> xr.DataArray:
        """The first states of a file of them, as fields of the size that is made.

        Raises:
            InputError: too few of them, others in shape, or values that are no numbers.
        """
        start.check_states()
        how.check_inputs(source)
        opened = opened_states(source, self.basis)
        name, shape = opened.attrs.get("source", "fields"), (start.size, start.size)
        channels, taken = len(channels_of(opened)), [len(self.channels)]
        if self.spin_pictures is not None:
            taken.append(CHANNELS)
        if channels not in taken or opened.shape[-2:] != shape or len(opened) < count:
            raise InputError(
                f"`start`: {name} holds {len(opened)} states of {channels} x "
                f"{opened.shape[-2]} x {opened.shape[-1]}, expected {count} of "
                f"{' or '.join(map(str, taken))} x {start.size} x {start.size}"
            )
        states = opened[:count]
        if not all(np.isfinite(each).all() for each in batches(states)):
            raise InputError(f"`start`: {name} holds values that are not finite")
        first = loaded(states, 0, min(CHECKED, count)).float()
        ratio = float(first.square().mean() / start.process.S0.mean())
        if not self.config.process.is_white and not 1 / MOST_UNLIKE < ratio < MOST_UNLIKE:
            logger.warning(
                f"`start`: {name} has {ratio:.3g} times the variance of the model's process; are "
                "these pixels, and not modes?"
            )
        return states

    def _weights(self) -> str:
        """A digest of all that makes this model what it is, whatever it is called."""
        tensors = {**self.network.state_dict(), "S0": self.process.S0}
        tensors |= {f"error{i}": each for i, each in enumerate(self.errors())}
        said = [self.name, self.config.to_json()["process"], self.config.to_json()["network"]]
        whole = hashlib.sha256(json_text(said, sort_keys=True).encode())
        for name, tensor in sorted(tensors.items()):
            whole.update(name.encode())
            whole.update(tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().data)
        return whole.hexdigest()

    def _parameters(
        self, given: xr.DataArray | None = None, *, other_size: bool = False
    ) -> dict[str, Any]:
        """Parameters of the ensemble that fields are made for: those of given ones come first.

        Args:
            given: what they are made of.
            other_size: they are made by scale invariance, which a lattice has at its critical
                point alone, where sinh 2 beta = 1.
        """
        said = {} if given is None else parameters_of(given.attrs)
        known = {**self.trained_on, **said}
        own = self.trained_on.get("beta", known.get("beta", 0))
        if not math.isclose(known.get("beta", 0), own, rel_tol=1e-9):
            logger.warning(
                f"fields at beta = {known['beta']:.10g} are given to a model trained at {own:.10g}"
            )
        if other_size and "beta" in known and abs(math.sinh(2 * known["beta"]) - 1) > 1e-6:
            del known["beta"]
        return known

    def _provenance(self, sampler: Sampler) -> dict[str, Any]:
        """What fields say about the model and the sampling; None: does not apply."""
        return {
            **self.origin,
            "trained_steps": self.trained_steps,
            **self.about(),
            **sampler.describe(),
            "precision": self.precision,
            "process": self.config.process.kind,
            "basis": self.basis,
            "channels": ",".join(self.channels),
            "lattices": None if self.spin_pictures is None else str(self.spin_pictures),
        }
