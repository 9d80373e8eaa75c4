"""Bounds on log p(x) of diffusion models: one number for each image, in nats.

The bound is a sum over the times t of a chain, or an integral over [0, 1]. One time an image stands
for all, drawn where its terms are large (Nichol & Dhariwal 2021, arXiv:2102.09672, section 3.3):

    sum_t L_t = E[L_t / q(t)],   t ~ q,

and q is near to what L_t a pilot finds on a few images, so that L_t / q(t) is near to the sum.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from numpy.typing import NDArray
from torch import Generator, Tensor

from triptych.ddpm import DDPM
from triptych.evaluate.likelihood import Estimate, bound_of_images, from_draws
from triptych.evaluate.memory import in_halves
from triptych.maths import nats_per_bit
from triptych.vdm import VDM

PILOT, POINTS = 64, 20  # images and times
UNIFORM_SHARE = 0.1  # of q, where the pilot may err
CELLS = 1000  # of [0, 1], in each of which q is constant
CHUNK = 250  # images at a time


@bound_of_images
def ddpm_bound(
    model: DDPM, x: Float[Tensor, "N C H W"], draws: int, generator: Generator
) -> Estimate:
    """The variational bound of each image, from `draws` (t, eps) pairs.

    Raises:
        ValueError: a chain of one step, which has no L_t.
    """
    if model.T < 2:
        raise ValueError("the bound of a chain takes 2 steps or more")
    pilot = x[:PILOT]
    times = log_spaced(model.T - 1, POINTS)
    found = [_diffusion_term(model, pilot, int(t), generator).mean().item() for t in times]
    t = np.arange(1, model.T)
    q = proposal(np.interp(np.log(t), np.log(times), log_terms(found)), x.device)

    def bound(x: Tensor, cell: Tensor, weight: Tensor) -> Tensor:
        eps, eps_0 = (model.gaussian_noise(len(x), generator) for _ in range(2))
        return in_halves(model.bound, x, 1 + cell, eps, eps_0, weight.to(x.dtype))

    return _over_times(bound, q, x, draws, generator)


@bound_of_images
def vdm_bound(
    model: VDM, x: Float[Tensor, "N C H W"], draws: int, generator: Generator
) -> Estimate:
    """The bound of each image in continuous time, from `draws` (t, eps) pairs."""
    pilot = model.scale(x[:PILOT])
    times, found = np.linspace(0, 1, POINTS), []
    for t in times:
        at = torch.full((len(pilot),), float(t)).to(pilot)
        noise = model.noise(len(pilot), generator)
        found.append(in_halves(model.diffusion, pilot, at, noise["eps"]).mean().item())
    middles = (np.arange(CELLS) + 0.5) / CELLS
    q = proposal(np.interp(middles, times, log_terms(found)), x.device)

    def loss(x: Tensor, t: Tensor, weight: Tensor, eps: Tensor, eps_0: Tensor) -> Tensor:
        return model.loss(x, {"t": t, "weight": weight, "eps": eps, "eps_0": eps_0})

    def bound(x: Tensor, cell: Tensor, weight: Tensor) -> Tensor:
        noise = model.noise(len(x), generator)
        inside = torch.rand(len(x), generator=generator, device=x.device)
        t, share = ((cell + inside) / CELLS).to(x.dtype), (weight / CELLS).to(x.dtype)
        bits = in_halves(loss, x, t, share, noise["eps"], noise["eps_0"])
        return -nats_per_bit(model.dims) * bits

    return _over_times(bound, q, x, draws, generator)


def _over_times(
    bound: Callable[[Tensor, Tensor, Tensor], Tensor],
    q: Float[Tensor, "T"],
    x: Float[Tensor, "N C H W"],
    draws: int,
    generator: Generator,
) -> Estimate:
    """The mean of `draws` estimates of each image's bound, each from one time t ~ q.

    The times are spread evenly over the images (`draw_times`): the error of the mean over images is
    about a third less than `mc_std`, which takes them for independent.
    """
    rows = []
    for _ in range(draws):
        columns = (x, *draw_times(q, len(x), generator))
        parts = zip(*(column.split(CHUNK) for column in columns), strict=True)
        rows.append(torch.cat([bound(*part) for part in parts]).double())
    return from_draws(torch.stack(rows))


def proposal(logs: NDArray[np.float64], device: torch.device) -> Float[Tensor, "T"]:
    """q of each time, from the logarithms of the pilot's terms there:

        q = 0.9 L_t / sum L + 0.1 / T

    The variance of L_t / q is least where it is flat. (Nichol & Dhariwal take sqrt(E[L_t^2]).)
    """
    q = np.exp(logs - logs.max())
    q = (1 - UNIFORM_SHARE) * q / q.sum() + UNIFORM_SHARE / len(q)
    return torch.from_numpy(q).to(device)


def log_terms(terms: Sequence[float]) -> NDArray[np.float64]:
    """Logarithms of the terms, none of them less than that of 1e-12 of the largest."""
    found = np.asarray(terms, dtype=np.float64)
    return np.log(np.maximum(found, max(1e-12 * found.max(), np.finfo(np.float64).tiny)))


def draw_times(
    q: Float[Tensor, "T"], n: int, generator: Generator
) -> tuple[Int[Tensor, "n"], Float[Tensor, "n"]]:
    """n times t ~ q and 1 / q of each. They are stratified, one in each n-th of the mass of q, so
    that the mean over images sees all times evenly; and in random order."""
    device = generator.device
    u = torch.rand(n, generator=generator, device=device, dtype=torch.float64)
    u = (torch.randperm(n, generator=generator, device=device) + u) / n
    which = torch.searchsorted(q.cumsum(0), u).clamp(max=len(q) - 1)
    return which, 1 / q[which]


@torch.no_grad()
def ddpm_terms(
    model: DDPM, x: Float[Tensor, "N C H W"], generator: Generator, points: int = 40
) -> dict[str, NDArray[Any]]:
    """Times t of the T, and the bound's L_t there (L_0 at 0) in bits/dim, the mean over images
    (Nichol & Dhariwal 2021, figure 2). They are denser near 0. `prior` is L_T.
    """
    times = log_spaced(model.T, points) - 1
    nats = [_reconstruction_term(model, x, generator).mean().item()]
    nats += [_diffusion_term(model, x, int(t), generator).mean().item() for t in times[1:]]
    return _term_arrays(times, nats, model.T, model.prior_term(model.scale(x)), model.dims)


@torch.no_grad()
def vdm_terms(
    model: VDM, x: Float[Tensor, "N C H W"], generator: Generator, points: int = 40
) -> dict[str, NDArray[Any]]:
    """Times t, and the terms there in bits/dim, the mean over images, of a bound in continuous
    time, whose integral is cut as its chain cuts time: what the t-th of T parts adds, t = 1 .. T,
    and at 0 the reconstruction. `prior` is L_T."""
    x_0, T = model.scale(x), model.timesteps
    times = log_spaced(T + 1, points) - 1

    def eps() -> Tensor:
        return torch.randn(x.shape, generator=generator, device=x.device, dtype=x.dtype)

    nats = [model.reconstruction(x_0, eps()).double().mean().item()]
    for t in times[1:]:
        middle = torch.full((len(x),), (float(t) - 0.5) / T).to(x)
        nats.append(in_halves(model.diffusion, x_0, middle, eps()).double().mean().item() / T)
    return _term_arrays(times, nats, T, model.prior_term(x_0), model.dims)


def log_spaced(last: int, points: int) -> NDArray[np.int64]:
    """About so many whole numbers from 1 to `last`, evenly spaced in their logarithm."""
    return np.unique(np.geomspace(1, last, points).round().astype(np.int64))


def _term_arrays(
    times: NDArray[np.int64], nats: Sequence[float], T: int, prior: Float[Tensor, "N"], dims: int
) -> dict[str, NDArray[Any]]:
    per_bit = nats_per_bit(dims)
    return {
        "t": times,
        "bits": np.array(nats) / per_bit,
        "T": np.array(T),
        "prior": np.array(prior.double().mean().item() / per_bit),
    }


def _diffusion_term(model: DDPM, x: Tensor, t: int, generator: Generator) -> Float[Tensor, "N"]:
    times, eps = torch.full((len(x),), t, device=x.device), model.gaussian_noise(len(x), generator)
    return in_halves(model.diffusion_term, model.scale(x), times, eps).double()


def _reconstruction_term(model: DDPM, x: Tensor, generator: Generator) -> Float[Tensor, "N"]:
    eps = model.gaussian_noise(len(x), generator)
    return in_halves(model.reconstruction_term, model.scale(x), eps).double()
