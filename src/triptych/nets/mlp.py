"""Multilayer perceptron: the course's encoder and decoder, and the nets inside coupling layers."""

from collections.abc import Sequence
from itertools import pairwise

from torch import nn


class MLP(nn.Sequential):
    """Linear layers `sizes[0] -> ... -> sizes[-1]` with SiLU between them.

    `zero_last=True` starts the last layer at zero, so that what it parametrises starts as the
    identity (a coupling layer) or at its mean.
    """

    def __init__(self, sizes: Sequence[int], zero_last: bool = False) -> None:
        layers: list[nn.Module] = []
        for n_in, n_out in pairwise(sizes):
            layers += [nn.Linear(n_in, n_out), nn.SiLU()]
        last = layers[-2]
        super().__init__(*layers[:-1])
        if zero_last:
            nn.init.zeros_(last.weight)  # pyright: ignore[reportArgumentType]
            nn.init.zeros_(last.bias)  # pyright: ignore[reportArgumentType]
