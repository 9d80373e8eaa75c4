"""Is K large enough? The shape of the tail of the importance weights (Vehtari, Simpson, Gelman,
Yao & Gabry 2024, *Pareto Smoothed Importance Sampling*, arXiv:1507.02646).

The largest weights are fitted by a generalised Pareto distribution. Its shape k-hat says how many
moments the weights have: above 0.7 the estimate does not settle at any practical K, and of few
weights it takes less (section 3.2).
"""

import math

import torch
from jaxtyping import Float
from torch import Tensor

EQUAL = 1e-3  # nats from the largest weight of a tail to the smallest: float32 rounds about as much
ROUNDING = 16 * torch.finfo(torch.float32).eps  # of |log w|, where that is more


def unreliable_above(K: int) -> float:
    """The k-hat above which K > 1 weights are too few: min(1 - 1 / log10 K, 0.7)."""
    return min(1 - 1 / math.log10(K), 0.7)


def tail_length(K: int) -> int:
    """How many of K weights make the tail: min(K / 5, 3 sqrt(K)) (section 6)."""
    return math.ceil(min(K / 5, 3 * math.sqrt(K)))


class LargestWeights:
    """The largest log weights of each image, kept while samples stream by."""

    def __init__(self, K: int) -> None:
        self.keep = min(K, tail_length(K) + 1)
        self.log_w: Tensor | None = None

    def update(self, log_w: Float[Tensor, "k B"]) -> None:
        """Take in k further samples of each image."""
        seen = log_w if self.log_w is None else torch.cat([self.log_w, log_w])
        self.log_w = seen.topk(min(self.keep, len(seen)), dim=0).values

    def falling(self) -> Float[Tensor, "m B"]:
        """The logarithms of those kept, the largest first."""
        if self.log_w is None:
            raise ValueError("no samples have been added")
        return self.log_w

    def k_hat(self) -> Float[Tensor, "B"]:
        """The shape of each image's tail; nan where fewer than five weights make one."""
        log_w = self.falling()
        if len(log_w) < 6:
            return torch.full_like(log_w[0], math.nan)
        w = (log_w - log_w[0]).exp()
        found = pareto_shape((w[:-1] - w[-1]).flip(0))
        # Weights that only rounding tells apart are equal, and have no tail.
        equal = (ROUNDING * log_w[0].abs()).clamp(min=EQUAL)
        return torch.where(log_w[0] - log_w[-1] > equal, found, -math.inf)


def pareto_shape(x: Float[Tensor, "n B"]) -> Float[Tensor, "B"]:
    """Shape of the generalised Pareto distribution of each column; x > 0 ascending.

    The estimator of Zhang & Stephens (2009, *A New and Efficient Estimation Method for the
    Generalized Pareto Distribution*): with theta_j on a grid, profile log likelihoods

        l_j = n (log(-theta_j / k_j) - k_j - 1),    k_j = mean log(1 - theta_j x),

    weight the theta_j; k is that of their mean. It is shrunk towards 0.5, with the weight of ten
    observations (arXiv:1507.02646, appendix C). Columns that do not vary have no tail: -inf.
    """
    n, m = len(x), 30 + int(math.sqrt(len(x)))
    j = torch.arange(1, m + 1, dtype=x.dtype, device=x.device)[:, None]
    quartile = x[int(n / 4 + 0.5) - 1].clamp(min=torch.finfo(x.dtype).tiny)
    theta = 1 / x[-1] + (1 - (m / (j - 0.5)).sqrt()) / (3 * quartile)

    def shape(theta: Tensor) -> Tensor:
        return torch.stack([torch.log1p(-row * x).mean(0) for row in theta])

    k = shape(theta)
    weight = (n * ((-theta / k).log() - k - 1)).softmax(0)
    best = shape((weight * theta).sum(0, keepdim=True))[0]
    shrunk = (n * best + 10 * 0.5) / (n + 10)
    return torch.where(x[-1] > 0, shrunk, -math.inf)
