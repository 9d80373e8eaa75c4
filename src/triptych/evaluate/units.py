"""What each dimension of the latent space carries."""

import math
from typing import Any

import torch
from jaxtyping import Float
from torch import Generator, Tensor

from triptych.maths import LOG_2PI
from triptych.posteriors import GaussianParameters
from triptych.protocols import Density, Posterior

ACTIVE = 0.01


@torch.no_grad()
def activity(
    posterior: Posterior, h: Any, n: int, generator: Generator, draws: int = 32
) -> Float[Tensor, "M"]:
    """A_u = Var_x(E[z_u|x]) of each dimension, which is active above 0.01 (Burda et al. 2016,
    arXiv:1509.00519, section 5.2).

    The covariance of two halves of the draws, which share the image and nothing else, so that
    their own noise does not count. `n` is the number of images in h.
    """
    halves = [torch.zeros(n, posterior.latent_dim, device=generator.device) for _ in "ab"]
    for i in range(draws):
        eps = torch.randn(halves[0].shape, generator=generator, device=generator.device)
        halves[i % 2] += posterior.rsample(h, eps)[0] / (draws // 2)
    a, b = (half - half.mean(0) for half in halves)
    return (a * b).sum(0) / (n - 1)


@torch.no_grad()
def divergence_by_dimension(
    prior: Density, h: GaussianParameters, generator: Generator, points: int = 4000
) -> Float[Tensor, "M"]:
    """E_x KL(q(z_d|x) || p(z_d)) of each dimension in nats, p(z_d) the prior's marginal.

    Exact for priors that are mixtures. Of others the marginal is a kernel density estimate from
    `points` draws (Scott's bandwidth), which smooths narrow modes and has no tail: there the number
    is too large. The mean is over as many z ~ q(z). Their sum is the ELBO's KL term only where the
    prior factorises.
    """
    few = torch.linspace(0, len(h.mu) - 1, min(points, len(h.mu)), device=h.mu.device).long()
    mu, log_sigma = (a[few].double() for a in h)
    eps = torch.randn(mu.shape, generator=generator, device=mu.device).double()
    z, log_q = mu + log_sigma.exp() * eps, -0.5 * eps.square() - log_sigma - 0.5 * LOG_2PI
    if hasattr(prior, "as_mixture"):
        log_w, centre, log_width = (a.double() for a in prior.as_mixture())  # pyright: ignore
    else:
        centre = prior.sample(points, generator).double()
        log_width = (centre.std(0).log() - 0.2 * math.log(points)).expand_as(centre)
        log_w = torch.full((points,), -math.log(points), device=z.device).double()
    rows = []
    for d in range(mu.shape[1]):
        u = (z[:, d, None] - centre[:, d]) * (-log_width[:, d]).exp()
        log_p = (log_w - 0.5 * u.square() - log_width[:, d] - 0.5 * LOG_2PI).logsumexp(1)
        rows.append((log_q[:, d] - log_p).mean())
    return torch.stack(rows)
