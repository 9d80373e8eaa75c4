"""A small U-Net for diffusion (Ronneberger et al. 2015, arXiv:1505.04597; Ho et al. 2020,
arXiv:2006.11239, appendix B), for 28x28 and 8x8 alike without padding.

Pixels enter by pixel-unshuffle: 2x2 patches become channels, so that no convolution ever runs at
full resolution, where most of the time of public U-Nets goes. The lowest resolution attends to
itself.
"""

import math
from collections.abc import Sequence
from itertools import repeat

import torch
from jaxtyping import Float
from torch import Tensor, nn

from triptych.nets.conv import GROUPS, check_levels


class TimeEmbedding(nn.Module):
    """sin and cos of omega_i t, with omega_i = 10,000^(-i / n), i = 0 .. n-1, n = dim // 2 (Vaswani
    et al. 2017, arXiv:1706.03762, section 3.5)."""

    omega: Tensor

    def __init__(self, dim: int) -> None:
        super().__init__()
        n = dim // 2
        omega = torch.exp(-math.log(10_000.0) * torch.arange(n) / n)
        self.register_buffer("omega", omega, persistent=False)

    def forward(self, t: Tensor) -> Float[Tensor, "B dim"]:
        angle = t[..., None] * self.omega
        return torch.cat([angle.sin(), angle.cos()], -1)


class SelfAttention(nn.Module):
    """Every position looks at all others (Vaswani et al., section 3.2), and adds what it saw.

    Written out: torch's fused kernel takes six times as long on a CPU in bfloat16, backward.
    """

    HEADS = 4

    def __init__(self, c: int) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(GROUPS, c)
        self.qkv = nn.Conv2d(c, 3 * c, 1)
        self.out = nn.Conv2d(c, c, 1)
        nn.init.zeros_(self.out.weight)

    def forward(self, x: Float[Tensor, "B C H W"]) -> Float[Tensor, "B C H W"]:
        B, C, H, W = x.shape
        d = C // self.HEADS
        q, k, v = self.qkv(self.norm(x)).reshape(B, 3, self.HEADS, d, H * W).unbind(1)
        weight = (q.transpose(-1, -2) @ k * d**-0.5).softmax(-1)
        seen = v @ weight.transpose(-1, -2)
        # autocast, which does not see convolutions under vmap, would leave its bias in float32
        return x + self.out(seen.reshape(B, C, H, W).to(x.dtype))


class ResidualBlock(nn.Module):
    """Norm, SiLU, conv, twice; time enters between as scale and shift. The last convolution starts
    with zero weights, so that the block starts as its skip and a bias. With `attend`,
    self-attention follows. `keep` is what dropout multiplies the channels by."""

    def __init__(self, c_in: int, c_out: int, c_time: int, attend: bool) -> None:
        super().__init__()
        self.act = nn.SiLU()
        self.norm1 = nn.GroupNorm(GROUPS, c_in)
        self.conv1 = nn.Conv2d(c_in, c_out, 3, padding=1)
        self.time = nn.Linear(c_time, 2 * c_out)
        self.norm2 = nn.GroupNorm(GROUPS, c_out)
        self.conv2 = nn.Conv2d(c_out, c_out, 3, padding=1)
        nn.init.zeros_(self.conv2.weight)
        self.skip = nn.Conv2d(c_in, c_out, 1) if c_in != c_out else nn.Identity()
        self.attention = SelfAttention(c_out) if attend else nn.Identity()

    def forward(
        self,
        x: Float[Tensor, "B C H W"],
        e: Float[Tensor, "B E"],
        keep: Float[Tensor, "B D"] | None = None,
    ) -> Float[Tensor, "B D H W"]:
        scale, shift = self.time(e)[..., None, None].chunk(2, -3)
        h = self.conv1(self.act(self.norm1(x)))
        h = self.act(self.norm2(h) * (1 + scale) + shift)
        if keep is not None:
            h = h * keep[..., None, None].to(h.dtype)
        return self.attention(self.skip(x) + self.conv2(h))


class UNet(nn.Module):
    """eps_hat(x_t, t): [B, C, H, W] images and [B] times to an image-shaped output; with `inputs`
    or `outputs`, from or to several of an image's shape, channel after channel.

    `widths` gives the channels at H/2, H/4, ...; `blocks` the residual blocks at each of them, on
    the way down and on the way up. H and W must be divisible by 2^len(widths).

    `dropout` is the share of a block's channels that are dropped where `forward` is given the
    uniform numbers to choose them by, `drops` an image: whole feature maps (Tompson et al. 2015,
    arXiv:1411.4280), for which a number each is enough.
    """

    def __init__(
        self,
        shape: tuple[int, int, int],
        widths: Sequence[int],
        blocks: int,
        outputs: int = 1,
        inputs: int = 1,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        c = shape[0]
        check_levels(shape, widths)
        c_time = 4 * widths[0]
        self.time = nn.Sequential(
            TimeEmbedding(widths[0]),
            nn.Linear(widths[0], c_time),
            nn.SiLU(),
            nn.Linear(c_time, c_time),
        )
        self.door = nn.Sequential(
            nn.PixelUnshuffle(2), nn.Conv2d(4 * c * inputs, widths[0], 3, padding=1)
        )
        self.down, skips = way_down(widths, blocks, c_time)
        low = widths[-1]
        self.middle = nn.ModuleList(ResidualBlock(low, low, c_time, a) for a in (True, False))
        self.up = way_up(widths, blocks, c_time, skips)
        self.out = nn.Sequential(
            nn.GroupNorm(GROUPS, widths[0]),
            nn.SiLU(),
            nn.Conv2d(widths[0], 4 * c * outputs, 3, padding=1),
            nn.PixelShuffle(2),
        )
        nn.init.zeros_(self.out[2].weight)  # pyright: ignore[reportArgumentType]
        self.dropout = dropout
        blocks_in_turn = [*self.down, *self.middle, *self.up]
        self.parts = [b.conv1.out_channels for b in blocks_in_turn if isinstance(b, ResidualBlock)]
        self.drops = sum(self.parts) if dropout else 0

    def forward(
        self,
        x: Float[Tensor, "B A H W"],
        t: Tensor,
        u: Float[Tensor, "B drops"] | None = None,
    ) -> Float[Tensor, "B D H W"]:
        """Down, middle, up; every layer's output on the way down is read once on the way up."""
        e = nn.functional.silu(self.time(t.to(x.dtype)))
        keep = repeat(None) if u is None else iter(self.kept(u).split(self.parts, -1))
        h = self.door(x)
        skips = [h]
        for layer in self.down:
            h = layer(h, e, next(keep)) if isinstance(layer, ResidualBlock) else layer(h)
            skips.append(h)
        for layer in self.middle:
            h = layer(h, e, next(keep))
        for layer in self.up:
            if isinstance(layer, ResidualBlock):
                h = layer(torch.cat([h, skips.pop()], -3), e, next(keep))
            else:
                h = layer(h)
        return self.out(h)

    def kept(self, u: Float[Tensor, "B drops"]) -> Float[Tensor, "B drops"]:
        """What channels are multiplied by: 0, or enough to leave their mean as it is."""
        return (u >= self.dropout).to(u.dtype) / (1 - self.dropout)


def way_down(widths: Sequence[int], blocks: int, c_time: int) -> tuple[nn.ModuleList, list[int]]:
    """Residual blocks at each level, a strided convolution between two; and the channels of what
    the way up reads: the door's, then each layer's. The lowest level has attention."""
    layers, outputs = nn.ModuleList(), [widths[0]]
    for level, width in enumerate(widths):
        if level > 0:
            layers.append(nn.Conv2d(outputs[-1], width, 3, stride=2, padding=1))
            outputs.append(width)
        attends = level == len(widths) - 1
        for _ in range(blocks):
            layers.append(ResidualBlock(outputs[-1], width, c_time, attends))
            outputs.append(width)
    return layers, outputs


def way_up(widths: Sequence[int], blocks: int, c_time: int, skips: Sequence[int]) -> nn.ModuleList:
    """At each level a block more than on the way down, each of which reads the last output there
    that is not yet read."""
    layers, unread, now = nn.ModuleList(), list(skips), widths[-1]
    for level, width in reversed(list(enumerate(widths))):
        attends = level == len(widths) - 1
        for _ in range(blocks + 1):
            layers.append(ResidualBlock(now + unread.pop(), width, c_time, attends))
            now = width
        if level > 0:
            now = widths[level - 1]
            layers.append(Upsample(width, now))
    return layers


class Upsample(nn.Sequential):
    """Twice the size: the door's way back, each position becomes 2x2 by a linear map."""

    def __init__(self, c_in: int, c_out: int) -> None:
        super().__init__(nn.Conv2d(c_in, 4 * c_out, 1), nn.PixelShuffle(2))
