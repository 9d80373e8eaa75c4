"""Approximate posteriors q(z|x), the encoder network included."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn

from triptych.maths import check_outputs, normal_log_prob

# In size. About 2 at most in a trained VAE; with beta = 1e-6, whose q is nearly a point, one in 200
# comes to -10.
LARGEST_LOG_SIGMA = 10.0


def bounded(log_sigma: Tensor) -> Tensor:
    """log sigma as a network gives it, but no larger in size than `LARGEST_LOG_SIGMA`.

    One image far from all others can take it where exp(-log sigma) squared is infinite in single
    precision, which would end a training (Tomczak & Welling's code keeps it in -3 .. 1).
    """
    return log_sigma.clamp(-LARGEST_LOG_SIGMA, LARGEST_LOG_SIGMA)


class GaussianParameters(NamedTuple):
    """N(mu, diag sigma^2), which a network gives for an image, or for other latents."""

    mu: Float[Tensor, "*batch D"]
    log_sigma: Float[Tensor, "*batch D"]

    @classmethod
    def of(cls, out: Tensor) -> "GaussianParameters":
        """Of a network's output [*batch, 2 D]: the mean, then log sigma."""
        mu, log_sigma = out.chunk(2, -1)
        return cls(mu, bounded(log_sigma))

    def rsample(
        self, eps: Float[Tensor, "*batch D"]
    ) -> tuple[Float[Tensor, "*batch D"], Float[Tensor, "*batch"]]:
        """z = mu + sigma eps, and its log density log N(eps; 0, I) - sum log sigma in nats."""
        z = self.mu + self.log_sigma.exp() * eps
        return z, normal_log_prob(eps) - self.log_sigma.sum(-1)

    def log_prob(self, z: Float[Tensor, "*batch D"]) -> Float[Tensor, "*batch"]:
        """log N(z; mu, diag sigma^2) in nats."""
        return normal_log_prob(z, self.mu, self.log_sigma)


class DiagonalGaussian(nn.Module):
    """q(z|x) = N(z; mu(x), diag sigma(x)^2) (Kingma & Welling 2014, arXiv:1312.6114, eq. 9).

    `net` maps images [B, C, H, W] to [B, 2 latent_dim].
    """

    def __init__(self, net: nn.Module, latent_dim: int) -> None:
        super().__init__()
        self.net, self.latent_dim = net, latent_dim

    def encode(self, x: Float[Tensor, "B C H W"]) -> GaussianParameters:
        """Run the encoder, once however many samples follow."""
        out = self.net(x)
        check_outputs(out, 2 * self.latent_dim, "encoder")
        return GaussianParameters.of(out)

    def rsample(
        self, h: GaussianParameters, eps: Float[Tensor, "*batch D"]
    ) -> tuple[Float[Tensor, "*batch D"], Float[Tensor, "*batch"]]:
        """z and log q(z|x)."""
        return h.rsample(eps)

    def log_prob(self, z: Tensor, h: GaussianParameters) -> Float[Tensor, "*batch"]:
        """log q(z|x) in nats."""
        return h.log_prob(z)


class FullGaussianParameters(NamedTuple):
    """Mean and Cholesky factor of the covariance, its diagonal as log standard deviations."""

    mu: Float[Tensor, "*batch D"]
    log_sigma: Float[Tensor, "*batch D"]
    below: Float[Tensor, "*batch D D"]
    """Zero on and above the diagonal."""


class FullGaussian(nn.Module):
    """q(z|x) = N(z; mu(x), L(x) L(x)^T) with L lower triangular (Kingma & Welling 2019,
    arXiv:1906.02691, section 2.5.1).

    `net` maps images to mean, log diagonal of L and the M (M - 1) / 2 entries below it, row by row.
    """

    strictly_below: Tensor
    """[M, M]: 1 below the diagonal, else 0."""
    place: Tensor
    """[M M]: for each cell of L, row by row, which of the net's entries stands there; any one where
    `strictly_below` is 0. vmap can index by it, and could not assign to the cells."""

    def __init__(self, net: nn.Module, latent_dim: int) -> None:
        super().__init__()
        self.net, self.latent_dim = net, latent_dim
        strictly_below = torch.ones(latent_dim, latent_dim).tril(-1)
        place = (strictly_below.flatten().cumsum(0).long() - 1).clamp(min=0)
        self.register_buffer("strictly_below", strictly_below, persistent=False)
        self.register_buffer("place", place, persistent=False)

    def encode(self, x: Float[Tensor, "B C H W"]) -> FullGaussianParameters:
        """Run the encoder, once however many samples follow."""
        M, out = self.latent_dim, self.net(x)
        sizes = [M, M, M * (M - 1) // 2]
        check_outputs(out, sum(sizes), "encoder")
        mu, log_sigma, entries = out.split(sizes, -1)
        padded = torch.nn.functional.pad(entries, (0, 1))  # with M = 1 there are none to index
        square = padded.index_select(-1, self.place).unflatten(-1, (M, M))
        return FullGaussianParameters(mu, bounded(log_sigma), square * self.strictly_below)

    def rsample(
        self, h: FullGaussianParameters, eps: Float[Tensor, "*batch D"]
    ) -> tuple[Float[Tensor, "*batch D"], Float[Tensor, "*batch"]]:
        """z = mu + L eps, and log q(z|x) = log N(eps; 0, I) - log det L."""
        columns = eps.reshape(-1, *h.mu.shape).movedim(0, -1)
        below = (h.below @ columns).movedim(-1, 0).reshape(eps.shape)
        z = h.mu + h.log_sigma.exp() * eps + below
        return z, normal_log_prob(eps) - h.log_sigma.sum(-1)

    def log_prob(self, z: Tensor, h: FullGaussianParameters) -> Float[Tensor, "*batch"]:
        """log q(z|x) in nats. Samples that share an image are columns of one triangular solve."""
        L = h.below + torch.diag_embed(h.log_sigma.exp())
        away = z - h.mu
        columns = away.reshape(-1, *h.mu.shape).movedim(0, -1)
        eps = torch.linalg.solve_triangular(L, columns, upper=False).movedim(-1, 0)
        return normal_log_prob(eps.reshape(away.shape)) - h.log_sigma.sum(-1)


class FlowParameters(NamedTuple):
    """The Gaussian that a flow starts from, and what its layers read of the image."""

    base: GaussianParameters
    context: Float[Tensor, "*batch C"]


class FlowPosterior(nn.Module):
    """A diagonal Gaussian pushed through bijectors that read the image (Rezende & Mohamed 2015,
    arXiv:1505.05770; Kingma et al. 2016, arXiv:1606.04934):

        z = f_L(... f_1(z_0; c(x)) ...; c(x)),    log q(z|x) = log q(z_0|x) - sum log|det df_l|

    `net` maps images to mean and log standard deviation of z_0 and the context c. With inverted
    autoregressive layers a sample costs one pass, and `log_prob` of any other z one for each
    coordinate; with couplings both cost one.
    """

    def __init__(self, net: nn.Module, latent_dim: int, bijectors: Sequence[nn.Module]) -> None:
        super().__init__()
        self.net, self.latent_dim = net, latent_dim
        self.bijectors = nn.ModuleList(bijectors)
        self.passes = max(getattr(f, "passes", 1) for f in bijectors)
        """How many passes of each layer's network one `log_prob` takes."""

    def encode(self, x: Float[Tensor, "B C H W"]) -> FlowParameters:
        """Run the encoder, once however many samples follow."""
        out, both = self.net(x), 2 * self.latent_dim
        if out.shape[-1] < both:
            raise ValueError(
                f"the encoder must give {both} numbers an image or more, not {out.shape[-1]}"
            )
        return FlowParameters(GaussianParameters.of(out[..., :both]), out[..., both:])

    def rsample(
        self, h: FlowParameters, eps: Float[Tensor, "*batch D"]
    ) -> tuple[Float[Tensor, "*batch D"], Float[Tensor, "*batch"]]:
        """z_0 and then each layer."""
        z, log_qz = h.base.rsample(eps)
        for f in self.bijectors:
            z, log_det = f(z, h.context)
            log_qz = log_qz - log_det
        return z, log_qz

    def log_prob(self, z: Float[Tensor, "*batch D"], h: FlowParameters) -> Float[Tensor, "*batch"]:
        """log q(z|x) in nats, back through the layers."""
        total = torch.zeros((), dtype=z.dtype, device=z.device)
        for f in reversed(self.bijectors):
            z, log_det = f.inverse(z, h.context)  # pyright: ignore[reportCallIssue]
            total = total + log_det
        return h.base.log_prob(z) + total
