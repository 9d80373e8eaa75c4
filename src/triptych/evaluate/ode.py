"""The likelihood of a DDPM by its probability-flow ODE (Song et al. 2021, *Score-Based Generative
Modeling through Stochastic Differential Equations*, arXiv:2011.13456, section 4.3).

With y = x_t / alpha and s = sigma / alpha, alpha^2 = alpha_bar_t = 1 - sigma^2, the ODE that has
the chain's marginals, and the density along it, are

    dy / d log s        = y - x_0_hat(x_t, t)
    d log p(y) / d log s = -(D - div_y x_0_hat),         y_T ~ N(0, I / alpha_T^2)

Between two times log s is a straight line in t, and the network is asked there for times between
the whole ones that it was trained on. Integers are dequantized by the chain's own first noise, as
far as it stays inside the bin of the level, 2 / (L-1) wide:

    log P(k) >= E_q[log p(y) - log q(y|k)],  y = x_0(k) + s_0 e,  e ~ N(0, 1), y in bin(k)

The bins of black and white reach to infinity, as they do in the chain's bound and in what it draws.
Data that are whole numbers have a p(y) of that shape around each of them; where s_0 is large beside
a level, q is uniform in the inner ones.
"""

from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Generator, Tensor

from triptych.ddpm import DDPM
from triptych.evaluate.evaluation import of_first
from triptych.evaluate.likelihood import bound_of_images, standard_error
from triptych.evaluate.memory import in_halves
from triptych.maths import LOG_2PI, bits_per_dim
from triptych.protocols import Score
from triptych.samplers import noise_levels

SOLVER, TOLERANCE = "dopri5", 1e-4
LARGEST_DEVIATION = 8.0  # where a probability rounds to 0 or 1 its quantile is infinite
FINER = 50  # the first noise over the tolerance: an error as large as that noise would blur it


@dataclass(frozen=True)
class ProbabilityFlow:
    """The ODE of a chain, in u = log s from its first time to its last."""

    model: DDPM
    log_s: Float[Tensor, "T"]

    def x_0_hat(self, y: Float[Tensor, "B C H W"], u: Tensor) -> Float[Tensor, "B C H W"]:
        """x_0_hat at a time between those of the chain."""
        s = u.exp().to(y.dtype)
        alpha = torch.rsqrt(1 + s.square())
        t = self.time(u.item()).to(y)
        x_t = alpha * y
        out = self.model.net(x_t, t.expand(len(y))).to(y.dtype)
        if self.model.variance == "learned":
            out, _ = out.chunk(2, -3)
        return self.model.x_0_from(out, x_t, alpha, s * alpha)

    def time(self, u: float) -> Tensor:
        """t where log s is u: a number from 0 to T-1."""
        grid = self.log_s.numpy()
        return torch.tensor(np.interp(u, grid, np.arange(len(grid))))


def flow_of(model: DDPM) -> ProbabilityFlow:
    """The ODE of this chain; log s rises with t."""
    return ProbabilityFlow(model, -torch.tensor(noise_levels(model)[2], dtype=torch.float64))


def log_density(
    model: DDPM,
    y: Float[Tensor, "B C H W"],
    probe: Float[Tensor, "B C H W"] | None = None,
    tolerance: float = TOLERANCE,
) -> Float[Tensor, "B"]:
    """log p(y) at the chain's first time, in nats: of y that has its noise already (`first_noise`),
    on the chain's scale, where grey values are from -1 to 1.

    `probe` of random signs estimates the divergence (Hutchinson; Grathwohl et al. 2019,
    arXiv:1810.01367), unbiased; None takes it exactly, one pass back for each dimension. The solver
    is Dormand-Prince with this relative and absolute tolerance.
    """
    from torchdiffeq import odeint

    flow, dims = flow_of(model), model.dims
    ends = flow.log_s[[0, -1]].to(y.device)

    def derivative(u: Tensor, state: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        with torch.enable_grad():
            now = state[0].detach().requires_grad_()
            x_0 = flow.x_0_hat(now, u)
            trace = divergence(x_0, now, probe)
        return (now - x_0).detach(), dims - trace

    start = (y, torch.zeros(len(y), dtype=y.dtype, device=y.device))
    found = odeint(derivative, start, ends, rtol=tolerance, atol=tolerance, method=SOLVER)
    last, change = (part[-1] for part in found)
    variance = 1 + ends[-1].exp().square().to(y.dtype)
    log_p = -0.5 * (last.square() / variance).flatten(1).sum(1)
    return log_p - 0.5 * dims * (LOG_2PI + variance.log()) + change


def divergence(
    x_0: Float[Tensor, "B C H W"], y: Tensor, probe: Tensor | None
) -> Float[Tensor, "B"]:
    """sum_d dx_0_d / dy_d of each image, or its estimate by one random direction."""
    if probe is not None:
        (pulled,) = torch.autograd.grad(x_0, y, probe)
        return (pulled * probe).flatten(1).sum(1)
    flat, total = x_0.flatten(1), torch.zeros(len(y), dtype=y.dtype, device=y.device)
    for d in range(flat.shape[1]):
        (row,) = torch.autograd.grad(flat[:, d].sum(), y, retain_graph=True)
        total = total + row.flatten(1)[:, d]
    return total


@bound_of_images
def ode_bound(
    model: DDPM,
    x: Float[Tensor, "N C H W"],
    generator: Generator,
    exact: bool = False,
    chunk: int = 100,
) -> Float[Tensor, "N"]:
    """The bound on log P(k) of each image of integers, in nats, from one dequantization; the trace
    `exact` or by one random direction."""
    density = partial(log_density, model, tolerance=tolerance_for(model))
    rows = []
    for part in x.split(chunk):
        y, log_q = dequantized(model, part, generator)
        probe = None if exact else random_signs(part, generator)
        found = in_halves(density, y) if probe is None else in_halves(density, y, probe)
        rows.append(found.double() - log_q)
    return torch.cat(rows)


def first_noise(model: DDPM) -> float:
    """s_0, the deviation of y around the data at the chain's first time."""
    return flow_of(model).log_s[0].exp().item()


def tolerance_for(model: DDPM) -> float:
    """The solver's, for the density at the chain's first time."""
    return min(TOLERANCE, first_noise(model) / FINER)


def dequantized(
    model: DDPM, k: Float[Tensor, "B C H W"], generator: Generator
) -> tuple[Float[Tensor, "B C H W"], Float[Tensor, "B"]]:
    """(y, log q(y|k)): the chain's first noise, normal, cut to the bin of each level."""
    if model.levels is None:
        raise ValueError("a chain on real numbers has no levels to give a probability to")
    s, half = first_noise(model), 1 / (model.levels - 1)
    u = torch.rand(k.shape, generator=generator, device=k.device, dtype=torch.float64)
    low = torch.where(k > 0, -half / s, -torch.inf).double()
    high = torch.where(k < model.levels - 1, half / s, torch.inf).double()
    below, above = torch.special.ndtr(low), torch.special.ndtr(-high)
    mass = 1 - below - above
    e = torch.special.ndtri(below + u * mass).clamp(low, high)
    e = e.clamp(-LARGEST_DEVIATION, LARGEST_DEVIATION)
    log_q = -0.5 * (e.square() + LOG_2PI) - torch.log(s * mass)
    return (model.scale(k) + s * e).to(k.dtype), log_q.flatten(1).sum(1)


def ode_score(
    model: DDPM,
    x: Float[Tensor, "N C H W"],
    protocol: dict[str, Any],
    g: Generator,
    exact: bool = False,
) -> Score:
    """Bits per dimension by the ODE, from one dequantization an image, whose error is in that of
    the images."""
    bits = bits_per_dim(ode_bound(model, x, g, exact), model.dims)
    how = {
        "bound": "probability-flow ODE",
        "solver": SOLVER,
        "trace": "exact" if exact else "by one random direction",
        "tolerance": tolerance_for(model),
    }
    protocol = of_first(protocol, len(bits)) | how
    return Score("bpd-ode", bits.mean().item(), "bits/dim", None, protocol, standard_error(bits))


def random_signs(like: Tensor, generator: Generator) -> Tensor:
    """+1 or -1 with probability 1/2 (Rademacher), of this shape and precision."""
    u = torch.rand(like.shape, generator=generator, device=like.device, dtype=like.dtype)
    return u.round() * 2 - 1
