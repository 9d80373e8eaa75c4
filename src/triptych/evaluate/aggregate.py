"""The prior against the aggregate posterior q(z) = (1/N) sum_n q(z|x_n).

ELBO surgery (Hoffman & Johnson 2016): the ELBO's KL term splits exactly into

    E_n KL(q(z|x_n) || p(z)) = MI + KL(q(z) || p(z)),   MI = E log q(z|x) - log q(z),

and only the second part measures how well the prior fits. q(z) is evaluated as what it is, a
mixture of N posteriors, in float64 where they are diagonal Gaussians. It is that of these N images:
the information is never more than log N, and where it reaches that, the divergence is the rate less
log N; of more images q(z) is wider, and on average nearer to the prior.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Generator, Tensor
from torch.utils._pytree import tree_leaves, tree_map

from triptych.evaluate.memory import in_halves
from triptych.maths import log_mean_exp, mixture_log_prob
from triptych.posteriors import DiagonalGaussian
from triptych.protocols import Density, Posterior
from triptych.vae import VAE

DEAR = 1_000  # z that log q(z) is taken of, where a pair (z, n) costs work of its own
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

    Where q is no diagonal Gaussian, so that a pair (z, n) costs work of its own, the information is
    of `DEAR` of the z, evenly spaced over the images, and of fewer where that is many passes of a
    network. The rate, which images differ in by many nats, is of all; the divergence is what the
    information leaves of it.
    """
    n, dear = len(z), max(2, DEAR // getattr(model.posterior, "passes", 1))
    m = n if type(model.posterior) is DiagonalGaussian else min(n, dear)
    some = torch.arange(m, device=z.device) * (n - 1) // max(1, m - 1)
    rate = log_qz_x.double() - model.prior.log_prob(z).double()
    information = log_qz_x[some].double() - aggregate_log_prob(model.posterior, z[some], h)
    of_rate, of_information = rate.var() / n, information.var() / m
    shared = torch.stack([rate[some], information]).cov()[0, 1] / n
    of_kl = (of_rate + of_information - 2 * shared).clamp(min=0)
    return Match(
        (rate.mean() - information.mean()).item(),
        of_kl.sqrt().item(),
        information.mean().item(),
        of_information.sqrt().item(),
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
    log_w = torch.full((len(mu),), -np.log(len(mu)), dtype=torch.float64, device=mu.device)
    chunks = z.double().split(500)
    parts = [in_halves(lambda c: mixture_log_prob(c, log_w, mu, log_sigma), c) for c in chunks]
    return torch.cat(parts)


SPANNING = 3  # draws that can have a density in a plane: fewer lie on a line


@dataclass(frozen=True)
class LatentPlane:
    """What a prior-against-posterior picture needs, in two coordinates: `posterior` [N, 2] and
    `prior` [n, 2] are points, `grid_x` and `grid_y` [P] the axes, `density` [P, P] is the prior's
    with a row for each y. `components` are "latent" or "pca", `explained` [2] is each axis' share
    of the posterior's variance."""

    posterior: NDArray[np.float32]
    prior: NDArray[np.float32]
    grid_x: NDArray[np.float32]
    grid_y: NDArray[np.float32]
    density: NDArray[np.float32]
    components: str
    explained: NDArray[np.float32]
    chain: NDArray[np.float32] | None = None
    """Density of what a chain in the latent space draws, on the same grid."""
    chain_draws: NDArray[np.float32] | None = None

    def arrays(self, labels: Tensor) -> dict[str, NDArray[Any]]:
        """What latent.npz holds: all that is here, and the class of each point of the cloud."""
        given = {k: np.asarray(v) for k, v in vars(self).items() if v is not None}
        return given | {"labels": labels.cpu().numpy()}


@torch.no_grad()
def latent_plane(
    prior: Density,
    z: Float[Tensor, "N M"],
    generator: Generator,
    points: int = 120,
    chain: Float[Tensor, "n M"] | None = None,
) -> LatentPlane:
    """The cloud of z ~ q(z) and the prior's density in a plane.

    For M = 2 the plane is the latent space and the density is p(z) on a grid. For M > 2 it is
    spanned by the two leading principal components of the cloud, and the density is that of the
    *projected* prior, estimated from its samples: p(z) on the plane itself would be a slice.
    That of `chain`, draws of a learned distribution, is always estimated so, from three or more.
    """
    draws = prior.sample(10_000, generator)
    if z.shape[1] == 2:
        basis, center = torch.eye(2, device=z.device), torch.zeros(2, device=z.device)
        explained = np.ones(2, np.float32)
    else:
        center = z.mean(0)
        _, s, v = torch.linalg.svd(z - center, full_matrices=False)
        basis, explained = v[:2].T, (s.square() / s.square().sum())[:2].float().cpu().numpy()
    cloud, flat = (z - center) @ basis, (draws - center) @ basis
    learned = cloud[:0] if chain is None else (chain - center) @ basis
    x, y = (_axis(torch.cat([cloud, learned])[:, i], flat[:, i], points) for i in (0, 1))
    if z.shape[1] == 2:
        grid = torch.stack(torch.meshgrid(x, y, indexing="xy"), -1)
        density = prior.log_prob(grid.to(z)).exp().cpu().numpy()
    else:
        density = _estimated_density(flat, x, y)
    return LatentPlane(
        cloud.float().cpu().numpy(),
        flat[:1_000].float().cpu().numpy(),
        x.numpy(),
        y.numpy(),
        density.astype(np.float32),
        "latent" if z.shape[1] == 2 else "pca",
        explained,
        _estimated_density(learned, x, y) if len(learned) >= SPANNING else None,
        learned[:1_000].float().cpu().numpy() if len(learned) >= SPANNING else None,
    )


def _estimated_density(draws: Float[Tensor, "n 2"], x: Tensor, y: Tensor) -> NDArray[np.float32]:
    """Kernel density of the first 5,000 draws on a grid, rows of equal y."""
    from scipy.stats import gaussian_kde  # takes a second, which training need not wait for

    gx, gy = np.meshgrid(x.numpy(), y.numpy())
    kde = gaussian_kde(draws[:5_000].cpu().numpy().T)
    found = kde(np.stack([gx.ravel(), gy.ravel()])).reshape(gx.shape)
    return found.astype(np.float32)


def _axis(a: Tensor, b: Tensor, points: int) -> Tensor:
    """A grid axis that holds nearly all of both samples."""
    lows, highs = zip(_ends(a), _ends(b), strict=True)
    low, high = min(lows), max(highs)
    margin = 0.1 * (high - low)
    return torch.linspace(low - margin, high + margin, points)


def _ends(x: Tensor) -> tuple[float, float]:
    """Quantiles 0.001 and 0.999, or where those are farther out than the range from 0.01 to 0.99
    and a third of it on either side, as a few draws of a flow may be, the ends of that."""
    at = torch.tensor([0.001, 0.01, 0.99, 0.999], device=x.device, dtype=x.dtype)
    lowest, low, high, highest = x.quantile(at).tolist()
    beside = (high - low) / 3
    return max(lowest, low - beside), min(highest, high + beside)
