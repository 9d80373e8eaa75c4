"""Mixture-of-Gaussians prior p(z) = sum_k w_k N(z; mu_k, diag sigma_k^2), all of it learned."""

import torch
from jaxtyping import Float
from torch import Generator, Tensor, nn

from triptych.maths import mixture_log_prob, mixture_sample


class MixtureOfGaussians(nn.Module):
    """K diagonal Gaussians with learned weights, means and scales.

    Means start as draws of the standard Gaussian, scales at one, weights equal. log_prob is in
    single precision: where sigma is as small as 0.03 of a mean, it errs by up to 0.02 nats in 32
    dimensions, and by 0.1 in 128.
    """

    def __init__(self, dim: int, components: int) -> None:
        super().__init__()
        self.logits = nn.Parameter(torch.zeros(components))
        self.mu = nn.Parameter(torch.randn(components, dim))
        self.log_sigma = nn.Parameter(torch.zeros(components, dim))

    def log_prob(self, z: Float[Tensor, "*batch D"]) -> Float[Tensor, "*batch"]:
        """log p(z) in nats, through `mixture_log_prob`."""
        return mixture_log_prob(z, *self.as_mixture())

    def as_mixture(self) -> tuple[Tensor, Tensor, Tensor]:
        """Log weights [K], means and log standard deviations [K, D]."""
        return self.logits.log_softmax(-1), self.mu, self.log_sigma

    def sample(self, n: int, generator: Generator | None = None) -> Float[Tensor, "n D"]:
        """A component, then a draw of it."""
        return mixture_sample(n, *self.as_mixture(), generator)
