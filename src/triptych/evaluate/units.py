"""What each dimension of the latent space carries."""

import math
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Generator, Tensor
from torch.utils._pytree import tree_map

from triptych.maths import LOG_2PI, mixture_log_prob
from triptych.posteriors import DiagonalGaussian, FullGaussian, GaussianParameters
from triptych.protocols import Density, Posterior

ACTIVE = 0.01
LOOKED_AT, DRAWS = 500, 1000  # images, and draws of each, where the density q(z_d|x) is not known
AT_ONCE = 250  # draws whose distances from thousands of centres a cache holds


@torch.no_grad()
def activity(
    posterior: Posterior, h: Any, n: int, generator: Generator, draws: int = 32
) -> Float[Tensor, "M"]:
    """A_u = Var_x(E[z_u|x]) of each dimension, which is active above 0.01 (Burda et al. 2016,
    arXiv:1509.00519, section 5.2).

    Where posteriors are no Gaussians, it is the covariance of the means of two halves of the draws:
    they share the image and nothing else, so that their own noise does not count. `n` is the number
    of images in h.
    """
    if (marginals := gaussian_marginals(posterior, h)) is not None:
        return marginals.mu.var(0)
    # Of two means of 16 draws each the noise is 1/16 / sqrt(n): of few images, more draws keep it
    # well below ACTIVE.
    draws = max(draws, 2 * math.ceil(300 / math.sqrt(n)))
    halves = [torch.zeros(n, posterior.latent_dim, device=generator.device) for _ in range(2)]
    for i in range(draws):
        eps = torch.randn(halves[0].shape, generator=generator, device=generator.device)
        halves[i % 2] += posterior.rsample(h, eps)[0] / (draws // 2)
    a, b = (half - half.mean(0) for half in halves)
    return (a * b).sum(0) / (n - 1)


@torch.no_grad()
def divergence_by_dimension(
    prior: Density, posterior: Posterior, h: Any, n: int, generator: Generator, points: int = 4000
) -> Float[Tensor, "M"]:
    """E_x KL(q(z_d|x) || p(z_d)) of each dimension in nats, both marginals, from `points` draws.

    q(z_d|x) is a Gaussian where q(z|x) is; else its entropy is estimated from draws (Ebrahimi,
    Pflughoeft & Soofi 1994, *Two measures of sample entropy*). The estimate is too large, so that
    the divergence is too small: by 0.013 nats where q(z_d|x) is a normal, by more where it has
    several modes. p(z_d) is exact for priors that are mixtures, else a kernel density estimate
    (Scott's bandwidth), which smooths narrow modes and has no tail: there the divergence is too
    large. The sum over dimensions is the ELBO's KL term only where posterior and prior factorise.
    `n` is the number of images in h.
    """
    marginals = gaussian_marginals(posterior, h)
    if marginals is None:
        z, log_q = _draws(posterior, h, n, points, generator)
    else:
        z, log_q = _draws_of_gaussians(marginals, points, generator)
    centre, log_width, log_w = _marginal_mixture(prior, points, generator)
    rows = []
    for d in range(z.shape[1]):
        marginal = log_w, centre[:, d, None], log_width[:, d, None]
        parts = z[:, d, None].split(AT_ONCE)
        log_p = torch.cat([mixture_log_prob(part, *marginal) for part in parts])
        rows.append(log_q[:, d].mean() - log_p.mean())
    return torch.stack(rows)


def gaussian_marginals(posterior: Posterior, h: Any) -> GaussianParameters | None:
    """q(z_d|x) of each dimension, if these are known to be Gaussians."""
    if isinstance(posterior, FullGaussian):
        variance = (2 * h.log_sigma).exp() + h.below.square().sum(-1)
        return GaussianParameters(h.mu, variance.log() / 2)
    # A class derived from it may be of another density.
    return h if type(posterior) is DiagonalGaussian else None


def _draws_of_gaussians(
    h: GaussianParameters, points: int, generator: Generator
) -> tuple[Float[Tensor, "P M"], Float[Tensor, "P M"]]:
    """One z of so many images, and log q(z_d|x): its noise and that of log p(z_d) cancel."""
    few = torch.linspace(0, len(h.mu) - 1, min(points, len(h.mu)), device=h.mu.device).long()
    mu, log_sigma = (a[few].double() for a in h)
    eps = torch.randn(mu.shape, generator=generator, device=mu.device).double()
    return mu + log_sigma.exp() * eps, -0.5 * eps.square() - log_sigma - 0.5 * LOG_2PI


def _draws(
    posterior: Posterior, h: Any, n: int, points: int, generator: Generator
) -> tuple[Float[Tensor, "P M"], Float[Tensor, "I M"]]:
    """z of some images, and of each of them -H[q(z_d|x)], from many more of its draws."""
    from scipy.stats import differential_entropy  # takes a second, which training need not wait for

    device = generator.device
    images = torch.linspace(0, n - 1, min(LOOKED_AT, n), device=device).long()
    some, shape = tree_map(lambda a: a[images], h), (len(images), posterior.latent_dim)
    z = torch.stack(
        [
            posterior.rsample(some, torch.randn(shape, generator=generator, device=device))[0]
            for _ in range(DRAWS)
        ]
    )
    by_dimension = z.double().cpu().numpy().transpose(2, 0, 1)
    entropy = [differential_entropy(a, method="ebrahimi") for a in by_dimension]
    each = math.ceil(points / len(images))
    return z[:each].flatten(0, 1).double(), -torch.from_numpy(np.stack(entropy, 1)).to(device)


def _marginal_mixture(
    prior: Density, points: int, generator: Generator
) -> tuple[Float[Tensor, "K M"], Float[Tensor, "K M"], Float[Tensor, "K"]]:
    """Centres, log widths and log weights of Gaussians that make the prior's marginals."""
    if hasattr(prior, "as_mixture"):
        log_w, centre, log_width = (a.double() for a in prior.as_mixture())  # pyright: ignore
        return centre, log_width, log_w
    centre = prior.sample(points, generator).double()
    log_width = (centre.std(0).log() - 0.2 * math.log(points)).expand_as(centre)
    log_w = torch.full((points,), -math.log(points), device=centre.device).double()
    return centre, log_width, log_w
