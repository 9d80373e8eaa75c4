"""Noise schedules: beta_t -> alpha_bar_t (Ho, Jain & Abbeel 2020, arXiv:2006.11239, section 2).

    q(x_t|x_0) = N(x_t; sqrt(alpha_bar_t) x_0, (1 - alpha_bar_t) I),   t = 0 .. T-1

The paper's index is t + 1: x_t at t = 0 has had one step of noise, and is its x_1.
"""

import math

import torch
from jaxtyping import Float
from torch import Tensor


def linear_beta(T: int) -> Float[Tensor, "T"]:
    """Ho et al. 2020: beta from 1e-4 to 0.02 at T = 1000; rescaled for other T."""
    scale = 1000 / T
    return torch.linspace(scale * 1e-4, min(scale * 0.02, 0.999), T, dtype=torch.float64)


def cosine_beta(T: int, s: float = 0.008) -> Float[Tensor, "T"]:
    """Nichol & Dhariwal 2021, arXiv:2102.09672, eq. 17: alpha_bar = cos^2, beta at most 0.999."""
    u = torch.arange(T + 1, dtype=torch.float64) / T
    f = torch.cos((u + s) / (1 + s) * math.pi / 2).square()
    return (1 - f[1:] / f[:-1]).clamp(max=0.999)


def chain_coefficients(beta: Float[Tensor, "T"]) -> dict[str, Float[Tensor, "T"]]:
    """What the chain needs at each t, from beta alone: the mean of q(x_{t-1}|x_t,x_0),

        mu_t   = mu_x_0 x_0 + mu_x_t x_t,
        mu_x_0 = sqrt(alpha_bar_{t-1}) beta_t / (1 - alpha_bar_t),
        mu_x_t = sqrt(1 - beta_t) (1 - alpha_bar_{t-1}) / (1 - alpha_bar_t)

    (eq. 7), and the logarithms of the standard deviations sqrt(beta_tilde_t) and sqrt(beta_t).

    beta_tilde_t = beta_t (1 - alpha_bar_{t-1}) / (1 - alpha_bar_t), the variance of
    q(x_{t-1}|x_t,x_0), is zero at t = 0, where that of t = 1 stands in its place, as in Ho et al.'s
    code: in their schedules about half of beta_0, which suits pixels of few levels.
    """
    alpha_bar = (1 - beta).cumprod(0)
    previous = torch.cat([alpha_bar.new_ones(1), alpha_bar[:-1]])
    variance = beta * (1 - previous) / (1 - alpha_bar)
    first = variance[1:2] if len(beta) > 1 else beta
    return {
        "sqrt_alpha_bar": alpha_bar.sqrt(),
        "sqrt_one_minus_alpha_bar": (1 - alpha_bar).sqrt(),
        "mu_x_0": previous.sqrt() * beta / (1 - alpha_bar),
        "mu_x_t": (1 - beta).sqrt() * (1 - previous) / (1 - alpha_bar),
        "log_sigma_small": torch.cat([first, variance[1:]]).log() / 2,
        "log_sigma_large": beta.log() / 2,
    }


def min_snr_weight(
    coefficients: dict[str, Tensor], prediction: str, gamma: float | None
) -> Float[Tensor, "T"]:
    """w_t such that w_t times the squared error of what is predicted (eps, v or x_0) is
    min(SNR_t, gamma) times that of x_0; without gamma, ones.

    Hang et al. 2023, *Efficient Diffusion Training via Min-SNR Weighting Strategy*,
    arXiv:2303.09556, section 3.4. With SNR = alpha_bar / (1 - alpha_bar), the error of eps is SNR
    times that of x_0, and the error of v is SNR + 1 times that of x_0.
    """
    a, s = coefficients["sqrt_alpha_bar"], coefficients["sqrt_one_minus_alpha_bar"]
    if gamma is None:
        return torch.ones_like(a)
    if gamma <= 0:
        raise ValueError(f"gamma of min-SNR must be above 0, not {gamma}")
    snr = (a / s).square()
    error_over_that_of_x_0 = {"eps": snr, "v": snr + 1, "x_0": torch.ones_like(snr)}
    return snr.clamp(max=gamma) / error_over_that_of_x_0[prediction]


SCHEDULES = {"linear": linear_beta, "cosine": cosine_beta}
