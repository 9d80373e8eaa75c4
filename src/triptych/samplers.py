"""Samplers for a trained DDPM that take fewer steps than its chain has, and its guidance."""

import math
from collections.abc import Callable, Sequence
from itertools import pairwise

import torch
from jaxtyping import Float
from torch import Generator, Tensor, nn

from triptych.ddpm import DDPM

LEAST_HALF_LOG_SNR = -5.1  # log(alpha / sigma) where samplers begin: no image is left there
ORDER = 3  # of UniPC


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
        """The image's channels of both, and the network's own variance."""
        good, bad = self.net(x, t), self.guide(x, t)
        C = x.shape[-3]
        (good, variance), bad = good.split([C, good.shape[-3] - C], -3), bad.narrow(-3, 0, C)
        return torch.cat([bad + self.weight * (good - bad), variance], -3)


def times_even_in_t(T: int, steps: int) -> list[int]:
    """`steps` times from 0 to T-1, both included, as evenly spaced as integers can be."""
    check_steps(T, steps)
    return torch.linspace(0, T - 1, steps, dtype=torch.float64).round().long().tolist()


@torch.no_grad()
def ddim(
    model: DDPM,
    n: int,
    steps: int,
    generator: Generator,
    eta: float = 0.0,
    noise_below: float = math.inf,
) -> Float[Tensor, "n C H W"]:
    """DDIM (Song, Meng & Ermon 2021, arXiv:2010.02502, eq. 12 and 16) in `steps` network
    evaluations.

        x_s = sqrt(ab_s) x_0_hat + sqrt(1 - ab_s - sigma^2) eps_hat + sigma eps,
        sigma^2 = eta^2 (1 - ab_s) / (1 - ab_t) (1 - ab_t / ab_s)

    from each time t to the next lower one s, and from t = 0 to the image itself (ab = 1).
    eta = 0 is deterministic; eta = 1 with all steps is the ancestral chain of variance "small".
    Another variance matters to the ancestral sampler alone. Steps from a time at which
    sigma_t / alpha_t is not below `noise_below` are deterministic, whatever eta is (S_tmax of
    Karras et al. 2022, arXiv:2206.00364, algorithm 2).
    """
    check_eta(eta)
    x = model.gaussian_noise(n, generator)
    times = times_even_in_t(model.T, steps)
    alpha, sigma, _ = noise_levels(model)
    for t, s in pairwise(times[::-1]):
        x_0 = x_0_hat(model, x, t)
        eps_hat = (x - alpha[t] * x_0) / sigma[t]
        noisy = eta if sigma[t] / alpha[t] < noise_below else 0.0
        # sqrt(1 - ab_t / ab_s) by sigma / alpha, which neither end's rounding to 1 cancels
        fresh = alpha[t] * math.sqrt((sigma[t] / alpha[t]) ** 2 - (sigma[s] / alpha[s]) ** 2)
        noise = noisy * sigma[s] / sigma[t] * fresh
        kept = max(sigma[s] ** 2 - noise**2, 0.0)  # rounding may take it below
        x = alpha[s] * x_0 + math.sqrt(kept) * eps_hat
        if noisy > 0:
            x = x + noise * model.gaussian_noise(n, generator)
    return model.grey(x_0_hat(model, x, 0))


@torch.no_grad()
def dpm_solver(
    model: DDPM,
    n: int,
    steps: int,
    generator: Generator,
    eta: float = 0.0,
    rho: float | None = None,
    noise_below: float = math.inf,
) -> Float[Tensor, "n C H W"]:
    """DPM-Solver++(2M) (Lu et al. 2022, arXiv:2211.01095, algorithm 2, and its SDE version,
    section 5) in `steps` network evaluations.

        x_s = sigma_s / sigma_t e^(-eta h) x_t + alpha_s (1 - e^(-(1 + eta) h)) D
              + sigma_s sqrt(1 - e^(-2 eta h)) eps,
        D   = x_0_hat_t + h / (2 h') (x_0_hat_t - x_0_hat_t')

    with alpha = sqrt(ab), sigma = sqrt(1 - ab), h = log(alpha_s / sigma_s) - log(alpha_t / sigma_t)
    and t', h' those of the step before, which costs nothing and makes it of second order. The first
    and the last step are of first order. eta = 0 is deterministic, eta = 1 the SDE version; between
    them it scales the rate of the noise, not its size as in `ddim`. `noise_below` is as there.
    Times are those of `times_even_in_noise`; even in t, the second order would be lost on a
    cosine schedule.
    """
    check_eta(eta)
    x = model.gaussian_noise(n, generator)
    times = times_even_in_noise(model, steps, rho)
    alpha, sigma, half_log_snr = noise_levels(model)
    before, h_before = None, 1.0
    for t, s in pairwise(times[::-1]):
        x_0, h = x_0_hat(model, x, t), half_log_snr[s] - half_log_snr[t]
        D = x_0 if before is None else x_0 + h / (2 * h_before) * (x_0 - before)
        noisy = eta if sigma[t] / alpha[t] < noise_below else 0.0
        keep = sigma[s] / sigma[t] * math.exp(-noisy * h)
        x = keep * x - alpha[s] * math.expm1(-(1 + noisy) * h) * D
        if noisy > 0:
            noise = sigma[s] * math.sqrt(-math.expm1(-2 * noisy * h))
            x = x + noise * model.gaussian_noise(n, generator)
        before, h_before = x_0, h
    return model.grey(x_0_hat(model, x, 0))


@torch.no_grad()
def unipc(
    model: DDPM, n: int, steps: int, generator: Generator, rho: float | None = None
) -> Float[Tensor, "n C H W"]:
    """UniPC-3 (Zhao et al. 2023, *UniPC: A Unified Predictor-Corrector Framework for Fast Sampling
    of Diffusion Models*, arXiv:2302.04867, with B(h) = e^h - 1) on the probability-flow ODE, in
    `steps` network evaluations.

        x_s = sigma_s / sigma_t x_t + alpha_s int_0^h e^(u - h) P(u) du

    P is the polynomial, in u = log(alpha / sigma) beyond that of t, through x_0_hat at t and at the
    two times before. The network sees the x_s that this predicts, and with its x_0_hat_s among the
    points the step is taken again: a corrector that costs no evaluation.
    h and the times are those of `dpm_solver`; the first steps and the last are of lower order. It
    is deterministic.
    """
    times = times_even_in_noise(model, steps, rho)[::-1]
    alpha, sigma, half_log_snr = noise_levels(model)
    x = model.gaussian_noise(n, generator)

    def point(x: Tensor, t: int) -> tuple[float, Tensor]:
        return half_log_snr[t], x_0_hat(model, x, t)

    points = [point(x, times[0])]
    for i, (t, s) in enumerate(pairwise(times)):
        begin, end = half_log_snr[t], half_log_snr[s]
        points = points[-min(ORDER, steps - i) :]
        predicted = sigma[s] / sigma[t] * x + alpha[s] * exponential_integral(points, begin, end)
        points.append(point(predicted, s))
        x = sigma[s] / sigma[t] * x + alpha[s] * exponential_integral(points, begin, end)
    return model.grey(points[-1][1])


@torch.no_grad()
def heun(
    model: DDPM,
    n: int,
    steps: int,
    generator: Generator,
    rho: float | None = None,
) -> Float[Tensor, "n C H W"]:
    """Heun's method on the probability-flow ODE (Karras et al. 2022, *Elucidating the Design Space
    of Diffusion-Based Generative Models*, arXiv:2206.00364, algorithm 1) from `steps` times.

        dy / ds = d(y, s) = (y - x_0_hat) / s,       y = x_t / alpha,  s = sigma / alpha
        y' = y + (s' - s) d(y, s),       y <- y + (s' - s) (d(y, s) + d(y', s')) / 2

    Two network evaluations a step, but one from t = 0 to the image itself: 2 steps - 1 in all. The
    times are those of `dpm_solver`. It is deterministic.
    """
    times = times_even_in_noise(model, steps, rho)[::-1]
    alpha, sigma, _ = noise_levels(model)
    s = [b / a for a, b in zip(alpha, sigma, strict=True)]

    def slope(y: Tensor, t: int) -> Tensor:
        return (y - x_0_hat(model, alpha[t] * y, t)) / s[t]

    y = model.gaussian_noise(n, generator) / alpha[times[0]]
    for t_now, t_next in pairwise(times):
        h, d = s[t_next] - s[t_now], slope(y, t_now)
        y = y + h / 2 * (d + slope(y + h * d, t_next))
    return model.grey(y - s[0] * slope(y, 0))


def exponential_integral(
    points: Sequence[tuple[float, Tensor]], begin: float, end: float
) -> Float[Tensor, "*shape"]:
    """int e^(u - end) P(u) du from `begin` to `end`, P the polynomial through the points (u, P(u)).

    Of two points, P is taken in the middle, as DPM-Solver++(2M) and the authors of UniPC do, which
    is of the same order.
    """
    h = end - begin
    r = torch.tensor([(u - begin) / h for u, _ in points], dtype=torch.float64)
    moments = [-math.expm1(-h)]  # int e^(u - end) r^k du of k = 0, 1, ..., by parts
    for k in range(1, len(points)):
        moments.append(1 - k / h * moments[-1])
    if len(points) == 2:
        moments[1] = moments[0] / 2  # in the middle r is 1/2
    powers = r ** torch.arange(len(points))[:, None]
    w = torch.linalg.solve(powers, torch.tensor(moments, dtype=torch.float64))
    return torch.stack([a * value for a, (_, value) in zip(w.tolist(), points, strict=True)]).sum(0)


def check_steps(T: int, steps: int) -> None:
    """ValueError unless the times are 2 or more, and no more than the chain has."""
    if not 2 <= steps <= T:
        raise ValueError(f"steps must lie in 2..{T}, not {steps}")


def check_eta(eta: float) -> None:
    """ValueError for noise that no step has room for."""
    if not 0 <= eta <= 1:
        raise ValueError(f"eta must lie in 0..1, not {eta}")


def x_0_hat(model: DDPM, x: Float[Tensor, "n C H W"], t: int) -> Float[Tensor, "n C H W"]:
    """The denoised images, all of them at time t."""
    return model.x_0_hat(x, torch.full((len(x),), t, device=x.device))


def noise_levels(model: DDPM) -> tuple[list[float], list[float], list[float]]:
    """alpha, sigma and log(alpha / sigma) of every time, the last being the papers' lambda;
    computed in float64."""
    alpha = model.sqrt_alpha_bar.cpu().double()
    sigma = model.sqrt_one_minus_alpha_bar.cpu().double()
    return alpha.tolist(), sigma.tolist(), (alpha / sigma).log().tolist()


def times_even_in_noise(model: DDPM, steps: int, rho: float | None = None) -> list[int]:
    """`steps` different times from 0 up, as even in s^(1/rho), s = sigma / alpha, as integers can
    be (Karras et al. 2022, arXiv:2206.00364, eq. 5); without rho, its limit: even in log s.

    The smaller rho, the more of them are noisy ones. The last is the first that has
    log(alpha / sigma) at -5.1 or less: noisier times, at which nothing is left of the image and the
    ratio runs away, are left out unless so many steps need them (as in diffusers,
    `lambda_min_clipped`).
    """
    check_steps(model.T, steps)
    if rho is not None and rho < 1:
        raise ValueError(f"rho must be 1 or more, not {rho}")
    half_log_snr = torch.tensor(noise_levels(model)[2], dtype=torch.float64)
    first_without_image = int((half_log_snr >= LEAST_HALF_LOG_SNR).sum())
    top = max(min(first_without_image, model.T - 1), steps - 1)
    noise = -half_log_snr if rho is None else (-half_log_snr / rho).exp()  # log s, or its root
    even = torch.linspace(0, 1, steps, dtype=torch.float64) * (noise[top] - noise[0])
    nearest = (noise[: top + 1, None] - noise[0] - even).abs().argmin(0)
    # Several may have the same nearest time. Each is moved up to one above the time before it, then
    # down to where those that follow have room up to the top.
    i = torch.arange(steps)
    rising = (nearest - i).cummax(0).values + i
    return rising.minimum(top - (steps - 1 - i)).tolist()


SAMPLERS: dict[str, Callable[..., Tensor]] = {
    "ddim": ddim,
    "dpm-solver++": dpm_solver,
    "unipc": unipc,
    "heun": heun,
}
WITH_ETA = ("ddim", "dpm-solver++")
WITH_RHO = ("dpm-solver++", "unipc", "heun")


def evaluations(sampler: str, steps: int) -> int:
    """How often a sample passes through the network (both, if there are two, counted as one)."""
    return 2 * steps - 1 if sampler == "heun" else steps
