"""The standard Gaussian prior p(z) = N(0, I) (Kingma & Welling 2014, arXiv:1312.6114)."""

import torch
from jaxtyping import Float
from torch import Generator, Tensor, nn

from triptych.maths import check_coordinates, normal_log_prob


class StandardGaussian(nn.Module):
    """N(0, I) in `dim` dimensions; nothing to learn. Also the base of every flow."""

    origin: Tensor

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.dim = dim
        self.register_buffer("origin", torch.zeros(dim), persistent=False)

    def log_prob(self, z: Float[Tensor, "*batch D"]) -> Float[Tensor, "*batch"]:
        """log N(z; 0, I) in nats."""
        check_coordinates(z, self.dim)
        return normal_log_prob(z)

    def as_mixture(self) -> tuple[Tensor, Tensor, Tensor]:
        """Log weights, means and log standard deviations of its one component."""
        zero = torch.zeros_like(self.origin[None])
        return zero[:, 0], zero, zero

    def sample(self, n: int, generator: Generator | None = None) -> Float[Tensor, "n D"]:
        """n independent draws."""
        like = self.origin
        return torch.randn(n, self.dim, generator=generator, device=like.device, dtype=like.dtype)
