"""What is judged of a latent DDPM alone: how well its chain, and the VAE's own prior, match the
aggregate posterior, and what the decoder makes of each of the three."""

from dataclasses import replace
from typing import Any

import torch
from jaxtyping import Float
from torch import Generator, Tensor

from triptych.data import Dataset
from triptych.evaluate.classifier import Features, grey
from triptych.evaluate.drawing import chain_protocol, latents
from triptych.evaluate.evaluation import Drawing, Judgement
from triptych.evaluate.frechet import frechet_distance, moments
from triptych.evaluate.judge_match import CLASSIFIED, two_sample_scores
from triptych.evaluate.judge_samples import reference_protocol
from triptych.evaluate.latent_plane import latent_plane
from triptych.latent import LatentDDPM
from triptych.protocols import Score

CHUNK = 500
# So many steps that the tests see the chain and not its sampler. Settings that make good images may
# distort its distribution: guidance narrows it, few steps or noise at some levels alone widen it.
LEARNED = Drawing(sampler="dpm-solver++", steps=100, eta=1.0)


def judge_latent(
    model: LatentDDPM,
    x: Float[Tensor, "N C H W"],
    labels: Tensor,
    protocol: dict[str, Any],
    g: Generator,
) -> Judgement:
    """Tests of the chain's latents, and of the VAE's prior (`...-prior`), against z ~ q(z); and the
    plane in which all three are drawn. They are of what the chain has learned (`LEARNED`), however
    images are drawn."""
    z = draws_of_aggregate(model, x, g)
    drawn = latents(model, LEARNED, min(CLASSIFIED, len(x)), g)
    prior = model.autoencoder.prior
    of = torch.randint(len(x), (len(x),), generator=g, device=g.device)  # see `any_draws`
    some = draws_of_aggregate(model, x[of], g)
    said = protocol | chain_protocol(model.ddpm, LEARNED)
    scores = two_sample_scores(some, lambda n, _: drawn[:n], said, g)
    beside = two_sample_scores(some, prior.sample, protocol, g)
    scores += [replace(score, metric=f"{score.metric}-prior") for score in beside]
    if z.shape[1] < 2:  # a single dimension has no plane
        return Judgement(scores)
    plane = latent_plane(prior, z, g, chain=drawn)
    return Judgement(scores, {"latent": plane.arrays(labels)})


@torch.no_grad()
def draws_of_aggregate(model: LatentDDPM, x: Float[Tensor, "N C H W"], g: Generator) -> Tensor:
    """z ~ q(z|x) for each of the images."""
    M = model.autoencoder.posterior.latent_dim
    rows = []
    for part in x.split(CHUNK):
        eps = torch.randn(len(part), M, generator=g, device=g.device)
        rows.append(model.encode(part, eps))
    return torch.cat(rows)


@torch.no_grad()
def latent_limits(
    model: LatentDDPM,
    train: Float[Tensor, "N C H W"],
    data: Dataset,
    features: Features,
    g: Generator,
) -> list[Score]:
    """FID of what the decoder makes of N draws of the VAE's own prior, and of z ~ q(z|x) of N
    training images: what there is without a chain, and what a perfect one would have."""
    n = len(train)
    protocol = reference_protocol(data, n, features)
    real = moments(features(grey(data.test_images[:n], data.levels)))
    from_prior = model.autoencoder.prior.sample(n, g)
    encoded = draws_of_aggregate(model, train, g)
    scores = []
    for name, z in (("fid-prior", from_prior), ("fid-reconstruction", encoded)):
        images = torch.cat([model.decode(part) for part in z.split(CHUNK)])
        value = frechet_distance(moments(features(images)), real)
        scores.append(Score(name, value, "", None, protocol))
    return scores
