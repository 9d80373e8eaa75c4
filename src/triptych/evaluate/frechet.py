"""Frechet distance of two sets of images (Heusel et al. 2017, arXiv:1706.08500, eq. 6).

No FID means anything without what as many *real* images have: `judge_samples` gives both.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor


@dataclass(frozen=True)
class Moments:
    """Mean and unbiased covariance (ddof = 1) of features, in float64, and how many there were."""

    mu: Float[Tensor, "D"]
    sigma: Float[Tensor, "D D"]
    n: int


def moments(features: Float[Tensor, "N D"]) -> Moments:
    """Fit a Gaussian to features."""
    f = features.double()
    if f.dim() != 2 or len(f) < 2 or not bool(f.isfinite().all()):
        raise ValueError(
            f"a covariance needs finite features [n, D] of 2 images or more, not {list(f.shape)}"
        )
    return Moments(f.mean(0), torch.atleast_2d(torch.cov(f.T)), len(f))


def frechet_distance(a: Moments, b: Moments) -> float:
    """|mu_a - mu_b|^2 + tr(S_a + S_b - 2 (S_a S_b)^(1/2)).

    The trace of the root is the sum of the roots of the eigenvalues of S_a^(1/2) S_b S_a^(1/2),
    which is symmetric and non-negative: no complex root ever arises.
    """
    values, vectors = torch.linalg.eigh(a.sigma)
    root = (vectors * values.clamp(min=0).sqrt()) @ vectors.T
    cross = torch.linalg.eigvalsh(root @ b.sigma @ root).clamp(min=0).sqrt().sum()
    gap = (a.mu - b.mu).square().sum()
    return (gap + a.sigma.trace() + b.sigma.trace() - 2 * cross).item()
