"""All the scores of one trained model, each with its protocol, and the arrays its figures need.

This module, what it calls, and the accuracy of the feature network are all that ever touches the
test set.
"""

import math
from dataclasses import asdict, replace
from typing import Any

import torch
from jaxtyping import Float
from torch import Generator, Tensor, nn

from triptych.data import Dataset
from triptych.data.views import check_levels, check_shown
from triptych.ddpm import DDPM
from triptych.errors import UserError
from triptych.evaluate.classifier import Features
from triptych.evaluate.diffusion import ddpm_bound, ddpm_terms, vdm_bound, vdm_terms
from triptych.evaluate.drawing import (
    as_bytes,
    chain_of,
    enough,
    pixels_protocol,
    sampler,
    sampling_protocol,
    seen,
)
from triptych.evaluate.evaluation import DRAWN, Evaluation, Judgement, Say, of_first, quiet
from triptych.evaluate.fidelity import shuffled
from triptych.evaluate.judge_flow import judge_flow, outside_score
from triptych.evaluate.judge_latent import judge_latent, latent_limits
from triptych.evaluate.judge_nearest import copied_score, nearest_score
from triptych.evaluate.judge_samples import from_training, sample_scores
from triptych.evaluate.judge_vae import judge_vae
from triptych.evaluate.likelihood import evaluating, in_bits, in_nats
from triptych.evaluate.ode import ode_score
from triptych.evaluate.reconstruct import reconstruction_arrays
from triptych.evaluate.speed import sampling_speed
from triptych.evaluate.tradeoff import tradeoff
from triptych.latent import LatentDDPM
from triptych.maths import bits_per_dim
from triptych.pixelflow import PixelFlow
from triptych.protocols import Score
from triptych.samplers import Autoguidance
from triptych.train.order import Stream, generator_for
from triptych.train.precision import full_precision
from triptych.vae import VAE
from triptych.validation import validated
from triptych.vdm import VDM

SAMPLES_SHOWN, TERMS_OF = 64, 500


@full_precision()
def judge(
    model: nn.Module,
    data: Dataset,
    view_name: str,
    how: Evaluation,
    seed: int,
    features: Features | None = None,
    drawn_by: nn.Module | None = None,
    say: Say = quiet,
) -> Judgement:
    """Bounds of every model; the latent space of VAEs; the Frechet distance if `features` come.

    Samples are drawn by another model where one is given: by the same, guided (`sampling_model`
    makes it of a run). What is not drawn in bfloat16 is computed in full precision, and all in
    evaluation mode.

    Raises:
        UserError: a setting out of its range, a bound that is not finite, samples that are not
            images, or a model that is not in single precision, as images are, or not guided as the
            settings say.
        ValueError: a model of other images, by their shape, levels or view.
    """
    source = drawn_by or model
    how = validated(Evaluation, asdict(how), "Evaluation").of_latents(isinstance(model, LatentDDPM))
    check_guidance(source, how.guidance)
    check_levels(model, data.levels)
    if other := {p.dtype for p in model.parameters()} - {torch.float32}:
        raise UserError(f"the model has parameters of {other.pop()}; judge model.float()")
    with evaluating(model, source):
        return _judge(model, source, at_random(data), view_name, how, seed, features, say)


def _judge(
    model: nn.Module,
    source: nn.Module,
    data: Dataset,
    view_name: str,
    how: Evaluation,
    seed: int,
    features: Features | None,
    say: Say,
) -> Judgement:
    """The same, once all is known to fit; the test images in random order."""
    device, every = data.test_images.device, len(data.test_images)
    images, labels = data.test_images[: how.images], data.test_labels[: how.images]
    x = seen(images, data.levels, view_name)
    check_shown(model, x)
    whole = {"dataset": data.name, "split": "test", "n": every, "view": view_name}
    protocol = of_first(whole, len(images))
    of_drawn = whole | {"n": len(images)} | DRAWN
    sampling = sampling_protocol(source, how) | pixels_protocol(source)
    g = generator_for(seed, 0, device, stream=Stream.BOUNDS)
    draw = sampler(source, how, generator_for(seed, 0, device, stream=Stream.SAMPLES))
    say("bounds")
    result = judge_model(model, x, labels, how, protocol, g)
    refuse_nan(result.scores)
    if isinstance(model, PixelFlow):
        shown_again = generator_for(seed, 0, device, stream=Stream.SAMPLES)
        result.scores.append(outside_score(model, SAMPLES_SHOWN, how, of_drawn, shown_again))
    result.arrays |= reconstruction_arrays(model, x)
    shown = draw(SAMPLES_SHOWN)
    result.arrays["samples"] = {"images": as_bytes(shown)}
    score, result.arrays["nearest"] = nearest_score(model, shown, data, view_name, sampling)
    result.scores += [score] if score else []
    if features is None:
        return result
    samples = enough(shown, draw, len(images), say)
    say("scores of the samples")
    scores, arrays = sample_scores(samples, data, features, sampling)
    result.arrays |= arrays
    result.scores += [*scores, sampling_speed(draw, device, of_drawn | sampling)]
    result.scores.append(copied_score(model, samples, data, view_name, sampling))
    if how.tradeoff_images:
        result.arrays["tradeoff"] = tradeoff(model, source, how, data, features, seed, say)
    if isinstance(model, LatentDDPM):
        train = seen(from_training(data, len(images)), data.levels, view_name)
        result.scores += latent_limits(model, train, data, features, g)
    return result


@full_precision()
def judge_samples(
    samples: Float[Tensor, "n C H W"], data: Dataset, features: Features
) -> list[Score]:
    """The scores of samples from anywhere, as `judge` has them of a model's: of no more than there
    are test images, taken at random, since a file may have them class by class. Whether they are
    copies is asked of binary ones beside images binarized at 0.5.

    Raises:
        UserError: samples that are not two or more images as those of the data, in float32.
    """
    said, grey = f"{samples.dtype} {list(samples.shape)}", samples.dtype == torch.float32
    if not grey or samples.shape[1:] != data.shape or len(samples) < 2:
        raise UserError(f"samples are float32 [n, {', '.join(map(str, data.shape))}], not {said}")
    if not 0 <= samples.min() <= samples.max() <= 1:
        low, top = samples.min().item(), samples.max().item()
        raise UserError(f"samples have grey values of 0 to 1, not {low:g} to {top:g}")
    data, some = at_random(data), shuffled(samples)[: len(data.test_images)]
    scores, _ = sample_scores(some, data, features, {})
    binary = bool(((some == 0) | (some == 1)).all())
    return [*scores, copied_score(None, some, data, "threshold" if binary else "raw", {})]


def check_guidance(model: nn.Module, asked: float) -> None:
    """UserError where a chain would be drawn from otherwise than its scores say."""
    if (chain := chain_of(model)) is None:
        return
    guided = chain.net.weight if isinstance(chain.net, Autoguidance) else 1.0
    if guided != asked:
        raise UserError(
            f"guidance = {asked:g} is asked for, and the samples would be drawn with {guided:g}; "
            f"give drawn_by = sampling_model(run, data, {asked:g}), or choose {guided:g}"
        )


def at_random(data: Dataset) -> Dataset:
    """The test images in an order that has nothing to do with theirs, always the same.

    A file of images may be ordered: the first half of MNIST's test images is of other writers than
    the second, and its first n are not like all of them (FID of real images, n = 5,000: 2.2 with
    the first, 0.8 with any).
    """
    images, labels = shuffled(data.test_images), shuffled(data.test_labels)
    return replace(data, test_images=images, test_labels=labels)


def refuse_nan(scores: list[Score]) -> None:
    """No mean over seeds and no comparison can be made of what is not a finite number."""
    if broken := [s.metric for s in scores if not all(map(math.isfinite, numbers(s)))]:
        raise UserError(
            f"{', '.join(broken)}: not finite on the test images, on some of which the model "
            f"overflows; train again with a lower --lr"
        )


def numbers(score: Score) -> list[float]:
    """A score's value and such errors as it has."""
    return [v for v in (score.value, score.mc_std, score.image_std) if v is not None]


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
        return judge_latent(model, x, labels, protocol, g)
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
    score = in_bits(in_nats("bpd", bound, said), model.dims)
    result = Judgement([score], {"terms": terms})
    if how.ode_images:
        some = x[: how.ode_images]
        beside = bits_per_dim(bound.values[: len(some)].double(), model.dims).mean().item()
        result.scores.append(
            ode_score(chain, some, protocol | {"bpd": beside}, g, how.ode_trace == "exact")
        )
    return result
