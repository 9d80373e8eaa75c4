"""Likelihoods p(x|z), the decoder network included."""

import math

import torch
from jaxtyping import Float
from torch import Generator, Tensor, nn
from torch.nn.functional import logsigmoid, softplus

from triptych.maths import check_outputs, normal_log_prob


class Bernoulli(nn.Module):
    """Product of Bernoullis: log p(x|z) = sum_d x_d l_d - log(1 + exp l_d), l the logits.

    `net` maps [*, latent_dim] to logits [*, C H W]. Written in logits, nothing is clamped: a
    probability may come as close to 0 or 1 as the data wants.
    """

    def __init__(self, net: nn.Module, shape: tuple[int, int, int]) -> None:
        super().__init__()
        self.net, self.shape = net, shape

    def log_prob(
        self, x: Float[Tensor, "B C H W"], z: Float[Tensor, "*batch M"]
    ) -> Float[Tensor, "*batch"]:
        """log p(x|z) in nats, summed over pixels; x in [0, 1]."""
        logits, x = self.net(z), x.flatten(-3)
        check_outputs(logits, x.shape[-1], "decoder")
        return (x * logits).sum(-1) - softplus(logits).sum(-1)

    def mean(self, z: Float[Tensor, "*batch M"]) -> Float[Tensor, "*batch C H W"]:
        """E[x|z], the probability of a white pixel."""
        return self.net(z).sigmoid().unflatten(-1, self.shape)

    def sample(
        self, z: Float[Tensor, "*batch M"], generator: Generator | None = None
    ) -> Float[Tensor, "*batch C H W"]:
        """x ~ p(x|z), zeros and ones."""
        p = self.mean(z)
        u = torch.rand(p.shape, generator=generator, device=p.device, dtype=p.dtype)
        return (u < p).to(p.dtype)

    def grey(self, x: Tensor) -> Tensor:
        """Zeros and ones are grey values."""
        return x


class ContinuousBernoulli(nn.Module):
    """For grey values y in [0, 1] (Loaiza-Ganem & Cunningham 2019, arXiv:1907.06845, eq. 4-5).

        p(y|z) = C(l) exp(y l) / (1 + exp l),    C(l) = l / tanh(l / 2)

    in logits l: the Bernoulli's formula with the constant that makes it a density on [0, 1].
    x are the integers 0 .. levels-1, y = x / (levels - 1); log_prob is the density of y.
    """

    def __init__(self, net: nn.Module, shape: tuple[int, int, int], levels: int) -> None:
        super().__init__()
        self.net, self.shape, self.levels = net, shape, levels

    def log_prob(
        self, x: Float[Tensor, "B C H W"], z: Float[Tensor, "*batch M"]
    ) -> Float[Tensor, "*batch"]:
        """log p(y|z) in nats, summed over pixels."""
        logits, y = self.net(z), x.flatten(-3) / (self.levels - 1)
        check_outputs(logits, y.shape[-1], "decoder")
        return (y * logits - softplus(logits) + log_constant(logits)).sum(-1)

    def mean(self, z: Float[Tensor, "*batch M"]) -> Float[Tensor, "*batch C H W"]:
        """E[y|z] = 1 / (1 - exp(-l)) - 1 / l, and 1/2 at l = 0."""
        logits = self.net(z)
        far = away_from_zero(logits, 0.1)  # nearer, the two terms cancel
        size = far.abs()
        # at -|l|, where exp does not overflow; at l it is one minus that at -l
        negative = 1 / size + size.neg().exp() / torch.expm1(-size)
        exact = torch.where(far > 0, 1 - negative, negative)
        mean = torch.where(logits == far, exact, 0.5 + logits / 12)
        return mean.unflatten(-1, self.shape)

    def sample(
        self, z: Float[Tensor, "*batch M"], generator: Generator | None = None
    ) -> Float[Tensor, "*batch C H W"]:
        """x = (levels - 1) y, not rounded; y by inversion, log(1 + u (exp l - 1)) / l, which at
        l > 0 is taken at -l and mirrored, so that exp does not overflow."""
        logits = self.net(z)
        u = torch.rand(logits.shape, generator=generator, device=z.device, dtype=z.dtype)
        negative = -away_from_zero(logits).abs()
        y = torch.log1p(u * torch.expm1(negative)) / negative
        y = torch.where(logits > 0, 1 - y, y)
        return (self.levels - 1) * y.clamp(0, 1).unflatten(-1, self.shape)

    def grey(self, x: Tensor) -> Tensor:
        """y."""
        return x / (self.levels - 1)


def away_from_zero(logits: Tensor, least: float = 1e-3) -> Tensor:
    """The logits, or `least` where they are smaller in size: safe to divide by."""
    return torch.where(logits.abs() < least, torch.full_like(logits, least), logits)


def log_constant(logits: Tensor) -> Tensor:
    """log(l / tanh(l / 2)), by its series log 2 + l^2 / 12 near zero."""
    far = away_from_zero(logits, 0.05).abs()  # nearer, the gradients of the two logs cancel
    exact = far.log() - (far / 2).tanh().log()
    return torch.where(logits.abs() == far, exact, math.log(2) + logits.square() / 12)


class Gaussian(nn.Module):
    """p(y|z) = N(y; mu(z), sigma^2 I) for grey values y = x / (levels - 1) of integers x.

    sigma is one number: the one given, or else learned from `START` on (Rybkin, Daniilidis &
    Levine 2021, arXiv:2006.13202). log_prob is the density of y; `mean` is moved into [0, 1].
    """

    START = 0.1
    log_sigma: Tensor

    def __init__(
        self,
        net: nn.Module,
        shape: tuple[int, int, int],
        levels: int,
        sigma: float | None = None,
    ) -> None:
        super().__init__()
        self.net, self.shape, self.levels = net, shape, levels
        if sigma is not None and sigma <= 0:
            raise ValueError(f"sigma must be above 0, not {sigma}")
        if sigma is None:
            self.log_sigma = nn.Parameter(torch.tensor(math.log(self.START)))
        else:
            self.register_buffer("log_sigma", torch.tensor(math.log(sigma)))

    def log_prob(
        self, x: Float[Tensor, "B C H W"], z: Float[Tensor, "*batch M"]
    ) -> Float[Tensor, "*batch"]:
        """log p(y|z) in nats, summed over pixels."""
        mu, y = self.net(z), x.flatten(-3) / (self.levels - 1)
        check_outputs(mu, y.shape[-1], "decoder")
        # mu first, which alone has all of *batch: the density is symmetric in the two
        return normal_log_prob(mu, y, self.log_sigma)

    def mean(self, z: Float[Tensor, "*batch M"]) -> Float[Tensor, "*batch C H W"]:
        """mu, moved into the range of grey values."""
        return self.net(z).clamp(0, 1).unflatten(-1, self.shape)

    def sample(
        self, z: Float[Tensor, "*batch M"], generator: Generator | None = None
    ) -> Float[Tensor, "*batch C H W"]:
        """x = (levels - 1) y, y ~ p(y|z) as it falls, outside [0, 1] too."""
        mu = self.net(z)
        eps = torch.randn(mu.shape, generator=generator, device=z.device, dtype=z.dtype)
        y = mu + self.log_sigma.exp() * eps
        return (self.levels - 1) * y.unflatten(-1, self.shape)

    def grey(self, x: Tensor) -> Tensor:
        """y, moved into [0, 1]."""
        return (x / (self.levels - 1)).clamp(0, 1)


class DiscretizedLogisticMixture(nn.Module):
    """P(k|z) of each integer k = 0 .. levels-1 (Salimans, Karpathy, Chen & Kingma 2017,
    arXiv:1701.05517, eq. 1-2; Kingma et al. 2016, arXiv:1606.04934).

        P(k) = sum_j w_j [sigmoid((y + h - mu_j) / s_j) - sigmoid((y - h - mu_j) / s_j)]

    with y = 2k / (levels-1) - 1, h = 1 / (levels-1), and the outermost bins reaching to infinity.
    A probability of the data itself, so that its bound is in honest bits. `net` maps
    [*, latent_dim] to 3 `components` numbers a pixel: log weights, means, log scales.
    """

    of_integers = True
    LOG_SCALES = (-7.0, 7.0)  # from a ninth of a bin at 256 levels to all in the two outermost

    def __init__(
        self, net: nn.Module, shape: tuple[int, int, int], levels: int, components: int
    ) -> None:
        super().__init__()
        self.net, self.shape, self.levels, self.components = net, shape, levels, components

    def parts(self, z: Float[Tensor, "*batch M"]) -> tuple[Tensor, Tensor, Tensor]:
        """log w, mu and log s, each [*batch, J, D]."""
        out = self.net(z)
        check_outputs(out, 3 * self.components * math.prod(self.shape), "decoder")
        log_w, mu, log_s = out.unflatten(-1, (3, self.components, -1)).unbind(-3)
        return log_w.log_softmax(-2), mu, log_s.clamp(*self.LOG_SCALES)

    def log_prob(
        self, x: Float[Tensor, "B C H W"], z: Float[Tensor, "*batch M"]
    ) -> Float[Tensor, "*batch"]:
        """log P(x|z) in nats, summed over pixels; x holds integers."""
        log_w, mu, log_s = self.parts(z)
        h = 1 / (self.levels - 1)
        k = x.flatten(-3)[..., None, :]
        y = 2.0 * k * h - 1
        first, last = k < 0.5, k > self.levels - 1.5
        upper = torch.where(last, math.inf, (y + h - mu) / log_s.exp())
        lower = torch.where(first, -math.inf, (y - h - mu) / log_s.exp())
        width = torch.where(first | last, math.inf, 2 * h / log_s.exp())
        return (log_w + log_sigmoid_mass(lower, upper, width)).logsumexp(-2).sum(-1)

    def mean(self, z: Float[Tensor, "*batch M"]) -> Float[Tensor, "*batch C H W"]:
        """E[k|z] / (levels-1), as the sum of P(k > e) over the edges e between levels."""
        log_w, mu, log_s = self.parts(z)
        h = 1 / (self.levels - 1)
        total = torch.zeros_like(mu[..., 0, :])
        for k in range(self.levels - 1):
            edge = 2 * k * h - 1 + h
            above = torch.sigmoid((mu - edge) / log_s.exp())
            total = total + (log_w.exp() * above).sum(-2)
        mean = (total * h).clamp(max=1)  # weights add up to one but for rounding
        return mean.unflatten(-1, self.shape)

    def sample(
        self, z: Float[Tensor, "*batch M"], generator: Generator | None = None
    ) -> Float[Tensor, "*batch C H W"]:
        """Integers: a component, a logistic draw, the nearest level."""
        log_w, mu, log_s = self.parts(z)

        def uniform(like: Tensor) -> Tensor:
            return torch.rand(like.shape, generator=generator, device=z.device, dtype=z.dtype)

        gumbel = -torch.log(-torch.log(uniform(log_w)))
        j = (log_w + gumbel).argmax(-2, keepdim=True)
        mu, log_s = (a.gather(-2, j).squeeze(-2) for a in (mu, log_s))
        y = mu + log_s.exp() * torch.logit(uniform(mu), eps=1e-12)
        top = self.levels - 1
        return ((y + 1) / 2 * top).round().clamp(0, top).unflatten(-1, self.shape)

    def grey(self, x: Tensor) -> Tensor:
        """k / (levels-1)."""
        return x / (self.levels - 1)


def log_sigmoid_mass(lower: Tensor, upper: Tensor, width: Tensor) -> Tensor:
    """log(sigmoid(upper) - sigmoid(lower)), exact in both tails: the difference is
    sigmoid(upper) sigmoid(-lower) (1 - exp(-width)), width = upper - lower."""
    return logsigmoid(upper) + logsigmoid(-lower) + torch.log(-torch.expm1(-width))
