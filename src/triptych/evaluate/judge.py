"""All the scores of one trained model, each with its protocol, and the arrays its figures need.

The only place that touches the test set.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Generator, Tensor, nn

from triptych.data import Dataset, view
from triptych.ddpm import DDPM
from triptych.evaluate.classifier import Features, grey
from triptych.evaluate.evaluation import Evaluation, Judgement
from triptych.evaluate.judge_samples import sample_scores
from triptych.evaluate.judge_vae import DRAWN, judge_vae
from triptych.evaluate.likelihood import ddpm_bound, flow_bound
from triptych.evaluate.nearest import nearest
from triptych.maths import bits_per_dim
from triptych.pixelflow import PixelFlow
from triptych.protocols import Score
from triptych.samplers import SAMPLERS
from triptych.train.order import generator_for
from triptych.train.precision import bf16_helps, networks_in_bf16
from triptych.vae import VAE

SAMPLES_SHOWN = 64


def judge(
    model: nn.Module,
    data: Dataset,
    view_name: str,
    how: Evaluation,
    seed: int,
    features: Features | None = None,
    drawn_by: nn.Module | None = None,
) -> Judgement:
    """Bounds of every model; the latent space of VAEs; the Frechet distance if `features` come.

    Samples are drawn by another model where one is given: by the same, guided.
    """
    device = data.test_images.device
    result = Judgement()
    images = data.test_images[: how.images]
    x = view(view_name)(images, data.levels, generator_for(0, 0, device, stream=3))
    protocol = {"dataset": data.name, "split": "test", "n": len(images), "view": view_name}
    g = generator_for(seed, 0, device, stream=4)
    if isinstance(model, VAE):
        result = judge_vae(model, x, data.test_labels[: how.images], how, protocol, g)
    else:
        result.scores.append(bpd_score(model, x, how, protocol, g))
    if isinstance(model, PixelFlow):
        outside = model.share_outside(SAMPLES_SHOWN, generator_for(seed, 0, device, stream=5))
        result.scores.append(
            Score("share-outside", outside, "", None, protocol | DRAWN | {"n": SAMPLES_SHOWN})
        )
    draw = sampler(drawn_by or model, how, generator_for(seed, 0, device, stream=5))
    shown = draw(SAMPLES_SHOWN)
    result.arrays["samples"] = {"images": as_bytes(shown)}
    score, result.arrays["nearest"] = nearest_score(shown, data, view_name)
    result.scores.append(score)
    if features is not None:
        samples = enough(shown, draw, len(images))
        scores, growth = sample_scores(samples, data, features, sampling_protocol(model, how))
        result.scores += scores
        if growth:
            result.arrays["fid-growth"] = growth
    return result


def as_bytes(x: Tensor) -> NDArray[np.uint8]:
    """Grey values in [0, 1] as 0 .. 255."""
    return (255 * x).round().byte().cpu().numpy()


def nearest_score(
    shown: Tensor, data: Dataset, view_name: str
) -> tuple[Score, dict[str, NDArray[Any]]]:
    """Mean distance from a sample to the nearest training image, over the same of as many test
    images: well below 1 where training images are repeated. All are binarized where the model's
    are; the nearest images themselves come with it."""

    def seen(images: Tensor) -> Tensor:
        binary = view_name == "threshold"
        return view(view_name)(images, data.levels, None) if binary else grey(images, data.levels)

    train, test = seen(data.train_images), seen(data.test_images[: len(shown)])
    found, usual = nearest(shown, train), nearest(test, train)
    ratio = (found.distance.mean() / usual.distance.mean()).item()
    protocol = {"dataset": data.name, "view": view_name, "n": len(shown)} | DRAWN
    arrays = {"images": as_bytes(train[found.which]), "distance": found.distance.cpu().numpy()}
    return Score("nearest-ratio", ratio, "", None, protocol), arrays


def sampling_protocol(model: nn.Module, how: Evaluation) -> dict[str, Any]:
    """How the samples were drawn, where there is a choice."""
    if not isinstance(model, DDPM):
        return {}
    guided = {} if how.guidance == 1 else {"guidance": how.guidance}
    if how.sampler == "ancestral":
        return {"sampler": "ancestral", "steps": model.T} | guided
    return {"sampler": how.sampler, "steps": min(how.steps, model.T), "eta": how.eta} | guided


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
            if isinstance(model, DDPM) and how.sampler != "ancestral":
                return SAMPLERS[how.sampler](model, n, min(how.steps, model.T), g, how.eta)
            return model.sample(n, g)  # pyright: ignore[reportCallIssue]

    return draw


def enough(shown: Tensor, draw: Callable[[int], Tensor], n: int) -> Float[Tensor, "n C H W"]:
    """n samples: those shown, then more."""
    samples = [shown[:n]]
    while (missing := n - sum(map(len, samples))) > 0:
        samples.append(draw(min(500, missing)))
    return torch.cat(samples)
