"""Scale Space Diffusion: the noise of a change of level against Lanczos; arithmetic of Flexi-UNet.

    python benchmarks/scalespace.py [--side 64] [--batch 16] [--rounds 7]

Scale Space Diffusion (arXiv 2603.08709) draws from N(0, S), S = s_m^2 - (s_m^4 / s_n^2) M^T M, by
40 Lanczos iterations per field: with Q the Lanczos basis of S from z, and H = Q^T S Q,

    S^(1/2) z = |z| Q H^(1/2) e_1.

The reference here does so for all fields of a batch together, with the bare recurrence (cheapest)
and with reorthogonalisation, and applies M by the same separable products as ours. Ours takes the
square root in the singular basis of one axis. All run in the same process, taking turns, in
float32. The error is that of S^(1/2) z against the dense square root of S, in float64, by root mean
square.

The arithmetic is counted by torch on the shapes alone, for the published networks: of one
evaluation on each level, and of the mean one of 1000 steps, in units of its own full way and of the
plain U-Net of DDPM. Published at 256 pixels: 273 and 210 GFLOP for four and six levels, 497 for
DDPM; at 64 pixels, sampling 1.58 times faster with four levels.
"""

import math
import statistics
import time
from collections.abc import Callable
from itertools import pairwise

import click
import torch
from arithmetic import flops_per_field
from torch import Tensor

from skild_physics.diffusion.resize import DEGRADATIONS
from skild_physics.diffusion.scale_space import LevelPosterior, ScaleSpace, level_ends
from skild_physics.diffusion.schedule import LinearBetaSchedule
from skild_physics.networks import GuidedUNet

PUBLISHED = {
    64: ((1, 2, 3, 4), (2, 4)),
    128: ((1, 1, 2, 3, 4), (3, 5)),
    256: ((1, 1, 2, 2, 4, 4), (3, 4, 6)),
}
"""Of each side, the multipliers of the network, and the numbers of levels."""


def covariance(posterior: LevelPosterior) -> Callable[[Tensor], Tensor]:
    """S applied to fields."""
    s2_m = -math.expm1(-posterior.u_m)
    factor = s2_m**2 / -math.expm1(-posterior.u_n) * math.exp(posterior.u_m - posterior.u_n)
    resize = posterior.resize
    return lambda x: s2_m * x - factor * resize.adjoint(resize.apply(x))


def lanczos(
    apply: Callable[[Tensor], Tensor], z: Tensor, iterations: int, reorthogonalise: bool = False
) -> Tensor:
    """S^(1/2) z of fields (B, C, N, N), each with a Krylov space of its own."""
    flat = z.flatten(1)
    length = flat.norm(dim=1, keepdim=True)
    basis = [flat / length]
    diagonal, beside = [], []
    for _ in range(iterations):
        w = apply(basis[-1].view_as(z)).flatten(1)
        diagonal.append((w * basis[-1]).sum(dim=1))
        w = w - diagonal[-1][:, None] * basis[-1]
        if beside:
            w = w - beside[-1][:, None] * basis[-2]
        if reorthogonalise:
            Q = torch.stack(basis, dim=1)
            w = w - torch.einsum("bin,bi->bn", Q, torch.einsum("bin,bn->bi", Q, w))
        norm = w.norm(dim=1, keepdim=True)
        # a Krylov space that is exhausted goes on with nothing
        beside.append(torch.where(norm > 1e-6, norm, 0.0)[:, 0])
        basis.append(torch.where(norm > 1e-6, w / norm.clamp(min=1e-6), 0.0))
    off = torch.stack(beside[:-1], dim=1)
    H = torch.diag_embed(torch.stack(diagonal, dim=1))
    H = H + torch.diag_embed(off, 1) + torch.diag_embed(off, -1)
    values, vectors = torch.linalg.eigh(H)
    weights = vectors @ (values.clamp(min=0).sqrt() * vectors[:, 0])[..., None]
    Q = torch.stack(basis[:-1], dim=1)
    return (length * torch.einsum("bin,bi->bn", Q, weights[..., 0])).view_as(z)


def exact(posterior: LevelPosterior, z: Tensor) -> Tensor:
    """S^(1/2) z by the dense eigenvectors of S, float64."""
    N = z.shape[-1]
    eye = torch.eye(N * N, dtype=torch.float64).view(-1, N, N)
    S = covariance(posterior)(eye).flatten(1)
    values, vectors = torch.linalg.eigh(S)
    root = vectors @ (values.clamp(min=0).sqrt()[:, None] * (vectors.T @ z.double().flatten(1).T))
    return root.T.view_as(z)


def ours(posterior: LevelPosterior, z: Tensor) -> Tensor:
    """The symmetric square root, of which a draw is V (spread * z) V^T with z turned by V."""
    _, V = posterior.resize.modes
    V = V.to(z)
    return posterior.noise(V.T @ z @ V)


def arithmetic(size: int, multipliers: tuple[int, ...], numbers: tuple[int, ...]) -> None:
    """Print what evaluations cost on each level, and on average over these numbers of levels."""
    sides = [size >> level for level in range(max(numbers))]
    with torch.device("meta"):
        network, baseline = (
            GuidedUNet(size, multipliers=multipliers, flexi=flexi) for flexi in (True, False)
        )
        cost = [flops_per_field(network, 3, side) / 1e9 for side in sides]
        raising = [flops_per_field(network, 3, side, 2 * side) / 1e9 for side in sides[1:]]
        plain = flops_per_field(baseline, 3, size) / 1e9
    print(f"plain U-Net, {size} x {size}: {plain:.1f} GFLOP")
    for side, each, up in zip(sides, cost, [None, *raising], strict=True):
        change = f", raising it {up:.1f}" if up is not None else ""
        print(f"{side:4d} x {side:<4d} {each:7.1f} GFLOP{change}")
    for levels in numbers:
        steps = [b - a for a, b in pairwise((0, *level_ends(levels, 1000)))]
        total = sum(n * c for n, c in zip(steps, cost, strict=False))
        total += sum(up - c for up, c in zip(raising[: levels - 1], cost[1:], strict=False))
        print(
            f"{levels} levels: {total / 1000:.1f} GFLOP per step, {total / 10 / cost[0]:.1f} % of "
            f"the full way's, {total / 10 / plain:.1f} % of the plain network's"
        )


def seconds(work: Callable[[], object]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


@click.command(help=__doc__.split("\n")[0])
@click.option("--side", default=64, show_default=True, help="Side of the finer level.")
@click.option("--batch", default=16, show_default=True, help="Fields of three channels.")
@click.option("--iterations", default=40, show_default=True, help="Of Lanczos.")
@click.option("--rounds", default=7, show_default=True, help="Turns of each, of which the median.")
def main(side: int, batch: int, iterations: int, rounds: int) -> None:
    betas, ends = LinearBetaSchedule(0.1, 20.0), level_ends(2, 1000)
    for size, (multipliers, numbers) in PUBLISHED.items():
        arithmetic(size, multipliers, numbers)
    threads = torch.get_num_threads()
    print(f"{batch} x 3 x {side} x {side}, {iterations} iterations, {threads} threads")
    for kind in DEGRADATIONS:
        space = ScaleSpace((side, side // 2), ends, betas, kind, "cosine")
        posterior = space.raising(0)
        generator = torch.Generator().manual_seed(0)
        z = torch.randn(batch, 3, side, side, generator=generator)
        apply = covariance(posterior)
        works = {
            "bare": lambda z=z, S=apply: lanczos(S, z, iterations),
            "orthogonal": lambda z=z, S=apply: lanczos(S, z, iterations, True),
            "ours": lambda z=z, q=posterior: q.noise(z),
        }
        for work in works.values():
            work()
        times: dict[str, list[float]] = {name: [] for name in works}
        for _ in range(rounds):
            for name, work in works.items():
                times[name].append(seconds(work))
        found = {name: statistics.median(each) for name, each in times.items()}
        few = z[:2, :1]
        wanted = exact(posterior, few)
        scale = wanted.square().mean().sqrt()
        made = {
            "bare": lanczos(apply, few, iterations),
            "orthogonal": lanczos(apply, few, iterations, True),
            "ours": ours(posterior, few),
        }
        for name, each in made.items():
            error = float((each.double() - wanted).square().mean().sqrt() / scale)
            ratio = found[name] / found["ours"]
            print(
                f"{kind:9s} {name:11s} {found[name] * 1e3:9.3f} ms, {ratio:6.0f} times ours, "
                f"relative error {error:.1e}"
            )


if __name__ == "__main__":
    main()
