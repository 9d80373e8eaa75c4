"""The prior against the aggregate posterior q(z) = (1/N) sum_n q(z|x_n).

ELBO surgery (Hoffman & Johnson 2016, *ELBO surgery: yet another way to carve up the variational
evidence lower bound*): the ELBO's KL term splits exactly into

    E_n KL(q(z|x_n) || p(z)) = MI + KL(q(z) || p(z)),   MI = E log q(z|x) - log q(z),

and only the second part measures how well the prior fits. q(z) is evaluated as what it is, a
mixture of N posteriors, in float64 where they are diagonal Gaussians. It is that of these N images:
the information is never more than log N, and where it reaches that, the divergence is the rate less
log N; of more images q(z) is wider, and on average nearer to the prior.
"""

import math
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.utils._pytree import tree_leaves, tree_map

from triptych.evaluate.memory import in_halves
from triptych.maths import log_mean_exp, mixture_log_prob
from triptych.posteriors import DiagonalGaussian
from triptych.protocols import Posterior
from triptych.vae import VAE

DRAWS_IF_COSTLY = 1_000  # z that log q(z) is taken of, where a pair (z, n) costs work of its own
PAIRS = 20_000  # pairs (z, n) evaluated at a time


@dataclass(frozen=True)
class Match:
    """KL(q(z)||p(z)) and the mutual information, means over images and draws with their standard
    errors, and their sum, the rate, of each image; in nats. `draws` of the z had log q(z) taken.
    """

    kl: float
    kl_mc_std: float
    mutual_information: float
    mutual_information_mc_std: float
    rate: Float[Tensor, "N"]
    draws: int


@torch.no_grad()
def encode_all(model: VAE, x: Float[Tensor, "N C H W"]) -> Any:
    """The posterior parameters of every image."""
    parts = [in_halves(model.posterior.encode, chunk) for chunk in x.split(1000)]
    return tree_map(lambda *chunks: torch.cat(chunks), *parts)


@torch.no_grad()
def aggregate_match(
    model: VAE, h: Any, z: Float[Tensor, "N M"], log_qz_x: Float[Tensor, "N"]
) -> Match:
    """Both parts of the KL term, from one z ~ q(z|x_n) for each n.

    The rate, in which images differ by many nats, is of all z. Where q is no diagonal Gaussian, so
    that a pair (z, n) costs work of its own, the information is of `DRAWS_IF_COSTLY` of them,
    evenly spaced over the images, and of fewer where a pair takes several passes of a network. The
    divergence is the difference of the two means.
    """
    n, fewer = len(z), max(2, DRAWS_IF_COSTLY // getattr(model.posterior, "passes", 1))
    m = n if type(model.posterior) is DiagonalGaussian else min(n, fewer)
    some = torch.arange(m, device=z.device) * (n - 1) // max(1, m - 1)
    rate = log_qz_x.double() - model.prior.log_prob(z).double()
    information = log_qz_x[some].double() - aggregate_log_prob(model.posterior, z[some], h)
    rate_var, information_var = rate.var() / n, information.var() / m  # of the means
    covariance = torch.stack([rate[some], information]).cov()[0, 1] / n
    kl_var = (rate_var + information_var - 2 * covariance).clamp(min=0)
    return Match(
        (rate.mean() - information.mean()).item(),
        kl_var.sqrt().item(),
        information.mean().item(),
        information_var.sqrt().item(),
        rate,
        draws=m,
    )


def aggregate_log_prob(posterior: Posterior, z: Float[Tensor, "S M"], h: Any) -> Float[Tensor, "S"]:
    """log q(z), exact, in chunks of z: as a mixture of Gaussians in float64, or pair by pair."""
    if type(posterior) is not DiagonalGaussian:  # one derived from it may be of another density
        n = len(tree_leaves(h)[0])
        chunks = z.split(max(1, PAIRS // n))

        def pairs(z: Tensor) -> Tensor:
            wide = z[:, None].expand(-1, n, -1)
            return log_mean_exp(posterior.log_prob(wide, h).double(), 1)

        return torch.cat([in_halves(pairs, chunk) for chunk in chunks])
    mu, log_sigma = h.mu.double(), h.log_sigma.double()
    log_w = torch.full((len(mu),), -math.log(len(mu)), dtype=torch.float64, device=mu.device)
    chunks = z.double().split(500)
    parts = [in_halves(lambda c: mixture_log_prob(c, log_w, mu, log_sigma), c) for c in chunks]
    return torch.cat(parts)
