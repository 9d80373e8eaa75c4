"""RealNVP on the pixels as one vector: masked couplings with fully connected networks (Dinh,
Sohl-Dickstein & Bengio 2017, arXiv:1605.08803, section 3.4 and figure 3)."""

import math
from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from triptych.flows.coupling import Elementwise
from triptych.flows.flow import check_size, coupling_on
from triptych.flows.multiscale import ActNorm
from triptych.protocols import Bijector, WithLogDet


class Reshape(nn.Module):
    """The same numbers in another shape; what is behind the batch is given."""

    def __init__(self, base: Sequence[int], image: Sequence[int]) -> None:
        super().__init__()
        self.base, self.image = tuple(base), tuple(image)

    def forward(self, z: Float[Tensor, "B ..."]) -> WithLogDet:
        return z.reshape(len(z), *self.image), torch.zeros((), dtype=z.dtype, device=z.device)

    def inverse(self, x: Float[Tensor, "B ..."]) -> WithLogDet:
        return x.reshape(len(x), *self.base), torch.zeros((), dtype=x.dtype, device=x.device)


def checkerboard(shape: tuple[int, int, int]) -> Bool[Tensor, "D"]:
    """The fields of one colour, row by row, alike in all channels."""
    c, h, w = shape
    field = (torch.arange(h)[:, None] + torch.arange(w)) % 2 == 0
    return field.expand(c, h, w).flatten()


def masked_flow(
    shape: tuple[int, int, int], layers: int, hidden: Sequence[int], f: Elementwise
) -> list[Bijector]:
    """From vectors [B, D] to images: couplings that change the two colours of a checkerboard in
    turn, then a scale and a shift for each pixel.

    Two layers touch every pixel. The couplings start as the identity.
    """
    D = math.prod(shape)
    check_size(D, layers)
    mask = checkerboard(shape)
    masks = [mask if i % 2 == 0 else ~mask for i in range(layers)]
    couplings = [coupling_on(m, hidden, f) for m in masks]
    pixels = (D, 1, 1)
    return [*couplings, Reshape([D], pixels), ActNorm(D), Reshape(pixels, shape)]
