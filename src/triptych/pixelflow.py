"""A normalizing flow on the pixels of integer images (Dinh et al. 2017, arXiv:1605.08803).

Levels x = 0 .. L-1 are made continuous by y = (x + u) / L with u ~ q(u|x) on [0, 1)^D (Uria et al.
2013, arXiv:1306.0186; Theis et al. 2016, arXiv:1511.01844, section 3.1; Ho et al. 2019,
arXiv:1902.00275):

    log P(x) >= E_q[log w],    w = L^-D p(y) / q(u|x),    E_q[w] = P(x)

with p(y) the flow's density on [0, 1]^D, every Jacobian (the logit's too) included. The offsets are
u = g(v; x), v uniform, so -log q(u|x) is one more log_det; uniform dequantization is u = v.
"""

import math

import torch
from jaxtyping import Float
from torch import Generator, Tensor, nn

from triptych.flows.dequantization import UniformDequantization, VariationalDequantization
from triptych.flows.flow import Flow
from triptych.flows.multiscale import ActNorm


class PixelFlow(nn.Module):
    """`flow` is a density of images with values in [0, 1]; `levels` the number of grey levels L;
    `dequantizer` the map g, uniform if not given."""

    images_to_prepare = 256

    def __init__(
        self,
        flow: Flow,
        shape: tuple[int, int, int],
        levels: int,
        dequantizer: VariationalDequantization | None = None,
    ) -> None:
        super().__init__()
        self.flow, self.shape, self.levels = flow, shape, levels
        self.dequantizer = UniformDequantization() if dequantizer is None else dequantizer
        self.dims = math.prod(shape)

    def dequantize(
        self, x: Float[Tensor, "B C H W"], v: Float[Tensor, "B C H W"]
    ) -> tuple[Float[Tensor, "B C H W"], Tensor]:
        """(y, -log q(u|x)) in nats, for uniform v."""
        u, log_det = self.dequantizer(v, x)
        return (x + u) / self.levels, log_det

    def log_weight(
        self, x: Float[Tensor, "B C H W"], v: Float[Tensor, "B C H W"]
    ) -> Float[Tensor, "B"]:
        """log w in nats: its mean over v bounds log P of the integer image x."""
        y, log_det = self.dequantize(x, v)
        return self.flow.log_prob(y) + log_det - self.dims * math.log(self.levels)

    def loss(
        self, x: Float[Tensor, "B C H W"], noise: Float[Tensor, "B C H W"]
    ) -> Float[Tensor, "B"]:
        """Negative bound on log P(x), in nats."""
        return -self.log_weight(x, noise)

    def terms(
        self, x: Float[Tensor, "B C H W"], noise: Float[Tensor, "B C H W"]
    ) -> dict[str, Float[Tensor, "B"]]:
        """Base density and log_det, from v to z: their sum is log w."""
        y, before = self.dequantize(x, noise)
        z, log_det = self.flow.inverse(y)
        log_det = before + log_det - self.dims * math.log(self.levels)
        return {"log_pz": self.flow.base.log_prob(z), "log_det": log_det}

    def noise(self, n: int, generator: Generator) -> Float[Tensor, "n C H W"]:
        """v, uniform in [0, 1)."""
        return torch.rand(n, *self.shape, generator=generator, device=generator.device)

    @torch.no_grad()
    def prepare(self, x: Tensor, noise: Tensor) -> None:
        """Data-dependent start of the normalisation layers (Salimans & Kingma 2016,
        arXiv:1602.07868)."""
        layers = [m for m in self.modules() if isinstance(m, ActNorm)]
        for layer in layers:
            layer.starting = True
        self.log_weight(x, noise)
        for layer in layers:
            layer.starting = False

    @torch.no_grad()
    def sample(
        self, n: int, generator: Generator, temperature: float = 1.0
    ) -> Float[Tensor, "n C H W"]:
        """Grey values k / (L-1) with k = floor(L y), those outside moved to the nearest level."""
        k = (self.levels * self.flow.sample(n, generator, temperature)).floor()
        return k.clamp(0, self.levels - 1) / (self.levels - 1)

    @torch.no_grad()
    def share_outside(
        self, n: int, generator: Generator, temperature: float = 1.0
    ) -> Float[Tensor, "n"]:
        """Share of each sample's pixels that fell outside [0, 1] and had to be moved."""
        y = self.flow.sample(n, generator, temperature)
        return ((y < 0) | (y > 1)).float().flatten(1).mean(1)

    @torch.no_grad()
    def inverse_error(
        self, x: Float[Tensor, "B C H W"], v: Float[Tensor, "B C H W"]
    ) -> Float[Tensor, "B"]:
        """max_d L |y - f(f^-1(y))| of each image, in grey levels: nil but for rounding."""
        y, _ = self.dequantize(x, v)
        again, _ = self.flow(self.flow.inverse(y)[0])
        return self.levels * (again - y).abs().flatten(1).amax(1)
