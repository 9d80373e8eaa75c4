"""From a recipe's plain data to a model, and to the sentence that describes it."""

import math
from collections.abc import Callable

from torch import nn

from triptych.ddpm import DDPM
from triptych.flows.flow import Flow, autoregressive_flow, coupling_flow
from triptych.flows.multiscale import Logit, MultiScale
from triptych.flows.spline import RationalQuadratic
from triptych.likelihoods import Bernoulli
from triptych.nets.mlp import MLP
from triptych.nets.unet import UNet
from triptych.pixelflow import PixelFlow
from triptych.posteriors import DiagonalGaussian
from triptych.priors.gaussian import StandardGaussian
from triptych.priors.hierarchical import TwoLevelPosterior, TwoLevelPrior
from triptych.priors.mixture import MixtureOfGaussians
from triptych.priors.vamp import VampPrior
from triptych.protocols import Density
from triptych.schedules import SCHEDULES
from triptych.study.recipes import ModelConfig, PixelFlowConfig, Prior, VAEConfig
from triptych.vae import VAE

Shape = tuple[int, int, int]
HIERARCHICAL = ("hierarchical", "hierarchical-vamp")


def posterior_of(config: VAEConfig, shape: Shape) -> DiagonalGaussian | TwoLevelPosterior:
    """The encoder: a Gaussian, or two levels of latent_dim each under a hierarchical prior."""
    M, D, last = config.latent_dim, math.prod(shape), config.hidden[-1]
    top = DiagonalGaussian(nn.Sequential(nn.Flatten(-3), MLP([D, *config.hidden, 2 * M])), M)
    if config.prior not in HIERARCHICAL:
        return top
    eye = nn.Sequential(nn.Flatten(-3), MLP([D, *config.hidden]), nn.SiLU())
    return TwoLevelPosterior(top, eye, MLP([last + M, last, 2 * M]), M)


def prior_of(
    config: VAEConfig, posterior: DiagonalGaussian | TwoLevelPosterior, shape: Shape
) -> Density:
    """The prior that the config names. Flow priors start from the standard Gaussian."""
    M = config.latent_dim
    base, layers, hidden = StandardGaussian(M), config.couplings, config.coupling_hidden
    if isinstance(posterior, TwoLevelPosterior):
        vamp = config.prior == "hierarchical-vamp"
        top = VampPrior(posterior.top, shape, config.pseudo_inputs) if vamp else base
        net = MLP([M, config.hidden[-1], 2 * M], zero_last=True)
        return TwoLevelPrior(top, net, M)
    makers: dict[Prior, Callable[[], Density]] = {
        "gaussian": lambda: base,
        "mixture": lambda: MixtureOfGaussians(M, config.components),
        "flow": lambda: coupling_flow(base, M, layers, hidden),
        "spline": lambda: coupling_flow(base, M, layers, hidden, RationalQuadratic(config.bins)),
        "maf": lambda: autoregressive_flow(base, M, layers, hidden),
        "vamp": lambda: VampPrior(posterior, shape, config.pseudo_inputs),
    }
    return makers[config.prior]()


def build(config: ModelConfig, shape: Shape, levels: int) -> VAE | PixelFlow | DDPM:
    """The model of a config, for images of this shape and number of grey levels."""
    if isinstance(config, VAEConfig):
        return _vae(config, shape)
    if isinstance(config, PixelFlowConfig):
        scales = MultiScale(shape, config.steps, [config.width] * config.scales)
        base = StandardGaussian(math.prod(shape))
        return PixelFlow(Flow(base, [scales, Logit(config.low)]), shape, levels)
    net = UNet(shape, config.widths, config.blocks)
    beta = SCHEDULES[config.schedule](config.timesteps)
    return DDPM(net, beta, shape, levels, config.prediction)


def _vae(config: VAEConfig, shape: Shape) -> VAE:
    posterior = posterior_of(config, shape)
    prior = prior_of(config, posterior, shape)
    decoder = MLP([posterior.latent_dim, *config.hidden[::-1], math.prod(shape)])
    return VAE(prior, posterior, Bernoulli(decoder, shape), config.mean_samples)


def describe(config: ModelConfig, shape: Shape) -> str:
    """The architecture in one sentence, for the report."""
    if isinstance(config, VAEConfig):
        widths = "-".join(str(w) for w in (math.prod(shape), *config.hidden))
        prior = describe_prior(config)
        return (
            f"MLP encoder {widths}-{2 * config.latent_dim} with SiLU, mirrored decoder, "
            f"M = {config.latent_dim}, and {prior}."
        )
    if isinstance(config, PixelFlowConfig):
        return (
            f"{config.scales} scales of {config.steps} steps (affine coupling with a 3x3-1x1-3x3 "
            f"convolutional net of {config.width} channels, 1x1 convolution, activation "
            f"normalisation) on uniformly dequantized pixels in logit space."
        )
    widths = "-".join(str(w) for w in config.widths)
    return (
        f"U-Net behind a pixel-unshuffle, {widths} channels, {config.blocks} residual block(s) a "
        f"level with GroupNorm and sinusoidal time embedding; T = {config.timesteps}, "
        f"{config.schedule} schedule, {config.prediction}-prediction."
    )


def describe_prior(config: VAEConfig) -> str:
    """The prior in half a sentence."""
    layers = config.couplings
    nets = f"({'-'.join(str(h) for h in config.coupling_hidden)} hidden units)"
    said: dict[Prior, str] = {
        "gaussian": "a standard Gaussian prior",
        "mixture": f"a prior of {config.components} learned diagonal Gaussians",
        "flow": f"a flow prior of {layers} masked affine couplings {nets}",
        "spline": f"a flow prior of {layers} rational-quadratic spline couplings with "
        f"{config.bins} bins {nets}",
        "maf": f"a prior of {layers} masked autoregressive layers {nets}",
        "vamp": f"a VampPrior of {config.pseudo_inputs} pseudo-inputs",
        "hierarchical": "two levels, p(z1|z2) a network's Gaussian, p(z2) standard Gaussian",
        "hierarchical-vamp": "two levels, p(z1|z2) a network's Gaussian, p(z2) a VampPrior of "
        f"{config.pseudo_inputs} pseudo-inputs",
    }
    return said[config.prior]
