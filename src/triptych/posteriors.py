"""Approximate posteriors q(z|x), the encoder network included."""

from typing import NamedTuple

from jaxtyping import Float
from torch import Tensor, nn

from triptych.maths import normal_log_prob


class GaussianParameters(NamedTuple):
    """What the encoder says of an image: mean and log standard deviation."""

    mu: Float[Tensor, "*batch D"]
    log_sigma: Float[Tensor, "*batch D"]


class DiagonalGaussian(nn.Module):
    """q(z|x) = N(z; mu(x), diag sigma(x)^2) (Kingma & Welling 2014, arXiv:1312.6114, eq. 9).

    `net` maps images [B, C, H, W] to [B, 2 latent_dim].
    """

    def __init__(self, net: nn.Module, latent_dim: int) -> None:
        super().__init__()
        self.net, self.latent_dim = net, latent_dim

    def encode(self, x: Float[Tensor, "B C H W"]) -> GaussianParameters:
        """Run the encoder, once however many samples follow."""
        mu, log_sigma = self.net(x).to(x.dtype).chunk(2, -1)
        return GaussianParameters(mu, log_sigma)

    def rsample(
        self, h: GaussianParameters, eps: Float[Tensor, "*batch D"]
    ) -> tuple[Float[Tensor, "*batch D"], Float[Tensor, "*batch"]]:
        """z = mu + sigma eps, and log q(z|x) = log N(eps; 0, I) - sum log sigma."""
        z = h.mu + h.log_sigma.exp() * eps
        return z, normal_log_prob(eps) - h.log_sigma.sum(-1)

    def log_prob(self, z: Tensor, h: GaussianParameters) -> Float[Tensor, "*batch"]:
        """log q(z|x) in nats."""
        return normal_log_prob(z, h.mu, h.log_sigma)
