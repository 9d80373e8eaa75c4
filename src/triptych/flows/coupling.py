"""Coupling layers (Dinh, Sohl-Dickstein & Bengio 2017, *Density estimation using Real NVP*,
arXiv:1605.08803), on vectors and on images.

The coordinates are split in two. Those in `a` pass unchanged and a network reads them; each of
those in `b` is sent through a monotone map of its own, whose parameters the network gives:

    x_a = z_a,    x_b = f(z_b; net(z_a)),    log|det dx/dz| = sum log f'      (eq. 4, 5, 6)

The triangular Jacobian makes the determinant a sum, and the inverse as cheap as the map. With
the affine map, x_b = z_b * exp(s(z_a)) + t(z_a), this is RealNVP. z is on the side of the base, x
on that of the data: `forward` samples, and is the paper's inverse (eq. 8), the same family of maps
with other s and t. A layer may also read a context, net(z_a, c): what makes a flow conditional.
"""

import copy
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float, Shaped
from torch import Tensor, nn

from triptych.maths import check_coordinates
from triptych.protocols import WithLogDet


@runtime_checkable
class Elementwise(Protocol):
    """A monotone map of each coordinate, with `per_coordinate` numbers for each.

    Both directions return the image and log f' of the map applied, coordinate by coordinate; all
    parameters zero is the identity.
    """

    per_coordinate: int

    def forward(self, z: Tensor, theta: Float[Tensor, "P ..."]) -> WithLogDet:
        """(x, log dx/dz)."""
        ...

    def inverse(self, x: Tensor, theta: Float[Tensor, "P ..."]) -> WithLogDet:
        """(z, log dz/dx)."""
        ...


class Affine:
    """x = z exp(s) + t. The log scale is bounded, `s = cap tanh(s' / cap)`, so that no layer can
    blow up."""

    per_coordinate = 2

    def __init__(self, cap: float = 2.0) -> None:
        self.cap = cap

    def forward(self, z: Tensor, theta: Float[Tensor, "2 ..."]) -> WithLogDet:
        """(x, log dx/dz = s)."""
        s, t = self.scale_and_shift(theta)
        return z * s.exp() + t, s

    def inverse(self, x: Tensor, theta: Float[Tensor, "2 ..."]) -> WithLogDet:
        """(z, log dz/dx = -s)."""
        s, t = self.scale_and_shift(theta)
        return (x - t) * (-s).exp(), -s

    def scale_and_shift(self, theta: Float[Tensor, "2 ..."]) -> tuple[Tensor, Tensor]:
        """(s, t)."""
        s, t = theta
        return self.cap * (s / self.cap).tanh(), t


def own_copy(f: Elementwise) -> Elementwise:
    """f for one layer of several, so that layers share no parameters: a copy where f has any."""
    return copy.deepcopy(f) if isinstance(f, nn.Module) else f


class Coupling(nn.Module):
    """Masked coupling. One network gives all parameters of the map; it sees only `x_a`.

    `mask` marks, by what is not zero, the coordinates that pass unchanged, along the last dimension
    of a vector (`event_dims=1`) or along the channels of an image (`event_dims=3`). `net` maps the
    len(a) that pass to `f.per_coordinate` len(b) numbers, the first parameter of every coordinate,
    then the second, ...; one whose last layer starts at zero makes the layer start as the identity.
    """

    a: Tensor
    b: Tensor
    back: Tensor

    def __init__(
        self, mask: Shaped[Tensor, "D"], net: nn.Module, f: Elementwise, event_dims: int = 1
    ) -> None:
        super().__init__()
        mask = mask.bool()
        if bool(mask.all()) or not bool(mask.any()):
            raise ValueError("a coupling mask must leave coordinates on both sides")
        a, b = mask.nonzero().squeeze(1), (~mask).nonzero().squeeze(1)
        self.net, self.f, self.event_dims = net, f, event_dims
        self.dim = -event_dims
        self.register_buffer("a", a, persistent=False)
        self.register_buffer("b", b, persistent=False)
        self.register_buffer("back", torch.cat([a, b]).argsort(), persistent=False)

    def forward(self, z: Tensor, context: Tensor | None = None) -> WithLogDet:
        """z -> x and log|det dx/dz|."""
        z_a, z_b = self.split(z)
        x_b, log_slope = self.f.forward(z_b, self.theta(z_a, context))
        return self.join(z_a, x_b), self.total(log_slope)

    def inverse(self, x: Tensor, context: Tensor | None = None) -> WithLogDet:
        """x -> z and log|det dz/dx|."""
        x_a, x_b = self.split(x)
        z_b, log_slope = self.f.inverse(x_b, self.theta(x_a, context))
        return self.join(x_a, z_b), self.total(log_slope)

    def theta(self, x_a: Tensor, context: Tensor | None = None) -> Float[Tensor, "P ..."]:
        """The map's parameters."""
        out = self.net(beside(x_a, context, self.dim))
        return out.unflatten(self.dim, (self.f.per_coordinate, -1)).movedim(self.dim - 1, 0)

    def split(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """The coordinates that condition, and those that change."""
        check_coordinates(x, len(self.back), self.dim)
        return x.index_select(self.dim, self.a), x.index_select(self.dim, self.b)

    def join(self, x_a: Tensor, x_b: Tensor) -> Tensor:
        """Undo `split`."""
        return torch.cat([x_a, x_b], self.dim).index_select(self.dim, self.back)

    def total(self, log_slope: Tensor) -> Tensor:
        """Sum over the event, one number for each batch element."""
        return log_slope.flatten(-self.event_dims).sum(-1)


def beside(x: Tensor, context: Tensor | None, dim: int = -1) -> Tensor:
    """x and then the context along `dim`, the event's first dimension; the context may lack x's
    leading dimensions: one for all samples."""
    if context is None:
        return x
    return torch.cat([x, context.expand(*x.shape[:dim], *context.shape[dim:])], dim)
