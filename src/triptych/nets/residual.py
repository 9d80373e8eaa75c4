"""A residual convolutional encoder and its mirror (He et al. 2016, *Identity Mappings in Deep
Residual Networks*, arXiv:1603.05027, with group normalisation), for 28x28 and 8x8 alike.

Pixels enter as 2x2 patches (pixel-unshuffle) and leave the same way: nothing runs at full
resolution.
"""

from itertools import pairwise

from jaxtyping import Float
from torch import Tensor, nn

from triptych.nets.conv import GROUPS, at_zero, check_levels


class Residual(nn.Module):
    """x + conv(act(norm(conv(act(norm(x)))))); starts as the identity."""

    def __init__(self, c: int) -> None:
        super().__init__()
        self.branch = nn.Sequential(*_normed(c), *_normed(c))
        at_zero(self.branch[-1])  # pyright: ignore[reportArgumentType]

    def forward(self, x: Float[Tensor, "B C H W"]) -> Float[Tensor, "B C H W"]:
        return x + self.branch(x)


def _normed(c: int) -> list[nn.Module]:
    """Norm, SiLU, 3x3 convolution. `[:2]` drops the convolution once it has drawn its weights: on
    that depend the initial weights of what is built later, and so published numbers."""
    return [nn.GroupNorm(GROUPS, c), nn.SiLU(), nn.Conv2d(c, c, 3, padding=1)]


class ResidualConvNet(nn.Sequential):
    """A residual network for coupling layers, which keeps the image's size; starts at zero."""

    def __init__(self, shape: tuple[int, int, int], hidden: int, c_out: int, blocks: int) -> None:
        if hidden % GROUPS:
            raise ValueError(
                f"the width of residual blocks is a multiple of {GROUPS}, not {hidden}"
            )
        last = at_zero(nn.Conv2d(hidden, c_out, 3, padding=1))
        super().__init__(
            nn.Conv2d(shape[0], hidden, 3, padding=1),
            *(Residual(hidden) for _ in range(blocks)),
            *_normed(hidden)[:2],
            last,
        )


class ResidualEncoder(nn.Sequential):
    """Images [B, C, H, W] to [B, n_out].

    `channels` holds the width at H/2, H/4, ...; `blocks` the residual blocks at each. H and W must
    be divisible by 2^len(channels), channels by 8.
    """

    def __init__(
        self, shape: tuple[int, int, int], channels: tuple[int, ...], blocks: int, n_out: int
    ) -> None:
        c, h, w = lowest(shape, channels)
        layers: list[nn.Module] = [nn.PixelUnshuffle(2)]
        layers.append(nn.Conv2d(4 * shape[0], channels[0], 3, padding=1))
        for level, width in enumerate(channels):
            if level > 0:
                layers.append(nn.Conv2d(channels[level - 1], width, 3, stride=2, padding=1))
            layers += [Residual(width) for _ in range(blocks)]
        layers += [nn.GroupNorm(GROUPS, c), nn.SiLU(), nn.Flatten(-3), nn.Linear(c * h * w, n_out)]
        super().__init__(*layers)


class ResidualDecoder(nn.Module):
    """Latents [*, n_in] to pixels [*, C H W]: the encoder's mirror."""

    def __init__(
        self, shape: tuple[int, int, int], channels: tuple[int, ...], blocks: int, n_in: int
    ) -> None:
        super().__init__()
        c, h, w = lowest(shape, channels)
        layers: list[nn.Module] = [nn.Linear(n_in, c * h * w), nn.Unflatten(-1, (c, h, w))]
        for width, above in pairwise([*channels[::-1], 0]):
            layers += [Residual(width) for _ in range(blocks)]
            if above:
                layers += [nn.Conv2d(width, 4 * above, 1), nn.PixelShuffle(2)]
        layers += [*_normed(channels[0])[:2], nn.Conv2d(channels[0], 4 * shape[0], 3, padding=1)]
        self.layers = nn.Sequential(*layers, nn.PixelShuffle(2), nn.Flatten(-3))

    def forward(self, z: Float[Tensor, "*batch M"]) -> Float[Tensor, "*batch D"]:
        flat = z.reshape(-1, z.shape[-1])
        return self.layers(flat).reshape(*z.shape[:-1], -1)


def lowest(shape: tuple[int, int, int], channels: tuple[int, ...]) -> tuple[int, int, int]:
    """Channels and size where the resolution is lowest."""
    check_levels(shape, channels)
    _, h, w = shape
    n = len(channels)
    return channels[-1], h // 2**n, w // 2**n
