"""Annealed importance sampling of log p(x) (Neal 2001, arXiv:physics/9803008), bracketed by its
reverse (Wu, Burda, Salakhutdinov & Grosse 2017, *On the Quantitative Analysis of Decoder-Based
Generative Models*, arXiv:1611.04273; Grosse, Ghahramani & Adams 2015, arXiv:1511.02543).

A chain walks from the encoder's posterior to the true one through

    f_beta(z) = q(z|x)^(1 - beta) p(x, z)^beta,    0 = beta_0 < ... < beta_T = 1,

by Hamiltonian Monte Carlo (Neal 2011, arXiv:1206.1901) that leaves each f_beta invariant. With
log w(z) = log p(x, z) - log q(z|x), the sum of (beta_t - beta_{t-1}) log w(z_{t-1}) is the
logarithm of a weight whose mean is p(x): T = 1 is plain importance sampling, and more steps make
it tight. Of data that the model drew itself a true posterior sample is known; from there the chain
runs backwards, and the same sum bounds log p(x) from above.
"""

import math
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Generator, Tensor

from triptych.evaluate.likelihood import Estimate, bound_of_images, estimate, jackknife
from triptych.evaluate.memory import in_halves
from triptych.maths import log_mean_exp
from triptych.vae import VAE

CHUNK = 50  # images annealed at a time
TARGET = 0.65  # acceptance that Hamiltonian Monte Carlo is tuned to (Neal 2011, section 5.4.4.3)


@dataclass(frozen=True)
class Annealing:
    """How to anneal: T temperatures, chains an image, leapfrog steps between two temperatures."""

    steps: int = 300
    chains: int = 16
    leapfrog: int = 5

    def __post_init__(self) -> None:
        """Without a step no weight is taken; one chain has no error."""
        if self.steps < 1 or self.chains < 2 or self.leapfrog < 1:
            raise ValueError(f"steps >= 1, chains >= 2 and leapfrog >= 1 are needed, not {self}")


class Bracket(NamedTuple):
    """Stochastic bounds on log p(x) of images that the model drew, in nats: E[lower] <= log p(x) <=
    E[upper] (Grosse et al. 2015)."""

    lower: Float[Tensor, "N"]
    upper: Float[Tensor, "N"]


class AnnealedPath:
    """log q(z|x) and log p(x, z) along the chain, for a few images."""

    def __init__(self, model: VAE, x: Float[Tensor, "B C H W"]) -> None:
        self.model, self.x = model, x
        with torch.no_grad():
            self.h: Any = model.posterior.encode(x)

    def log_w(self, z: Float[Tensor, "K B M"]) -> Float[Tensor, "K B"]:
        """log p(x, z) - log q(z|x)."""
        return in_halves(lambda z: self._log_joint(z) - self.model.posterior.log_prob(z, self.h), z)

    def log_f_and_gradient(self, z: Tensor, beta: float) -> tuple[Float[Tensor, "K B"], Tensor]:
        """log f_beta(z) and its gradient in z."""
        return in_halves(lambda z: self._log_f_and_gradient(z, beta), z)

    def _log_f_and_gradient(self, z: Tensor, beta: float) -> tuple[Tensor, Tensor]:
        with torch.enable_grad():
            z = z.detach().requires_grad_()
            log_q = self.model.posterior.log_prob(z, self.h)
            log_f = (1 - beta) * log_q + beta * self._log_joint(z)
            (slope,) = torch.autograd.grad(log_f.sum(), z)
        return log_f.detach(), slope

    def _log_joint(self, z: Tensor) -> Tensor:
        return self.model.log_px(self.x, z) + self.model.log_pz(z)


def temperatures(T: int) -> list[float]:
    """beta_0 .. beta_T, closest together at both ends: a sigmoid from -4 to 4, made to reach."""
    s = torch.sigmoid(torch.linspace(-4, 4, T + 1, dtype=torch.float64))
    return ((s - s[0]) / (s[-1] - s[0])).tolist()


@bound_of_images
def annealed_log_px(
    model: VAE, x: Float[Tensor, "N C H W"], how: Annealing, generator: Generator
) -> Estimate:
    """A stochastic lower bound on log p(x) of each image, in nats: log mean w of its chains.

    Its Monte Carlo variance is the jackknife's.
    """
    parts = []
    for chunk in x.split(CHUNK):
        path = AnnealedPath(model, chunk)
        step_sizes = tuned_step_sizes(path, how, generator)
        z = posterior_draws(path, how.chains, generator)
        parts.append(anneal(path, z, how, step_sizes, generator))
    log_w = torch.cat(parts, 1)
    return estimate(log_mean_exp(log_w), jackknife(log_w))


@torch.no_grad()
def bracket(model: VAE, n: int, how: Annealing, generator: Generator) -> Bracket:
    """Bounds from both sides for n images that the model draws."""
    lower, upper = [], []
    for z in model.prior.sample(n, generator).split(CHUNK):
        path = AnnealedPath(model, model.likelihood.sample(z, generator))
        step_sizes = tuned_step_sizes(path, how, generator)
        from_q = posterior_draws(path, how.chains, generator)
        there = anneal(path, from_q, how, step_sizes, generator)
        # One exact draw for all chains: each has E[exp(-back)] = 1 / p(x), and so has their mean.
        exact = z.expand(how.chains, -1, -1)
        back = anneal(path, exact, how, step_sizes, generator, backwards=True)
        lower.append(log_mean_exp(there))
        upper.append(-log_mean_exp(-back))
    return Bracket(torch.cat(lower), torch.cat(upper))


def posterior_draws(path: AnnealedPath, chains: int, g: Generator) -> Float[Tensor, "K B M"]:
    """Draws of q(z|x)."""
    size = (chains, len(path.x), path.model.posterior.latent_dim)
    eps = torch.randn(size, generator=g, device=path.x.device, dtype=path.x.dtype)
    return path.model.posterior.rsample(path.h, eps)[0]


def anneal(
    path: AnnealedPath,
    z: Float[Tensor, "K B M"],
    how: Annealing,
    step_sizes: Float[Tensor, "T B"],
    g: Generator,
    backwards: bool = False,
) -> Float[Tensor, "K B"]:
    """The log weight of each chain, with the given step size at each temperature and image."""
    beta, total = temperatures(how.steps), torch.zeros(z.shape[:2], device=z.device).double()
    order = range(how.steps, 0, -1) if backwards else range(1, how.steps + 1)
    for t in order:
        if backwards and t < how.steps:
            z, _ = transition(path, z, beta[t], step_sizes[t], how.leapfrog, g)
        total += (beta[t] - beta[t - 1]) * path.log_w(z).double()
        if not backwards and t < how.steps:
            z, _ = transition(path, z, beta[t], step_sizes[t], how.leapfrog, g)
    return total


def transition(
    path: AnnealedPath,
    z: Float[Tensor, "K B M"],
    beta: float,
    step_size: Float[Tensor, "B"],
    leapfrog: int,
    g: Generator,
) -> tuple[Float[Tensor, "K B M"], Float[Tensor, "B"]]:
    """One step of Hamiltonian Monte Carlo on f_beta; also the acceptance rate of each image."""
    eps = step_size[:, None]
    momentum = torch.randn(z.shape, generator=g, device=z.device, dtype=z.dtype)
    log_f, slope = path.log_f_and_gradient(z, beta)
    minus_energy = log_f - 0.5 * momentum.square().sum(-1)
    proposal = z
    for _ in range(leapfrog):
        momentum = momentum + 0.5 * eps * slope
        proposal = proposal + eps * momentum
        log_f, slope = path.log_f_and_gradient(proposal, beta)
        momentum = momentum + 0.5 * eps * slope
    gain = log_f - 0.5 * momentum.square().sum(-1) - minus_energy
    u = torch.rand(gain.shape, generator=g, device=z.device, dtype=z.dtype)
    accept = gain > u.log()
    return torch.where(accept[..., None], proposal, z), accept.to(z.dtype).mean(0)


def tuned_step_sizes(path: AnnealedPath, how: Annealing, g: Generator) -> Float[Tensor, "T B"]:
    """Those that accept about `TARGET`, from a run of their own whose chains are thrown away: a
    chain that tunes itself as it goes would not leave f_beta invariant."""
    z, beta = posterior_draws(path, how.chains, g), temperatures(how.steps)
    step_size = torch.full_like(z[0, :, 0], 0.5 / math.sqrt(z.shape[-1]))
    step_sizes = [step_size]
    for t in range(1, how.steps):
        z, rate = transition(path, z, beta[t], step_size, how.leapfrog, g)
        step_size = step_size * torch.exp(0.2 * (rate - TARGET))
        step_sizes.append(step_size)
    return torch.stack(step_sizes)
