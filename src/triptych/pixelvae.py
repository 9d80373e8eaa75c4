"""A likelihood in which pixels see their neighbours (Gulrajani et al. 2017, *PixelVAE: A Latent
Variable Model for Natural Images*, arXiv:1611.05013; its window from Chen et al. 2017, *Variational
Lossy Autoencoder*, arXiv:1611.02731).

    p(x|z) = prod_d p(x_d | z, x_<d),    x_<d the rows above d and the row left of it, in a window

What its neighbours tell of a pixel, the edge of a stroke say, z need not carry. Through a small
window they tell no more than that, and z keeps the shape.
"""

import math
from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Generator, Tensor, nn
from torch.nn.functional import conv2d, pad, silu, softplus

from triptych.maths import check_outputs
from triptych.nets.conv import pixels_before
from triptych.nets.mlp import MLP


class AutoregressiveBernoulli(nn.Module):
    """log p(x|z) = sum_d x_d l_d - log(1 + exp l_d) with logits l_d = f(a_d(z) + W x_near(d)).

    `net` maps [*, latent_dim] to a, J `features` a pixel: [*, J H W]. x_near(d) are the pixels
    before d, row by row, in a square of side `window` (odd) around it; W x_near is the same for all
    samples of z. f is SiLU and an MLP of J units. W and f are the same at every pixel.
    """

    def __init__(
        self, net: nn.Module, shape: tuple[int, int, int], features: int, window: int
    ) -> None:
        super().__init__()
        if shape[0] != 1:
            raise ValueError(f"pixels are drawn in turn in one channel, not in {shape[0]}")
        self.net, self.shape, self.features, self.window = net, shape, features, window
        self.before = pixels_before(window)
        start = torch.randn(features, self.before) / math.sqrt(self.before)
        self.weight, self.head = nn.Parameter(start), MLP([features, features, 1])

    def log_prob(
        self, x: Float[Tensor, "B 1 H W"], z: Float[Tensor, "*batch M"]
    ) -> Float[Tensor, "*batch"]:
        """log p(x|z) in nats, summed over pixels; x in {0, 1}."""
        seen = conv2d(x.to(z.dtype), self.kernel(), padding=self.window // 2).flatten(-2)
        logits = self.logits(self.features_of(z) + seen)
        return (x.flatten(-3) * logits - softplus(logits)).sum(-1)

    def kernel(self) -> Float[Tensor, "J 1 w w"]:
        """W on the square, zero from its centre on."""
        after = self.window**2 - self.before
        return pad(self.weight, (0, after)).unflatten(-1, (1, self.window, self.window))

    def features_of(self, z: Float[Tensor, "*batch M"]) -> Float[Tensor, "*batch J D"]:
        """a(z), what the decoder gives for each pixel."""
        out = self.net(z)
        check_outputs(out, self.features * math.prod(self.shape), "decoder")
        return out.unflatten(-1, (self.features, -1))

    def logits(self, sums: Float[Tensor, "*batch J D"]) -> Float[Tensor, "*batch D"]:
        """f of the sums a + W x_near, pixel by pixel."""
        return self.head(silu(sums).mT).squeeze(-1)

    def sample(
        self, z: Float[Tensor, "*batch M"], generator: Generator | None = None
    ) -> Float[Tensor, "*batch 1 H W"]:
        """x ~ p(x|z), zeros and ones, pixel after pixel: one run of the decoder, D of f."""
        size = (*z.shape[:-1], math.prod(self.shape))
        u = torch.rand(size, generator=generator, device=z.device, dtype=z.dtype)
        return self._in_turn(z, lambda d, p: (u[..., d] < p).to(p.dtype))

    def mean(self, z: Float[Tensor, "*batch M"]) -> Float[Tensor, "*batch 1 H W"]:
        """E[x|z] approximately, to be looked at: the means of x_<d take their place, which would
        be exact if f and the sigmoid were linear."""
        return self._in_turn(z, lambda d, p: p)

    @torch.no_grad()
    def _in_turn(self, z: Tensor, pixel: Callable[[int, Tensor], Tensor]) -> Tensor:
        """The image whose pixel d is pixel(d, p(x_d = 1 | z, x_<d)), in the order of d."""
        _, H, W = self.shape
        features, edge = self.features_of(z), self.window // 2
        canvas = pad(z.new_zeros(*z.shape[:-1], H, W), [edge] * 4)
        for d in range(H * W):
            i, j = divmod(d, W)
            square = canvas[..., i : i + self.window, j : j + self.window].flatten(-2)
            near = square[..., : self.before]
            sums = features[..., d] + near @ self.weight.mT
            p = self.logits(sums[..., None])[..., 0].sigmoid()
            canvas[..., i + edge, j + edge] = pixel(d, p)
        return canvas[..., None, edge : edge + H, edge : edge + W]

    def grey(self, x: Tensor) -> Tensor:
        """Zeros and ones are grey values."""
        return x
