"""A prior and a posterior of two levels (Tomczak & Welling 2018, *VAE with a VampPrior*,
arXiv:1705.07120, section 4).

    p(z) = p(z_1|z_2) p(z_2),    q(z|x) = q(z_2|x) q(z_1|x, z_2),    z = (z_1, z_2)

Both are what every prior and posterior is, so the VAE above them does not change; the decoder reads
both levels. p(z_2) is any density: a standard Gaussian, or a VampPrior on the posterior's top.
"""

from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Generator, Tensor, nn

from triptych.posteriors import DiagonalGaussian, GaussianParameters
from triptych.protocols import Density


class TwoLevelPrior(nn.Module):
    """p(z_1|z_2) = N(mu(z_2), diag sigma(z_2)^2) under `top`, the density of z_2.

    `net` maps [*, dim_2] to mean and log sigma, [*, 2 dim_1]. z holds z_1, then z_2.
    """

    def __init__(self, top: Density, net: nn.Module, dim_1: int) -> None:
        super().__init__()
        self.top, self.net, self.dim_1 = top, net, dim_1

    def log_prob(self, z: Float[Tensor, "*batch D"]) -> Float[Tensor, "*batch"]:
        """log p(z_1|z_2) + log p(z_2) in nats."""
        z_1, z_2 = z[..., : self.dim_1], z[..., self.dim_1 :]
        return self.given(z_2).log_prob(z_1) + self.top.log_prob(z_2)

    def sample(self, n: int, generator: Generator | None = None) -> Float[Tensor, "n D"]:
        """The top first."""
        z_2 = self.top.sample(n, generator)
        size = (n, self.dim_1)
        eps = torch.randn(size, generator=generator, device=z_2.device, dtype=z_2.dtype)
        z_1, _ = self.given(z_2).rsample(eps)
        return torch.cat([z_1, z_2], -1)

    def given(self, z_2: Float[Tensor, "*batch D2"]) -> GaussianParameters:
        """The parameters of p(z_1|z_2)."""
        return GaussianParameters.of(self.net(z_2))


class TwoLevelParameters(NamedTuple):
    """What the encoder gives for an image: q(z_2|x), and what q(z_1|x, z_2) reads of x."""

    top: GaussianParameters
    seen: Float[Tensor, "*batch F"]


class TwoLevelPosterior(nn.Module):
    """q(z_2|x) q(z_1|x, z_2), both diagonal Gaussians.

    `eye` maps images to what q(z_1|x, z_2) reads of them, [B, F]; `net` maps that and z_2,
    [*, F + dim_2], to mean and log sigma of z_1.
    """

    def __init__(self, top: DiagonalGaussian, eye: nn.Module, net: nn.Module, dim_1: int) -> None:
        super().__init__()
        self.top, self.eye, self.net, self.dim_1 = top, eye, net, dim_1
        self.latent_dim = dim_1 + top.latent_dim

    def encode(self, x: Float[Tensor, "B C H W"]) -> TwoLevelParameters:
        """Run both networks that see the image, once however many samples follow."""
        return TwoLevelParameters(self.top.encode(x), self.eye(x))

    def rsample(
        self, h: TwoLevelParameters, eps: Float[Tensor, "*batch D"]
    ) -> tuple[Float[Tensor, "*batch D"], Float[Tensor, "*batch"]]:
        """z and log q(z|x), the top first."""
        z_2, log_q2 = self.top.rsample(h.top, eps[..., self.dim_1 :])
        z_1, log_q1 = self.given(h.seen, z_2).rsample(eps[..., : self.dim_1])
        return torch.cat([z_1, z_2], -1), log_q1 + log_q2

    def log_prob(self, z: Float[Tensor, "*batch D"], h: TwoLevelParameters) -> Tensor:
        """log q(z_1|x, z_2) + log q(z_2|x) in nats."""
        z_1, z_2 = z[..., : self.dim_1], z[..., self.dim_1 :]
        return self.given(h.seen, z_2).log_prob(z_1) + self.top.log_prob(z_2, h.top)

    def given(self, seen: Tensor, z_2: Float[Tensor, "*batch D2"]) -> GaussianParameters:
        """The parameters of q(z_1|x, z_2)."""
        together = torch.cat([seen.expand(*z_2.shape[:-1], -1), z_2], -1)
        return GaussianParameters.of(self.net(together))
