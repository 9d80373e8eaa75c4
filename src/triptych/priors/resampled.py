"""Learned accept/reject sampling, LARS (Bauer & Mnih 2019, *Resampled Priors for Variational
Autoencoders*, arXiv:1810.11428).

A proposal pi is thinned by an acceptance probability a(z) that a network gives; after T - 1
rejections the next proposal is taken as it is. With Z = E_pi[a(z)],

    p(z) = pi(z) [a(z) (1 - (1 - Z)^(T-1)) / Z + (1 - Z)^(T-1)]                       (eq. 5)

is exactly the density of what `sample` returns.
"""

import math

import torch
from jaxtyping import Float
from torch import Generator, Tensor, nn
from torch.nn.functional import logsigmoid

from triptych.maths import log_mean_exp
from triptych.priors.gaussian import StandardGaussian


class ResampledPrior(nn.Module):
    """`base` thinned by a(z) = sigmoid(net(z)); `net` maps [*, D] to [*, 1].

    Z is estimated: in training from `draws` of the base that come with the noise, fresh at each
    step, so that the network cannot learn where they are; else from one large set of `points`,
    always the same, so that log_prob is a function of z (and in evaluation mode computed once).
    `log_prob_std` is the error that this leaves. Under a flow, or as the top of two levels, it gets
    no draws: each training step then takes all the points, so choose fewer.
    """

    points: Tensor
    cached_log_normaliser: Tensor | None
    """Of the points, in evaluation mode."""

    def __init__(
        self,
        base: StandardGaussian,
        net: nn.Module,
        truncation: int = 100,
        draws: int = 1024,
        points: int = 2**18,
    ) -> None:
        super().__init__()
        if list(base.parameters()):
            raise ValueError("a base that learns would leave the fixed points of Z behind")
        self.base, self.net, self.truncation, self.draws = base, net, truncation, draws
        always_the_same = torch.Generator().manual_seed(0)
        self.register_buffer("points", base.sample(points, always_the_same), persistent=False)
        self.register_buffer("cached_log_normaliser", None, persistent=False)
        self.register_load_state_dict_post_hook(cache_after_loading)

    def train(self, mode: bool = True) -> "ResampledPrior":
        """As for every module; Z follows."""
        super().train(mode)
        self.cache_log_normaliser()
        return self

    @torch.no_grad()
    def cache_log_normaliser(self) -> None:
        """In evaluation mode the weights stay as they are, and so does Z; in training it is not
        cached."""
        self.cached_log_normaliser = None if self.training else self.log_normaliser(self.points)

    def noise(self, generator: Generator) -> Float[Tensor, "S D"]:
        """Draws of the base, to estimate Z from."""
        return self.base.sample(self.draws, generator)

    def log_prob(
        self, z: Float[Tensor, "*batch D"], draws: Float[Tensor, "S D"] | None = None
    ) -> Float[Tensor, "*batch"]:
        """log p(z) in nats."""
        if draws is not None:
            return self.normalised(z, self.log_normaliser(draws))
        if self.cached_log_normaliser is not None:
            return self.normalised(z, self.cached_log_normaliser)
        return self.normalised(z, self.log_normaliser(self.points))

    def normalised(
        self, z: Float[Tensor, "*batch D"], log_Z: Float[Tensor, ""]
    ) -> Float[Tensor, "*batch"]:
        """Eq. 5 at this log Z."""
        log_missed = (self.truncation - 1) * log1mexp(log_Z)  # log (1 - Z)^(T-1)
        log_thinned = self.log_a(z) + log1mexp(log_missed) - log_Z
        return self.base.log_prob(z) + torch.logaddexp(log_thinned, log_missed)

    @torch.no_grad()
    def sample(self, n: int, generator: Generator | None = None) -> Float[Tensor, "n D"]:
        """The first proposal that is accepted, or the T-th."""
        z = self.base.sample(n, generator)
        rejected = torch.ones(n, dtype=torch.bool, device=z.device)
        for _ in range(self.truncation - 1):
            u = torch.rand(n, generator=generator, device=z.device, dtype=z.dtype)
            rejected = rejected & (u.log() >= self.log_a(z))
            z = torch.where(rejected[:, None], self.base.sample(n, generator), z)
        return z

    def log_normaliser(self, draws: Float[Tensor, "S D"]) -> Float[Tensor, ""]:
        """log of the mean acceptance of draws of the base."""
        return log_mean_exp(self.log_a(draws))

    def log_prob_std(self, z: Float[Tensor, "N D"]) -> float:
        """Standard error, from the fixed points, of the mean of log p(z) over these z, in nats.

        That of log Z is std(a) / (Z sqrt(points)), and log p(z) follows by its slope: -1 where
        nothing is missed; over draws of p itself, -(1 - (1 - Z)^(T-1)).
        """
        a = self.log_a(self.points).detach().double().exp()
        log_Z = a.mean().log().to(z.dtype).requires_grad_()
        with torch.enable_grad():
            (slope,) = torch.autograd.grad(self.normalised(z, log_Z).mean(), log_Z)
        return (slope.abs() * a.std() / (a.mean() * len(a) ** 0.5)).item()

    def log_a(self, z: Float[Tensor, "*batch D"]) -> Float[Tensor, "*batch"]:
        """log a(z) <= 0."""
        return logsigmoid(self.net(z).squeeze(-1))


def cache_after_loading(prior: ResampledPrior, _: object) -> None:
    """Z of weights that were just loaded."""
    prior.cache_log_normaliser()


def log1mexp(log_p: Tensor) -> Tensor:
    """log(1 - p) from log p, finite where p rounds to one, and exact where 1 - p does (Maechler
    2012, *Accurately Computing log(1 - exp(-|a|))*)."""
    half = -math.log(2)
    of_large = (-torch.expm1(log_p.clamp(min=half))).clamp(min=torch.finfo(log_p.dtype).tiny).log()
    return torch.where(log_p < half, torch.log1p(-log_p.clamp(max=half).exp()), of_large)
