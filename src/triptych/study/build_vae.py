"""The parts of a VAE that a recipe names: encoder, decoder, posterior, prior."""

import math
from collections.abc import Callable

from torch import nn

from triptych.flows.flow import autoregressive_flow, coupling_flow
from triptych.flows.spline import RationalQuadratic
from triptych.likelihoods import (
    Bernoulli,
    ContinuousBernoulli,
    DiscretizedLogisticMixture,
    Gaussian,
)
from triptych.nets.mlp import MLP, GatedMLP, Scale
from triptych.nets.residual import ResidualDecoder, ResidualEncoder
from triptych.posteriors import DiagonalGaussian
from triptych.priors.gaussian import StandardGaussian
from triptych.priors.hierarchical import TwoLevelPosterior, TwoLevelPrior
from triptych.priors.mixture import MixtureOfGaussians
from triptych.priors.vamp import VampPrior
from triptych.protocols import Density, Likelihood
from triptych.study.recipes import Prior, VAEConfig
from triptych.vae import VAE

Shape = tuple[int, int, int]
HIERARCHICAL = ("hierarchical", "hierarchical-vamp")


def build_vae(config: VAEConfig, shape: Shape, levels: int) -> VAE:
    """The VAE of a config, for images of this shape and number of grey levels."""
    top = 1 if config.likelihood == "bernoulli" else levels - 1
    posterior = posterior_of(config, shape, top)
    prior = prior_of(config, posterior, shape, top)
    likelihood = likelihood_of(config, posterior.latent_dim, shape, levels)
    return VAE(prior, posterior, likelihood, config.mean_samples)


def encoder_of(config: VAEConfig, shape: Shape, top: int, n_out: int) -> nn.Module:
    """Images of values in [0, top] to `n_out` numbers."""
    door = [Scale(1 / top)] if top > 1 else []
    if config.network == "residual":
        net = ResidualEncoder(shape, config.channels, config.blocks, n_out)
        return nn.Sequential(*door, net)
    sizes = [math.prod(shape), *config.hidden, n_out]
    net = MLP(sizes) if config.network == "mlp" else GatedMLP(sizes)
    return nn.Sequential(*door, nn.Flatten(-3), net)


def likelihood_of(config: VAEConfig, n_in: int, shape: Shape, levels: int) -> Likelihood:
    """The likelihood that the config names, on a decoder that mirrors the encoder."""
    makers: dict[str, Callable[[], Likelihood]] = {
        "bernoulli": lambda: Bernoulli(decoder_of(config, n_in, shape), shape),
        "continuous-bernoulli": lambda: ContinuousBernoulli(
            decoder_of(config, n_in, shape), shape, levels
        ),
        "gaussian": lambda: Gaussian(decoder_of(config, n_in, shape), shape, levels),
        "logistic": lambda: DiscretizedLogisticMixture(
            decoder_of(config, n_in, shape, 3 * config.logistics), shape, levels, config.logistics
        ),
    }
    return makers[config.likelihood]()


def decoder_of(config: VAEConfig, n_in: int, shape: Shape, per_pixel: int = 1) -> nn.Module:
    """Latents to `per_pixel` images, one after the other."""
    if config.network == "residual":
        c, h, w = shape
        return ResidualDecoder((per_pixel * c, h, w), config.channels, config.blocks, n_in)
    sizes = [n_in, *config.hidden[::-1], per_pixel * math.prod(shape)]
    return MLP(sizes) if config.network == "mlp" else GatedMLP(sizes)


def posterior_of(config: VAEConfig, shape: Shape, top: int) -> DiagonalGaussian | TwoLevelPosterior:
    """A Gaussian, or two levels of latent_dim each under a hierarchical prior."""
    M, last = config.latent_dim, config.hidden[-1]
    whole = DiagonalGaussian(encoder_of(config, shape, top, 2 * M), M)
    if config.prior not in HIERARCHICAL:
        return whole
    eye = nn.Sequential(encoder_of(config, shape, top, last), nn.SiLU())
    return TwoLevelPosterior(whole, eye, MLP([last + M, last, 2 * M]), M)


def prior_of(
    config: VAEConfig, posterior: DiagonalGaussian | TwoLevelPosterior, shape: Shape, top: int
) -> Density:
    """The prior that the config names. Flow priors start from the standard Gaussian."""
    M = config.latent_dim
    base, layers, hidden = StandardGaussian(M), config.couplings, config.coupling_hidden
    if isinstance(posterior, TwoLevelPosterior):
        vamp = config.prior == "hierarchical-vamp"
        above = VampPrior(posterior.top, shape, config.pseudo_inputs, top) if vamp else base
        net = MLP([M, config.hidden[-1], 2 * M], zero_last=True)
        return TwoLevelPrior(above, net, M)
    makers: dict[Prior, Callable[[], Density]] = {
        "gaussian": lambda: base,
        "mixture": lambda: MixtureOfGaussians(M, config.components),
        "flow": lambda: coupling_flow(base, M, layers, hidden),
        "spline": lambda: coupling_flow(base, M, layers, hidden, RationalQuadratic(config.bins)),
        "maf": lambda: autoregressive_flow(base, M, layers, hidden),
        "vamp": lambda: VampPrior(posterior, shape, config.pseudo_inputs, top),
    }
    return makers[config.prior]()
