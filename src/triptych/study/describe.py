"""The sentences with which the report describes a model."""

import math
from collections.abc import Iterable
from dataclasses import replace

from triptych.study.configs import (
    DDPMConfig,
    LatentDDPMConfig,
    PixelFlowConfig,
    Prior,
    VAEConfig,
    encoder_outputs,
)
from triptych.study.recipes import Recipe
from triptych.train.order import TrainConfig

Shape = tuple[int, int, int]
BINARIZED = ", Bernoulli likelihood of pixels binarized at random (means shown)"


def describe(recipe: Recipe, shape: Shape) -> str:
    """The architecture in one sentence, and what its training does to images, if anything."""
    config, train = recipe.model, recipe.train
    if isinstance(config, VAEConfig):
        return f"{describe_vae(config, shape, train)}."
    if isinstance(config, LatentDDPMConfig):
        vae = describe_vae(replace(config.vae, beta=1.0), shape, config.vae_train)
        chain = (
            f"then a residual MLP of {config.blocks} blocks of {config.width} units on "
            f"standardised latents, sinusoidal time embedding; {describe_chain(config)}"
        )
        return f"{vae}; {chain}{describe_bending(train)}, beta = {_short(config.vae.beta)}."
    if isinstance(config, PixelFlowConfig):
        return f"{describe_flow(config)}{describe_bending(train)}."
    dropout = f"dropout {config.dropout:g}, " if config.dropout else ""
    return (
        f"U-Net behind a pixel-unshuffle, {_dashed(config.widths)} channels, "
        f"{_count(config.blocks, 'residual block')} a level with GroupNorm, {dropout}attention at "
        f"the lowest, sinusoidal time embedding; "
        f"{describe_chain(config)}{describe_bending(train)}."
    )


def describe_vae(config: VAEConfig, shape: Shape, train: TrainConfig) -> str:
    """Networks, likelihood, posterior, M, prior and objective: what VAEs may share comes first."""
    sigma = "a learned variance" if config.sigma is None else f"sigma = {config.sigma:g}"
    window = f"{config.window}x{config.window} window"
    likelihood = {
        "bernoulli": BINARIZED if config.mean_samples else "",
        "autoregressive": (
            f", autoregressive likelihood of {config.features} features a pixel and a {window}"
        ),
        "continuous-bernoulli": ", continuous Bernoulli likelihood",
        "gaussian": f", Gaussian likelihood with {sigma}",
        "logistic": f", likelihood of {config.logistics} discretized logistics a pixel",
    }[config.likelihood]
    posterior = {
        "gaussian": "",
        "full": ", full-covariance posterior",
        "coupling": f", posterior of {config.posterior_layers} conditional couplings",
        "iaf": f", posterior of {config.posterior_layers} inverse autoregressive layers",
    }[config.posterior]
    networks = f"{describe_network(config, shape)}, mirrored decoder{likelihood}{posterior}"
    end = f"{describe_prior(config)}{describe_training(config)}"
    return f"{networks}, M = {config.latent_dim}{describe_bending(train)}, and {end}"


def describe_flow(config: PixelFlowConfig) -> str:
    """The architecture of a pixel flow."""
    splines = config.coupling == "spline"
    kind = "rational-quadratic spline" if splines else "affine"
    bins = f" of {config.bins} bins" if splines else ""
    if config.network == "mlp":
        body = (
            f"{config.steps} {kind} couplings{bins} on the colours of a checkerboard in turn, MLPs "
            f"of {config.width}-{config.width} hidden units, then a scale and a shift for each "
            f"pixel,"
        )
    else:
        convolutions = f"{config.blocks}-block residual" if config.blocks else "3x3-1x1-3x3"
        net = "5x5-1x1-1x1-1x1" if config.network == "patch" else convolutions
        body = (
            f"{config.scales} scales of {config.steps} steps ({kind} coupling{bins} with a {net} "
            f"convolutional net of {config.width} channels, 1x1 convolution, activation "
            f"normalisation)"
        )
    turns = describe_autoregressive(config, f"splines{bins}" if splines else "affine maps")
    return f"{body}{turns} on {describe_dequantization(config)} pixels in logit space"


def describe_autoregressive(config: PixelFlowConfig, maps: str) -> str:
    """The layers between the others and the pixels, where there are any."""
    if not config.autoregressive_layers:
        return ""
    layers = _count(config.autoregressive_layers, "autoregressive layer")
    side = config.window
    return f" behind {layers} ({maps}, {side}x{side} windows, nets of {config.width} units)"


def describe_dequantization(config: PixelFlowConfig) -> str:
    """How pixels were made continuous."""
    if config.dequantization == "uniform":
        return "uniformly dequantized"
    return (
        f"variationally dequantized ({config.dequantization_steps} conditional couplings, "
        f"{config.dequantization_width} channels)"
    )


def describe_chain(config: DDPMConfig | LatentDDPMConfig) -> str:
    """Its length, its noise and what its network predicts."""
    if config.schedule == "learned":
        return (
            f"continuous time with a learned schedule, Fourier features, {config.prediction}-"
            f"prediction, trained on the bound"
        )
    said = f"T = {config.timesteps}, {config.schedule} schedule, {config.prediction}-prediction"
    variance = getattr(config, "variance", "small")
    return said if variance == "small" else f"{said}, {variance} variance"


def describe_training(config: VAEConfig) -> str:
    """The objective, where it is not the ELBO."""
    if config.objective == "iwae":
        gradient = "doubly reparametrized" if config.doubly else "plain"
        return f", trained on IWAE-{config.iwae_samples} with the {gradient} gradient"
    beta = "" if config.beta == 1 else f", beta = {_short(config.beta)}"
    warmup = f", KL warm-up over {config.kl_warmup:.0%} of training" if config.kl_warmup else ""
    return beta + warmup


def describe_bending(train: TrainConfig) -> str:
    """What was done to the training images, if anything."""
    if not train.bent:
        return ""
    return f", images distorted at random ({100 * train.bent:g}% at first, none at the end)"


def describe_network(config: VAEConfig, shape: Shape) -> str:
    """The encoder and its sizes."""
    if config.network == "residual":
        return (
            f"Residual convolutional encoder of 2x2 patches, {_dashed(config.channels)} channels, "
            f"{_count(config.blocks, 'block')} a level"
        )
    widths = _dashed((math.prod(shape), *config.hidden, encoder_outputs(config)))
    if config.network == "mlp":
        return f"MLP encoder {widths} with SiLU"
    return f"Gated MLP encoder {widths}"


def describe_prior(config: VAEConfig) -> str:
    """The prior in half a sentence."""
    layers = config.couplings
    nets = f"({_dashed(config.coupling_hidden)} hidden units)"
    said: dict[Prior, str] = {
        "gaussian": "a standard Gaussian prior",
        "mixture": f"a prior of {config.components} learned diagonal Gaussians",
        "flow": f"a flow prior of {layers} masked affine couplings {nets}",
        "spline": f"a flow prior of {layers} rational-quadratic spline couplings with "
        f"{config.bins} bins {nets}",
        "maf": f"a prior of {layers} masked autoregressive layers {nets}",
        "vamp": f"a VampPrior of {config.pseudo_inputs} pseudo-inputs",
        "resampled": f"a standard Gaussian prior resampled at most {config.truncation} times by a "
        f"network ({_dashed(config.acceptance_hidden)} hidden units)",
        "hierarchical": "two levels of M, p(z1|z2) a Gaussian by a network, p(z2) a standard one",
        "hierarchical-vamp": "two levels of M, p(z1|z2) a Gaussian by a network, p(z2) a VampPrior "
        f"of {config.pseudo_inputs} pseudo-inputs",
    }
    return said[config.prior]


def _short(value: float) -> str:
    """Small numbers by their power of ten, as titles have them: 1e-3."""
    if value == 0:
        return "0"
    digits, power = f"{value:e}".split("e")
    return f"{value:g}" if value >= 0.01 else f"{float(digits):g}e{int(power)}"


def _dashed(widths: Iterable[int]) -> str:
    """784-512-64, as papers write the widths of layers."""
    return "-".join(str(width) for width in widths)


def _count(n: int, what: str) -> str:
    return f"{n} {what}" if n == 1 else f"{n} {what}s"
