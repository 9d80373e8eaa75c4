"""Denoising diffusion (Ho, Jain & Abbeel 2020, *Denoising Diffusion Probabilistic Models*,
arXiv:2006.11239), with the true variational bound.

    q(x_t|x_0)         = N(sqrt(alpha_bar_t) x_0, (1 - alpha_bar_t) I)             (eq. 4)
    q(x_{t-1}|x_t,x_0) = N(mu_t(x_0, x_t), beta_tilde_t I)                         (eq. 6, 7)
    p(x_{t-1}|x_t)     = N(mu_t(x_0_hat(x_t, t), x_t), sigma_t^2 I)

The variance sigma_t^2 is beta_tilde_t ("small"; at t = 0, where that is zero, the one of t = 1),
beta_t ("large"; but "small" at t = 0, where the levels are decided), or what the network gives for
each pixel, between the two (Nichol & Dhariwal 2021, arXiv:2102.09672, eq. 15).

Times are 0 .. T-1, and x_t at t = 0 has had one step of noise: it is what the paper calls x_1. x_0
is the image itself, and L_T, L_t and L_0 are the paper's. Data are levels k = 0 .. L-1, seen as
x_0 = 2k / (L-1) - 1; or, with `levels=None`, real numbers taken as they are, which have a
chain but no bound on a probability.
"""

import math
from typing import Literal, get_args

import torch
from jaxtyping import Float, Int
from torch import Generator, Tensor, nn

from triptych.maths import log_normal_mass, nats_per_bit
from triptych.schedules import chain_coefficients, min_snr_weight

Prediction = Literal["eps", "v", "x_0"]
Variance = Literal["small", "large", "learned"]
BOUND_WEIGHT = 1e-3  # lambda of L_hybrid, Nichol & Dhariwal 2021, eq. 16


class DDPM(nn.Module):
    """A network that denoises, and the chain built on it.

    `net(x_t, t)` predicts eps, x_0, or v = sqrt(alpha_bar) eps - sqrt(1 - alpha_bar) x_0 (Salimans
    & Ho 2022, arXiv:2202.00512); from each of them the others follow. Times are whole numbers, but
    for the probability-flow ODE (`evaluate.ode`), which asks between them too. `clip` bounds
    x_0_hat to the data's range [-1, 1], in sampling and in the bound alike: it is part of the
    model, by default where data are levels. With a learned `variance` the network has twice the
    channels out, the second half for log sigma.
    """

    sqrt_alpha_bar: Tensor
    sqrt_one_minus_alpha_bar: Tensor
    mu_x_0: Tensor
    mu_x_t: Tensor
    log_sigma_small: Tensor
    log_sigma_large: Tensor
    loss_weight: Tensor

    def __init__(
        self,
        net: nn.Module,
        beta: Float[Tensor, "T"],
        shape: tuple[int, int, int],
        levels: int | None,
        prediction: Prediction = "eps",
        clip: bool | None = None,
        min_snr: float | None = None,
        variance: Variance = "small",
    ) -> None:
        super().__init__()
        check_choice(prediction, get_args(Prediction))
        check_choice(variance, get_args(Variance))
        if not bool(((beta > 0) & (beta < 1)).all()):
            raise ValueError(f"every beta lies between 0 and 1, and not so {beta.tolist()}"[:200])
        if len(shape) != 3:
            raise ValueError(f"data are [C, H, W], vectors [D, 1, 1], not {list(shape)}")
        if variance == "learned" and levels is None:
            raise ValueError("a learned variance is trained on the bound, which needs levels")
        self.net, self.shape, self.levels = net, shape, levels
        self.prediction, self.variance = prediction, variance
        self.clip = levels is not None if clip is None else clip
        self.T, self.dims = len(beta), math.prod(shape)
        self.drops = getattr(net, "drops", 0)  # uniform numbers that its dropout takes in training
        # in double precision, which the buffers are not
        self.alpha_bar_T = float((1 - beta.double()).prod())
        coefficients = chain_coefficients(beta.double())
        if variance == "large":
            coefficients["log_sigma_large"][0] = coefficients["log_sigma_small"][0]
        coefficients["loss_weight"] = min_snr_weight(coefficients, prediction, min_snr)
        for name, value in coefficients.items():
            self.register_buffer(name, value.to(torch.get_default_dtype()), persistent=False)

    # --- training ---

    def noise(self, n: int, generator: Generator) -> dict[str, Tensor]:
        """Times t, stratified, and eps."""
        t = (stratified(n, generator) * self.T).long().clamp(max=self.T - 1)
        eps = torch.randn(n, *self.shape, generator=generator, device=generator.device)
        return {"t": t, "eps": eps}

    def loss(self, x: Float[Tensor, "B C H W"], noise: dict[str, Tensor]) -> Float[Tensor, "B"]:
        """L_simple; with a learned variance L_hybrid = L_simple + 0.001 L_vlb, whose second part
        teaches the variance alone (Nichol & Dhariwal 2021, eq. 16)."""
        terms = self.terms(x, noise)
        return terms["squared_error"] + BOUND_WEIGHT * terms.get("bound", 0)

    def terms(
        self, x: Float[Tensor, "B C H W"], noise: dict[str, Tensor]
    ) -> dict[str, Float[Tensor, "B"]]:
        """L_simple (eq. 14), squared error of the prediction, mean over pixels, with `min_snr`
        times its weight at t; with a learned variance also the bound."""
        t, eps = noise["t"], noise["eps"]
        x_0 = self.scale(x)
        x_t = self.diffuse(x_0, t, eps)
        out, log_sigma = self.predict(x_t, t, noise.get("dropout"))
        target = {"eps": eps, "x_0": x_0, "v": self.v(x_0, eps, t)}[self.prediction]
        error = self.loss_weight[t] * (out - target).square().flatten(1).mean(1)
        if self.variance != "learned":
            return {"squared_error": error}
        mu_hat = self.mu(self.x_0_at(out.detach(), x_t, t), x_t, t)
        return {"squared_error": error, "bound": self.bound_at(x_0, x_t, t, mu_hat, log_sigma)}

    def bound_at(
        self, x_0: Tensor, x_t: Tensor, t: Int[Tensor, "B"], mu_hat: Tensor, log_sigma: Tensor
    ) -> Float[Tensor, "B"]:
        """T L_t in bits/dim, L_0 where t = 0: its mean over t is the bound without L_T, which is
        constant."""
        L_t = self.gaussian_kl(self.mu(x_0, x_t, t) - mu_hat, log_sigma, t)
        # where() sends gradients into both branches. That of L_0 is taken at other times too, at
        # which a bin may have no mass and an infinite gradient: there its sigma is a constant.
        is_first = (t == 0)[..., None, None, None]
        log_sigma_0 = torch.where(is_first, log_sigma, at(self.log_sigma_small, t))
        nats = torch.where(t == 0, self.level_nll(x_0, mu_hat, log_sigma_0), L_t)
        return self.T * nats / nats_per_bit(self.dims)

    def scale(self, x: Tensor) -> Tensor:
        """Levels 0 .. L-1 to [-1, 1]."""
        return x if self.levels is None else 2.0 * x / (self.levels - 1) - 1

    def diffuse(self, x_0: Tensor, t: Int[Tensor, "B"], eps: Tensor) -> Tensor:
        """x_t ~ q(x_t|x_0), eq. 4."""
        return at(self.sqrt_alpha_bar, t) * x_0 + at(self.sqrt_one_minus_alpha_bar, t) * eps

    def v(self, x_0: Tensor, eps: Tensor, t: Tensor) -> Tensor:
        """The v of Salimans & Ho 2022."""
        return at(self.sqrt_alpha_bar, t) * eps - at(self.sqrt_one_minus_alpha_bar, t) * x_0

    def predict(
        self, x_t: Tensor, t: Int[Tensor, "B"], dropout: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """The network's prediction, and log sigma_t. Learned, that is of

            log sigma_t^2 = v log beta_t + (1 - v) log beta_tilde_t,    v = (raw + 1) / 2

        (Nichol & Dhariwal 2021, eq. 15; their v is no velocity), raw being the network's.
        """
        out = self.net(x_t, t) if dropout is None else self.net(x_t, t, dropout)
        check_output(out, x_t, 2 if self.variance == "learned" else 1)
        small, large = at(self.log_sigma_small, t), at(self.log_sigma_large, t)
        if self.variance != "learned":
            return out, small if self.variance == "small" else large
        out, raw = out.chunk(2, -3)
        return out, small + (raw + 1) / 2 * (large - small)

    def x_0_hat(self, x_t: Tensor, t: Int[Tensor, "B"]) -> Tensor:
        """The denoised image: the network's estimate of x_0, clipped if the model clips."""
        return self.x_0_at(self.predict(x_t, t)[0], x_t, t)

    def x_0_at(self, out: Tensor, x_t: Tensor, t: Int[Tensor, "B"]) -> Tensor:
        """x_0_hat of a prediction at t."""
        a, s = at(self.sqrt_alpha_bar, t), at(self.sqrt_one_minus_alpha_bar, t)
        return self.x_0_from(out, x_t, a, s)

    def x_0_from(self, out: Tensor, x_t: Tensor, a: Tensor, s: Tensor) -> Tensor:
        """x_0_hat where x_t = a x_0 + s eps, a^2 + s^2 = 1:

        (x_t - s eps_hat) / a,    a x_t - s v_hat,    or x_0_hat itself.
        """
        x_0 = out
        if self.prediction == "eps":
            x_0 = (x_t - s * out) / a
        elif self.prediction == "v":
            x_0 = a * x_t - s * out
        return x_0.clamp(-1, 1) if self.clip else x_0

    def mu(self, x_0: Tensor, x_t: Tensor, t: Int[Tensor, "B"]) -> Tensor:
        """Mean of q(x_{t-1}|x_t, x_0), eq. 7."""
        return at(self.mu_x_0, t) * x_0 + at(self.mu_x_t, t) * x_t

    def step(self, x_t: Tensor, t: Int[Tensor, "B"]) -> tuple[Tensor, Tensor]:
        """Mean and log standard deviation of p(x_{t-1}|x_t)."""
        out, log_sigma = self.predict(x_t, t)
        return self.mu(self.x_0_at(out, x_t, t), x_t, t), log_sigma

    # --- the bound (eq. 5): -log p(x) <= L_T + sum_{t>0} L_t + L_0 ---

    def bound(
        self, x: Tensor, t: Tensor, eps: Tensor, eps_0: Tensor, weight: Tensor
    ) -> Float[Tensor, "B"]:
        """Unbiased estimate of the bound on log p(x) of the integer data, in nats.

        One t of 1 .. T-1, drawn with probability 1 / weight, stands for all of them.
        """
        x_0 = self.scale(x)
        L_T = self.prior_term(x_0)
        L_t = self.diffusion_term(x_0, t, eps)
        L_0 = self.reconstruction_term(x_0, eps_0)
        return -(L_T + weight * L_t + L_0)

    def prior_term(self, x_0: Tensor) -> Float[Tensor, "B"]:
        """L_T = KL(q(x_T|x_0) || N(0, I))."""
        ab = self.alpha_bar_T
        kl = 0.5 * (ab * x_0.square() - ab - math.log1p(-ab))
        return kl.flatten(1).sum(1)

    def diffusion_term(self, x_0: Tensor, t: Tensor, eps: Tensor) -> Float[Tensor, "B"]:
        """L_t = KL(q(x_{t-1}|x_t,x_0) || p(x_{t-1}|x_t))."""
        x_t = self.diffuse(x_0, t, eps)
        mu_hat, log_sigma = self.step(x_t, t)
        return self.gaussian_kl(self.mu(x_0, x_t, t) - mu_hat, log_sigma, t)

    def gaussian_kl(self, gap: Tensor, log_sigma: Tensor, t: Tensor) -> Float[Tensor, "B"]:
        """KL(N(mu, beta_tilde_t) || N(mu - gap, sigma^2)), summed over pixels, in nats, for t > 0:

        (gap^2 + beta_tilde_t) / (2 sigma^2) - 1/2 + log(sigma / sqrt(beta_tilde_t))
        """
        log_ratio = at(self.log_sigma_small, t) - log_sigma
        distance = gap / log_sigma.exp()
        kl = 0.5 * (distance.square() + torch.expm1(2 * log_ratio)) - log_ratio
        return kl.flatten(1).sum(1)

    def reconstruction_term(self, x_0: Tensor, eps: Tensor) -> Float[Tensor, "B"]:
        """L_0 = -log P(x_0|x_1): the Gaussian's mass in each level's bin (eq. 13).

        Bins are 2 / (L-1) wide around the levels; the outermost reach to infinity.
        """
        t = torch.zeros(len(x_0), dtype=torch.long, device=x_0.device)
        return self.level_nll(x_0, *self.step(self.diffuse(x_0, t, eps), t))

    def level_nll(self, x_0: Tensor, mu_hat: Tensor, log_sigma: Tensor) -> Float[Tensor, "B"]:
        """-log of what N(mu_hat, sigma^2) gives to the bins of x_0."""
        if self.levels is None:
            raise ValueError("a chain on real numbers has no levels to give a probability to")
        return bin_nll(x_0, x_0 - mu_hat, log_sigma.exp(), self.levels)

    # --- sampling (algorithm 2) ---

    @torch.no_grad()
    def sample(self, n: int, generator: Generator) -> Float[Tensor, "n C H W"]:
        """Ancestral sampling, T network evaluations. Grey values in [0, 1] on the data's grid, or
        the real numbers that the chain is of."""
        x = self.gaussian_noise(n, generator)
        for step in reversed(range(self.T)):
            t = torch.full((n,), step, device=x.device)
            x, log_sigma = self.step(x, t)
            if step > 0:
                x = x + log_sigma.exp() * self.gaussian_noise(n, generator)
        return self.grey(x)

    def gaussian_noise(self, n: int, generator: Generator) -> Float[Tensor, "n C H W"]:
        """n images of N(0, I)."""
        device, dtype = generator.device, self.sqrt_alpha_bar.dtype
        return torch.randn(n, *self.shape, generator=generator, device=device, dtype=dtype)

    def grey(self, x: Tensor) -> Tensor:
        """[-1, 1] to [0, 1], rounded to the nearest level; real numbers as they are."""
        if self.levels is None:
            return x
        top = self.levels - 1
        return ((x + 1) / 2 * top).round().clamp(0, top) / top


def bin_nll(x_0: Tensor, gap: Tensor, sigma: Tensor, levels: int) -> Float[Tensor, "B"]:
    """-log of what N(x_0 - gap, sigma^2) gives to the bins of x_0, summed over pixels, in nats.

    Bins are 2 / (L-1) wide around the levels; the outermost reach to infinity.
    """
    half = 1 / (levels - 1)
    upper = torch.where(x_0 > 1 - half, math.inf, (gap + half) / sigma)
    lower = torch.where(x_0 < -1 + half, -math.inf, (gap - half) / sigma)
    return -log_normal_mass(lower, upper).flatten(1).sum(1)


def stratified(n: int, generator: Generator) -> Float[Tensor, "n"]:
    """Uniform times in [0, 1), one in each n-th of it, so that a batch covers all times evenly."""
    u = torch.rand(n, generator=generator, device=generator.device)
    return (torch.arange(n, device=generator.device) + u) / n


def check_choice(choice: str, known: tuple[str, ...]) -> None:
    """ValueError for a name that is not known."""
    if choice not in known:
        raise ValueError(f"{choice!r} is none of {', '.join(known)}")


def check_output(out: Tensor, x_t: Tensor, times: int) -> None:
    """ValueError unless a network's output has the shape of x_t, with `times` as many channels:
    another would be broadcast, and the loss be of something else."""
    *batch, C, H, W = x_t.shape
    if list(out.shape) != (wanted := [*batch, times * C, H, W]):
        raise ValueError(f"the network must give {wanted}, not {list(out.shape)}")


def at(coefficient: Tensor, t: Int[Tensor, "B"]) -> Float[Tensor, "B 1 1 1"]:
    """coefficient_t, shaped to multiply images."""
    return coefficient[t][..., None, None, None]
