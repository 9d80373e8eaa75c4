"""The scores of a VAE, each with its protocol, and what its latent figure draws."""

import math
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Generator, Tensor

from triptych.evaluate.aggregate import encode_all
from triptych.evaluate.ais import Annealing, annealed_log_px, bracket
from triptych.evaluate.drawing import as_bytes
from triptych.evaluate.evaluation import DRAWN, Arrays, Evaluation, Judgement, of_first
from triptych.evaluate.judge_match import any_draws, match_scores, sample_aggregate
from triptych.evaluate.latent_plane import latent_plane
from triptych.evaluate.likelihood import (
    Bounds,
    Estimate,
    importance_bounds,
    in_bits,
    in_nats,
    marks,
    standard_error,
)
from triptych.evaluate.pareto import unreliable_above
from triptych.evaluate.units import ACTIVE, activity, divergence_by_dimension
from triptych.likelihoods import Bernoulli
from triptych.pixelvae import AutoregressiveBernoulli
from triptych.priors.resampled import ResampledPrior
from triptych.protocols import Score
from triptych.train.precision import bf16_helps
from triptych.vae import VAE

MANIFOLD = 15


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
    bf16 = how.bf16 and binary and bf16_helps(g.device)
    some = x[: how.importance_images]
    elbo = importance_bounds(model, x, how.elbo_samples, g, bf16).elbo
    bounds = importance_bounds(model, some, how.importance_samples, g, bf16)
    scores = bound_scores(elbo, bounds, how, protocol)
    h = encode_all(model, x)
    active = activity(model.posterior, h, len(x), g)
    # Of all images, as in `of_all`: what IWAE-k adds to the ELBO of some, added to the ELBO of all.
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
    elbo_score, *others = with_error_of_prior(scores, model, h, len(x), g)
    bits = bits_of_integers(model, elbo_score, x[0].numel())
    return Judgement(
        [elbo_score, *others, *bits, count],
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


def bits_of_integers(model: VAE, elbo: Score, dims: int) -> list[Score]:
    """The ELBO in bits per dimension, where the likelihood is a probability of the integers."""
    if not of_integers(model):
        return []
    protocol = {k: v for k, v in elbo.protocol.items() if k != "p"} | {"bound": "ELBO"}
    return [in_bits(replace(elbo, metric="bpd", protocol=protocol), dims)]


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
        in_nats("elbo", elbo, protocol | {"samples": how.elbo_samples}),
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
        return in_nats(name, bounds.iwae, protocol)
    gain = bounds.iwae.values.double() - bounds.elbo.values.double()
    iwae = bounds.iwae.values.double()
    return Score(
        name,
        elbo.mean + gain.mean().item(),
        "nats",
        math.hypot(elbo.mc_std, bounds.gain_std if K > 1 else 0.0),  # K = 1 gains nothing
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
    lower, upper = bracket(model, len(first), annealing, g)
    width = upper - lower
    chain = {"samples": how.ais_chains, "steps": how.ais_steps, "leapfrog": how.ais_leapfrog}
    simulated = protocol | chain | DRAWN | {"n": len(first)}
    return [
        in_nats("ais", estimate, of_first(protocol, len(first)) | chain),
        Score("ais-bracket", width.mean().item(), "nats", standard_error(width), simulated),
    ]


def latent_arrays(model: VAE, h: Any, labels: Tensor, g: Generator) -> Arrays:
    """What the prior-against-posterior panel draws; a single dimension has no plane."""
    if model.posterior.latent_dim < 2:
        return {}
    z, _ = sample_aggregate(model, h, len(labels), g)
    return {"latent": latent_plane(model.prior, z, g).arrays(labels)}


@torch.no_grad()
def manifold(model: VAE, h: Any, n: int, g: Generator) -> Arrays:
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
