"""From a recipe's plain data to a model."""

import math
from functools import partial

from triptych.ddpm import DDPM
from triptych.errors import UserError
from triptych.flows.coupling import Affine, Elementwise
from triptych.flows.dequantization import VariationalDequantization
from triptych.flows.flow import Flow
from triptych.flows.masked import masked_flow
from triptych.flows.multiscale import ActNorm, Logit, MultiScale, NetFor
from triptych.flows.raster import RasterAutoregressive
from triptych.flows.spline import RationalQuadratic
from triptych.latent import LatentDDPM
from triptych.nets.conv import ConvNet, PatchNet
from triptych.nets.denoiser import Denoiser
from triptych.nets.residual import ResidualConvNet
from triptych.nets.unet import UNet
from triptych.pixelflow import PixelFlow
from triptych.priors.gaussian import StandardGaussian
from triptych.protocols import Bijector
from triptych.schedules import SCHEDULES
from triptych.study.build_vae import build_vae
from triptych.study.configs import (
    DDPMConfig,
    LatentDDPMConfig,
    ModelConfig,
    PixelFlowConfig,
    VAEConfig,
)
from triptych.vae import VAE
from triptych.vdm import VDM

Shape = tuple[int, int, int]


def build(
    config: ModelConfig, shape: Shape, levels: int
) -> VAE | PixelFlow | DDPM | VDM | LatentDDPM:
    """The model of a config, for images of this shape and number of grey levels."""
    try:
        if isinstance(config, VAEConfig):
            return build_vae(config, shape, levels)
        if isinstance(config, PixelFlowConfig):
            return _pixelflow(config, shape, levels)
        if isinstance(config, LatentDDPMConfig):
            return _latent(config, shape, levels)
        return _ddpm(config, shape, levels)
    except ValueError as error:
        raise UserError(
            f"this {config.kind} does not fit the images: {error}; choose other settings for it"
        ) from None


def check_images(config: ModelConfig, n: int) -> None:
    """UserError where a VampPrior has more pseudo-inputs than the n training images that they
    start from."""
    vae = config.vae if isinstance(config, LatentDDPMConfig) else config
    if not isinstance(vae, VAEConfig) or vae.prior not in ("vamp", "hierarchical-vamp"):
        return
    if vae.pseudo_inputs > n:
        raise UserError(
            f"{vae.pseudo_inputs} pseudo-inputs cannot start from {n} training images; give "
            f"pseudo_inputs no more than that"
        )


def _pixelflow(config: PixelFlowConfig, shape: Shape, levels: int) -> PixelFlow:
    f = RationalQuadratic(config.bins) if config.coupling == "spline" else Affine()
    net_for = _coupling_net(config)
    if config.network == "mlp":
        bijectors = masked_flow(shape, config.steps, [config.width] * 2, f)
    else:
        widths = [config.width] * config.scales
        bijectors = [MultiScale(shape, config.steps, widths, f, net_for)]
    bijectors += [*_autoregressive(config, shape, f), Logit(config.low)]
    flow = Flow(StandardGaussian(math.prod(shape)), bijectors)
    if config.dequantization == "uniform":
        return PixelFlow(flow, shape, levels)
    steps, width = config.dequantization_steps, config.dequantization_width
    q = VariationalDequantization(shape, levels, steps, width, f, net_for)
    return PixelFlow(flow, shape, levels, q)


def _autoregressive(config: PixelFlowConfig, shape: Shape, f: Elementwise) -> list[Bijector]:
    """Layers that go through the pixels forwards and backwards by turns, then a scale and a shift
    of each channel, which standardises the pixels' logits for them. The last layer, next to the
    pixels, goes forwards."""
    layers: list[Bijector] = []
    for i in reversed(range(config.autoregressive_layers)):
        backwards = i % 2 == 1
        layers.append(RasterAutoregressive(shape, config.width, config.window, f, backwards))
    return [*layers, ActNorm(shape[0])] if layers else []


def _coupling_net(config: PixelFlowConfig) -> NetFor:
    """The network of a coupling: MLPs of patches, or convolutions, RealNVP's residual ones if it is
    to have residual blocks, else Glow's."""
    if config.network == "patch":
        return PatchNet
    return partial(ResidualConvNet, blocks=config.blocks) if config.blocks else ConvNet


def _ddpm(config: DDPMConfig, shape: Shape, levels: int) -> DDPM | VDM:
    if config.schedule == "learned":
        inputs = 5  # z_t and its Fourier features
        net = UNet(shape, config.widths, config.blocks, inputs=inputs, dropout=config.dropout)
        return VDM(net, shape, levels, config.prediction, config.timesteps)
    outputs = 2 if config.variance == "learned" else 1
    net = UNet(shape, config.widths, config.blocks, outputs, dropout=config.dropout)
    beta = SCHEDULES[config.schedule](config.timesteps)
    prediction, min_snr, variance = config.prediction, config.min_snr, config.variance
    return DDPM(net, beta, shape, levels, prediction, min_snr=min_snr, variance=variance)


def _latent(config: LatentDDPMConfig, shape: Shape, levels: int) -> LatentDDPM:
    M = config.vae.latent_dim
    net = Denoiser(M, config.width, config.blocks)
    beta = SCHEDULES[config.schedule](config.timesteps)
    chain = DDPM(net, beta, (M, 1, 1), None, config.prediction, clip=False)
    return LatentDDPM(build_vae(config.vae, shape, levels), chain)
