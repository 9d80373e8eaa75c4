"""Convolutional networks that keep the image's size, and what image networks have in common."""

from collections.abc import Sequence
from typing import TypeVar

import torch
from jaxtyping import Float
from torch import Tensor, nn

Layer = TypeVar("Layer", nn.Conv2d, nn.Linear)
GROUPS = 8  # of every group normalisation
LEAST = 4  # numbers in a group: one is normalised to 0, two keep only which is larger


def check_levels(shape: tuple[int, int, int], channels: Sequence[int]) -> None:
    """ValueError where images cannot be halved so often, or a level is too small to normalise."""
    _, h, w = shape
    n = len(channels)
    if h % 2**n or w % 2**n:
        raise ValueError(
            f"{h}x{w} images cannot be halved {n} times, once for each of {list(channels)}"
        )
    for level, c in enumerate(channels, start=1):
        size = (h // 2**level, w // 2**level)
        if c // GROUPS * size[0] * size[1] < LEAST:
            raise ValueError(f"{c} channels at {size[0]}x{size[1]} are too few to normalise")


class ConvNet(nn.Sequential):
    """The network of a coupling layer on images: 3x3, 1x1, 3x3 with ReLU, starting at zero (Glow's;
    with SiLU a flow of the same size learns slower)."""

    def __init__(self, shape: tuple[int, int, int], hidden: int, c_out: int) -> None:
        last = at_zero(nn.Conv2d(hidden, c_out, 3, padding=1))
        super().__init__(
            nn.Conv2d(shape[0], hidden, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(hidden, hidden, 1),
            nn.ReLU(),
            last,
        )

    def forward(self, input: Float[Tensor, "B C H W"]) -> Float[Tensor, "B C_out H W"]:
        return super().forward(channels_last(input))


class PatchNet(nn.Sequential):
    """The network of a coupling layer on images that at each place is an MLP (Lin, Chen & Yan 2014,
    *Network in Network*, arXiv:1312.4400): three hidden layers of ReLU, starting at zero.

    It sees the 5x5 patch around the place, as `ConvNet` does, and by a bias of its own which place.
    """

    def __init__(self, shape: tuple[int, int, int], hidden: int, c_out: int) -> None:
        c, h, w = shape
        super().__init__(
            nn.Conv2d(c, hidden, 5, padding=2),
            BiasOfPlace(hidden, h, w),
            nn.ReLU(),
            nn.Conv2d(hidden, hidden, 1),
            nn.ReLU(),
            nn.Conv2d(hidden, hidden, 1),
            nn.ReLU(),
            at_zero(nn.Conv2d(hidden, c_out, 1)),
        )

    def forward(self, input: Float[Tensor, "B C H W"]) -> Float[Tensor, "B C_out H W"]:
        return super().forward(channels_last(input))


class BiasOfPlace(nn.Module):
    """x + b, with b for each channel and place: a convolution does not know where it is, and what
    images show is centred."""

    def __init__(self, c: int, h: int, w: int) -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(c, h, w))

    def forward(self, x: Float[Tensor, "B C H W"]) -> Float[Tensor, "B C H W"]:
        bias = self.bias.permute(1, 2, 0).contiguous()  # as x lies, channels last: 5 times as fast
        return (x.permute(0, 2, 3, 1) + bias.to(x.dtype)).permute(0, 3, 1, 2)


def at_zero(layer: Layer) -> Layer:
    """The same, with weights and biases that start at zero."""
    nn.init.zeros_(layer.weight)
    nn.init.zeros_(layer.bias)  # pyright: ignore[reportArgumentType]
    return layer


def pixels_before(window: int) -> int:
    """How many pixels of a square stand before its centre, row by row. ValueError where there is no
    centre."""
    if window < 3 or window % 2 == 0:
        raise ValueError(f"a window has a centre and neighbours: odd, 3 or more, not {window}")
    return window**2 // 2


def channels_last(x: Float[Tensor, "B C H W"]) -> Float[Tensor, "B C H W"]:
    """With channels last in memory, which suits convolutions of few channels."""
    # Not `memory_format`, which vmap does not know
    return x.movedim(-3, -1).contiguous().movedim(-1, -3)
