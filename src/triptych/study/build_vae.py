"""The parts of a VAE that a recipe names: encoder, decoder, posterior, prior."""

import math
from collections.abc import Callable

from torch import nn

from triptych.flows.flow import autoregressive_flow, coupling_flow
from triptych.flows.spline import RationalQuadratic
from triptych.likelihoods import Bernoulli
from triptych.nets.mlp import MLP, GatedMLP
from triptych.nets.residual import ResidualDecoder, ResidualEncoder
from triptych.posteriors import DiagonalGaussian
from triptych.priors.gaussian import StandardGaussian
from triptych.priors.hierarchical import TwoLevelPosterior, TwoLevelPrior
from triptych.priors.mixture import MixtureOfGaussians
from triptych.priors.vamp import VampPrior
from triptych.protocols import Density
from triptych.study.recipes import Prior, VAEConfig
from triptych.vae import VAE

Shape = tuple[int, int, int]
HIERARCHICAL = ("hierarchical", "hierarchical-vamp")


def build_vae(config: VAEConfig, shape: Shape) -> VAE:
    """The VAE of a config, for images of this shape."""
    posterior = posterior_of(config, shape)
    prior = prior_of(config, posterior, shape)
    likelihood = Bernoulli(decoder_of(config, shape, posterior.latent_dim), shape)
    return VAE(prior, posterior, likelihood, config.mean_samples)


def encoder_of(config: VAEConfig, shape: Shape, n_out: int) -> nn.Module:
    """Images to `n_out` numbers."""
    if config.network == "residual":
        return ResidualEncoder(shape, config.channels, config.blocks, n_out)
    sizes = [math.prod(shape), *config.hidden, n_out]
    return nn.Sequential(nn.Flatten(-3), MLP(sizes) if config.network == "mlp" else GatedMLP(sizes))


def decoder_of(config: VAEConfig, shape: Shape, n_in: int) -> nn.Module:
    """Latents to one number a pixel: the encoder's mirror."""
    if config.network == "residual":
        return ResidualDecoder(shape, config.channels, config.blocks, n_in)
    sizes = [n_in, *config.hidden[::-1], math.prod(shape)]
    return MLP(sizes) if config.network == "mlp" else GatedMLP(sizes)


def posterior_of(config: VAEConfig, shape: Shape) -> DiagonalGaussian | TwoLevelPosterior:
    """A Gaussian, or two levels of latent_dim each under a hierarchical prior."""
    M, last = config.latent_dim, config.hidden[-1]
    top = DiagonalGaussian(encoder_of(config, shape, 2 * M), M)
    if config.prior not in HIERARCHICAL:
        return top
    eye = nn.Sequential(encoder_of(config, shape, last), nn.SiLU())
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
