"""Bounds on log p(x) of trained models: one number for each image, in nats.

Memory is bounded: importance samples pass in chunks through a running log-mean-exp, any number
of them, and the encoder runs once for each image. A chunk that does not fit is halved.
"""

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import wraps
from typing import Any, Concatenate, NamedTuple, ParamSpec, TypeVar

import torch
from jaxtyping import Float
from torch import Generator, Tensor, nn

from triptych.data.views import check_shown
from triptych.evaluate.memory import in_halves, rows_at_a_time
from triptych.evaluate.pareto import LargestWeights
from triptych.maths import (
    RunningLogMeanExp,
    RunningMeanOfBlocks,
    RunningTiltedMean,
    log_mean_exp,
    nats_per_bit,
)
from triptych.pixelflow import PixelFlow
from triptych.protocols import Score
from triptych.train.precision import networks_in_bf16
from triptych.vae import VAE

TOGETHER = 10  # least samples of an image decoded together: they share what depends on x alone
WEIGHTS_AT_ONCE = 500  # of an image's samples, taken in together
M = TypeVar("M", bound=nn.Module)
P = ParamSpec("P")
R = TypeVar("R")


def standard_error(values: Float[Tensor, "N"]) -> float | None:
    """std / sqrt(N), that of a mean over images; None of one."""
    return values.std().item() / math.sqrt(len(values)) if len(values) > 1 else None


@dataclass(frozen=True)
class Estimate:
    """A mean over images and the standard error that the estimator's own noise gives it."""

    values: Float[Tensor, "N"]
    mc_std: float

    @property
    def mean(self) -> float:
        return self.values.double().mean().item()

    @property
    def image_std(self) -> float | None:
        """The standard error over images, in which the noise of each one's estimate is too."""
        return standard_error(self.values.double())


class _Part(NamedTuple):
    """What `Bounds` has, of each of n images: values, and Monte Carlo variances."""

    elbo: Float[Tensor, "n"]
    elbo_var: Float[Tensor, "n"]
    iwae: Float[Tensor, "n"]
    iwae_var: Float[Tensor, "n"]
    gain_var: Float[Tensor, "n"]
    ess: Float[Tensor, "n"]
    k_hat: Float[Tensor, "n"]
    growth: Float[Tensor, "m n"]


class Bounds(NamedTuple):
    """ELBO and IWAE-K, and what says whether K was large enough."""

    elbo: Estimate
    iwae: Estimate
    ess: Float[Tensor, "N"]
    """Effective sample size of each image's K weights, (sum_k w_k)^2 / sum_k w_k^2."""
    k_hat: Float[Tensor, "N"]
    """Pareto shape of their tail (see `pareto`)."""
    growth: Float[Tensor, "m"]
    """Mean over images of IWAE-k at the `marks` k <= K, each from as many blocks of k samples as K
    has: at k = 1 it is the ELBO, at K the IWAE-K."""
    gain_std: float
    """Monte Carlo error of the mean over images of IWAE-K - ELBO."""


def marks(K: int) -> list[int]:
    """1, 2, 5, 10, 20, 50, ... below K, and K."""
    decades = [d * 10**e for e in range(len(str(K))) for d in (1, 2, 5)]
    return [k for k in decades if k < K] + [K]


@contextmanager
def evaluating(*models: nn.Module) -> Iterator[None]:
    """Without gradients, and the models in evaluation mode."""
    were = [model.training for model in models]
    for model in models:
        model.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        for model, training in zip(models, were, strict=True):
            model.train(training)


def bound_of_images(
    f: Callable[Concatenate[M, Tensor, P], R],
) -> Callable[Concatenate[M, Tensor, P], R]:
    """A bound of a model in evaluation mode on images as it takes them (`check_shown`)."""

    @wraps(f)
    def checked(model: M, x: Tensor, *rest: P.args, **named: P.kwargs) -> R:
        check_shown(model, x)
        with evaluating(model):
            return f(model, x, *rest, **named)

    return checked


@bound_of_images
def importance_bounds(
    model: VAE, x: Float[Tensor, "N C H W"], K: int, generator: Generator, bf16: bool = False
) -> Bounds:
    """The bounds of each image from the same K samples (Burda et al. 2016, eq. 8).

    The Monte Carlo variance of an image's ELBO is var(log w) / K, that of its IWAE-K the
    jackknife's; with K = 1 the spread over images bounds both (of one image it is NaN). With `bf16`
    the decoder, whose matrix products are nearly all of the cost, runs in bfloat16; everything else
    never does.
    """
    if K < 1:
        raise ValueError(f"the number of importance samples must be at least 1, not {K}")
    with networks_in_bf16(model.likelihood, bf16):  # pyright: ignore[reportArgumentType]
        rows = rows_at_a_time(model.likelihood, x[:1], model.posterior.latent_dim)
        per = min(100, max(1, rows // TOGETHER))
        parts = [_bounds(model, chunk, K, generator, rows) for chunk in x.split(per)]
    whole = _Part(*(torch.cat(column, -1) for column in zip(*parts, strict=True)))
    if K == 1:
        spread = whole.elbo.var().expand(len(x))
        whole = whole._replace(elbo_var=spread, iwae_var=spread)
    return Bounds(
        estimate(whole.elbo, whole.elbo_var),
        estimate(whole.iwae, whole.iwae_var),
        whole.ess,
        whole.k_hat,
        whole.growth.mean(1),
        error_of_mean(whole.gain_var),
    )


def estimate(values: Float[Tensor, "N"], variances: Float[Tensor, "N"]) -> Estimate:
    """The mean over images of values that have these Monte Carlo variances."""
    return Estimate(values, error_of_mean(variances))


def error_of_mean(variances: Float[Tensor, "N"]) -> float:
    """sqrt(sum_n var_n) / N: the standard error of a mean of independent numbers."""
    return variances.sum().sqrt().item() / len(variances)


def _bounds(model: VAE, x: Tensor, K: int, generator: Generator, rows: int) -> _Part:
    """The bounds of a few images, streamed over K, so many `rows` at a time."""
    h = in_halves(model.posterior.encode, x)
    log_mean_w2, tail, total_sq = RunningLogMeanExp(), LargestWeights(K), 0.0
    tilted = RunningTiltedMean()
    growth = [RunningMeanOfBlocks(m) for m in marks(K)]
    for log_w in _log_weights(model, x, h, K, generator, max(1, rows // len(x))):
        for part in (tail, tilted, *growth):
            part.update(log_w)
        log_mean_w2.update(2 * log_w)
        total_sq = total_sq + log_w.square().sum(0)
    growing = torch.stack([part.value() for part in growth])
    elbo, iwae = growing[0], growing[-1]
    elbo_var = (total_sq / K - elbo.square()).clamp(min=0) / max(1, K - 1)
    ess = K * torch.exp(2 * iwae - log_mean_w2.value())
    iwae_var = _tail_jackknife(tail.falling(), iwae + math.log(K), 1 / ess, K)
    # To first order: log w_k moves the ELBO by 1 / K, and IWAE-K by w_k / sum_j w_j.
    covariance = (tilted.mean - elbo) / K
    gain_var = (iwae_var + elbo_var - 2 * covariance).clamp(min=0)
    return _Part(elbo, elbo_var, iwae, iwae_var, gain_var, ess, tail.k_hat(), growing)


def _log_weights(
    model: VAE, x: Tensor, h: Any, K: int, generator: Generator, chunk: int
) -> Iterator[Float[Tensor, "k N"]]:
    """log w of K samples of each image. `chunk` of them are decoded together, but more are handed
    on together: to take in hundreds costs no more than to take in one."""
    left, waiting = K, []
    while left > 0:
        size = (min(chunk, left), len(x), model.posterior.latent_dim)
        eps = torch.randn(size, generator=generator, device=x.device).to(x.dtype)
        waiting.append(in_halves(lambda e: model.log_weight(x, e, h), eps).double())
        left -= len(eps)
        if left == 0 or sum(map(len, waiting)) >= WEIGHTS_AT_ONCE:
            yield torch.cat(waiting)
            waiting = []


@bound_of_images
def flow_bounds(
    model: PixelFlow, x: Float[Tensor, "N C H W"], K: int, generator: Generator
) -> tuple[Estimate, Estimate]:
    """E_q[log w] <= E_q[log (1/K) sum_k w_k] <= log P of each image of integers, from the same K
    dequantizations (Hoogeboom, Cohen & Tomczak 2020, arXiv:2001.11235). The second's error needs
    K > 1."""
    rows = []
    for chunk in x.split(250):
        draws = (model.noise(len(chunk), generator) for _ in range(K))
        rows.append(torch.stack([in_halves(model.log_weight, chunk, v) for v in draws]).double())
    log_w = torch.cat(rows, 1)
    return from_draws(log_w), estimate(log_mean_exp(log_w), jackknife(log_w))


def jackknife(log_w: Float[Tensor, "K N"]) -> Float[Tensor, "N"]:
    """Variance of log-mean-exp over the draws, from leaving out each in turn (Efron & Stein 1981,
    *The jackknife estimate of variance*).

    That of first order, 1 / ESS - 1 / K, is never above 1; where one weight of few outweighs the
    others by nats, the truth is.
    """
    total, falling = log_w.logsumexp(0), log_w.sort(0, descending=True).values
    inverse_ess = (log_w.mul(2).logsumexp(0) - 2 * total).exp()
    return _tail_jackknife(falling, total, inverse_ess, len(log_w))


def _tail_jackknife(
    largest: Float[Tensor, "m N"],
    total: Float[Tensor, "N"],
    inverse_ess: Float[Tensor, "N"],
    K: int,
) -> Float[Tensor, "N"]:
    """The jackknife variance of log-mean-exp from the largest of K log weights, in falling order,
    and the log sum of all.

    Left out, a weight of share p changes log sum w by log(1 - p); the small ones by -p.
    """
    p = (largest - total).exp()
    rest = (1 - p.sum(0)).clamp(min=0) if len(p) < K else torch.zeros_like(total)
    changes = torch.log1p(-p)
    others = largest[1:].logsumexp(0) - total
    changes[0] = torch.logaddexp(others, rest.log())  # 1 - p would cancel
    sum_, squares = changes.sum(0) - rest, changes.square().sum(0)
    squares += (inverse_ess - p.square().sum(0)).clamp(min=0)
    return ((K - 1) / K * (squares - sum_.square() / K)).clamp(min=0)


def from_draws(draws: Float[Tensor, "K N"]) -> Estimate:
    """Mean over draws; with one draw an image, the spread over images bounds the noise."""
    K, n = draws.shape
    variance = draws.var(0).sum() / K if K > 1 else draws.var() * n
    return Estimate(draws.mean(0), math.sqrt(variance.item()) / n)


def in_nats(metric: str, bound: Estimate, protocol: dict[str, Any]) -> Score:
    """A bound on log p of images: higher is better."""
    return Score(metric, bound.mean, "nats", bound.mc_std, protocol, bound.image_std)


def in_bits(score: Score, dims: int) -> Score:
    """A bound on log P of integer images, given in nats, in bits per dimension: lower is better."""
    per_bit = nats_per_bit(dims)
    return replace(
        score,
        value=-score.value / per_bit,
        unit="bits/dim",
        mc_std=None if score.mc_std is None else score.mc_std / per_bit,
        image_std=None if score.image_std is None else score.image_std / per_bit,
    )
