"""Several training runs: mean, standard deviation, t interval, paired differences."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.special import stdtrit


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


def paired_difference(a: dict[int, float], b: dict[int, float]) -> tuple[Summary, list[int]] | None:
    """a - b over the seeds that both have, which are listed; None when they share none."""
    seeds = sorted(a.keys() & b.keys())
    if not seeds:
        return None
    return summarise([a[s] - b[s] for s in seeds]), seeds
