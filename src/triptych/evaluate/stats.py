"""Several training runs: mean, standard deviation, t interval, paired differences."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.special import stdtr, stdtrit


@dataclass(frozen=True)
class Summary:
    """Over n runs: mean, standard deviation (ddof = 1) and the 95% t interval of the mean.

    With one run there is no spread: `std` and `interval95` are None.
    """

    mean: float
    std: float | None
    n_seeds: int
    interval95: tuple[float, float] | None


def summarise(values: Sequence[float]) -> Summary:
    """The statistics of one number over training runs."""
    n = len(values)
    if n == 0:
        raise ValueError("there are no values to summarise")
    mean = float(np.mean(values))
    if n == 1:
        return Summary(mean, None, 1, None)
    std = float(np.std(values, ddof=1))
    half = float(stdtrit(n - 1, 0.975)) * std / math.sqrt(n)
    return Summary(mean, std, n, (mean - half, mean + half))


def p_value(mean: float, interval95: Sequence[float], n: int) -> float:
    """P(a mean of n runs as far from zero or farther | no difference), by the two-sided t test that
    has this interval. 1 where all runs are the same, as counts may be: there is no spread to
    measure the mean by."""
    half = (interval95[1] - interval95[0]) / 2
    if half <= 1e-9 * abs(mean):
        return 1.0
    return 2 * float(stdtr(n - 1, -abs(mean) / half * stdtrit(n - 1, 0.975)))


def holm(p_values: Sequence[float], level: float = 0.05) -> list[bool]:
    """Which of several hypotheses to reject, so that the chance to reject any that is true stays
    within `level`, however they depend on each other (Holm 1979, *A simple sequentially rejective
    multiple test procedure*): the smallest of m p-values must be within level / m, the next within
    level / (m - 1), and so on to the first that is not."""
    rejected = [False] * len(p_values)
    for passed, i in enumerate(sorted(range(len(p_values)), key=p_values.__getitem__)):
        if p_values[i] > level / (len(p_values) - passed):
            break
        rejected[i] = True
    return rejected


def paired_difference(a: dict[int, float], b: dict[int, float]) -> tuple[Summary, list[int]] | None:
    """a - b over the seeds that both have, which are listed; None when they share none."""
    seeds = sorted(a.keys() & b.keys())
    if not seeds:
        return None
    return summarise([a[s] - b[s] for s in seeds]), seeds
