"""From a recipe's plain data to a model."""

import math

from triptych.ddpm import DDPM
from triptych.flows.flow import Flow
from triptych.flows.multiscale import Logit, MultiScale
from triptych.nets.unet import UNet
from triptych.pixelflow import PixelFlow
from triptych.priors.gaussian import StandardGaussian
from triptych.protocols import UserError
from triptych.schedules import SCHEDULES
from triptych.study.build_vae import build_vae
from triptych.study.configs import DDPMConfig, ModelConfig, PixelFlowConfig, VAEConfig
from triptych.vae import VAE

Shape = tuple[int, int, int]


def build(config: ModelConfig, shape: Shape, levels: int) -> VAE | PixelFlow | DDPM:
    """The model of a config, for images of this shape and number of grey levels."""
    try:
        if isinstance(config, VAEConfig):
            return build_vae(config, shape, levels)
        if isinstance(config, PixelFlowConfig):
            return _pixelflow(config, shape, levels)
        return _ddpm(config, shape, levels)
    except ValueError as error:
        raise UserError(
            f"this {config.kind} does not fit the images: {error}; choose other settings for it"
        ) from None


def _pixelflow(config: PixelFlowConfig, shape: Shape, levels: int) -> PixelFlow:
    scales = MultiScale(shape, config.steps, [config.width] * config.scales)
    base = StandardGaussian(math.prod(shape))
    return PixelFlow(Flow(base, [scales, Logit(config.low)]), shape, levels)


def _ddpm(config: DDPMConfig, shape: Shape, levels: int) -> DDPM:
    net = UNet(shape, config.widths, config.blocks)
    beta = SCHEDULES[config.schedule](config.timesteps)
    return DDPM(net, beta, shape, levels, config.prediction, min_snr=config.min_snr)
