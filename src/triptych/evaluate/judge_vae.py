"""The scores of a VAE, each with its protocol, and what its latent figure draws."""

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Generator, Tensor
from torch.utils._pytree import tree_map

from triptych.evaluate.aggregate import (
    aggregate_match,
    encode_all,
    latent_plane,
)
from triptych.evaluate.ais import Annealing, annealed_log_px, bracket
from triptych.evaluate.drawing import as_bytes
from triptych.evaluate.evaluation import Evaluation, Judgement, of_first
from triptych.evaluate.likelihood import Bounds, Estimate, importance_bounds, marks
from triptych.evaluate.pareto import unreliable_above
from triptych.evaluate.two_sample import classifier_accuracy, energy_distance, squared_mmd
from triptych.evaluate.units import ACTIVE, activity, divergence_by_dimension
from triptych.likelihoods import Bernoulli
from triptych.maths import bits_per_dim
from triptych.pixelvae import AutoregressiveBernoulli
from triptych.priors.resampled import ResampledPrior
from triptych.protocols import Score
from triptych.train.precision import bf16_helps
from triptych.vae import VAE

COMPARED = 1_000  # draws of prior and aggregate posterior that kernels compare
CLASSIFIED = 5_000  # and that a classifier does
FEWEST_CLASSIFIED = 20
MANIFOLD = 15
DRAWN = {"split": "samples"}


def judge_vae(
    model: VAE,
    x: Float[Tensor, "N C H W"],
    labels: Tensor,
    how: Evaluation,
    protocol: dict[str, Any],
    g: Generator,
) -> Judgement:
    """Bounds on log p(x), the prior against the aggregate posterior, and what the latent space
    holds.

    On grey values the protocol says what p is: nats of a density are not nats of a probability.
    """
    if protocol["view"] == "raw":
        p = "of integers" if of_integers(model) else "density of grey values"
        protocol = protocol | {"p": p}
    # Shown to be harmless for logits of binary pixels; grey values are less forgiving.
    binary = isinstance(model.likelihood, Bernoulli | AutoregressiveBernoulli)
    bf16, some = how.bf16 and binary and bf16_helps(g.device), x[: how.importance_images]
    elbo = importance_bounds(model, x, how.elbo_samples, g, bf16).elbo
    bounds = importance_bounds(model, some, how.importance_samples, g, bf16)
    scores = bound_scores(elbo, bounds, how, protocol)
    h = encode_all(model, x)
    active = activity(model.posterior, h, len(x), g)
    curve = bounds.growth + (elbo.mean - bounds.elbo.mean if len(some) < len(x) else 0)
    growth = {"k": np.array(marks(how.importance_samples)), "iwae": curve.cpu().numpy()}
    nats = divergence_by_dimension(model.prior, model.posterior, h, len(x), g)
    arrays = {
        "growth": growth,
        "units": {"activity": active.cpu().numpy()},
        "divergence": {"nats": nats.cpu().numpy()},
    }
    count = Score("active-units", float((active > ACTIVE).sum()), "", None, protocol)
    scores += ais_scores(model, x, how, protocol, g)
    scores += match_scores(model, h, elbo, protocol, g)
    found = with_error_of_prior(scores, model, h, len(x), g)
    return Judgement(
        [*found, *bits(model, found[0], x[0].numel()), count],
        arrays | latent_arrays(model, h, labels, g) | manifold(model, h, len(x), g),
    )


def with_error_of_prior(
    scores: list[Score], model: VAE, h: Any, n: int, g: Generator
) -> list[Score]:
    """Where the prior's own density is an estimate, its error at n draws of q(z) beside that of the
    bounds, which no number of samples makes less."""
    if not isinstance(model.prior, ResampledPrior):
        return scores
    std = model.prior.log_prob_std(any_draws(model, h, n, g))
    return [
        replace(s, mc_std=math.hypot(s.mc_std or 0.0, std))
        if s.metric.startswith(("elbo", "iwae", "kl-aggregate")) or s.metric == "ais"
        else s
        for s in scores
    ]


def of_integers(model: VAE) -> bool:
    """Whether the likelihood is a probability of the integers themselves."""
    return getattr(model.likelihood, "of_integers", False)


def bits(model: VAE, elbo: Score, dims: int) -> list[Score]:
    """Bits per dimension, where the likelihood is a probability of the integers."""
    if not of_integers(model):
        return []
    per_nat = -bits_per_dim(torch.tensor(1.0), dims).item()
    errors = [None if e is None else per_nat * e for e in (elbo.mc_std, elbo.image_std)]
    protocol = {k: v for k, v in elbo.protocol.items() if k != "p"} | {"bound": "ELBO"}
    return [Score("bpd", -per_nat * elbo.value, "bits/dim", errors[0], protocol, errors[1])]


def bound_scores(
    elbo: Estimate, bounds: Bounds, how: Evaluation, protocol: dict[str, Any]
) -> list[Score]:
    """ELBO, IWAE-K, and whether K is enough.

    `effective-samples` is the median over images of the ESS of the K weights, `unreliable-share`
    the share of images whose weights have a k-hat that is too large for K, where K is large enough
    to have one.
    """
    K, k_hat = how.importance_samples, bounds.k_hat
    importance = of_first(protocol, len(k_hat)) | {"samples": K}
    scores = [
        _score("elbo", elbo, protocol | {"samples": how.elbo_samples}),
        of_all(elbo, bounds, K, protocol),
        Score("effective-samples", bounds.ess.median().item(), "", None, importance),
    ]
    if not k_hat.isnan().any():
        share = (k_hat > unreliable_above(K)).double().mean().item()
        scores.append(Score("unreliable-share", share, "", None, importance))
    return scores


def of_all(elbo: Estimate, bounds: Bounds, K: int, protocol: dict[str, Any]) -> Score:
    """IWAE-K of all images, where it was taken of some: their ELBO and the mean of IWAE-K - ELBO on
    those (the difference estimator of survey sampling; Cochran 1977, *Sampling Techniques*, ch. 7).

    Images differ by 20 nats, these differences by two or three: the mean of a part of the images
    may be off by more than priors differ, and would not stand beside the ELBO of all. Which images
    were drawn is in the error of the images, as it is the same for all models and seeds.
    """
    name, protocol = f"iwae-{K}", protocol | {"samples": K}
    n, m = len(elbo.values), len(bounds.iwae.values)
    if m >= n:
        return _score(name, bounds.iwae, protocol)
    gain = bounds.iwae.values.double() - bounds.elbo.values.double()
    iwae = bounds.iwae.values.double()
    return Score(
        name,
        elbo.mean + gain.mean().item(),
        "nats",
        math.hypot(elbo.mc_std, bounds.iwae.mc_std if K > 1 else 0.0),  # K = 1 gains nothing
        protocol | {"importance_images": m},
        (iwae.var() / n + gain.var() * (1 / m - 1 / n)).sqrt().item(),
    )


def ais_scores(
    model: VAE, x: Float[Tensor, "N C H W"], how: Evaluation, protocol: dict[str, Any], g: Generator
) -> list[Score]:
    """log p(x) by annealing, and how far its bounds from both sides are apart on drawn images."""
    first = x[: how.ais_images]
    annealing = Annealing(how.ais_steps, how.ais_chains, how.ais_leapfrog)
    if len(first) == 0:
        return []
    estimate = annealed_log_px(model, first, annealing, g)
    width = torch.sub(*reversed(bracket(model, len(first), annealing, g)))
    error = width.std().item() / len(first) ** 0.5 if len(first) > 1 else None
    chain = {"samples": how.ais_chains, "steps": how.ais_steps, "leapfrog": how.ais_leapfrog}
    simulated = protocol | chain | DRAWN | {"n": len(first)}
    return [
        _score("ais", estimate, of_first(protocol, len(first)) | chain),
        Score("ais-bracket", width.mean().item(), "nats", error, simulated),
    ]


def match_scores(
    model: VAE, h: Any, elbo: Estimate, protocol: dict[str, Any], g: Generator
) -> list[Score]:
    """ELBO surgery, reconstruction - mutual information - KL(q(z)||p(z)), and whether draws of q(z)
    and of p(z) can be told apart. One z an image: the parts' error is of images and draws at once.
    """
    z, log_qz = sample_aggregate(model, h, protocol["n"], g)
    match = aggregate_match(model, h, z, log_qz)
    drawn = protocol | {"draws": match.draws}
    reconstruction = elbo.values.double() + match.rate
    error = reconstruction.std().item() / math.sqrt(len(reconstruction))
    parts = {
        "reconstruction": (reconstruction.mean().item(), error),
        "mutual-information": (match.mutual_information, match.mutual_information_mc_std),
        "kl-aggregate": (match.kl, match.kl_mc_std),
    }
    return [
        *(Score(name, value, "nats", None, drawn, error) for name, (value, error) in parts.items()),
        *told_apart(any_draws(model, h, len(z), g), model.prior.sample, protocol, g),
    ]


@torch.no_grad()
def told_apart(
    z: Float[Tensor, "N M"],
    draw: Callable[[int, Generator], Tensor],
    protocol: dict[str, Any],
    g: Generator,
) -> list[Score]:
    """Three tests of whether independent z ~ q(z) and what `draw` gives can be told apart, each
    with its null level."""
    n, m = min(COMPARED, len(z)), min(CLASSIFIED, len(z))
    prior = draw(m, g)
    energy = energy_distance(z[:n], prior[:n], g)
    mmd = squared_mmd(z[:n], prior[:n], g)
    compared = protocol | {"samples": n}
    scores = [
        Score("energy-distance", energy.value, "", None, compared | {"null95": energy.null95}),
        Score("mmd2", mmd.value, "", None, compared | {"null95": mmd.null95}),
    ]
    if m < FEWEST_CLASSIFIED:
        return scores
    accuracy, null95 = classifier_accuracy(z[:m], prior)
    guessing = protocol | {"samples": m, "null95": null95}
    return [*scores, Score("classifier-accuracy", accuracy, "", None, guessing)]


def _score(metric: str, estimate: Estimate, protocol: dict[str, Any]) -> Score:
    error = estimate.mc_std
    return Score(metric, estimate.mean, "nats", error, protocol, estimate.image_std)


@torch.no_grad()
def sample_aggregate(model: VAE, h: Any, n: int, g: Generator) -> tuple[Tensor, Tensor]:
    """One z ~ q(z|x_n) for each of the n images and its log q(z|x_n): n draws of the aggregate
    posterior."""
    eps = torch.randn(n, model.posterior.latent_dim, generator=g, device=g.device)
    return model.posterior.rsample(h, eps)


@torch.no_grad()
def any_draws(model: VAE, h: Any, n: int, g: Generator) -> Float[Tensor, "n M"]:
    """Independent draws of the aggregate posterior, each of any of the n images. One of every image
    would be more even than chance, and no test that asks for chance would ever find it."""
    of = torch.randint(n, (n,), generator=g, device=g.device)
    z, _ = sample_aggregate(model, tree_map(lambda a: a[of], h), n, g)
    return z


def latent_arrays(
    model: VAE, h: Any, labels: Tensor, g: Generator
) -> dict[str, dict[str, NDArray[Any]]]:
    """What the prior-against-posterior panel draws; a single dimension has no plane."""
    if model.posterior.latent_dim < 2:
        return {}
    z, _ = sample_aggregate(model, h, len(labels), g)
    return {"latent": latent_plane(model.prior, z, g).arrays(labels)}


@torch.no_grad()
def manifold(model: VAE, h: Any, n: int, g: Generator) -> dict[str, dict[str, NDArray[Any]]]:
    """The likelihood's means on a square grid over the latent plane, rows from the top; M = 2."""
    if model.posterior.latent_dim != 2:
        return {}
    z, _ = sample_aggregate(model, h, n, g)
    ends = z.quantile(torch.tensor([0.005, 0.995], device=z.device, dtype=z.dtype), dim=0)
    (left, low), (right, high) = ends.tolist()
    across, up = torch.linspace(left, right, MANIFOLD), torch.linspace(low, high, MANIFOLD)
    grid = torch.stack(torch.meshgrid(across, up.flip(0), indexing="xy"), -1).to(z)
    means = model.likelihood.mean(grid.flatten(0, 1)).unflatten(0, (MANIFOLD, MANIFOLD))
    return {"manifold": {"images": as_bytes(means), "x": across.numpy(), "y": up.numpy()}}
