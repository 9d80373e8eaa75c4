"""The scores of a VAE, each with its protocol, and what its latent figure draws."""

import math
from dataclasses import asdict, astuple
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Generator, Tensor

from triptych.evaluate.aggregate import (
    aggregate_match,
    encode_all,
    energy_distance,
    latent_plane,
)
from triptych.evaluate.ais import Annealing, annealed_log_px, bracket
from triptych.evaluate.evaluation import Evaluation
from triptych.evaluate.likelihood import Estimate, importance_bounds
from triptych.evaluate.pareto import UNRELIABLE
from triptych.likelihoods import DiscretizedLogisticMixture
from triptych.maths import bits_per_dim
from triptych.protocols import Score
from triptych.vae import VAE

ENERGY_SAMPLES = 1_000
DRAWN = {"split": "samples"}


def vae_scores(
    model: VAE, x: Float[Tensor, "N C H W"], how: Evaluation, protocol: dict[str, Any], g: Generator
) -> list[Score]:
    """Bounds on log p(x), and the prior against the aggregate posterior.

    On grey values the protocol says what p is: nats of a density are not nats of a probability.
    """
    if protocol["view"] == "raw":
        discrete = isinstance(model.likelihood, DiscretizedLogisticMixture)
        protocol = protocol | {"p": "of integers" if discrete else "density of grey values"}
    bounds = bound_scores(model, x, how, protocol, g)
    return [
        *bounds,
        *bits(model, bounds[0]),
        *ais_scores(model, x, how, protocol, g),
        *match_scores(model, x, protocol, g),
    ]


def bits(model: VAE, elbo: Score) -> list[Score]:
    """Bits per dimension, where the likelihood is a probability of the integers themselves."""
    if not isinstance(model.likelihood, DiscretizedLogisticMixture):
        return []
    per_nat = -bits_per_dim(torch.tensor(1.0), math.prod(model.likelihood.shape)).item()
    error = None if elbo.mc_std is None else per_nat * elbo.mc_std
    protocol = {k: v for k, v in elbo.protocol.items() if k != "p"} | {"bound": "ELBO"}
    return [Score("bpd", -per_nat * elbo.value, "bits/dim", error, protocol)]


def bound_scores(
    model: VAE, x: Float[Tensor, "N C H W"], how: Evaluation, protocol: dict[str, Any], g: Generator
) -> list[Score]:
    """ELBO, IWAE-K, and whether K is enough.

    `effective-samples` is the median over images of the ESS of the K weights, `unreliable-share`
    the share of images whose weights have a k-hat above 0.7, where K is large enough to have one.
    """
    K, first = how.importance_samples, x[: how.importance_images]
    elbo = importance_bounds(model, x, how.elbo_samples, g).elbo
    _, iwae, ess, k_hat = importance_bounds(model, first, K, g)
    importance = protocol | {"samples": K, "n": len(first)}
    scores = [
        _score("elbo", elbo, protocol | {"samples": how.elbo_samples}),
        _score(f"iwae-{K}", iwae, importance),
        Score("effective-samples", ess.median().item(), "", None, importance),
    ]
    if not k_hat.isnan().any():
        share = (k_hat > UNRELIABLE).double().mean().item()
        scores.append(Score("unreliable-share", share, "", None, importance))
    return scores


def ais_scores(
    model: VAE, x: Float[Tensor, "N C H W"], how: Evaluation, protocol: dict[str, Any], g: Generator
) -> list[Score]:
    """log p(x) by annealing, and how far its bounds from both sides are apart on drawn images."""
    first, annealing = x[: how.ais_images], Annealing(how.ais_steps)
    if len(first) == 0:
        return []
    estimate = annealed_log_px(model, first, annealing, g)
    width = torch.sub(*reversed(bracket(model, len(first), annealing, g)))
    error = width.std().item() / len(first) ** 0.5 if len(first) > 1 else None
    chain = {"n": len(first), "samples": annealing.chains, "steps": annealing.steps}
    return [
        _score("ais", estimate, protocol | chain),
        Score("ais-bracket", width.mean().item(), "nats", error, protocol | chain | DRAWN),
    ]


def match_scores(
    model: VAE, x: Float[Tensor, "N C H W"], protocol: dict[str, Any], g: Generator
) -> list[Score]:
    """KL(q(z)||p(z)), mutual information, energy distance with its null level."""
    z, log_qz = sample_aggregate(model, x, g)
    match = aggregate_match(model, encode_all(model, x), z, log_qz)
    kl, kl_std, information, information_std, draws = astuple(match)
    drawn = protocol | {"draws": draws}
    n = min(ENERGY_SAMPLES, len(z))
    few = torch.randperm(len(z), generator=g, device=z.device)[:n]
    with torch.no_grad():
        distance, null = energy_distance(z[few], model.prior.sample(n, g), g)
    return [
        Score("kl-aggregate", kl, "nats", kl_std, drawn),
        Score("mutual-information", information, "nats", information_std, drawn),
        Score("energy-distance", distance, "", None, protocol | {"samples": n, "null95": null}),
    ]


def _score(metric: str, estimate: Estimate, protocol: dict[str, Any]) -> Score:
    return Score(metric, estimate.mean, "nats", estimate.mc_std, protocol)


@torch.no_grad()
def sample_aggregate(model: VAE, x: Tensor, g: Generator) -> tuple[Tensor, Tensor]:
    """One z ~ q(z|x_n) for each image and its log q(z|x_n): N draws of the aggregate posterior."""
    eps = torch.randn(len(x), model.posterior.latent_dim, generator=g, device=g.device)
    return model.posterior.rsample(encode_all(model, x), eps)


def latent_arrays(model: VAE, x: Tensor, labels: Tensor, g: Generator) -> dict[str, NDArray[Any]]:
    """What the prior-against-posterior panel draws."""
    z, _ = sample_aggregate(model, x, g)
    plane = latent_plane(model.prior, z, g)
    return asdict(plane) | {
        "components": np.array(plane.components),
        "labels": labels.cpu().numpy(),
    }
