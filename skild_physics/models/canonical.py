"""Means of spins whose block sums are known: the canonical ensemble of independent spins.

Spins of a block, independent and of means D_i = tanh h_i, have given that k of them are up

    m_i = 2 p_i P'_i(k - 1) / P(k) - 1,    p_i = (1 + D_i) / 2,

where P(k) is the probability that k are up, and P'_i that k of the others are. Both are sums over
the characteristic function,

    P(k) = 1 / J sum_j exp(-i k t_j) prod_i (q_i + p_i exp(i t_j)),    t_j = 2 pi j / J,

exact for J > b^2 sites. A field added to all h of a block changes no m, so one is added that makes
k the mean: P(k) is largest then, and loses no digits. The deviation of the sum is at most b / 2,
so 4 b harmonics leave out 8 deviations, whatever b is.

A field alone, the grand canonical ensemble, would give blocks the right sum, too, but it is that of
many spins, and the uncertain ones of a block are few. Of two, means of 0.8 and 0 and one of them
up, m = 0.8 and -0.8; with a field they are 0.5 and -0.5.
"""

from collections.abc import Callable
from functools import cache
from typing import Any

import torch
from torch import Tensor

SUREST = 1 - 2e-4
"""The largest |D| that an estimate is taken to have."""
ROUNDS = 12
"""Of Newton's method for the field, whose error only costs digits."""


def harmonics(b: int) -> int:
    """J of blocks of b x b sites; odd, as t = pi makes factors of zero."""
    return 2 * ((min(b**2, 4 * b) + 1) // 2) + 1


def canonical_means(
    means: Tensor, P: Tensor, ups: Tensor, sites: Tensor | int, J: int, compiled: bool = False
) -> Tensor:
    """Means of spins, given how many are up in each block.

    Args:
        means: D, those of independent spins, (B, C, N, N).
        P: averages over blocks as P x P^T, at every site, (N, N) or (B, 1, N, N).
        ups: k of each site's block, (B, C, N, N).
        sites: of a block, or (B, 1, 1, 1).
        J: harmonics, at least :func:`harmonics` of the largest block.
        compiled: by torch.compile, for each shape; on a GPU, where all of this waits for memory.
    """
    h = torch.atanh(_Clamped.apply(means))  # type: ignore[no-untyped-call]
    found: Tensor = _Canonical.apply(h, P, ups, sites, J, compiled)  # type: ignore[no-untyped-call]
    return found


@cache
def _compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    return torch.compile(function, dynamic=False)


class _Clamped(torch.autograd.Function):
    """Estimates that are sure, but not of a wrong spin for ever: gradients lead back inside."""

    @staticmethod
    def forward(ctx: Any, means: Tensor) -> Tensor:
        ctx.save_for_backward(means)
        return means.clamp(-SUREST, SUREST)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Tensor:
        (means,) = ctx.saved_tensors
        return torch.where((means.abs() <= SUREST) | (g * means > 0), g, 0.0)


def _field(h: Tensor, P: Tensor, ups: Tensor, sites: Tensor | int) -> Tensor:
    """The field that makes ``ups`` the mean."""
    wanted, field = 2 * ups / sites - 1, torch.zeros_like(h)
    for _ in range(ROUNDS):
        t = torch.tanh(h + field)
        slope = (P @ (1 - t.square()) @ P.mT).clamp(min=1e-3)
        field = field + ((wanted - P @ t @ P.mT) / slope).clamp(-1, 1)
    return field


def _forward(
    h: Tensor, P: Tensor, ups: Tensor, sites: Tensor | int, J: int
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Probabilities of being up, and what their derivatives need."""
    p = torch.sigmoid(2 * (h + _field(h, P, ups, sites)))
    total = _Total(P, sites)
    j = torch.arange(J // 2 + 1, device=h.device, dtype=h.dtype)
    t = (2 * torch.pi / J * j)[:, None, None, None, None]
    # beside the mean, of a size that rounding does not harm
    real, imaginary = 1 - 2 * p * torch.sin(t / 2).square(), p * torch.sin(t)
    square = 1 - 4 * p * (1 - p) * torch.sin(t / 2).square()
    phase = total(torch.atan2(imaginary, real) - p * t) + t * (total(p) - ups)
    size = (2 - (t == 0).to(h)) * torch.exp(total(square.log() / 2))
    a, b = size * torch.cos(phase), size * torch.sin(phase)
    P_k = a.sum(dim=0)
    # p exp(i t) / (q + p exp(i t))
    u = p * (p + (1 - p) * torch.cos(t)) / square
    v = p * (1 - p) * torch.sin(t) / square
    up = (a * u - b * v).sum(dim=0) / P_k
    return up, a / P_k, b / P_k, u, v


def _backward(
    g: Tensor,
    P: Tensor,
    sites: Tensor | int,
    up: Tensor,
    a: Tensor,
    b: Tensor,
    u: Tensor,
    v: Tensor,
) -> Tensor:
    """The gradient with respect to h of what has the gradient g with respect to m."""
    total = _Total(P, sites)
    # sum_l g_l s_l, but for the site's own, which is not independent of itself
    others_u, others_v = total(g * u) - g * u, total(g * v) - g * v
    joint = (a * (u * others_u - v * others_v) - b * (u * others_v + v * others_u)).sum(dim=0)
    return 4 * (joint + g * up - up * total(g * up))


class _Canonical(torch.autograd.Function):
    """m of h; its derivatives are the covariances of the spins, which are symmetric."""

    @staticmethod
    def forward(
        ctx: Any,
        h: Tensor,
        P: Tensor,
        ups: Tensor,
        sites: Tensor | int,
        J: int,
        compiled: bool,
    ) -> Tensor:
        found = (_compiled(_forward) if compiled else _forward)(h, P, ups, sites, J)
        ctx.save_for_backward(P, *found)
        ctx.sites, ctx.compiled = sites, compiled
        up: Tensor = found[0]
        return 2 * up - 1

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor | None, ...]:
        P, *found = ctx.saved_tensors
        backward = _compiled(_backward) if ctx.compiled else _backward
        return backward(g, P, ctx.sites, *found), None, None, None, None, None


class _Total:
    """Sums over blocks, at every site."""

    def __init__(self, P: Tensor, sites: Tensor | int):
        self.P, self.sites = P, sites

    def __call__(self, x: Tensor) -> Tensor:
        return self.P @ x @ self.P.mT * self.sites
