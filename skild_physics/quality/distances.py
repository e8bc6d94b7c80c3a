r"""Distances between ensembles of pictures, from features of a network, with error bars.

With means mu and covariances C of the features of two ensembles (Heusel et al., arXiv 1706.08500,
eq. 6), the Frechet distance is

    FID = |mu_1 - mu_2|^2 + tr(C_1 + C_2 - 2 (C_1 C_2)^(1/2)).

It is biased upwards, the more the fewer pictures: compare ensembles of equal size only. Its error
is delete-one-block jackknife over ten blocks of pictures, the same blocks of both ensembles.

With class probabilities p(c | x) (Salimans et al., arXiv 1606.03498), the inception score is

    IS = exp( <sum_c p(c | x) log(p(c | x) / p(c))>_x ),    p(c) = <p(c | x)>_x,

here as published, the mean over ten disjoint parts of the ensemble. Deleting one part at a time,
the jackknife error is the standard deviation of the ten over the root of nine.

With the kernel k(x, y) = (x.y / d + 1)^3 of d features (Binkowski et al., arXiv 1801.01401, eq. 4),
the kernel distance is the unbiased estimate of a squared maximum mean discrepancy,

    KID = <k(x, x')>_(x != x') + <k(y, y')>_(y != y') - 2 <k(x, y)>,

the mean over 100 random subsets of m pictures. Their standard deviation says by how much the KID
of m pictures scatters; it is not the error of the mean, which is smaller by an unknown factor,
since subsets overlap.

The numbers are those of torch-fidelity's own functions.
"""

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from skild_physics.files import InputError
from skild_physics.observables.jackknife import MIN_BLOCKS, Estimate, Replicas
from skild_physics.quality.extras import import_extra

BLOCKS = 10
PARTS = 10
SUBSETS = 100
SUBSET_SIZE = 1000


class KernelDistance(NamedTuple):
    """A mean over subsets, the standard deviation of the subsets, and how large they are."""

    value: float
    subset_std: float
    subset_size: int


def frechet_distance(reference: Tensor, features: Tensor, n_blocks: int = BLOCKS) -> Estimate:
    """Frechet distance and its jackknife error, nan from fewer than eight blocks.

    Args:
        reference: features of the reference, shape (image, feature), two features at least.
        features: of the other ensemble; the number of images may differ.
        n_blocks: blocks of the jackknife, at most as many as images.

    Raises:
        InputError: fewer than three images, or torch-fidelity is not installed.
    """
    fewest = min(len(reference), len(features))
    if fewest < 3:
        raise InputError(f"FID needs at least 3 pictures of each source, got {fewest}")
    fid = import_extra("torch_fidelity.metric_fid", "fid")
    blocks = min(n_blocks, fewest)
    both = torch.cat([reference, features]).double()
    both = both - both.mean(dim=0)
    if len(both) < both.shape[1]:
        # rotations leave the distance as it is, and few pictures span few dimensions
        both = both @ torch.linalg.qr(both.T).Q
    reference, features = both[: len(reference)], both[len(reference) :]

    def distance(left_out: int | None) -> float:
        first, second = (
            fid.fid_features_to_statistics(_without(each, left_out, blocks))
            for each in (reference, features)
        )
        found = fid.fid_statistics_to_metric(first, second, verbose=False)
        return float(found[fid.KEY_METRIC_FID])

    replicas = Replicas(
        np.asarray(distance(None)), np.array([distance(block) for block in range(blocks)])
    )
    return Estimate(replicas.value, replicas.stderr)


def _without(features: Tensor, block: int | None, blocks: int) -> Tensor:
    if block is None:
        return features
    start, stop = (len(features) * edge // blocks for edge in (block, block + 1))
    return torch.cat([features[:start], features[stop:]])


def inception_score(logits: Tensor, parts: int = PARTS) -> Estimate:
    """Inception score and its jackknife error, nan from fewer than eight parts.

    Args:
        logits: of the classes, shape (image, class); softmax makes them probabilities.
        parts: disjoint parts of the ensemble, shuffled with a fixed seed.

    Raises:
        InputError: fewer images than two per part, or torch-fidelity is not installed.
    """
    if len(logits) < 2 * parts:
        raise InputError(f"IS needs at least {2 * parts} pictures, got {len(logits)}")
    isc = import_extra("torch_fidelity.metric_isc", "is")
    found = isc.isc_features_to_metric(logits, splits=parts)
    spread = found[isc.KEY_METRIC_ISC_STD] if parts >= MIN_BLOCKS else np.nan
    return Estimate(
        np.asarray(found[isc.KEY_METRIC_ISC_MEAN]), np.asarray(spread / np.sqrt(parts - 1))
    )


def kernel_distance(
    reference: Tensor,
    features: Tensor,
    subsets: int = SUBSETS,
    subset_size: int | None = None,
) -> KernelDistance:
    """Kernel distance and its spread over subsets.

    Args:
        reference: features of the reference, shape (image, feature).
        features: of the other ensemble; the number of images may differ.
        subsets: random subsets, drawn with a fixed seed.
        subset_size: images m of each; None: 1000 or, with fewer than 2000 images, half of them.

    Raises:
        InputError: fewer than four images, or torch-fidelity is not installed.
    """
    fewest = min(len(reference), len(features))
    if fewest < 4:
        raise InputError(f"KID needs at least 4 pictures of each source, got {fewest}")
    kid = import_extra("torch_fidelity.metric_kid", "kid")
    size = subset_size or min(SUBSET_SIZE, fewest // 2)
    found = kid.kid_features_to_metric(
        features.double(),
        reference.double(),
        kid_subsets=subsets,
        kid_subset_size=size,
        verbose=False,
    )
    return KernelDistance(found[kid.KEY_METRIC_KID_MEAN], found[kid.KEY_METRIC_KID_STD], size)
