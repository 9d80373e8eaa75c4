"""All the scores of one trained model, each with its protocol, and the arrays its figures need.

The only place that touches the test set.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Generator, Tensor, nn

from triptych.data import Dataset, view
from triptych.ddpm import DDPM
from triptych.evaluate.classifier import Features, grey
from triptych.evaluate.diffusion import ddpm_bound, ddpm_terms, vdm_bound
from triptych.evaluate.drawing import enough, sampler, sampling_protocol
from triptych.evaluate.evaluation import Evaluation, Judgement
from triptych.evaluate.judge_flow import judge_flow, outside_score
from triptych.evaluate.judge_latent import judge_latent, latent_limits
from triptych.evaluate.judge_samples import sample_scores
from triptych.evaluate.judge_vae import DRAWN, judge_vae
from triptych.evaluate.likelihood import bits
from triptych.evaluate.nearest import nearest
from triptych.evaluate.ode import ode_score
from triptych.evaluate.speed import sampling_speed
from triptych.evaluate.tradeoff import tradeoff
from triptych.latent import LatentDDPM
from triptych.pixelflow import PixelFlow
from triptych.protocols import Score
from triptych.train.order import generator_for
from triptych.vae import VAE
from triptych.vdm import VDM

SAMPLES_SHOWN, TERMS_OF = 64, 500


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
    images, labels = data.test_images[: how.images], data.test_labels[: how.images]
    x = view(view_name)(images, data.levels, generator_for(0, 0, device, stream=3))
    protocol = {"dataset": data.name, "split": "test", "n": len(images), "view": view_name}
    g, drawing = generator_for(seed, 0, device, stream=4), drawn_by or model
    draw = sampler(drawing, how, generator_for(seed, 0, device, stream=5))
    result = judge_model(model, drawing, x, labels, how, protocol, g)
    if isinstance(model, PixelFlow):
        shown_again = generator_for(seed, 0, device, stream=5)
        result.scores.append(outside_score(model, SAMPLES_SHOWN, how, protocol, shown_again))
    shown = draw(SAMPLES_SHOWN)
    result.arrays["samples"] = {"images": as_bytes(shown)}
    score, result.arrays["nearest"] = nearest_score(shown, data, view_name)
    result.scores.append(score)
    if features is None:
        return result
    samples, drawn = enough(shown, draw, len(images)), sampling_protocol(model, how)
    scores, growth = sample_scores(samples, data, features, drawn)
    result.scores += [*scores, sampling_speed(draw, device, protocol | DRAWN | drawn)]
    if growth:
        result.arrays["fid-growth"] = growth
    if how.tradeoff_images:
        result.arrays["tradeoff"] = tradeoff(model, drawing, how, data, features, seed)
    if isinstance(model, LatentDDPM):
        train = data.train_images[: len(images)]
        seen = view(view_name)(train, data.levels, generator_for(0, 0, device, stream=3))
        result.scores += latent_limits(model, seen, data, features, g)
    return result


def judge_model(
    model: nn.Module,
    drawing: nn.Module,
    x: Tensor,
    labels: Tensor,
    how: Evaluation,
    protocol: dict[str, Any],
    g: Generator,
) -> Judgement:
    """What is asked of the model itself, by its kind: bounds, and what its latents tell."""
    if isinstance(model, VAE):
        return judge_vae(model, x, labels, how, protocol, g)
    if isinstance(drawing, LatentDDPM):
        return judge_latent(drawing, x, labels, how, protocol, g)
    if isinstance(model, PixelFlow):
        return Judgement(judge_flow(model, x, how, protocol, g))
    result = Judgement([bpd_score(model, x, how, protocol, g)])
    if isinstance(model, DDPM):
        result.arrays["terms"] = ddpm_terms(model, x[:TERMS_OF], g)
    chain = model.chain() if isinstance(model, VDM) else model
    if isinstance(chain, DDPM) and how.ode_images:
        result.scores.append(ode_score(chain, x[: how.ode_images], protocol, g))
    return result


def as_bytes(x: Tensor) -> NDArray[np.uint8]:
    """Grey values in [0, 1] as 0 .. 255."""
    return (255 * x).round().byte().cpu().numpy()


def nearest_score(
    shown: Tensor, data: Dataset, view_name: str
) -> tuple[Score, dict[str, NDArray[Any]]]:
    """Mean distance from a sample to the nearest training image, over the same of as many test
    images: well below 1 where training images are repeated. The nearest images come with it.

    Where samples are binary, training images are binarized at 0.5 and test images as the model saw
    its own, so that noise of pixels is on both sides or on neither; else all are grey.
    """
    images, test_images = data.train_images, data.test_images[: len(shown)]
    if view_name != "raw" and ((shown == 0) | (shown == 1)).all():
        noise = generator_for(0, 0, shown.device, stream=3)
        train = view("threshold")(images, data.levels, None)
        test = view(view_name)(test_images, data.levels, noise)
    else:
        train, test = (grey(x, data.levels) for x in (images, test_images))
    found, usual = nearest(shown, train), nearest(test, train)
    ratio = (found.distance.mean() / usual.distance.mean()).item()
    protocol = {"dataset": data.name, "view": view_name, "n": len(shown)} | DRAWN
    arrays = {"images": as_bytes(train[found.which]), "distance": found.distance.cpu().numpy()}
    return Score("nearest-ratio", ratio, "", None, protocol), arrays


def bpd_score(
    model: nn.Module, x: Tensor, how: Evaluation, protocol: dict[str, Any], g: Generator
) -> Score:
    """Bits per dimension of a DDPM or a VDM, as a bound."""
    if isinstance(model, VDM):
        bound, estimate = "continuous time", vdm_bound(model, x, how.bound_draws, g)
    elif isinstance(model, DDPM):
        bound, estimate = "variational", ddpm_bound(model, x, how.bound_draws, g)
    else:
        raise TypeError(f"no bits per dimension for a {type(model).__name__}")
    protocol = protocol | {"samples": how.bound_draws, "bound": bound}
    return bits("bpd", estimate, model.dims, protocol)
