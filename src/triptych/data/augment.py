"""Training images distorted a little, so that fewer of them can be learned by heart (Simard,
Steinkraus & Platt 2003, *Best practices for convolutional neural networks applied to visual
document analysis*, ICDAR).

    y(p) = x(A p + b + d(p)),    p in [-1, 1]^2

A turns, scales and shears, b moves by up to half a pixel, d is a smooth field that wobbles. Grey
values are interpolated between pixels, so this comes before a view: of a stroke that was moved, the
threshold makes a new edge.
"""

import torch
from jaxtyping import Float, UInt8
from torch import Generator, Tensor
from torch.nn.functional import affine_grid, grid_sample, interpolate

TURN = 0.06  # standard deviation of the angle, in radians on a square image
SCALE = 0.04  # of what is added to each entry of the matrix: it scales, shears, turns a bit more
SHIFT = 1 / 56  # largest, as a share of the side: half a pixel of 28
WOBBLE = 1 / 56  # standard deviation of the field at its knots, as a share of the side
KNOTS = 5  # along each side; cubic between them
DRAWS = 7 + 2 * KNOTS**2  # numbers that bend an image


def bend_noise(n: int, generator: Generator) -> Float[Tensor, "n D"]:
    """The randomness of n images, standard normal."""
    return torch.randn(n, DRAWS, generator=generator, device=generator.device)


def bend(images: UInt8[Tensor, "B C H W"], noise: Float[Tensor, "B D"]) -> UInt8[Tensor, "B C H W"]:
    """Each image distorted in its own way, given by the noise that `bend_noise` draws. What comes
    from outside of an image has the grey of its nearest edge."""
    B, device = len(images), images.device
    angle, matrix, shift, field = noise.split([1, 4, 2, 2 * KNOTS**2], -1)
    a = TURN * angle.squeeze(-1)
    turn = torch.stack([a.cos(), -a.sin(), a.sin(), a.cos()], -1).view(B, 2, 2)
    A = turn @ (torch.eye(2, device=device) + SCALE * matrix.view(B, 2, 2))
    u = torch.special.ndtr(shift)[..., None]  # uniform
    b = 2 * SHIFT * (2 * u - 1)  # from -1 to 1 is a side: twice a share of it
    knots = 2 * WOBBLE * field.view(B, 2, KNOTS, KNOTS)
    down, across = (cubic(side, device) for side in images.shape[-2:])
    d = down @ knots @ across.mT
    grid = affine_grid(torch.cat([A, b], -1), list(images.shape), align_corners=False)
    grid = grid + d.movedim(1, -1)
    x = images.to(grid.dtype)
    bent = grid_sample(x, grid, padding_mode="border", align_corners=False)
    return bent.round().byte()


def cubic(side: int, device: torch.device) -> Float[Tensor, "side KNOTS"]:
    """torch's bicubic interpolation from the knots to `side` points, the first and the last of them
    knots, as a matrix: called on many small fields itself, it is slow on a GPU."""
    one_by_one = torch.eye(KNOTS, device=device)[None, None]
    return interpolate(one_by_one, (side, KNOTS), mode="bicubic", align_corners=True)[0, 0]
