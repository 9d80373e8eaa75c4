"""What a flow on images needs beside coupling: Glow's steps on RealNVP's multi-scale frame
(Kingma & Dhariwal 2018, arXiv:1807.03039; Dinh et al. 2017, arXiv:1605.08803, section 3.6).

All of these are bijectors: `forward` goes from the base to the image, `inverse` back, and each
returns the log_det of the map it applied.
"""

import math
from collections.abc import Callable, Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

from triptych.flows.coupling import Affine, Coupling, Elementwise, own_copy
from triptych.nets.conv import ConvNet
from triptych.protocols import WithLogDet

# The network of a coupling, for the shape of what it sees, hidden channels and channels out.
NetFor = Callable[[tuple[int, int, int], int, int], nn.Module]


class Logit(nn.Module):
    """x = (sigmoid(z) - low) / (1 - 2 low) of each pixel: the real line to (0, 1) and a little
    beyond.

    `low` keeps the inverse finite at the borders; the price is the mass outside [0, 1], which
    whoever samples has to account for.
    """

    def __init__(self, low: float) -> None:
        super().__init__()
        self.low = low

    def forward(self, z: Tensor) -> WithLogDet:
        return (z.sigmoid() - self.low) / (1 - 2 * self.low), -self.log_det_inverse(z)

    def inverse(self, x: Tensor) -> WithLogDet:
        p = self.low + (1 - 2 * self.low) * x
        z = p.logit()
        return z, self.log_det_inverse(z)

    def log_det_inverse(self, z: Tensor) -> Tensor:
        """log|dz/dx| = log(1 - 2 low) - log p (1 - p), p = sigmoid(z)."""
        softplus = nn.functional.softplus
        per_pixel = math.log(1 - 2 * self.low) + softplus(z) + softplus(-z)
        return per_pixel.flatten(-3).sum(-1)


class ActNorm(nn.Module):
    """A scale and a shift for each channel: x = (z - shift) / exp(log_scale).

    While `starting` is set, `inverse` first sets both so that z has mean 0 and variance 1.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.log_scale = nn.Parameter(torch.zeros(channels, 1, 1))
        self.shift = nn.Parameter(torch.zeros(channels, 1, 1))
        self.starting = False

    def forward(self, z: Float[Tensor, "B C H W"]) -> WithLogDet:
        return (z - self.shift) * (-self.log_scale).exp(), -self.log_det_inverse(z)

    def inverse(self, x: Float[Tensor, "B C H W"]) -> WithLogDet:
        if self.starting:
            std, mean = torch.std_mean(x, (0, 2, 3), keepdim=True)
            self.log_scale.data = -std[0].clamp(min=1e-3).log()
            self.shift.data = -mean[0] * self.log_scale.data.exp()
        return x * self.log_scale.exp() + self.shift, self.log_det_inverse(x)

    def log_det_inverse(self, x: Tensor) -> Tensor:
        """log|det dz/dx|, the same for all images: H W sum log_scale."""
        return self.log_scale.sum() * x.shape[-1] * x.shape[-2]


class Invertible1x1(nn.Module):
    """A learned invertible map of the channels, at first a rotation: W = P L (U + diag s), so that
    log|det W| = sum log|s| (Glow, section 3.2, eq. 10 and 11)."""

    P: Tensor
    sign: Tensor

    def __init__(self, channels: int) -> None:
        super().__init__()
        q, _ = torch.linalg.qr(torch.randn(channels, channels))
        P, L, U = torch.linalg.lu(q)
        s = U.diagonal()
        self.register_buffer("P", P)
        self.register_buffer("sign", s.sign())
        self.L, self.U = nn.Parameter(L.tril(-1)), nn.Parameter(U.triu(1))
        self.log_s = nn.Parameter(s.abs().log())

    def weight(self) -> Float[Tensor, "C C"]:
        """W, the map of `inverse`."""
        eye = torch.eye(len(self.log_s), device=self.L.device, dtype=self.L.dtype)
        upper = self.U.triu(1) + torch.diag(self.sign * self.log_s.exp())
        return self.P @ (self.L.tril(-1) + eye) @ upper

    def forward(self, z: Float[Tensor, "B C H W"]) -> WithLogDet:
        x = torch.linalg.solve(self.weight(), z.flatten(-2)).view_as(z)
        return x, -self.log_det_inverse(z)

    def inverse(self, x: Float[Tensor, "B C H W"]) -> WithLogDet:
        return (self.weight() @ x.flatten(-2)).view_as(x), self.log_det_inverse(x)

    def log_det_inverse(self, x: Tensor) -> Tensor:
        """log|det dz/dx|, the same for all images: H W sum log|s|."""
        return self.log_s.sum() * x.shape[-1] * x.shape[-2]


class MultiScale(nn.Module):
    """Levels of squeeze and flow steps; after each but the last, half the channels are done.

    That half has just been changed by the level's last coupling, given the half that goes on: with
    N(0, I) behind it, a learned conditional prior as in Glow's code, at no further cost.

    The base's side is a flat vector [B, D]: what left first stands first. `hidden` gives the
    width of the coupling networks at each level, and so the number of levels; `f` is the map of
    each coordinate, affine if not given; `net_for` makes the networks, Glow's if not given.
    """

    def __init__(
        self,
        shape: tuple[int, int, int],
        steps: int,
        hidden: Sequence[int],
        f: Elementwise | None = None,
        net_for: NetFor = ConvNet,
    ) -> None:
        super().__init__()
        c, h, w = shape
        if h % 2 ** len(hidden) or w % 2 ** len(hidden):
            raise ValueError(f"{h}x{w} images cannot be squeezed {len(hidden)} times")
        self.levels, self.shapes = nn.ModuleList(), []
        for width in hidden:
            c, h, w = 4 * c, h // 2, w // 2
            self.levels.append(nn.ModuleList(flow_steps((c, h, w), steps, width, f, net_for)))
            self.shapes.append((c, h, w))
            c = c // 2

    def inverse(self, x: Float[Tensor, "B C H W"]) -> tuple[Float[Tensor, "B D"], Tensor]:
        """Image to base, halving the channels between levels; and log|det dz/dx|."""
        log_det, done = torch.zeros((), dtype=x.dtype, device=x.device), []
        for i, steps in enumerate(self.levels):
            x = nn.functional.pixel_unshuffle(x, 2)
            for step in reversed(list(steps)):  # pyright: ignore[reportArgumentType]
                x, ld = step.inverse(x)
                log_det = log_det + ld
            if i < len(self.levels) - 1:
                x, out = x.chunk(2, 1)
                done.append(out.flatten(1))
        return torch.cat([*done, x.flatten(1)], 1), log_det

    def forward(self, z: Float[Tensor, "B D"]) -> tuple[Float[Tensor, "B C H W"], Tensor]:
        """Base to image, the levels in reverse; and log|det dx/dz|."""
        sizes = [math.prod(s) // 2 for s in self.shapes[:-1]] + [math.prod(self.shapes[-1])]
        *done, x = z.split(sizes, 1)
        log_det = torch.zeros((), dtype=z.dtype, device=z.device)
        x = x.unflatten(1, self.shapes[-1])
        for i, steps in reversed(list(enumerate(self.levels))):
            if i < len(self.levels) - 1:
                c, h, w = self.shapes[i]
                x = torch.cat([x, done[i].unflatten(1, (c // 2, h, w))], 1)
            for step in steps:  # pyright: ignore[reportGeneralTypeIssues]
                x, ld = step(x)
                log_det = log_det + ld
            x = nn.functional.pixel_shuffle(x, 2)
        return x, log_det


def flow_steps(
    shape: tuple[int, int, int],
    steps: int,
    hidden: int,
    f: Elementwise | None = None,
    net_for: NetFor = ConvNet,
) -> list[nn.Module]:
    """`steps` times coupling, 1x1 convolution, normalisation, in the order base to image."""
    f = f or Affine()
    channels, h, w = shape
    half = channels // 2
    first_half = torch.arange(channels) < half
    layers: list[nn.Module] = []
    for _ in range(steps):
        net = net_for((half, h, w), hidden, f.per_coordinate * half)
        layers.append(Coupling(first_half, net, own_copy(f), 3))
        layers += [Invertible1x1(channels), ActNorm(channels)]
    return layers
