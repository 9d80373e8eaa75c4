"""Are two samples of one distribution? Here: draws of the prior and of the aggregate posterior.

Every test comes with its 95% level, which it exceeds in 5% of the cases where they are. The two
distances are V-statistics, means over all pairs, each draw with itself too: never negative, above
zero by about 1/n where the distributions are one, and so are their levels.
"""

import warnings
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from torch import Generator, Tensor


class TwoSample(NamedTuple):
    """A statistic, and its 95% quantile where both samples are of one distribution."""

    value: float
    null95: float


def energy_distance(
    a: Float[Tensor, "n M"], b: Float[Tensor, "n M"], generator: Generator, permutations: int = 500
) -> TwoSample:
    """2E|a-b| - E|a-a'| - E|b-b'| (Szekely & Rizzo 2013, *Energy statistics*), as a V-statistic."""
    pooled = torch.cat([a, b]).double()
    return permutation_test(-torch.cdist(pooled, pooled), len(a), generator, permutations)


def squared_mmd(
    a: Float[Tensor, "n M"], b: Float[Tensor, "n M"], generator: Generator, permutations: int = 500
) -> TwoSample:
    """E k(a,a') + E k(b,b') - 2E k(a,b) with k(a,b) = exp(-|a-b|^2 / 2 s^2), s the median distance
    of the pooled sample (Gretton, Borgwardt, Rasch, Schoelkopf & Smola 2012, *A kernel two-sample
    test*), as a V-statistic."""
    pooled = torch.cat([a, b]).double()
    distance = torch.cdist(pooled, pooled)
    scale = distance[distance > 0].median()
    kernel = torch.exp(-0.5 * (distance / scale).square())
    return permutation_test(kernel, len(a), generator, permutations)


def permutation_test(
    similarity: Float[Tensor, "N N"], n: int, generator: Generator, permutations: int
) -> TwoSample:
    """A permutation test: s' K s with s = 1/n on the first sample and -1/n on the second, and its
    95% quantile over random relabellings of the pooled sample, all of them in one matrix
    product."""
    if len(similarity) != 2 * n:
        raise ValueError(f"both samples must have the same size, not {n} and {len(similarity) - n}")
    device = similarity.device
    signs = torch.cat([torch.ones(n), -torch.ones(n)]).double().to(device) / n
    shuffles = [
        torch.randperm(2 * n, generator=generator, device=device) for _ in range(permutations)
    ]
    s = torch.stack([signs, *(signs[p] for p in shuffles)], 1)
    values = (s * (similarity @ s)).sum(0)
    return TwoSample(values[0].item(), values[1:].quantile(0.95).item())


def classifier_accuracy(
    a: Float[Tensor, "n M"], b: Float[Tensor, "n M"], seed: int = 0
) -> TwoSample:
    """How often a classifier tells the two apart on a half that it was not trained on (Lopez-Paz &
    Oquab 2017, arXiv:1610.06545): one hidden layer of 20 units. 0.5 is a guess, and the level 1/2 +
    1.645 sqrt(1 / (4 n_test)), the normal limit of guessing."""
    from sklearn.exceptions import ConvergenceWarning  # slow, and only judging needs it
    from sklearn.neural_network import MLPClassifier

    half = len(a) // 2
    both = torch.cat([a, b]).double().cpu().numpy()
    mean, std = both.mean(0), both.std(0) + 1e-12
    x, y = (both - mean) / std, np.repeat([0, 1], len(a))
    train = np.concatenate([np.arange(half), len(a) + np.arange(half)])
    test = np.setdiff1d(np.arange(2 * len(a)), train)
    # Not stopped early: on a few hundred points it would hardly have begun to learn.
    net = MLPClassifier((20,), solver="lbfgs", alpha=1.0, max_iter=100, random_state=seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # so many steps are enough
        net.fit(x[train], y[train])
    accuracy = float(net.score(x[test], y[test]))
    return TwoSample(accuracy, 0.5 + 1.645 * float(np.sqrt(0.25 / len(test))))
