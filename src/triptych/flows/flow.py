"""A normalizing flow: a base density seen through bijectors (Rezende & Mohamed 2015,
arXiv:1505.05770).

    x = f_L(... f_1(z)),  z ~ base:    log p(x) = log p_base(f^-1(x)) + log|det df^-1/dx|
"""

from collections.abc import Sequence

import torch
from jaxtyping import Bool
from torch import Generator, Tensor, nn

from triptych.flows.autoregressive import Autoregressive
from triptych.flows.coupling import Affine, Coupling, Elementwise, own_copy
from triptych.nets.mlp import MLP
from triptych.protocols import Bijector, Density, WithLogDet


class Flow(nn.Module):
    """Base density and bijectors, the first one nearest to the base. A `Density` like any other."""

    def __init__(self, base: Density, bijectors: Sequence[Bijector]) -> None:
        super().__init__()
        self.base = base
        self.bijectors = nn.ModuleList(bijectors)  # pyright: ignore[reportArgumentType]

    def forward(self, z: Tensor) -> WithLogDet:
        """z on the base's side -> x and log|det dx/dz|."""
        log_det = torch.zeros((), dtype=z.dtype, device=z.device)
        for bijector in self.bijectors:
            z, ld = bijector(z)
            log_det = log_det + ld
        return z, log_det

    def inverse(self, x: Tensor) -> WithLogDet:
        """x -> z on the base's side and log|det dz/dx|."""
        log_det = torch.zeros((), dtype=x.dtype, device=x.device)
        for bijector in reversed(self.bijectors):
            x, ld = bijector.inverse(x)  # pyright: ignore[reportCallIssue]
            log_det = log_det + ld
        return x, log_det

    def log_prob(self, z: Tensor) -> Tensor:
        """log p(z) in nats, one for each batch element."""
        u, log_det = self.inverse(z)
        return self.base.log_prob(u) + log_det

    def sample(
        self, n: int, generator: Generator | None = None, temperature: float = 1.0
    ) -> Tensor:
        """n draws: sample the base and push it through. At another temperature than 1 the base's
        draws are scaled by it first (Kingma & Dhariwal 2018, arXiv:1807.03039, section 6)."""
        return self(temperature * self.base.sample(n, generator))[0]


class Inverse(nn.Module):
    """A bijector run the other way. An autoregressive layer run so is one of an inverse
    autoregressive flow (Kingma et al. 2016, arXiv:1606.04934): quick to sample, slow to invert."""

    def __init__(self, of: nn.Module) -> None:
        super().__init__()
        self.of = of

    @property
    def passes(self) -> int:
        """Of the network, that `inverse` takes."""
        return self.of.dim if isinstance(self.of, Autoregressive) else 1

    def forward(self, z: Tensor, context: Tensor | None = None) -> WithLogDet:
        """The inverse of what is wrapped, and its log_det."""
        return self.of.inverse(z, *given(context))  # pyright: ignore[reportCallIssue]

    def inverse(self, x: Tensor, context: Tensor | None = None) -> WithLogDet:
        """What is wrapped, and its log_det."""
        return self.of(x, *given(context))


def given(context: Tensor | None) -> tuple[Tensor, ...]:
    """The context as an argument, where there is one: not every bijector takes it."""
    return () if context is None else (context,)


def coupling_flow(
    base: Density, dim: int, layers: int, hidden: Sequence[int], f: Elementwise | None = None
) -> Flow:
    """The flow prior: `base` seen through `couplings`."""
    return Flow(base, couplings(dim, layers, hidden, f))


def autoregressive_flow(
    base: Density, dim: int, layers: int, hidden: Sequence[int], f: Elementwise | None = None
) -> Flow:
    """The autoregressive flow prior: `base` seen through `autoregressions`."""
    return Flow(base, autoregressions(dim, layers, hidden, f))


def couplings(
    dim: int, layers: int, hidden: Sequence[int], f: Elementwise | None = None, context: int = 0
) -> list[Coupling]:
    """`layers` couplings whose masks alternate odd and even coordinates.

    `f` is the map of each coordinate, affine if not given; `context` the number of further inputs.
    Two layers in a row touch every coordinate. All of them start as the identity, so training
    starts from the base density.
    """
    check_size(dim, layers)
    f = f or Affine()
    even = torch.arange(dim) % 2 == 0
    masks = [even if i % 2 == 0 else ~even for i in range(layers)]
    return [coupling_on(m, hidden, f, context) for m in masks]


def coupling_on(
    mask: Bool[Tensor, "D"], hidden: Sequence[int], f: Elementwise, context: int = 0
) -> Coupling:
    """An MLP reads the coordinates that pass and the context, and gives the others' parameters. Of
    an `f` that has parameters the layer takes a copy."""
    n_a = int(mask.sum())
    outputs = f.per_coordinate * (len(mask) - n_a)
    return Coupling(mask, MLP([n_a + context, *hidden, outputs], zero_last=True), own_copy(f))


def autoregressions(
    dim: int, layers: int, hidden: Sequence[int], f: Elementwise | None = None, context: int = 0
) -> list[Autoregressive]:
    """Autoregressive layers that alternate the coordinates' order; else as `couplings`."""
    check_size(dim, layers)
    f = f or Affine()
    return [Autoregressive(dim, hidden, own_copy(f), i % 2 == 1, context) for i in range(layers)]


def check_size(dim: int, layers: int) -> None:
    """Fewer of either would leave coordinates that no layer changes by what others are."""
    if dim < 2 or layers < 2:
        raise ValueError(f"a flow needs dim >= 2 and layers >= 2, not {dim} and {layers}")
