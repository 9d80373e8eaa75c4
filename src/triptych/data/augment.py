"""Training images bent a little, so that fewer of them can be learned by heart (Simard, Steinkraus
& Platt 2003, *Best practices for convolutional neural networks applied to visual document
analysis*, ICDAR).

    y(p) = x(A p + b + d(p)),    p in [-1, 1]^2

A turns, scales and shears, b moves by up to half a pixel, d is a smooth field that wobbles. Grey
values are interpolated between pixels, so this comes before a view: of a stroke that was moved, the
threshold makes a new edge.
"""

import torch
from jaxtyping import UInt8
from torch import Generator, Tensor
from torch.nn.functional import affine_grid, grid_sample, interpolate

TURN = 0.06  # standard deviation of the angle, in radians
SCALE = 0.04  # of each entry of the matrix that scales and shears
SHIFT = 1 / 56  # largest, as a share of the side: half a pixel of 28
WOBBLE = 1 / 56  # standard deviation of the field, as a share of the side
KNOTS = 5  # of the field, along each side


def bend(
    images: UInt8[Tensor, "B C H W"], share: float, generator: Generator
) -> UInt8[Tensor, "B C H W"]:
    """The images, each bent with probability `share`; the generator is on their device."""
    B, device = len(images), images.device

    def normal(*size: int) -> Tensor:
        return torch.randn(size, generator=generator, device=device)

    def uniform(*size: int) -> Tensor:
        return torch.rand(size, generator=generator, device=device)

    a = TURN * normal(B)
    turn = torch.stack([a.cos(), -a.sin(), a.sin(), a.cos()], -1).view(B, 2, 2)
    A = turn @ (torch.eye(2, device=device) + SCALE * normal(B, 2, 2))
    b = 2 * SHIFT * (2 * uniform(B, 2, 1) - 1)  # coordinates run over two sides' halves
    knots = 2 * WOBBLE * normal(B, 2, KNOTS, KNOTS)
    d = interpolate(knots, images.shape[-2:], mode="bicubic", align_corners=True)
    grid = affine_grid(torch.cat([A, b], -1), list(images.shape), align_corners=False)
    bent = grid_sample(images.float(), grid + d.movedim(1, -1), align_corners=False)
    chosen = uniform(B, 1, 1, 1) < share
    return torch.where(chosen, bent.round().byte(), images)
