"""All the scores of one trained model, each with its protocol, and the arrays its figures need.

With what it calls, and the accuracy of the feature network, all that touches the test set.
"""

import math
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Generator, Tensor, nn

from triptych.data import Dataset, view
from triptych.ddpm import DDPM
from triptych.errors import UserError
from triptych.evaluate.classifier import Features, grey
from triptych.evaluate.diffusion import ddpm_bound, ddpm_terms, vdm_bound, vdm_terms
from triptych.evaluate.drawing import enough, sampler, sampling_protocol
from triptych.evaluate.evaluation import Evaluation, Judgement, of_first
from triptych.evaluate.judge_flow import judge_flow, outside_score
from triptych.evaluate.judge_latent import judge_latent, latent_limits
from triptych.evaluate.judge_samples import from_training, sample_scores
from triptych.evaluate.judge_vae import DRAWN, judge_vae
from triptych.evaluate.likelihood import bits
from triptych.evaluate.nearest import nearest, share_nearer
from triptych.evaluate.ode import ode_score
from triptych.evaluate.speed import sampling_speed
from triptych.evaluate.tradeoff import tradeoff
from triptych.latent import LatentDDPM
from triptych.maths import bits_per_dim
from triptych.pixelflow import PixelFlow
from triptych.protocols import Score
from triptych.train.order import generator_for
from triptych.train.precision import full_precision
from triptych.vae import VAE
from triptych.vdm import VDM

SAMPLES_SHOWN, TERMS_OF = 64, 500
CLOSE = 0.01


@full_precision()
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

    Samples are drawn by another model where one is given: by the same, guided. What is not drawn in
    bfloat16 is computed in full precision.

    Raises:
        UserError: a bound that is not a number, or samples that are not images.
    """
    device, data, every = data.test_images.device, at_random(data), len(data.test_images)
    images, labels = data.test_images[: how.images], data.test_labels[: how.images]
    x = view(view_name)(images, data.levels, generator_for(0, 0, device, stream=3))
    whole = {"dataset": data.name, "split": "test", "n": every, "view": view_name}
    protocol, of_drawn = of_first(whole, len(images)), whole | {"n": len(images)} | DRAWN
    g, drawing = generator_for(seed, 0, device, stream=4), drawn_by or model
    draw = sampler(drawing, how, generator_for(seed, 0, device, stream=5))
    result = judge_model(model, x, labels, how, protocol, g)
    refuse_nan(result.scores)
    if isinstance(model, PixelFlow):
        shown_again = generator_for(seed, 0, device, stream=5)
        result.scores.append(outside_score(model, SAMPLES_SHOWN, how, of_drawn, shown_again))
    shown = draw(SAMPLES_SHOWN)
    result.arrays["samples"] = {"images": as_bytes(shown)}
    score, result.arrays["nearest"] = nearest_score(shown, data, view_name)
    result.scores.append(score)
    if features is None:
        return result
    samples, drawn = enough(shown, draw, len(images)), sampling_protocol(model, how)
    scores, arrays = sample_scores(samples, data, features, drawn)
    result.arrays |= arrays
    result.scores += [*scores, sampling_speed(draw, device, of_drawn | drawn)]
    result.scores.append(copied_score(samples, data, view_name, drawn))
    if how.tradeoff_images:
        result.arrays["tradeoff"] = tradeoff(model, drawing, how, data, features, seed)
    if isinstance(model, LatentDDPM):
        train = from_training(data, len(images))
        seen = view(view_name)(train, data.levels, generator_for(0, 0, device, stream=3))
        result.scores += latent_limits(model, seen, data, features, g)
    return result


def at_random(data: Dataset) -> Dataset:
    """The test images in an order that has nothing to do with theirs, always the same.

    A file of images may be ordered: the first half of MNIST's test images is of other writers than
    the second, and its first n are not like all of them (FID of real images, n = 5,000: 2.2 with
    the first, 0.8 with any).
    """
    order = torch.randperm(len(data.test_images), generator=torch.Generator().manual_seed(0))
    order = order.to(data.test_images.device)
    return replace(data, test_images=data.test_images[order], test_labels=data.test_labels[order])


def refuse_nan(scores: list[Score]) -> None:
    """No mean over seeds and no comparison can be made of what is not a number."""
    if broken := [score.metric for score in scores if math.isnan(score.value)]:
        raise UserError(
            f"{', '.join(broken)}: not a number on the test images, on some of which the model "
            f"overflows; train again with a lower --lr"
        )


def judge_model(
    model: nn.Module,
    x: Tensor,
    labels: Tensor,
    how: Evaluation,
    protocol: dict[str, Any],
    g: Generator,
) -> Judgement:
    """What is asked of the model itself, by its kind: bounds, and what its latents tell."""
    if isinstance(model, VAE):
        return judge_vae(model, x, labels, how, protocol, g)
    if isinstance(model, LatentDDPM):
        return judge_latent(model, x, labels, how, protocol, g)
    if isinstance(model, PixelFlow):
        return Judgement(judge_flow(model, x, how, protocol, g))
    if isinstance(model, DDPM | VDM):
        return judge_diffusion(model, x, how, protocol, g)
    raise TypeError(f"no scores are known for a {type(model).__name__}")


def judge_diffusion(
    model: DDPM | VDM, x: Tensor, how: Evaluation, protocol: dict[str, Any], g: Generator
) -> Judgement:
    """The bound in bits per dimension and its terms; the ODE's likelihood of some images beside the
    bound of the same ones."""
    if isinstance(model, VDM):
        kind, bound = "continuous time", vdm_bound(model, x, how.bound_draws, g)
        terms, chain = vdm_terms(model, x[:TERMS_OF], g), model.chain()
    else:
        kind, bound = "variational", ddpm_bound(model, x, how.bound_draws, g)
        terms, chain = ddpm_terms(model, x[:TERMS_OF], g), model
    said = protocol | {"samples": how.bound_draws, "bound": kind}
    result = Judgement([bits("bpd", bound, model.dims, said)], {"terms": terms})
    if how.ode_images:
        some = x[: how.ode_images]
        beside = bits_per_dim(bound.values[: len(some)].double(), model.dims).mean().item()
        result.scores.append(
            ode_score(chain, some, protocol | {"bpd": beside}, g, how.ode_trace == "exact")
        )
    return result


def as_bytes(x: Tensor) -> NDArray[np.uint8]:
    """Grey values in [0, 1] as 0 .. 255."""
    return (255 * x).round().byte().cpu().numpy()


def nearest_score(
    shown: Tensor, data: Dataset, view_name: str
) -> tuple[Score, dict[str, NDArray[Any]]]:
    """Mean distance from a sample to the nearest training image, over the same of as many test
    images: well below 1 where training images are repeated. The nearest images come with it."""
    train, test = alike(shown, data, view_name)
    found, usual = nearest(shown, train), nearest(test, train)
    ratio = (found.distance.mean() / usual.distance.mean()).item()
    protocol = {"dataset": data.name, "view": view_name, "n": len(shown)} | DRAWN
    arrays = {"images": as_bytes(train[found.which]), "distance": found.distance.cpu().numpy()}
    return Score("nearest-ratio", ratio, "", None, protocol), arrays


def copied_score(samples: Tensor, data: Dataset, view_name: str, drawn: dict[str, Any]) -> Score:
    """The share of samples that are nearer to a training image than 99% of test images are: 0.01
    where none is copied, and a few copies are seen among all of them."""
    train, test = alike(samples, data, view_name)
    share = share_nearer(nearest(samples, train).distance, nearest(test, train).distance, CLOSE)
    error = (share * (1 - share) / len(samples)) ** 0.5
    protocol = {"dataset": data.name, "view": view_name, "n": len(samples)} | DRAWN | drawn
    return Score("copied-share", share, "", error, protocol | {"real": CLOSE})


def alike(samples: Tensor, data: Dataset, view_name: str) -> tuple[Tensor, Tensor]:
    """All training images, and as many test images as there are samples, to be compared with these.

    Where samples are binary, training images are binarized at 0.5 and test images as the model saw
    its own, so that noise of pixels is on both sides or on neither; else all are grey.
    """
    images, test_images = data.train_images, data.test_images[: len(samples)]
    if view_name == "raw" or not ((samples == 0) | (samples == 1)).all():
        return grey(images, data.levels), grey(test_images, data.levels)
    noise = generator_for(0, 0, samples.device, stream=3)
    train = view("threshold")(images, data.levels, None)
    return train, view(view_name)(test_images, data.levels, noise)
