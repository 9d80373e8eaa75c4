"""All the scores of one trained model, each with its protocol, and the arrays its figures need.

The only place that touches the test set.
"""

from collections.abc import Callable
from dataclasses import asdict, astuple, dataclass, field
from typing import Annotated, Any, Literal

import numpy as np
import torch
from annotated_types import Ge, Le
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Generator, Tensor, nn

from triptych.data import Dataset, view
from triptych.ddpm import DDPM
from triptych.evaluate.aggregate import (
    aggregate_match,
    encode_all,
    energy_distance,
    latent_plane,
)
from triptych.evaluate.ais import Annealing, annealed_log_px, bracket
from triptych.evaluate.classifier import Features, grey
from triptych.evaluate.frechet import frechet_distance, moments
from triptych.evaluate.likelihood import Estimate, ddpm_bound, flow_bound, importance_bounds
from triptych.evaluate.pareto import UNRELIABLE
from triptych.maths import bits_per_dim
from triptych.pixelflow import PixelFlow
from triptych.protocols import Score
from triptych.samplers import ddim
from triptych.train.order import generator_for
from triptych.train.precision import bf16_helps, networks_in_bf16
from triptych.vae import VAE

ENERGY_SAMPLES = 1_000
SAMPLES_SHOWN = 64
DRAWN = {"split": "samples"}


@dataclass(frozen=True)
class Evaluation:
    """How to judge: what of the protocol a user may choose."""

    __pydantic_config__ = {"extra": "forbid"}  # noqa: RUF012
    importance_samples: Annotated[int, Ge(1), Le(1_000_000)] = 1000
    """K of IWAE-K."""
    importance_images: Annotated[int, Ge(2)] = 10_000
    """IWAE-K uses the first so many of the images."""
    elbo_samples: Annotated[int, Ge(1), Le(1_000_000)] = 100
    images: Annotated[int, Ge(2)] = 10_000
    """The first so many test images, or all if there are fewer; also the N of the FID."""
    ais_images: Annotated[int, Ge(0)] = 0
    """Annealed importance sampling of the first so many of the images, and a bracket on as many
    that the model draws; it takes minutes a hundred."""
    ais_steps: Annotated[int, Ge(1), Le(100_000)] = 300
    """Its temperatures."""
    bound_draws: Annotated[int, Ge(1), Le(10_000)] = 4
    """Dequantizations, or (t, eps) pairs, an image."""
    sampler: Literal["ancestral", "ddim"] = "ddim"
    steps: Annotated[int, Ge(2)] = 50
    """Network evaluations of a DDPM's sample; ancestral sampling takes all that the chain has."""
    eta: Annotated[float, Ge(0), Le(1)] = 0.0
    """Noise of a DDIM step: 0 none, 1 as much as the ancestral chain's."""


@dataclass
class Judgement:
    """The scores, and the arrays by file name."""

    scores: list[Score] = field(default_factory=list)
    arrays: dict[str, dict[str, NDArray[Any]]] = field(default_factory=dict)


def judge(
    model: nn.Module,
    data: Dataset,
    view_name: str,
    how: Evaluation,
    seed: int,
    features: Features | None = None,
) -> Judgement:
    """Bounds of every model; the latent space of VAEs; the Frechet distance if `features` come."""
    device = data.test_images.device
    result = Judgement()
    images = data.test_images[: how.images]
    x = view(view_name)(images, data.levels, generator_for(0, 0, device, stream=3))
    protocol = {"dataset": data.name, "split": "test", "n": len(images), "view": view_name}
    g = generator_for(seed, 0, device, stream=4)
    if isinstance(model, VAE):
        result.scores += bound_scores(model, x, how, protocol, g)
        result.scores += ais_scores(model, x, how, protocol, g)
        result.scores += match_scores(model, x, protocol, g)
        result.arrays["latent"] = latent_arrays(model, x, data.test_labels[: how.images], g)
    else:
        result.scores.append(bpd_score(model, x, how, protocol, g))
    if isinstance(model, PixelFlow):
        outside = model.share_outside(SAMPLES_SHOWN, generator_for(seed, 0, device, stream=5))
        result.scores.append(
            Score("share-outside", outside, "", None, protocol | DRAWN | {"n": SAMPLES_SHOWN})
        )
    draw = sampler(model, how, generator_for(seed, 0, device, stream=5))
    shown = draw(SAMPLES_SHOWN)
    result.arrays["samples"] = {"images": (255 * shown).round().byte().cpu().numpy()}
    if features is not None:
        sampling = sampling_protocol(model, how)
        result.scores.append(frechet_score(shown, draw, data, features, len(images), sampling))
    return result


def sampling_protocol(model: nn.Module, how: Evaluation) -> dict[str, Any]:
    """How the samples were drawn, where there is a choice."""
    if not isinstance(model, DDPM):
        return {}
    if how.sampler == "ancestral":
        return {"sampler": "ancestral", "steps": model.T}
    return {"sampler": "ddim", "steps": min(how.steps, model.T), "eta": how.eta}


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
    kl, kl_std, information, information_std = astuple(
        aggregate_match(model, encode_all(model, x), z, log_qz)
    )
    n = min(ENERGY_SAMPLES, len(z))
    few = torch.randperm(len(z), generator=g, device=z.device)[:n]
    with torch.no_grad():
        distance, null = energy_distance(z[few], model.prior.sample(n, g), g)
    return [
        Score("kl-aggregate", kl, "nats", kl_std, protocol),
        Score("mutual-information", information, "nats", information_std, protocol),
        Score("energy-distance", distance, "", None, protocol | {"samples": n, "null95": null}),
    ]


def _score(metric: str, estimate: Estimate, protocol: dict[str, Any]) -> Score:
    return Score(metric, estimate.mean, "nats", estimate.mc_std, protocol)


@torch.no_grad()
def sample_aggregate(model: VAE, x: Tensor, g: Generator) -> tuple[Tensor, Tensor]:
    """One z ~ q(z|x_n) for each image and its log q(z|x_n): N draws of the aggregate posterior."""
    return model.posterior.rsample(encode_all(model, x), model.noise(len(x), g))


def latent_arrays(model: VAE, x: Tensor, labels: Tensor, g: Generator) -> dict[str, NDArray[Any]]:
    """What the prior-against-posterior panel draws."""
    z, _ = sample_aggregate(model, x, g)
    plane = latent_plane(model.prior, z, g)
    return asdict(plane) | {
        "components": np.array(plane.components),
        "labels": labels.cpu().numpy(),
    }


def bpd_score(
    model: nn.Module, x: Tensor, how: Evaluation, protocol: dict[str, Any], g: Generator
) -> Score:
    """Bits per dimension of a flow or a DDPM, as a bound: lower is better."""
    if isinstance(model, PixelFlow):
        bound, estimate = "uniform dequantization", flow_bound(model, x, how.bound_draws, g)
    elif isinstance(model, DDPM):
        bound, estimate = "variational", ddpm_bound(model, x, how.bound_draws, g)
    else:
        raise TypeError(f"no bits per dimension for a {type(model).__name__}")
    value = bits_per_dim(torch.tensor(estimate.mean), model.dims).item()
    error = -bits_per_dim(torch.tensor(estimate.mc_std), model.dims).item()
    protocol = protocol | {"samples": how.bound_draws, "bound": bound}
    return Score("bpd", value, "bits/dim", error, protocol)


def sampler(model: nn.Module, how: Evaluation, g: Generator) -> Callable[[int], Tensor]:
    """A function that draws the next n samples of a model, its networks in bfloat16 if that helps.

    Only the networks that make samples run so; everything that measures them does not.
    """
    bf16 = bf16_helps(g.device)

    @torch.no_grad()
    def draw(n: int) -> Tensor:
        with networks_in_bf16(model, bf16):
            if isinstance(model, DDPM) and how.sampler == "ddim":
                return ddim(model, n, min(how.steps, model.T), g, how.eta)
            return model.sample(n, g)  # pyright: ignore[reportCallIssue]

    return draw


def frechet_score(
    shown: Tensor,
    draw: Callable[[int], Tensor],
    data: Dataset,
    features: Features,
    n: int,
    sampling: dict[str, Any],
) -> Score:
    """FID of n samples (those shown, then more) against n test images, beside its floor.

    References and samples are grey values in [0, 1], whatever view the model was trained on.
    The floor is the same distance with n training images in the samples' place.
    """
    samples = [shown[:n]]
    while (missing := n - sum(map(len, samples))) > 0:
        samples.append(draw(min(500, missing)))
    device = data.test_images.device
    reference = moments(features(grey(data.test_images[:n], data.levels)))
    order = torch.randperm(
        len(data.train_images), generator=generator_for(0, 0, torch.device("cpu"), stream=6)
    )[:n]
    real = moments(features(grey(data.train_images[order.to(device)], data.levels)))
    protocol = {
        "dataset": data.name,
        "split": "test",
        "n": n,
        "view": "raw",
        "features": features.name,
        "feature_hash": features.hash,
        "floor": frechet_distance(real, reference),
    }
    value = frechet_distance(moments(features(torch.cat(samples))), reference)
    return Score("fid", value, "", None, protocol | sampling)
