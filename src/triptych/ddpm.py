"""Denoising diffusion (Ho, Jain & Abbeel 2020, *Denoising Diffusion Probabilistic Models*,
arXiv:2006.11239), with the true variational bound.

    q(x_t|x_0)         = N(sqrt(alpha_bar_t) x_0, (1 - alpha_bar_t) I)             (eq. 4)
    q(x_{t-1}|x_t,x_0) = N(mu_t(x_0, x_t), sigma_t^2 I)                            (eq. 6, 7)
    p(x_{t-1}|x_t)     = N(mu_t(x_0_hat(x_t, t), x_t), sigma_t^2 I)

Times are 0 .. T-1; x_t at t = 0 has had one step of noise. Data are levels k = 0 .. L-1, seen as
x_0 = 2k / (L-1) - 1; or, with `levels=None`, real numbers taken as they are, of which there is a
chain but no bound on a probability.
"""

import math
from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Generator, Tensor, nn

Prediction = Literal["eps", "v"]


class DDPM(nn.Module):
    """A network that denoises, and the chain built on it.

    `net(x_t, t)` predicts eps, or v = sqrt(alpha_bar) eps - sqrt(1 - alpha_bar) x_0 (Salimans & Ho
    2022, arXiv:2202.00512), from which x_0_hat and eps_hat follow. `clip` bounds x_0_hat to the
    data's range [-1, 1], in sampling and in the bound alike: it is part of the model.
    """

    sqrt_alpha_bar: Tensor
    sqrt_one_minus_alpha_bar: Tensor
    mu_x_0: Tensor
    mu_x_t: Tensor
    sigma: Tensor
    loss_weight: Tensor

    def __init__(
        self,
        net: nn.Module,
        beta: Float[Tensor, "T"],
        shape: tuple[int, int, int],
        levels: int | None,
        prediction: Prediction = "eps",
        clip: bool = True,
        min_snr: float | None = None,
    ) -> None:
        super().__init__()
        self.net, self.shape, self.levels = net, shape, levels
        self.prediction, self.clip = prediction, clip
        self.T, self.dims = len(beta), math.prod(shape)
        self.last_alpha_bar = float((1 - beta.double()).prod())
        coefficients = chain_coefficients(beta.double())
        coefficients["loss_weight"] = min_snr_weight(coefficients, prediction, min_snr)
        for name, value in coefficients.items():
            self.register_buffer(name, value.to(torch.get_default_dtype()), persistent=False)

    # --- training ---

    def noise(self, n: int, generator: Generator) -> dict[str, Tensor]:
        """t and eps. One t in each n-th of [0, T), so that a batch covers all times evenly."""
        device = generator.device
        u = torch.rand(n, generator=generator, device=device)
        t = ((torch.arange(n, device=device) + u) / n * self.T).long().clamp(max=self.T - 1)
        return {"t": t, "eps": torch.randn(n, *self.shape, generator=generator, device=device)}

    def loss(self, x: Float[Tensor, "B C H W"], noise: dict[str, Tensor]) -> Float[Tensor, "B"]:
        """L_simple (eq. 14), squared error of the prediction, mean over pixels; with `min_snr`,
        times its weight at t."""
        t, eps = noise["t"], noise["eps"]
        x_0 = self.scale(x)
        x_t = self.diffuse(x_0, t, eps)
        target = eps if self.prediction == "eps" else self.v(x_0, eps, t)
        return self.loss_weight[t] * (self.predict(x_t, t) - target).square().flatten(1).mean(1)

    def terms(self, x: Tensor, noise: dict[str, Tensor]) -> dict[str, Float[Tensor, "B"]]:
        """The loss itself; it has one term."""
        return {"squared_error": self.loss(x, noise)}

    def scale(self, x: Tensor) -> Tensor:
        """Levels 0 .. L-1 to [-1, 1]."""
        return x if self.levels is None else 2 * x / (self.levels - 1) - 1

    def diffuse(self, x_0: Tensor, t: Int[Tensor, "B"], eps: Tensor) -> Tensor:
        """x_t ~ q(x_t|x_0), eq. 4."""
        return at(self.sqrt_alpha_bar, t) * x_0 + at(self.sqrt_one_minus_alpha_bar, t) * eps

    def v(self, x_0: Tensor, eps: Tensor, t: Tensor) -> Tensor:
        """The v of Salimans & Ho 2022."""
        return at(self.sqrt_alpha_bar, t) * eps - at(self.sqrt_one_minus_alpha_bar, t) * x_0

    def predict(self, x_t: Tensor, t: Int[Tensor, "B"]) -> Tensor:
        """The network's output in the precision of x_t."""
        return self.net(x_t, t).to(x_t.dtype)

    def x_0_hat(self, x_t: Tensor, t: Int[Tensor, "B"]) -> Tensor:
        """The denoised image that the prediction implies."""
        a, s = at(self.sqrt_alpha_bar, t), at(self.sqrt_one_minus_alpha_bar, t)
        out = self.predict(x_t, t)
        x_0 = (x_t - s * out) / a if self.prediction == "eps" else a * x_t - s * out
        return x_0.clamp(-1, 1) if self.clip else x_0

    def mu(self, x_0: Tensor, x_t: Tensor, t: Int[Tensor, "B"]) -> Tensor:
        """Mean of q(x_{t-1}|x_t, x_0), eq. 7."""
        return at(self.mu_x_0, t) * x_0 + at(self.mu_x_t, t) * x_t

    # --- the bound (eq. 5): -log p(x) <= L_T + sum_{t>0} L_t + L_0 ---

    def bound(
        self, x: Tensor, t: Int[Tensor, "B"], eps: Tensor, eps_0: Tensor
    ) -> Float[Tensor, "B"]:
        """Unbiased estimate of the bound on log p(x) of the integer data, in nats.

        One t of 1 .. T-1 stands for all of them; it should be uniform there.
        """
        x_0 = self.scale(x)
        L_T = self.prior_term(x_0)
        L_t = self.gaussian_term(x_0, t, eps)
        L_0 = self.last_term(x_0, eps_0)
        return -(L_T + (self.T - 1) * L_t + L_0)

    def prior_term(self, x_0: Tensor) -> Float[Tensor, "B"]:
        """L_T = KL(q(x_T|x_0) || N(0, I))."""
        ab = self.last_alpha_bar
        kl = 0.5 * (ab * x_0.square() - ab - math.log1p(-ab))
        return kl.flatten(1).sum(1)

    def gaussian_term(self, x_0: Tensor, t: Tensor, eps: Tensor) -> Tensor:
        """L_t = KL(q(x_{t-1}|x_t,x_0) || p(x_{t-1}|x_t)), two Gaussians of equal variance."""
        x_t = self.diffuse(x_0, t, eps)
        mu_hat = self.mu(self.x_0_hat(x_t, t), x_t, t)
        gap = (self.mu(x_0, x_t, t) - mu_hat) / at(self.sigma, t)
        return 0.5 * gap.square().flatten(1).sum(1)

    def last_term(self, x_0: Tensor, eps: Tensor) -> Float[Tensor, "B"]:
        """L_0 = -log P(x_0|x_1): the Gaussian's mass in each level's bin (eq. 13).

        Bins are 2 / (L-1) wide around the levels; the outermost reach to infinity.
        """
        t = torch.zeros(len(x_0), dtype=torch.long, device=x_0.device)
        mu_hat = self.x_0_hat(self.diffuse(x_0, t, eps), t)
        if self.levels is None:
            raise ValueError("a chain on real numbers has no levels to give a probability to")
        half, sigma = 1 / (self.levels - 1), at(self.sigma, t)
        upper = torch.where(x_0 > 1 - half, math.inf, (x_0 - mu_hat + half) / sigma)
        lower = torch.where(x_0 < -1 + half, -math.inf, (x_0 - mu_hat - half) / sigma)
        return -log_normal_mass(lower, upper).flatten(1).sum(1)

    # --- sampling (algorithm 2) ---

    @torch.no_grad()
    def sample(self, n: int, generator: Generator) -> Float[Tensor, "n C H W"]:
        """Ancestral sampling, T network evaluations. Grey values in [0, 1] on the data's grid."""
        x = self.start(n, generator)
        for step in reversed(range(self.T)):
            t = torch.full((n,), step, device=x.device)
            x = self.mu(self.x_0_hat(x, t), x, t)
            if step > 0:
                x = x + at(self.sigma, t) * self.start(n, generator)
        return self.grey(x)

    def start(self, n: int, generator: Generator) -> Float[Tensor, "n C H W"]:
        """n images of N(0, I)."""
        return torch.randn(n, *self.shape, generator=generator, device=generator.device)

    def grey(self, x: Tensor) -> Tensor:
        """[-1, 1] to [0, 1], rounded to the nearest level."""
        if self.levels is None:
            return x
        top = self.levels - 1
        return ((x + 1) / 2 * top).round().clamp(0, top) / top


def chain_coefficients(beta: Float[Tensor, "T"]) -> dict[str, Float[Tensor, "T"]]:
    """What the chain needs at each t, from beta alone.

    sigma_t^2 = beta_t (1 - alpha_bar_{t-1}) / (1 - alpha_bar_t), the variance of
    q(x_{t-1}|x_t,x_0) (eq. 7), and beta_0 at t = 0, where that variance is zero.
    """
    alpha_bar = (1 - beta).cumprod(0)
    previous = torch.cat([alpha_bar.new_ones(1), alpha_bar[:-1]])
    variance = beta * (1 - previous) / (1 - alpha_bar)
    return {
        "sqrt_alpha_bar": alpha_bar.sqrt(),
        "sqrt_one_minus_alpha_bar": (1 - alpha_bar).sqrt(),
        "mu_x_0": previous.sqrt() * beta / (1 - alpha_bar),
        "mu_x_t": (1 - beta).sqrt() * (1 - previous) / (1 - alpha_bar),
        "sigma": torch.cat([beta[:1], variance[1:]]).sqrt(),
    }


def min_snr_weight(
    coefficients: dict[str, Tensor], prediction: Prediction, gamma: float | None
) -> Float[Tensor, "T"]:
    """What makes the squared error of eps or v that of x_0, times min(SNR_t, gamma).

    Hang et al. 2023, *Efficient Diffusion Training via Min-SNR Weighting Strategy*,
    arXiv:2303.09556, section 3.4.
    With SNR = alpha_bar / (1 - alpha_bar), the error of x_0 is that of eps over SNR, and that of v
    over SNR + 1. Ones without gamma.
    """
    a, s = coefficients["sqrt_alpha_bar"], coefficients["sqrt_one_minus_alpha_bar"]
    if gamma is None:
        return torch.ones_like(a)
    snr = (a / s).square()
    return snr.clamp(max=gamma) / (snr if prediction == "eps" else snr + 1)


def at(coefficient: Tensor, t: Int[Tensor, "B"]) -> Float[Tensor, "B 1 1 1"]:
    """coefficient_t, shaped to multiply images."""
    return coefficient[t][..., None, None, None]


def log_normal_mass(lower: Tensor, upper: Tensor) -> Tensor:
    """log P(lower < u < upper), u ~ N(0, 1), exact in both tails.

    The interval is first mirrored to the left, where log Phi keeps its precision.
    """
    mirrored = (lower + upper) > 0
    lo = torch.where(mirrored, -upper, lower)
    hi = torch.where(mirrored, -lower, upper)
    log_hi, log_lo = torch.special.log_ndtr(hi), torch.special.log_ndtr(lo)
    return log_hi + torch.log(-torch.expm1(log_lo - log_hi))
