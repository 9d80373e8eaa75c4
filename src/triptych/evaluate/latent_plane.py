"""The prior and the aggregate posterior in two coordinates, for the figures."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Generator, Tensor

from triptych.protocols import Density

SPANNING = 3  # draws that can have a density in a plane: fewer lie on a line


@dataclass(frozen=True)
class LatentPlane:
    """What a prior-against-posterior picture needs, in two coordinates: `posterior` [N, 2] and
    `prior` [n, 2] are points, `grid_x` and `grid_y` [P] the axes, `density` [P, P] is the prior's
    with a row for each y. `components` are "latent" or "pca", `explained` [2] is the share
    of the posterior's variance that each component has; ones where the axes are the latent space's
    own."""

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
    own_plane = z.shape[1] == 2
    center, basis, explained = _own_axes(z) if own_plane else _principal_axes(z)
    cloud, flat = (z - center) @ basis, (draws - center) @ basis
    learned = cloud[:0] if chain is None else (chain - center) @ basis
    x, y = (_axis(torch.cat([cloud, learned])[:, i], flat[:, i], points) for i in (0, 1))
    if own_plane:
        grid = torch.stack(torch.meshgrid(x, y, indexing="xy"), -1)
        density = prior.log_prob(grid.to(z)).exp().cpu().numpy()
    else:
        density = _estimated_density(flat, x, y)
    has_density = len(learned) >= SPANNING
    return LatentPlane(
        posterior=cloud.float().cpu().numpy(),
        prior=flat[:1_000].float().cpu().numpy(),
        grid_x=x.numpy(),
        grid_y=y.numpy(),
        density=density.astype(np.float32),
        components="latent" if own_plane else "pca",
        explained=explained,
        chain=_estimated_density(learned, x, y) if has_density else None,
        chain_draws=learned[:1_000].float().cpu().numpy() if has_density else None,
    )


Axes = tuple[Float[Tensor, "M"], Float[Tensor, "M 2"], NDArray[np.float32]]


def _own_axes(z: Float[Tensor, "N 2"]) -> Axes:
    """Those of a latent space that is a plane: center, basis, `explained`."""
    basis = torch.eye(2, device=z.device)
    return torch.zeros(2, device=z.device), basis, np.ones(2, np.float32)


def _principal_axes(z: Float[Tensor, "N M"]) -> Axes:
    """Mean, two leading principal components, and their shares of the variance."""
    center = z.mean(0)
    _, s, v = torch.linalg.svd(z - center, full_matrices=False)
    share = s.square() / s.square().sum()
    return center, v[:2].T, share[:2].float().cpu().numpy()


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
    """Quantiles 0.001 and 0.999, but no farther from the range of 0.01 to 0.99 than a third of its
    width: a few draws of a flow may lie far out."""
    at = torch.tensor([0.001, 0.01, 0.99, 0.999], device=x.device, dtype=x.dtype)
    lowest, low, high, highest = x.quantile(at).tolist()
    beside = (high - low) / 3
    return max(lowest, low - beside), min(highest, high + beside)
