"""Samples against real images in feature space, beyond the Frechet distance: do they look real, are
all kinds of images among them, and what would more of them say?
"""

import math
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Shaped
from torch import Tensor

from triptych.evaluate.frechet import Moments, frechet_distance, moments

BLOCKS = 10
FEW = (64, 128, 256, 512)  # samples, of which FID is mostly its bias
LEAST_FOR_LIMIT = 7  # times D: from so many samples on FID is near enough to its line in 1/n
CHUNK = 1_000  # rows of distances at a time


class KID(NamedTuple):
    """Kernel distance and its standard error."""

    value: float
    mc_std: float


def kernel_distance(a: Float[Tensor, "N D"], b: Float[Tensor, "N D"]) -> KID:
    """KID (Binkowski, Sutherland, Arbel & Gretton 2018, arXiv:1801.01401): the unbiased squared MMD
    with k(x, y) = (x.y / D + 1)^3, zero in the mean for samples of one distribution at any N.

    The mean over ten disjoint blocks, whose spread gives the error. Rows are shuffled first: a file
    of images may be ordered (MNIST's test images are, by who wrote them), and a block of it would
    be of a distribution of its own.
    """
    if len(a) != len(b) or len(a) < 2 * BLOCKS:
        raise ValueError(
            f"both samples must have the same size, {2 * BLOCKS} or more, not {len(a)} and {len(b)}"
        )
    pairs = zip(*(shuffled(x).tensor_split(BLOCKS) for x in (a, b)), strict=True)
    values = torch.stack([_unbiased_mmd2(x.double(), y.double()) for x, y in pairs])
    return KID(values.mean().item(), (values.std() / BLOCKS**0.5).item())


def shuffled(x: Shaped[Tensor, "N *D"]) -> Shaped[Tensor, "N *D"]:
    """The rows in an order that has nothing to do with theirs, always the same."""
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(0))
    return x[order.to(x.device)]


def _unbiased_mmd2(a: Tensor, b: Tensor) -> Tensor:
    def kernel(x: Tensor, y: Tensor) -> Tensor:
        return (x @ y.T / x.shape[1] + 1) ** 3

    def off_diagonal(k: Tensor) -> Tensor:
        return (k.sum() - k.trace()) / (len(k) * (len(k) - 1))

    return off_diagonal(kernel(a, a)) + off_diagonal(kernel(b, b)) - 2 * kernel(a, b).mean()


class Neighbourhoods(NamedTuple):
    """Shares of samples or of real images; `density` may exceed 1."""

    precision: float
    recall: float
    density: float
    coverage: float


def neighbourhoods(
    real: Float[Tensor, "N D"], fake: Float[Tensor, "M D"], k: int
) -> Neighbourhoods:
    """PRDC, with balls around each image that reach to its k-th neighbour of its own kind:

    precision, the share of samples in a ball of a real image, and recall, the reverse (Kynkaanniemi
    et al. 2019, arXiv:1904.06991); density, in how many balls of real images a sample lies, over k,
    and coverage, the share of real images whose ball holds a sample (Naeem et al. 2020,
    arXiv:2002.09797), which one outlier among the images cannot raise.
    """
    if min(len(real), len(fake)) <= k:
        raise ValueError(f"neighbourhoods of {k} need more images than that of either kind")
    real, fake = real.double(), fake.double()
    if not bool(real.isfinite().all() & fake.isfinite().all()):
        raise ValueError("features that are not finite have no neighbours")
    r_real, r_fake = _reach(real, k), _reach(fake, k)
    held, recalled = [], []
    covered = torch.zeros(len(real), dtype=torch.bool, device=real.device)
    for chunk in fake.split(CHUNK):
        inside = torch.cdist(chunk, real) <= r_real
        held.append(inside.sum(1))
        covered |= inside.any(0)
    for chunk in real.split(CHUNK):
        recalled.append((torch.cdist(chunk, fake) <= r_fake).any(1))
    balls = torch.cat(held).double()
    return Neighbourhoods(
        (balls > 0).double().mean().item(),
        torch.cat(recalled).double().mean().item(),
        balls.mean().item() / k,
        covered.double().mean().item(),
    )


def _reach(x: Tensor, k: int) -> Tensor:
    """Distance to the k-th nearest other one."""
    parts = [torch.cdist(c, x).kthvalue(k + 1, dim=1).values for c in x.split(CHUNK)]
    return torch.cat(parts)


def frechet_error(samples: Float[Tensor, "N D"], reference: Moments) -> float:
    """The standard error that FID has of these being the samples, by the jackknife of ten blocks
    (Efron & Stein 1981)."""
    blocks = shuffled(samples).tensor_split(BLOCKS)
    rests = (torch.cat([*blocks[:i], *blocks[i + 1 :]]) for i in range(BLOCKS))
    left = [frechet_distance(moments(rest), reference) for rest in rests]
    return math.sqrt((BLOCKS - 1) * np.var(left))


class FrechetGrowth(NamedTuple):
    """The Frechet distance of n samples, and the straight line in 1/n at 1/n = 0, if it is one."""

    n: list[int]
    fid: list[float]
    at_infinity: float | None


def frechet_growth(samples: Float[Tensor, "N D"], reference: Float[Tensor, "R D"]) -> FrechetGrowth:
    """FID against the number of samples, the reference held fixed, and its limit (Chong & Forsyth
    2020, arXiv:1911.07023): its bias falls as 1/n, so a line through several n finds it. Where the
    least of these n is below 7 D, D the dimension of the features, the bias does not fall so yet,
    and no limit is given: at n = 2 D, that of samples of the reference's own distribution is below
    zero, by one to three of its standard errors.

    The samples must be in random order. FID at n = N / b is the mean over b disjoint blocks, so
    that all samples count at every n. At the n of `FEW` below N / 10, where nobody should take FID,
    it is the mean over ten blocks; these are left out for features of more dimensions, as
    Inception's.
    """
    N, whole = len(samples), moments(reference)
    if N < 2 * BLOCKS:
        raise ValueError(f"growth needs {2 * BLOCKS} samples or more, not {N}")
    sizes = [N // b for b in (BLOCKS, 5, 3, 2, 1)]
    few = [n for n in FEW if n < sizes[0]] if samples.shape[1] <= FEW[-1] else []
    values = []
    for n in [*few, *sizes]:
        blocks = samples.split(n)[: min(N // n, BLOCKS)]
        found = [frechet_distance(moments(block), whole) for block in blocks]
        values.append(sum(found) / len(found))
    if sizes[0] < LEAST_FOR_LIMIT * samples.shape[1]:
        return FrechetGrowth([*few, *sizes], values, None)
    _, limit = np.polyfit([1 / n for n in sizes], values[len(few) :], 1)
    return FrechetGrowth([*few, *sizes], values, float(limit))


class Classes(NamedTuple):
    """The total variation distance of two class histograms, half the sum of their differences; the
    mean of the largest class probability; and the first histogram, as shares."""

    distance: float
    confidence: float
    shares: list[float]


def classes(logits: Float[Tensor, "N C"], real: Float[Tensor, "R C"]) -> Classes:
    """What a classifier takes samples for: all classes as often as real images, and surely?"""
    C = logits.shape[1]
    counts = [torch.bincount(x.argmax(1), minlength=C) / len(x) for x in (logits, real)]
    distance = 0.5 * (counts[0] - counts[1]).abs().sum().item()
    return Classes(distance, logits.softmax(1).amax(1).mean().item(), counts[0].tolist())
