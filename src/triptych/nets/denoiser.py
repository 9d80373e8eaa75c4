"""A residual network that denoises vectors: what a U-Net is to images."""

from jaxtyping import Float
from torch import Tensor, nn

from triptych.nets.conv import at_zero
from triptych.nets.unet import TimeEmbedding


class Block(nn.Module):
    """h + W_2 silu((1 + scale(e)) norm(W_1 h) + shift(e)); starts as the identity."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.before = nn.Linear(width, width)
        self.norm = nn.LayerNorm(width, elementwise_affine=False)
        self.time = nn.Linear(width, 2 * width)
        self.after = at_zero(nn.Linear(width, width))

    def forward(self, h: Float[Tensor, "B W"], e: Float[Tensor, "B W"]) -> Float[Tensor, "B W"]:
        scale, shift = self.time(e).chunk(2, -1)
        inner = self.norm(self.before(h)) * (1 + scale) + shift
        return h + self.after(nn.functional.silu(inner))


class Denoiser(nn.Module):
    """out(z_t, t) for vectors that come as [B, M, 1, 1], through `blocks` of `width` units."""

    def __init__(self, dim: int, width: int, blocks: int) -> None:
        super().__init__()
        self.time = nn.Sequential(TimeEmbedding(width), nn.Linear(width // 2 * 2, width))
        self.door = nn.Linear(dim, width)
        self.blocks = nn.ModuleList(Block(width) for _ in range(blocks))
        self.out = at_zero(nn.Linear(width, dim))

    def forward(self, z: Float[Tensor, "B M 1 1"], t: Tensor) -> Float[Tensor, "B M 1 1"]:
        e = nn.functional.silu(self.time(t.to(z.dtype)))
        h = self.door(z[..., 0, 0])
        for block in self.blocks:
            h = block(h, e)
        return self.out(nn.functional.silu(h))[..., None, None]
