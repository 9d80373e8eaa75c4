"""The parts of a VAE that a recipe names: encoder, decoder, posterior, prior."""

import math
from collections.abc import Callable
from functools import partial

from torch import nn

from triptych.flows.flow import (
    Inverse,
    autoregressions,
    autoregressive_flow,
    coupling_flow,
    couplings,
)
from triptych.flows.spline import RationalQuadratic
from triptych.likelihoods import (
    Bernoulli,
    ContinuousBernoulli,
    DiscretizedLogisticMixture,
    Gaussian,
)
from triptych.nets.mlp import MLP, GatedMLP, Scale
from triptych.nets.residual import ResidualDecoder, ResidualEncoder
from triptych.objectives import BetaELBO, ImportanceWeighted
from triptych.pixelvae import AutoregressiveBernoulli
from triptych.posteriors import DiagonalGaussian, FlowPosterior, FullGaussian
from triptych.priors.gaussian import StandardGaussian
from triptych.priors.hierarchical import TwoLevelPosterior, TwoLevelPrior
from triptych.priors.mixture import MixtureOfGaussians
from triptych.priors.resampled import ResampledPrior
from triptych.priors.vamp import VampPrior
from triptych.protocols import Density, Likelihood, Objective, Posterior
from triptych.study.configs import BINARY, HIERARCHICAL, Prior, VAEConfig, encoder_outputs
from triptych.vae import VAE

Shape = tuple[int, int, int]


def build_vae(config: VAEConfig, shape: Shape, levels: int) -> VAE:
    """The VAE of a config, for images of this shape and number of grey levels."""
    white = 1 if config.likelihood in BINARY else levels - 1
    posterior = posterior_of(config, shape, white)
    prior = prior_of(config, posterior, shape, white)
    likelihood = likelihood_of(config, posterior.latent_dim, shape, levels)
    return VAE(prior, posterior, likelihood, config.mean_samples, objective_of(config))


def objective_of(config: VAEConfig) -> Objective | None:
    """None for the ELBO itself."""
    if config.objective == "iwae":
        return ImportanceWeighted(config.iwae_samples, config.doubly)
    plain = config.beta == 1 and config.kl_warmup == 0
    return None if plain else BetaELBO(config.beta, config.kl_warmup)


def encoder_of(config: VAEConfig, shape: Shape, white: int, n_out: int) -> nn.Module:
    """Images of values in [0, white] to `n_out` numbers."""
    to_unit = [Scale(1 / white)] if white > 1 else []
    if config.network == "residual":
        net = ResidualEncoder(shape, config.channels, config.blocks, n_out)
        return nn.Sequential(*to_unit, net)
    sizes = [math.prod(shape), *config.hidden, n_out]
    net = MLP(sizes) if config.network == "mlp" else GatedMLP(sizes)
    return nn.Sequential(*to_unit, nn.Flatten(-3), net)


def likelihood_of(config: VAEConfig, n_in: int, shape: Shape, levels: int) -> Likelihood:
    """The likelihood that the config names, on a decoder that mirrors the encoder."""
    decoder = partial(decoder_of, config, n_in, shape)
    makers: dict[str, Callable[[], Likelihood]] = {
        "bernoulli": lambda: Bernoulli(decoder(), shape),
        "autoregressive": lambda: AutoregressiveBernoulli(
            decoder(config.features), shape, config.features, config.window
        ),
        "continuous-bernoulli": lambda: ContinuousBernoulli(decoder(), shape, levels),
        # Most pixels are 0, where a linear end would leave a haze.
        "gaussian": lambda: Gaussian(
            nn.Sequential(decoder(), nn.Sigmoid()), shape, levels, config.sigma
        ),
        "logistic": lambda: DiscretizedLogisticMixture(
            decoder(3 * config.logistics), shape, levels, config.logistics
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


def posterior_of(config: VAEConfig, shape: Shape, white: int) -> Posterior:
    """The posterior that the config names, or two Gaussian levels of latent_dim each under a
    hierarchical prior."""
    M, last = config.latent_dim, config.hidden[-1]
    net = encoder_of(config, shape, white, encoder_outputs(config))
    layers, hidden, context = config.posterior_layers, config.coupling_hidden, config.context
    if config.prior in HIERARCHICAL:
        eye = nn.Sequential(encoder_of(config, shape, white, last), nn.SiLU())
        return TwoLevelPosterior(DiagonalGaussian(net, M), eye, MLP([last + M, last, 2 * M]), M)
    if config.posterior == "full":
        return FullGaussian(net, M)
    if config.posterior == "coupling":
        return FlowPosterior(net, M, couplings(M, layers, hidden, context=context))
    if config.posterior == "iaf":
        made = autoregressions(M, layers, hidden, context=context)
        return FlowPosterior(net, M, [Inverse(layer) for layer in made])
    return DiagonalGaussian(net, M)


def prior_of(config: VAEConfig, posterior: Posterior, shape: Shape, white: int) -> Density:
    """The prior that the config names. Flow priors start from the standard Gaussian."""
    M = config.latent_dim
    base, layers, hidden = StandardGaussian(M), config.couplings, config.coupling_hidden
    if isinstance(posterior, TwoLevelPosterior):
        vamp = config.prior == "hierarchical-vamp"
        above = VampPrior(posterior.top, shape, config.pseudo_inputs, white) if vamp else base
        net = MLP([M, config.hidden[-1], 2 * M], zero_last=True)
        return TwoLevelPrior(above, net, M)
    makers: dict[Prior, Callable[[], Density]] = {
        "gaussian": lambda: base,
        "mixture": lambda: MixtureOfGaussians(M, config.components),
        "flow": lambda: coupling_flow(base, M, layers, hidden),
        "spline": lambda: coupling_flow(base, M, layers, hidden, RationalQuadratic(config.bins)),
        "maf": lambda: autoregressive_flow(base, M, layers, hidden),
        "vamp": lambda: VampPrior(posterior, shape, config.pseudo_inputs, white),  # pyright: ignore
        "resampled": lambda: ResampledPrior(
            base, MLP([M, *config.acceptance_hidden, 1], zero_last=True), config.truncation
        ),
    }
    return makers[config.prior]()
