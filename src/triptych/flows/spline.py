"""Monotone rational-quadratic splines (Durkan, Bekasov, Murray & Papamakarios 2019, *Neural
Spline Flows*, arXiv:1906.04032; Gregory & Delbourgo 1982).

On [-B, B] the map runs through K + 1 knots (x_k, y_k) with slopes d_k; outside it is the
identity (B is `reach`, K is `bins`). In bin k, with xi = (x - x_k) / w_k, s = h_k / w_k and
r = d_k + d_{k+1} - 2 s,

    y = y_k + h_k (s xi^2 + d_k xi (1 - xi)) / (s + r xi (1 - xi))                        (eq. 4)
    dy/dx = s^2 (d_{k+1} xi^2 + 2 s xi (1 - xi) + d_k (1 - xi)^2) / (s + r xi (1 - xi))^2  (eq. 5)

and the inverse is the root of a quadratic (eq. 6 to 8).
"""

import math
from itertools import accumulate
from typing import Literal, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import softplus

from triptych.protocols import WithLogDet

TINY = 1e-30


class Bin(NamedTuple):
    """The bin k that each number falls in."""

    x: Tensor  # its left knot
    y: Tensor
    w: Tensor  # its width and height
    h: Tensor
    s: Tensor  # h / w
    d: Tensor  # the slopes at its ends, d_k and d_{k+1}
    d_next: Tensor


class RationalQuadratic:
    """The spline as the map of a coupling or autoregressive layer: 3 bins - 1 parameters each.

    Bins are at least `SMALLEST` of [-reach, reach] wide and high, slopes at least `SMALLEST`.
    """

    SMALLEST = 1e-3

    def __init__(self, bins: int = 8, reach: float = 5.0) -> None:
        if bins < 2 or bins * self.SMALLEST >= 1:
            raise ValueError(
                f"a spline needs 2 or more bins, and fewer than {1 / self.SMALLEST:g}, not {bins}"
            )
        self.bins, self.reach = bins, reach
        self.per_coordinate = 3 * bins - 1

    def forward(self, z: Tensor, theta: Float[Tensor, "P ..."]) -> WithLogDet:
        """(x, log dx/dz), eq. 4 and 5."""
        inside = z.abs() < self.reach
        u = z.clamp(-self.reach, self.reach)
        at = self.find(u, theta, "x")
        xi = (u - at.x) / at.w
        bottom = at.s + (at.d + at.d_next - 2 * at.s) * xi * (1 - xi)
        x = at.y + at.h * (at.s * xi.square() + at.d * xi * (1 - xi)) / bottom
        return torch.where(inside, x, z), torch.where(inside, log_slope(at, xi), 0.0)

    def inverse(self, x: Tensor, theta: Float[Tensor, "P ..."]) -> WithLogDet:
        """(z, log dz/dx): xi solves a xi^2 + b xi + c = 0, in the form that does not cancel."""
        inside = x.abs() < self.reach
        v = x.clamp(-self.reach, self.reach)
        at = self.find(v, theta, "y")
        r, rise = at.d + at.d_next - 2 * at.s, v - at.y
        a = at.h * (at.s - at.d) + rise * r
        b = at.h * at.d - rise * r
        c = -at.s * rise
        # Rounding may leave both a little outside their range, where the slope has no logarithm and
        # the root no gradient.
        root = (b.square() - 4 * a * c).clamp(min=TINY).sqrt()
        steep = b < 0  # -b and the root are nearly one number: by the other form of the same root
        q = torch.where(steep, root - b, -root - b)
        xi = (torch.where(steep, q, 2 * c) / torch.where(steep, 2 * a, q)).clamp(0, 1)
        z = at.x + xi * at.w
        return torch.where(inside, z, x), torch.where(inside, -log_slope(at, xi), 0.0)

    def find(self, u: Tensor, theta: Float[Tensor, "P ..."], axis: Literal["x", "y"]) -> Bin:
        """The bin of each u, which lies on the named axis."""
        widths, heights, slopes = theta.split([self.bins, self.bins, self.bins - 1])
        x, y = self.knots(widths), self.knots(heights)
        d = self.slopes(slopes)
        inner = (x if axis == "x" else y)[1:-1]
        k = (u >= inner).sum(0, keepdim=True)

        def pick(values: Tensor, shift: int = 0) -> Tensor:
            return values.gather(0, k + shift).squeeze(0)

        x_k, y_k = pick(x), pick(y)
        w, h = pick(x, 1) - x_k, pick(y, 1) - y_k
        return Bin(x_k, y_k, w, h, h / w, pick(d), pick(d, 1))

    def knots(self, free: Float[Tensor, "n ..."]) -> Float[Tensor, "n+1 ..."]:
        """From -reach to reach in steps that are a softmax, none too small."""
        step = self.SMALLEST + (1 - self.SMALLEST * self.bins) * free.softmax(0)
        # Not cumsum, which adds in no fixed order on a GPU.
        inner = self.reach * (2 * torch.stack(list(accumulate(step[:-1]))) - 1)
        end = torch.full_like(inner[:1], self.reach)
        return torch.cat([-end, inner, end])

    def slopes(self, free: Float[Tensor, "n ..."]) -> Float[Tensor, "n+2 ..."]:
        """Positive, 1 where `free` is 0, and 1 at both ends, where the identity goes on."""
        start = math.log(math.expm1(1 - self.SMALLEST))
        inner = self.SMALLEST + softplus(free + start)
        end = torch.ones_like(inner[:1])
        return torch.cat([end, inner, end])


def log_slope(at: Bin, xi: Tensor) -> Tensor:
    """log dy/dx, eq. 5."""
    rest = 1 - xi
    bottom = at.s + (at.d + at.d_next - 2 * at.s) * xi * rest
    top = at.d_next * xi.square() + 2 * at.s * xi * rest + at.d * rest.square()
    return 2 * at.s.log() + top.log() - 2 * bottom.log()
