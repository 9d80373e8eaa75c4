"""VampPrior (Tomczak & Welling 2018, *VAE with a VampPrior*, arXiv:1705.07120).

The prior that maximises the ELBO is the aggregate posterior; over K learned pseudo-inputs u_k in
place of all the data it is affordable:

    p(z) = sum_k w_k q(z|u_k)                                                       (eq. 9)

with the encoder's own q. Weights w_k are learned too (the paper's are equal).
"""

from typing import Any

import torch
from jaxtyping import Float
from torch import Generator, Tensor, nn
from torch.nn.functional import hardtanh

from triptych.maths import mixture_log_prob, mixture_sample, widest_float
from triptych.posteriors import DiagonalGaussian, GaussianParameters


class VampPrior(nn.Module):
    """A mixture of the posteriors of `components` pseudo-inputs, images of values in [0, top].

    `posterior` stays the VAE's: its weights are not this module's and train with the VAE.
    """

    MARGIN = 0.01  # of the range: the start keeps off its ends, where a clamp has no gradient

    def __init__(
        self,
        posterior: DiagonalGaussian,
        shape: tuple[int, int, int],
        components: int,
        top: float = 1.0,
    ) -> None:
        super().__init__()
        if not isinstance(posterior, DiagonalGaussian):
            raise TypeError(
                f"components are diagonal Gaussians, which a {type(posterior).__name__} does not "
                f"give; choose DiagonalGaussian"
            )
        self.top = top
        self.logits = nn.Parameter(torch.zeros(components))
        self.pseudo_inputs = nn.Parameter(torch.rand(components, *shape))
        self.borrowed = (posterior,)  # a tuple: not registered, so not owned

    @property
    def images_to_prepare(self) -> int:
        """One for each pseudo-input."""
        return len(self.pseudo_inputs)

    def prepare(self, x: Float[Tensor, "K C H W"], noise: Any) -> None:
        """Start the pseudo-inputs from training images; other modules' need the noise."""
        self.pseudo_inputs.data = self.MARGIN + (1 - 2 * self.MARGIN) * x / self.top

    def components(self) -> GaussianParameters:
        """q(z|u_k) of all pseudo-inputs."""
        (posterior,) = self.borrowed
        u = hardtanh(self.pseudo_inputs, 0.0, 1.0)
        return posterior.encode(u if self.top == 1 else self.top * u)

    def log_prob(self, z: Float[Tensor, "*batch D"]) -> Float[Tensor, "*batch"]:
        """log p(z) in nats, in double precision where there is: posteriors are narrow."""
        dtype = widest_float(z.device)
        parts = [part.to(dtype) for part in self.as_mixture()]
        return mixture_log_prob(z.to(dtype), *parts).to(z.dtype)

    def as_mixture(self) -> tuple[Tensor, Tensor, Tensor]:
        """Log weights [K], means and log standard deviations [K, D]."""
        q = self.components()
        return self.logits.log_softmax(-1), q.mu, q.log_sigma

    def sample(self, n: int, generator: Generator | None = None) -> Float[Tensor, "n D"]:
        """Pick a pseudo-input, then draw from its posterior."""
        return mixture_sample(n, *self.as_mixture(), generator)
