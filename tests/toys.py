"""Models small enough that a test can hold all their numbers, and helpers to shake them."""

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from triptych.data import view
from triptych.ddpm import DDPM, Variance
from triptych.flows.flow import (
    Flow,
    Inverse,
    autoregressions,
    autoregressive_flow,
    coupling_flow,
    couplings,
)
from triptych.flows.multiscale import Logit, MultiScale
from triptych.flows.spline import RationalQuadratic
from triptych.latent import LatentDDPM
from triptych.likelihoods import Bernoulli, DiscretizedLogisticMixture, Gaussian
from triptych.nets.denoiser import Denoiser
from triptych.nets.mlp import MLP
from triptych.nets.residual import ResidualDecoder, ResidualEncoder
from triptych.nets.unet import UNet
from triptych.objectives import BetaELBO, ImportanceWeighted
from triptych.pixelflow import PixelFlow
from triptych.pixelvae import AutoregressiveBernoulli
from triptych.posteriors import DiagonalGaussian, FlowPosterior, FullGaussian
from triptych.priors.gaussian import StandardGaussian
from triptych.priors.hierarchical import TwoLevelPosterior, TwoLevelPrior
from triptych.priors.mixture import MixtureOfGaussians
from triptych.priors.resampled import ResampledPrior
from triptych.priors.vamp import VampPrior
from triptych.protocols import Density, Objective, Posterior
from triptych.schedules import cosine_beta
from triptych.study.build import build
from triptych.study.configs import PixelFlowConfig
from triptych.train.batches import TrainingData
from triptych.vae import VAE
from triptych.vdm import VDM

SHAPE, LEVELS = (1, 8, 8), 17


@torch.no_grad()
def randomised(module: nn.Module, std: float = 0.3, seed: int = 0) -> nn.Module:
    """Every parameter moved off its start, so that nothing is an identity by initialisation."""
    generator = torch.Generator().manual_seed(seed)
    for p in module.parameters():
        p.add_(std * torch.randn(p.shape, generator=generator))
    return module


FLAT_PRIORS = ("gaussian", "mixture", "flow", "spline", "maf", "vamp", "resampled")
PRIORS = (*FLAT_PRIORS, "hierarchical", "hierarchical-vamp")


def tiny_posterior(dim: int = 2, shape: tuple[int, int, int] = SHAPE) -> DiagonalGaussian:
    encoder = nn.Sequential(nn.Flatten(-3), MLP([math.prod(shape), 8, 2 * dim]))
    return DiagonalGaussian(encoder, dim)


def tiny_two_levels(dim: int, shape: tuple[int, int, int] = SHAPE) -> TwoLevelPosterior:
    eye = nn.Sequential(nn.Flatten(-3), MLP([math.prod(shape), 5]))
    half = dim // 2
    return TwoLevelPosterior(tiny_posterior(half, shape), eye, MLP([5 + half, 8, 2 * half]), half)


def prior_named(name: str, dim: int = 2, posterior: Any = None) -> Density:
    base = StandardGaussian(dim)
    half = dim // 2

    def two_levels(top: Density) -> Density:
        return TwoLevelPrior(top, MLP([half, 8, 2 * half], zero_last=True), half)

    def vamp_top() -> Density:
        return VampPrior((posterior or tiny_two_levels(dim)).top, SHAPE, 3)

    made: dict[str, Callable[[], Density]] = {
        "gaussian": lambda: base,
        "mixture": lambda: MixtureOfGaussians(dim, 3),
        "flow": lambda: coupling_flow(base, dim, 2, [4]),
        "spline": lambda: coupling_flow(base, dim, 2, [4], RationalQuadratic(4, reach=3.0)),
        "maf": lambda: autoregressive_flow(base, dim, 2, [4]),
        "vamp": lambda: VampPrior(posterior or tiny_posterior(dim), SHAPE, 3),
        "resampled": lambda: ResampledPrior(
            base, MLP([dim, 4, 1], zero_last=True), truncation=5, draws=50, points=2**18
        ),
        "hierarchical": lambda: two_levels(StandardGaussian(half)),
        "hierarchical-vamp": lambda: two_levels(vamp_top()),
    }
    return made[name]()


POSTERIORS = ("gaussian", "full", "coupling", "iaf", "two levels")


def posterior_named(name: str, dim: int = 2, shape: tuple[int, int, int] = SHAPE) -> Posterior:
    def net(outputs: int) -> nn.Module:
        return nn.Sequential(nn.Flatten(-3), MLP([math.prod(shape), 8, outputs]))

    def layers(make: Any) -> list[Any]:
        return make(dim, 2, [6], context=3)

    made: dict[str, Callable[[], Posterior]] = {
        "gaussian": lambda: tiny_posterior(dim, shape),
        "full": lambda: FullGaussian(net(2 * dim + dim * (dim - 1) // 2), dim),
        "coupling": lambda: FlowPosterior(net(2 * dim + 3), dim, layers(couplings)),
        "iaf": lambda: FlowPosterior(
            net(2 * dim + 3), dim, [Inverse(layer) for layer in layers(autoregressions)]
        ),
        "two levels": lambda: tiny_two_levels(dim, shape),
    }
    return made[name]()


def tiny_vae(
    prior: str = "gaussian",
    dim: int = 2,
    shape: tuple[int, int, int] = SHAPE,
    posterior: str = "gaussian",
    objective: Objective | None = None,
) -> VAE:
    q = posterior_named("two levels" if prior.startswith("hier") else posterior, dim, shape)
    likelihood = Bernoulli(MLP([dim, 8, math.prod(shape)]), shape)
    return VAE(prior_named(prior, dim, q), q, likelihood, objective=objective)


def tiny_residual_vae() -> VAE:
    posterior = DiagonalGaussian(ResidualEncoder(SHAPE, (8, 16), 1, 4), 2)
    likelihood = Bernoulli(ResidualDecoder(SHAPE, (8, 16), 1, 2), SHAPE)
    return VAE(StandardGaussian(2), posterior, likelihood)


def tiny_autoregressive_vae() -> VAE:
    likelihood = AutoregressiveBernoulli(MLP([2, 8, 8 * math.prod(SHAPE)]), SHAPE, 8, 3)
    return VAE(StandardGaussian(2), tiny_posterior(), likelihood)


def tiny_logistic_vae() -> VAE:
    net = MLP([2, 8, 3 * 2 * math.prod(SHAPE)])
    likelihood = DiscretizedLogisticMixture(net, SHAPE, LEVELS, 2)
    return VAE(StandardGaussian(2), tiny_posterior(), likelihood)


def tiny_flow(shape: tuple[int, int, int] = SHAPE, levels: int = LEVELS) -> PixelFlow:
    flow = Flow(StandardGaussian(math.prod(shape)), [MultiScale(shape, 1, [4]), Logit(1e-3)])
    return PixelFlow(flow, shape, levels)


def tiny_pixelflow(**settings: Any) -> PixelFlow:
    """As a recipe builds it, of two scales."""
    config = PixelFlowConfig(steps=2, width=8, dequantization_width=8, low=1e-3, **settings)
    flow = build(config, SHAPE, LEVELS)
    assert isinstance(flow, PixelFlow)
    return flow


def tiny_ddpm(
    T: int = 6, clip: bool = True, variance: Variance = "small", dropout: float = 0.0
) -> DDPM:
    net = UNet(SHAPE, (8,), 1, 2 if variance == "learned" else 1, dropout=dropout)
    return DDPM(net, cosine_beta(T), SHAPE, LEVELS, "v", clip, variance=variance)


def tiny_vdm(T: int = 6) -> VDM:
    return VDM(UNet(SHAPE, (8,), 1, inputs=5), SHAPE, LEVELS, timesteps=T)


def tiny_latent_ddpm(T: int = 6, dim: int = 2) -> LatentDDPM:
    chain = DDPM(Denoiser(dim, 8, 1), cosine_beta(T), (dim, 1, 1), None, "v", clip=False)
    likelihood = Gaussian(MLP([dim, 8, math.prod(SHAPE)]), SHAPE, LEVELS)
    return LatentDDPM(VAE(StandardGaussian(dim), tiny_posterior(dim), likelihood), chain)


MODELS: dict[str, tuple[Callable[[], nn.Module], str]] = {
    "vae-gaussian": (lambda: tiny_vae("gaussian"), "threshold"),
    "vae-mixture": (lambda: tiny_vae("mixture"), "dynamic"),
    "vae-flow": (lambda: tiny_vae("flow"), "threshold"),
    "vae-spline": (lambda: tiny_vae("spline"), "threshold"),
    "vae-maf": (lambda: tiny_vae("maf"), "threshold"),
    "vae-vamp": (lambda: tiny_vae("vamp"), "threshold"),
    "vae-resampled": (lambda: tiny_vae("resampled"), "threshold"),
    "vae-hierarchical": (lambda: tiny_vae("hierarchical"), "threshold"),
    "vae-hierarchical-vamp": (lambda: tiny_vae("hierarchical-vamp"), "threshold"),
    "vae-full": (lambda: tiny_vae(posterior="full"), "threshold"),
    "vae-coupling": (lambda: tiny_vae(posterior="coupling"), "threshold"),
    "vae-iaf": (lambda: tiny_vae(posterior="iaf"), "threshold"),
    "vae-beta": (lambda: tiny_vae(objective=BetaELBO(0.5, warmup=0.8)), "threshold"),
    "vae-iwae": (lambda: tiny_vae(objective=ImportanceWeighted(3, doubly=False)), "threshold"),
    "vae-dreg": (lambda: tiny_vae("resampled", objective=ImportanceWeighted(3)), "threshold"),
    "vae-autoregressive": (tiny_autoregressive_vae, "threshold"),
    "vae-logistic": (tiny_logistic_vae, "raw"),
    "vae-residual": (tiny_residual_vae, "threshold"),
    "pixelflow": (tiny_flow, "raw"),
    "pixelflow-spline": (lambda: tiny_pixelflow(coupling="spline", bins=3), "raw"),
    "pixelflow-residual": (lambda: tiny_pixelflow(blocks=1, scales=1), "raw"),
    "pixelflow-variational": (lambda: tiny_pixelflow(dequantization="variational"), "raw"),
    "pixelflow-autoregressive": (
        lambda: tiny_pixelflow(autoregressive_layers=2, window=3, coupling="spline", bins=3),
        "raw",
    ),
    "pixelflow-mlp": (lambda: tiny_pixelflow(network="mlp"), "raw"),
    "ddpm": (tiny_ddpm, "raw"),
    "ddpm-learned": (lambda: tiny_ddpm(variance="learned"), "raw"),
    "ddpm-dropout": (lambda: tiny_ddpm(dropout=0.3), "raw"),
    "vdm": (tiny_vdm, "raw"),
    "latent-ddpm": (tiny_latent_ddpm, "raw"),
}


def built(name: str, seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return MODELS[name][0]()


def images(n: int, seed: int = 0, levels: int = LEVELS) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, levels, (n, *SHAPE), generator=generator, dtype=torch.uint8)


def training_data(view_name: str = "threshold", n: int = 24, validation: int = 10) -> TrainingData:
    """Random digits-like images, seen in the default precision."""
    look = view(view_name)

    def seen(batch: Tensor, levels: int, generator: torch.Generator | None) -> Tensor:
        return look(batch, levels, generator).to(torch.get_default_dtype())

    return TrainingData(images(n), images(validation, 1), seen, LEVELS)


@contextmanager
def global_generator_untouched() -> Iterator[None]:
    """Fails when something draws from torch's hidden global state."""
    before = torch.random.get_rng_state()
    yield
    assert torch.equal(before, torch.random.get_rng_state()), "the global generator was used"


class Point(nn.Module):
    """One weight pulled to a target; its loss is one image's squared distance."""

    def __init__(self, start=0.0, target=1.0):
        super().__init__()
        self.w, self.target = nn.Parameter(torch.full((3,), start)), target

    def loss(self, x, noise):
        return (self.w - self.target).square().sum() + 0 * x.flatten(1).sum(1)

    def noise(self, n, generator):
        return torch.zeros(n)

    def terms(self, x, noise):
        return {"distance": self.loss(x, noise)}

    def sample(self, n, generator):
        raise NotImplementedError
