"""Log densities, streaming log-mean-exp, bits per dimension. Nats, but for `bits_per_dim`."""

import math

import torch
from jaxtyping import Float
from torch import Generator, Tensor
from torch.nn.functional import linear

LOG_2PI = math.log(2 * math.pi)


def normal_log_prob(
    z: Float[Tensor, "*batch D"], mu: Tensor | float = 0.0, log_sigma: Tensor | float = 0.0
) -> Float[Tensor, "*batch"]:
    """log N(z; mu, diag sigma^2), summed over the last dimension."""
    # A number stays a number: made a tensor here, it would have to be copied to a GPU.
    inverse = torch.exp(-log_sigma) if isinstance(log_sigma, Tensor) else math.exp(-log_sigma)
    u = (z - mu) * inverse
    return (-0.5 * u.square() - log_sigma - 0.5 * LOG_2PI).sum(-1)


def check_coordinates(x: Tensor, wanted: int, dim: int = -1) -> None:
    """ValueError for points of another space: of more coordinates some would be dropped."""
    if x.shape[dim] != wanted:
        raise ValueError(f"the density is of {wanted} coordinates, and was given {x.shape[dim]}")


def check_outputs(out: Tensor, wanted: int, whose: str) -> None:
    """ValueError unless a network gives `wanted` numbers: fewer might be broadcast."""
    if out.shape[-1] != wanted:
        raise ValueError(f"the {whose} must give {wanted} numbers an image, not {out.shape[-1]}")


def mixture_log_prob(
    z: Float[Tensor, "*batch D"],
    log_w: Float[Tensor, "K"],
    mu: Float[Tensor, "K D"],
    log_sigma: Float[Tensor, "K D"],
) -> Float[Tensor, "*batch"]:
    """log sum_k w_k N(z; mu_k, diag sigma_k^2) as one matrix product.

    Expanding the square, log w N(z) = [z, z^2] . [b, -a / 2] + c with a = sigma^-2, b = mu a and
    c = log w - sum (mu b / 2 + log sigma + log(2 pi) / 2): no [B, K, D] tensor is ever made.
    The expansion cancels: where mu / sigma is large, call it in float64.
    """
    a = torch.exp(-2 * log_sigma)
    b = mu * a
    c = log_w - (0.5 * mu * b + log_sigma + 0.5 * LOG_2PI).sum(-1)
    powers = torch.cat([z, z.square()], -1)
    return linear(powers, torch.cat([b, -0.5 * a], -1), c).logsumexp(-1)


def mixture_sample(
    n: int,
    log_w: Float[Tensor, "K"],
    mu: Float[Tensor, "K D"],
    log_sigma: Float[Tensor, "K D"],
    generator: Generator | None = None,
) -> Float[Tensor, "n D"]:
    """Pick a component, then draw from it."""
    k = torch.multinomial(log_w.exp(), n, replacement=True, generator=generator)
    size = (n, mu.shape[1])
    eps = torch.randn(size, generator=generator, device=mu.device, dtype=mu.dtype)
    return mu[k] + log_sigma[k].exp() * eps


def widest_float(device: torch.device) -> torch.dtype:
    """float64, where the device has it."""
    return torch.float32 if device.type == "mps" else torch.float64


def log_mean_exp(log_w: Tensor, dim: int = 0) -> Tensor:
    """log (1/K) sum_k exp(log_w_k) along `dim`."""
    return log_w.logsumexp(dim) - math.log(log_w.shape[dim])


class RunningLogMeanExp:
    """log-mean-exp of importance weights that arrive in chunks of any size.

    Holds one number an image however many samples there are; the result does not depend on
    how the samples were cut into chunks.
    """

    def __init__(self) -> None:
        self.log_sum: Tensor | None = None
        self.count = 0

    def update(self, log_w: Float[Tensor, "k B"]) -> None:
        """Take in k further samples of each image."""
        chunk = log_w.logsumexp(0)
        self.log_sum = chunk if self.log_sum is None else torch.logaddexp(self.log_sum, chunk)
        self.count += log_w.shape[0]

    def value(self) -> Float[Tensor, "B"]:
        """log (1/K) sum of all samples so far."""
        if self.log_sum is None:
            raise ValueError("no samples have been added")
        return self.log_sum - math.log(self.count)


class RunningTiltedMean:
    """`mean`, sum_k w_k log w_k / sum_k w_k, of importance weights that arrive in chunks.

    Each chunk moves it towards its own mean, by the chunk's share of all the weight so far.
    """

    def __init__(self) -> None:
        self.total, self.mean = RunningLogMeanExp(), torch.zeros(())

    def update(self, log_w: Float[Tensor, "k B"]) -> None:
        """Take in k further samples of each image."""
        self.total.update(log_w)
        log_sum = self.total.value() + math.log(self.total.count)
        share = (log_w.logsumexp(0) - log_sum).exp()
        self.mean = self.mean + share * ((log_w.softmax(0) * log_w).sum(0) - self.mean)


class RunningMeanOfBlocks:
    """The mean log-mean-exp of blocks of m samples, cut in the order in which samples arrive.

    It estimates IWAE-m from all the samples of a larger K. A last block that is not whole does not
    count.
    """

    def __init__(self, m: int) -> None:
        self.m, self.blocks, self.total = m, 0, torch.zeros(())
        self.begun = RunningLogMeanExp()

    def update(self, log_w: Float[Tensor, "k B"]) -> None:
        """Take in k further samples of each image."""
        first = -self.begun.count % self.m  # as many as the block that is begun still needs
        whole = max(0, len(log_w) - first) // self.m * self.m
        head, body, tail = log_w[:first], log_w[first : first + whole], log_w[first + whole :]
        if len(head):
            self.begun.update(head)
        if self.begun.count == self.m:
            self._add(self.begun.value()[None])
            self.begun = RunningLogMeanExp()
        self._add(log_mean_exp(body.unflatten(0, (-1, self.m)), 1))
        if len(tail):
            self.begun.update(tail)

    def _add(self, blocks: Float[Tensor, "b B"]) -> None:
        self.total, self.blocks = self.total + blocks.sum(0), self.blocks + len(blocks)

    def value(self) -> Float[Tensor, "B"]:
        """The mean over all whole blocks so far."""
        if self.blocks == 0:
            raise ValueError(f"no block of {self.m} samples is whole")
        return self.total / self.blocks


def nats_per_bit(dims: int) -> float:
    """D log 2: what one bit per dimension is in nats."""
    return dims * math.log(2)


def bits_per_dim(log_px: Tensor, dims: int) -> Tensor:
    """-log p(x) / (D log 2) of the integer data: every Jacobian must already be in log_px."""
    return -log_px / nats_per_bit(dims)


def log_normal_mass(lower: Tensor, upper: Tensor) -> Tensor:
    """log P(lower < u < upper), u ~ N(0, 1), exact in both tails.

    The interval is first mirrored to the left, where log Phi keeps its precision. In float32 its
    gradient, which is torch's, is off by 4% at u = -1,000 and by more farther out.
    """
    mirrored = (lower + upper) > 0
    lo = torch.where(mirrored, -upper, lower)
    hi = torch.where(mirrored, -lower, upper)
    log_hi, log_lo = torch.special.log_ndtr(hi), torch.special.log_ndtr(lo)
    return log_hi + torch.log(-torch.expm1(log_lo - log_hi))
