"""Whether a VAE's prior is its aggregate posterior: ELBO surgery, and tests that could tell."""

from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Float
from torch import Generator, Tensor
from torch.utils._pytree import tree_map

from triptych.evaluate.aggregate import aggregate_match
from triptych.evaluate.likelihood import Estimate, standard_error
from triptych.evaluate.two_sample import classifier_accuracy, energy_distance, squared_mmd
from triptych.protocols import Score
from triptych.vae import VAE

COMPARED = 1_000  # draws of prior and aggregate posterior, for the tests of all pairs
CLASSIFIED = 5_000  # and for the classifier
FEWEST_CLASSIFIED = 20


def match_scores(
    model: VAE, h: Any, elbo: Estimate, protocol: dict[str, Any], g: Generator
) -> list[Score]:
    """ELBO surgery, and whether draws of q(z) and of p(z) can be told apart.

        ELBO = reconstruction - mutual information - KL(q(z) || p(z))

    With one z an image, the error of each part is of images and draws at once.
    """
    z, log_qz = sample_aggregate(model, h, len(elbo.values), g)
    match = aggregate_match(model, h, z, log_qz)
    drawn = protocol | {"draws": match.draws}
    reconstruction = elbo.values.double() + match.rate
    parts = {
        "reconstruction": (reconstruction.mean().item(), standard_error(reconstruction)),
        "mutual-information": (match.mutual_information, match.mutual_information_mc_std),
        "kl-aggregate": (match.kl, match.kl_mc_std),
    }
    return [
        *(Score(name, value, "nats", None, drawn, error) for name, (value, error) in parts.items()),
        *two_sample_scores(any_draws(model, h, len(z), g), model.prior.sample, protocol, g),
    ]


@torch.no_grad()
def two_sample_scores(
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


@torch.no_grad()
def sample_aggregate(model: VAE, h: Any, n: int, g: Generator) -> tuple[Tensor, Tensor]:
    """One z ~ q(z|x_n) for each of the n images and its log q(z|x_n): n draws of the aggregate
    posterior."""
    eps = torch.randn(n, model.posterior.latent_dim, generator=g, device=g.device)
    return model.posterior.rsample(h, eps)


@torch.no_grad()
def any_draws(model: VAE, h: Any, n: int, g: Generator) -> Float[Tensor, "n M"]:
    """Independent draws of the aggregate posterior, each of any of the n images. One of every image
    would be spread more evenly than independent draws are, which the tests' null levels are for."""
    of = torch.randint(n, (n,), generator=g, device=g.device)
    z, _ = sample_aggregate(model, tree_map(lambda a: a[of], h), n, g)
    return z
