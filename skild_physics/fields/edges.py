"""Which basis fields fit: whether their edges join, as on a torus.

With the structure function S(d) = <(x_i - x_{i+d})^2> along rows and columns, three jumps are
compared,

    D = S(1)                 between neighbours, inside
    E = <(x_0 - x_{N-1})^2>  across the edges
    M = S(d), d about N/2    as far apart as sites of a torus can be.

On a torus the two edges are neighbours like any others, so E = D. In a patch of something larger
they are N - 1 sites apart, so E = S(N - 1), about M or more. Where values fluctuate as much from
one site to the next as across the lattice (white noise, D = M) there is nothing to tell by, and
either basis fits.

Errors are those of means over blocks of consecutive fields, or, of few fields, over strips of
lines. E agrees with D within 4 standard errors, and lies 4 below (D + M)/2, or it is not called
periodic; it lies 4 above D, and a quarter of the way to M, or it is not called cosine. Of few
blocks more is asked, by Student's t, for the same probability.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from skild_physics.kspace import Basis
from skild_physics.tables import with_error

SIGMAS = 4.0
SMALLEST = 4
MIN_FIELDS = 32
"""Fewer are divided into strips of lines."""
MAX_BLOCKS, STRIPS = 64, 4


@dataclass(frozen=True)
class Edges:
    """How the jump across the edges compares with that between neighbours.

    Attributes:
        ratio: E / D; nan if neighbours never differ.
        stderr: its standard error.
        basis: what fits; None: the fields do not tell.
    """

    ratio: float
    stderr: float
    basis: Basis | None

    def __str__(self) -> str:
        size = f"mean squared jump {with_error(self.ratio, self.stderr)} times that of neighbours"
        if self.basis is None:
            return f"edges do not tell a torus from a patch ({size})"
        if self.basis == "periodic":
            return f"edges join as on a torus ({size}): periodic basis"
        return f"edges do not join ({size}): cosine basis"


def compare_edges(values: NDArray[np.generic]) -> Edges:
    """What the edges of fields say of their basis.

    Args:
        values: fields (sample, channel, N, N) of any real type, one or more; a few hundred are
            plenty.
    """
    # imported here: who opens fields of known basis need not wait
    from scipy.special import ndtr, stdtrit

    N = values.shape[-1]
    if N < SMALLEST:
        return Edges(np.nan, np.nan, None)
    # (sample, axis, line), the mean over channels and, inside, over the sites of a line
    x = np.asarray(values, np.float64)
    jumps = np.stack([_jumps(x), _jumps(x.swapaxes(-1, -2))], axis=2)
    E, D, M = _blocks(jumps)
    sigmas = float(stdtrit(len(E) - 1, ndtr(SIGMAS)))
    excess, stderr = _mean(E - D)
    room, stderr_room = _mean((D + M) / 2 - E)
    basis: Basis | None = None
    if abs(excess) < sigmas * stderr and room > sigmas * stderr_room:
        basis = "periodic"
    elif excess > max(sigmas * stderr, (M.mean() - D.mean()) / 4):
        basis = "cosine"
    if not D.mean() > 0:
        return Edges(np.nan, np.nan, basis)
    ratio = E.mean() / D.mean()
    return Edges(float(ratio), float(_mean(E - ratio * D)[1] / D.mean()), basis)


def _jumps(x: NDArray[np.float64]) -> NDArray[np.float64]:
    """E, D and M of every line along the last axis, shape (3, sample, N)."""
    half = x.shape[-1] // 2

    def apart(distance: int) -> NDArray[np.float64]:
        jumps = x[..., distance:] - x[..., :-distance]
        return np.asarray(np.square(jumps).mean(axis=-1))

    # of both parities, lest an antiferromagnet seem smooth from far
    far = (apart(half) + apart(half + 1)) / 2
    found: NDArray[np.float64] = np.stack([apart(x.shape[-1] - 1), apart(1), far]).mean(axis=2)
    return found


def _blocks(jumps: NDArray[np.float64]) -> NDArray[np.float64]:
    """The same as means over blocks of fields, or over strips, shape (3, block)."""
    count = jumps.shape[1]
    if count < MIN_FIELDS:
        strips = np.array_split(jumps, STRIPS, axis=3)
        return np.concatenate([strip.mean(axis=3).reshape(3, -1) for strip in strips], axis=1)
    parts = np.array_split(jumps.mean(axis=(2, 3)), min(count, MAX_BLOCKS), axis=1)
    return np.stack([part.mean(axis=1) for part in parts], axis=1)


def _mean(blocks: NDArray[np.float64]) -> tuple[float, float]:
    return float(blocks.mean()), float(blocks.std(ddof=1) / np.sqrt(len(blocks)))
