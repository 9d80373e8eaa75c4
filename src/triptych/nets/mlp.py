"""Multilayer perceptron: the course's encoder and decoder, and the nets inside coupling layers."""

import math
from collections.abc import Sequence
from itertools import pairwise

from jaxtyping import Float
from torch import Tensor, nn

SILU_GAIN = 1.677  # 1 / sqrt(E[SiLU(u)^2]), u ~ N(0, 1)


class MLP(nn.Sequential):
    """Linear layers `sizes[0] -> ... -> sizes[-1]` with SiLU between them.

    Weights start as N(0, gain^2 / n_in), biases at zero: every layer passes on the mean square
    that it gets (He et al. 2015, arXiv:1502.01852, eq. 10, for SiLU in place of ReLU). torch's own
    start shrinks it threefold and more at each layer. `zero_last=True` starts the last layer at
    zero, so that what it parametrises starts as the identity (a coupling layer) or at its mean.
    """

    def __init__(self, sizes: Sequence[int], zero_last: bool = False) -> None:
        linear = [nn.Linear(n_in, n_out) for n_in, n_out in pairwise(sizes)]
        for layer in linear:
            gain = 1.0 if layer is linear[0] else SILU_GAIN
            nn.init.normal_(layer.weight, std=gain / math.sqrt(layer.in_features))
            nn.init.zeros_(layer.bias)
        if zero_last:
            nn.init.zeros_(linear[-1].weight)
        layers: list[nn.Module] = [linear[0]]
        for layer in linear[1:]:
            layers += [nn.SiLU(), layer]
        super().__init__(*layers)


class Scale(nn.Module):
    """x times a constant: integers to the unit interval, before a network reads them."""

    def __init__(self, factor: float) -> None:
        super().__init__()
        self.factor = factor

    def forward(self, x: Tensor) -> Tensor:
        return self.factor * x


class Gate(nn.Module):
    """(A x + a) * sigmoid(B x + b) (Dauphin et al. 2017, arXiv:1612.08083, eq. 1)."""

    def __init__(self, n_in: int, n_out: int) -> None:
        super().__init__()
        self.both = nn.Linear(n_in, 2 * n_out)

    def forward(self, x: Float[Tensor, "*batch n"]) -> Float[Tensor, "*batch m"]:
        return nn.functional.glu(self.both(x))


class GatedMLP(nn.Sequential):
    """Gated layers `sizes[0] -> ... -> sizes[-2]`, then a linear one: the network of Tomczak &
    Welling 2018 (arXiv:1705.07120, section 5)."""

    def __init__(self, sizes: Sequence[int]) -> None:
        *hidden, last = pairwise(sizes)
        super().__init__(*(Gate(*pair) for pair in hidden), nn.Linear(*last))
