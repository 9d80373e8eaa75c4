"""Masked autoregressive flow (Papamakarios, Pavlakou & Murray 2017, *Masked Autoregressive Flow
for Density Estimation*, arXiv:1705.07057), on MADE (Germain et al. 2015, arXiv:1502.03509).

    x_i = f(z_i; theta_i(x_1, ..., x_{i-1}))

and log|det dx/dz| = sum_i log f'(z_i). All theta of a given x come from one pass of a masked
network, so a density costs one pass; a sample is made coordinate by coordinate and costs D of them.
"""

from collections.abc import Sequence
from itertools import pairwise

import torch
from jaxtyping import Float, Shaped
from torch import Tensor, nn

from triptych.flows.coupling import Elementwise, beside
from triptych.maths import check_coordinates
from triptych.nets.conv import at_zero
from triptych.protocols import WithLogDet


class MaskedLinear(nn.Linear):
    """A linear layer with some of its weights held at zero."""

    mask: Tensor

    def __init__(self, mask: Float[Tensor, "out in"]) -> None:
        super().__init__(mask.shape[1], mask.shape[0])
        self.register_buffer("mask", mask, persistent=False)

    def forward(self, input: Tensor) -> Tensor:
        return nn.functional.linear(input, self.weight * self.mask, self.bias)


class MADE(nn.Sequential):
    """Masked MLP: the `parameters` outputs of coordinate i see only the coordinates before i.

    Hidden units have degrees that run evenly through 1 .. D-1: one of degree m sees the first m
    coordinates, and is seen by the outputs of those after them (Germain et al., eq. 8 and 9).
    A context, which follows the coordinates in the input, is seen by all outputs: with one, degrees
    run through 0 .. D-1, and a layer of one unit sees the context alone. Starts at zero.
    """

    def __init__(self, dim: int, hidden: Sequence[int], parameters: int, context: int = 0) -> None:
        outputs = torch.arange(dim) + 1
        degrees = [torch.cat([outputs, torch.zeros(context)])]
        degrees += [hidden_degrees(h, dim, context > 0) for h in hidden]
        layers: list[nn.Module] = []
        for seen, by in pairwise(degrees):
            layers += [MaskedLinear((by[:, None] >= seen).float()), nn.SiLU()]
        strictly = (outputs[:, None] > degrees[-1]).float()
        last = at_zero(MaskedLinear(strictly.repeat(parameters, 1)))
        super().__init__(*layers, last)


def hidden_degrees(units: int, dim: int, context: bool) -> Shaped[Tensor, "units"]:
    """ceil(k (D-1) / h) of units k = 1 .. h; with a context evenly from 0 to D-1, since units of
    degree 0, which see nothing else, let the first output see it."""
    if context:
        return torch.linspace(0, dim - 1, units).round()
    return -(-torch.arange(1, units + 1) * max(1, dim - 1) // units)


class Autoregressive(nn.Module):
    """One autoregressive layer over `dim` coordinates in their order, or backwards."""

    order: Tensor

    def __init__(
        self,
        dim: int,
        hidden: Sequence[int],
        f: Elementwise,
        backwards: bool = False,
        context: int = 0,
    ) -> None:
        super().__init__()
        self.dim, self.f = dim, f
        self.net = MADE(dim, hidden, f.per_coordinate, context)
        order = torch.arange(dim)
        self.register_buffer("order", order.flip(0) if backwards else order, persistent=False)

    def inverse(self, x: Float[Tensor, "*batch D"], context: Tensor | None = None) -> WithLogDet:
        """x -> z and log|det dz/dx|, one pass."""
        ordered = self.ordered(x)
        z, log_slope = self.f.inverse(ordered, self.theta(ordered, context))
        return z.index_select(-1, self.order), log_slope.sum(-1)

    def forward(self, z: Float[Tensor, "*batch D"], context: Tensor | None = None) -> WithLogDet:
        """z -> x and log|det dx/dz|, a pass for each coordinate: after the i-th the first i of x
        are right, whatever the rest."""
        ordered = self.ordered(z)
        x, log_slope = ordered, torch.zeros_like(ordered)
        for _ in range(self.dim):
            x, log_slope = self.f.forward(ordered, self.theta(x, context))
        return x.index_select(-1, self.order), log_slope.sum(-1)

    def ordered(self, x: Tensor) -> Float[Tensor, "*batch D"]:
        """The coordinates in the layer's order, which is its own inverse."""
        check_coordinates(x, self.dim)
        return x.index_select(-1, self.order)

    def theta(
        self, x: Float[Tensor, "*batch D"], context: Tensor | None = None
    ) -> Float[Tensor, "P *batch D"]:
        """The map's parameters."""
        out = self.net(beside(x, context))
        return out.unflatten(-1, (self.f.per_coordinate, -1)).movedim(-2, 0)
