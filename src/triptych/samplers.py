"""Samplers for a trained DDPM that take fewer steps than its chain has, and its guidance."""

import math
from itertools import pairwise

import torch
from jaxtyping import Float
from torch import Generator, Tensor, nn

from triptych.ddpm import DDPM, at

NOISIEST = -5.1


class Autoguidance(nn.Module):
    """A network led away from the faults of a worse version of itself (Karras et al. 2024,
    *Guiding a Diffusion Model with a Bad Version of Itself*, arXiv:2406.02507).

        out(x_t, t) = guide(x_t, t) + w (net(x_t, t) - guide(x_t, t))

    w = 1 is the network itself. eps, v and x_0 are affine in one another, so that it does not
    matter which is predicted; x_0 is clipped afterwards. A learned variance, in the channels after
    the image's, is the network's own. Each step evaluates both networks.
    """

    def __init__(self, net: nn.Module, guide: nn.Module, weight: float) -> None:
        super().__init__()
        self.net, self.guide, self.weight = net, guide, weight

    def forward(self, x: Float[Tensor, "B C H W"], t: Tensor) -> Float[Tensor, "B D H W"]:
        """Both in the precision of x: their difference is small."""
        good, bad = self.net(x, t).to(x.dtype), self.guide(x, t).to(x.dtype)
        C = x.shape[-3]
        (good, variance), bad = good.split([C, good.shape[-3] - C], -3), bad.narrow(-3, 0, C)
        return torch.cat([bad + self.weight * (good - bad), variance], -3)


def spaced_times(T: int, steps: int) -> list[int]:
    """`steps` times from 0 to T-1, both included, as evenly spaced as integers can be."""
    if not 2 <= steps <= T:
        raise ValueError(f"steps must lie in 2..{T}, not {steps}")
    return torch.linspace(0, T - 1, steps, dtype=torch.float64).round().long().tolist()


@torch.no_grad()
def ddim(
    model: DDPM, n: int, steps: int, generator: Generator, eta: float = 0.0
) -> Float[Tensor, "n C H W"]:
    """DDIM (Song, Meng & Ermon 2021, arXiv:2010.02502, eq. 12) in `steps` network evaluations.

        x_s = sqrt(ab_s) x_0_hat + sqrt(1 - ab_s - sigma^2) eps_hat + sigma eps,
        sigma^2 = eta^2 (1 - ab_s) / (1 - ab_t) (1 - ab_t / ab_s)

    from each time t to the next lower one s, and from t = 0 to the image itself (ab = 1).
    eta = 0 is deterministic; eta = 1 with all steps is the ancestral chain of variance "small".
    No sampler but the ancestral one has use for another variance.
    """
    x = model.start(n, generator)
    times = spaced_times(model.T, steps)
    alpha_bar = model.sqrt_alpha_bar.square()
    for t_now, t_next in pairwise(times[::-1]):
        t = torch.full((n,), t_now, device=x.device)
        x_0 = model.x_0_hat(x, t)
        eps = (x - at(model.sqrt_alpha_bar, t) * x_0) / at(model.sqrt_one_minus_alpha_bar, t)
        ab_t, ab_s = alpha_bar[t_now], alpha_bar[t_next]
        sigma = eta * ((1 - ab_s) / (1 - ab_t) * (1 - ab_t / ab_s)).sqrt()
        kept = (1 - ab_s - sigma**2).clamp(min=0)  # rounding may take it below
        x = ab_s.sqrt() * x_0 + kept.sqrt() * eps
        if eta > 0:
            x = x + sigma * model.start(n, generator)
    return model.grey(model.x_0_hat(x, torch.zeros(n, dtype=torch.long, device=x.device)))


@torch.no_grad()
def dpm_solver(
    model: DDPM,
    n: int,
    steps: int,
    generator: Generator,
    eta: float = 0.0,
    rho: float | None = None,
) -> Float[Tensor, "n C H W"]:
    """DPM-Solver++(2M) (Lu et al. 2022, arXiv:2211.01095, algorithm 2, and its SDE version,
    section 5) in `steps` network evaluations.

        x_s = sigma_s / sigma_t e^(-eta h) x_t + alpha_s (1 - e^(-(1 + eta) h)) D
              + sigma_s sqrt(1 - e^(-2 eta h)) eps,
        D   = x_0_hat_t + h / (2 h') (x_0_hat_t - x_0_hat_t')

    with alpha = sqrt(ab), sigma = sqrt(1 - ab), h = log(alpha_s / sigma_s) - log(alpha_t / sigma_t)
    and t', h' those of the step before, which costs nothing and makes it of second order. The first
    and the last step are of first order. eta = 0 is deterministic, eta = 1 the SDE version. Times
    are those of `evenly_less_noisy_times`; even in t, the second order would be lost on a cosine
    schedule.
    """
    x = model.start(n, generator)
    times = evenly_less_noisy_times(model, steps, rho)
    alpha, sigma = (
        model.sqrt_alpha_bar.cpu().double(),
        model.sqrt_one_minus_alpha_bar.cpu().double(),
    )
    half_log_snr = (alpha / sigma).log()
    before, h_before = None, 1.0
    for t_now, t_next in pairwise(times[::-1]):
        x_0 = model.x_0_hat(x, torch.full((n,), t_now, device=x.device))
        h = (half_log_snr[t_next] - half_log_snr[t_now]).item()
        D = x_0 if before is None else x_0 + h / (2 * h_before) * (x_0 - before)
        keep = (sigma[t_next] / sigma[t_now]).item() * math.exp(-eta * h)
        x = keep * x - alpha[t_next].item() * math.expm1(-(1 + eta) * h) * D
        if eta > 0:
            spread = sigma[t_next].item() * math.sqrt(-math.expm1(-2 * eta * h))
            x = x + spread * model.start(n, generator)
        before, h_before = x_0, h
    return model.grey(model.x_0_hat(x, torch.zeros(n, dtype=torch.long, device=x.device)))


def evenly_less_noisy_times(model: DDPM, steps: int, rho: float | None = None) -> list[int]:
    """`steps` different times from 0 up, as even in s^(1/rho), s = sigma / alpha, as integers can
    be (Karras et al. 2022, arXiv:2206.00364, eq. 5); without rho, its limit: even in log s.

    The smaller rho, the more of them are noisy ones. The last is the first that has
    log(alpha / sigma) at -5.1 or less: noisier times, at which nothing is left of the image and the
    ratio runs away, are left out unless so many steps need them (as in diffusers,
    `lambda_min_clipped`).
    """
    if not 2 <= steps <= model.T:
        raise ValueError(f"steps must lie in 2..{model.T}, not {steps}")
    half_log_snr = (model.sqrt_alpha_bar / model.sqrt_one_minus_alpha_bar).log().cpu().double()
    top = max(min(int((half_log_snr >= NOISIEST).sum()), model.T - 1), steps - 1)
    noise = -half_log_snr if rho is None else (-half_log_snr / rho).exp()  # log s, or its root
    even = torch.linspace(0, 1, steps).double() * (noise[top] - noise[0])
    nearest = (noise[: top + 1, None] - noise[0] - even).abs().argmin(0)
    i = torch.arange(steps)
    rising = (nearest - i).cummax(0).values + i
    return rising.minimum(top - (steps - 1 - i)).tolist()


@torch.no_grad()
def heun(
    model: DDPM,
    n: int,
    steps: int,
    generator: Generator,
    eta: float = 0.0,
    rho: float | None = None,
) -> Float[Tensor, "n C H W"]:
    """Heun's method on the probability-flow ODE (Karras et al. 2022, *Elucidating the Design Space
    of Diffusion-Based Generative Models*, arXiv:2206.00364, algorithm 1) from `steps` times.

        dy / ds = d(y, s) = (y - x_0_hat) / s,       y = x_t / alpha,  s = sigma / alpha
        y' = y + (s' - s) d(y, s),       y <- y + (s' - s) (d(y, s) + d(y', s')) / 2

    Two network evaluations a step, but one from t = 0 to the image itself: 2 steps - 1 in all. The
    times are those of `dpm_solver`. There is no noise to add: eta must be 0.
    """
    if eta:
        raise ValueError(f"heun is deterministic: eta must be 0, not {eta:g}")
    times = evenly_less_noisy_times(model, steps, rho)[::-1]
    alpha = model.sqrt_alpha_bar.cpu().double()
    s = (model.sqrt_one_minus_alpha_bar.cpu().double() / alpha).tolist()

    def slope(y: Tensor, t: int) -> Tensor:
        x_0 = model.x_0_hat(alpha[t].item() * y, torch.full((n,), t, device=y.device))
        return (y - x_0) / s[t]

    y = model.start(n, generator) / alpha[times[0]].item()
    for t_now, t_next in pairwise(times):
        h, d = s[t_next] - s[t_now], slope(y, t_now)
        y = y + h / 2 * (d + slope(y + h * d, t_next))
    return model.grey(y - s[0] * slope(y, 0))


SAMPLERS = {"ddim": ddim, "dpm-solver++": dpm_solver, "heun": heun}


def evaluations(sampler: str, steps: int) -> int:
    """How often a sample passes through the network (both, if there are two, counted as one)."""
    return 2 * steps - 1 if sampler == "heun" else steps
