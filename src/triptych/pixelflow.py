"""A normalizing flow on the pixels of integer images (Dinh et al. 2017, arXiv:1605.08803).

Levels k = 0 .. L-1 are made continuous by y = (k + u) / L with u uniform in [0, 1) (Uria et al.
2013; Theis et al. 2016, arXiv:1511.01844, section 3.1), so that

    log P(k) >= E_u[log p(y)] - D log L

with p(y) the flow's density on [0, 1]^D, every Jacobian (the logit's too) included.
"""

import math

import torch
from jaxtyping import Float
from torch import Generator, Tensor, nn

from triptych.flows.flow import Flow
from triptych.flows.multiscale import ActNorm


class PixelFlow(nn.Module):
    """`flow` is a density of images with values in [0, 1]; `levels` the number of grey levels L."""

    def __init__(self, flow: Flow, shape: tuple[int, int, int], levels: int) -> None:
        super().__init__()
        self.flow, self.shape, self.levels = flow, shape, levels
        self.dims = math.prod(shape)

    def log_prob(
        self, x: Float[Tensor, "B C H W"], u: Float[Tensor, "B C H W"]
    ) -> Float[Tensor, "B"]:
        """log p(y) - D log L in nats: its mean over u bounds log P of the integer image x."""
        y = (x + u) / self.levels
        return self.flow.log_prob(y) - self.dims * math.log(self.levels)

    def loss(
        self, x: Float[Tensor, "B C H W"], noise: Float[Tensor, "B C H W"]
    ) -> Float[Tensor, "B"]:
        """Negative bound on log P(x), in nats."""
        return -self.log_prob(x, noise)

    def terms(
        self, x: Float[Tensor, "B C H W"], noise: Float[Tensor, "B C H W"]
    ) -> dict[str, Float[Tensor, "B"]]:
        """Base density and log_det."""
        z, log_det = self.flow.inverse((x + noise) / self.levels)
        return {"log_pz": self.flow.base.log_prob(z), "log_det": log_det}

    def noise(self, n: int, generator: Generator) -> Float[Tensor, "n C H W"]:
        """u, uniform in [0, 1)."""
        return torch.rand(n, *self.shape, generator=generator, device=generator.device)

    @torch.no_grad()
    def prepare(self, x: Tensor, noise: Tensor) -> None:
        """Data-dependent start of the normalisation layers (Salimans & Kingma 2016)."""
        layers = [m for m in self.modules() if isinstance(m, ActNorm)]
        for layer in layers:
            layer.starting = True
        self.log_prob(x, noise)
        for layer in layers:
            layer.starting = False

    @torch.no_grad()
    def sample(self, n: int, generator: Generator) -> Float[Tensor, "n C H W"]:
        """Grey values k / (L-1) with k = floor(L y), those outside moved to the nearest level."""
        k = (self.levels * self.flow.sample(n, generator)).floor()
        return k.clamp(0, self.levels - 1) / (self.levels - 1)

    @torch.no_grad()
    def share_outside(self, n: int, generator: Generator) -> float:
        """Share of sampled pixels that fell outside [0, 1] and had to be moved."""
        y = self.flow.sample(n, generator)
        return ((y < 0) | (y > 1)).float().mean().item()
