"""From a recipe's plain data to a model, and to the sentence that describes it."""

import math
from collections.abc import Callable

from torch import nn

from triptych.ddpm import DDPM
from triptych.flows.flow import Flow, coupling_flow
from triptych.flows.multiscale import Logit, MultiScale
from triptych.likelihoods import Bernoulli
from triptych.nets.mlp import MLP
from triptych.nets.unet import UNet
from triptych.pixelflow import PixelFlow
from triptych.posteriors import DiagonalGaussian
from triptych.priors.gaussian import StandardGaussian
from triptych.priors.mixture import MixtureOfGaussians
from triptych.protocols import Density
from triptych.schedules import SCHEDULES
from triptych.study.recipes import ModelConfig, PixelFlowConfig, VAEConfig
from triptych.vae import VAE

Shape = tuple[int, int, int]

PRIORS: dict[str, Callable[[VAEConfig], Density]] = {
    "gaussian": lambda c: StandardGaussian(c.latent_dim),
    "mixture": lambda c: MixtureOfGaussians(c.latent_dim, c.components),
    "flow": lambda c: coupling_flow(
        StandardGaussian(c.latent_dim), c.latent_dim, c.couplings, c.coupling_hidden
    ),
}


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
    M, D = config.latent_dim, math.prod(shape)
    encoder = nn.Sequential(nn.Flatten(-3), MLP([D, *config.hidden, 2 * M]))
    decoder = MLP([M, *config.hidden[::-1], D])
    prior = PRIORS[config.prior](config)
    posterior, likelihood = DiagonalGaussian(encoder, M), Bernoulli(decoder, shape)
    return VAE(prior, posterior, likelihood, config.mean_samples)


def describe(config: ModelConfig, shape: Shape) -> str:
    """The architecture in one sentence, for the report."""
    if isinstance(config, VAEConfig):
        widths = "-".join(str(w) for w in (math.prod(shape), *config.hidden))
        prior = {
            "gaussian": "a standard Gaussian prior",
            "mixture": f"a prior of {config.components} learned diagonal Gaussians",
            "flow": f"a flow prior of {config.couplings} masked affine couplings "
            f"({'-'.join(str(h) for h in config.coupling_hidden)} hidden units)",
        }[config.prior]
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
