"""What the product is measured against: pythae, and the way public answers write things."""

import io
import logging
import sys
import tempfile
from collections.abc import Callable
from contextlib import redirect_stdout
from typing import Any
from unittest.mock import MagicMock

import torch
from torch import Tensor, nn
from torch.distributions import Bernoulli as BernoulliOf
from torch.distributions import Categorical, Independent, MixtureSameFamily, Normal
from torch.utils.data import DataLoader, TensorDataset
from where import DEVICE, ON_GPU

from triptych.priors.mixture import MixtureOfGaussians

BATCH, STEPS = 128, 60  # of a round of training
K = 5000  # importance samples


class BroadcastMixture(MixtureOfGaussians):
    """The density as public answers write it: a [B, K, D] tensor inside torch.distributions."""

    def log_prob(self, z: Tensor) -> Tensor:
        parts = Independent(Normal(self.mu, self.log_sigma.exp()), 1)
        return MixtureSameFamily(Categorical(logits=self.logits), parts).log_prob(z)


def plain_vae_rounds(model: Any, images: Tensor) -> Callable[[], None]:
    """The loop of public answers: fp32, default Adam, a DataLoader (over images thresholded
    beforehand; public ones do it image by image) and a one-sample ELBO of torch.distributions."""
    optimizer = torch.optim.Adam(model.to(DEVICE).parameters(), lr=1e-3)
    x = (images[: STEPS * BATCH] > 127).float()
    loader = DataLoader(TensorDataset(x), batch_size=BATCH, shuffle=True)

    def round_() -> None:
        for (images,) in loader:
            batch = images.to(DEVICE)
            mu, log_sigma = model.posterior.encode(batch)
            q = Independent(Normal(mu, log_sigma.exp()), 1)
            z = q.rsample()
            px = Independent(BernoulliOf(logits=model.likelihood.net(z)), 1)
            log_w = px.log_prob(batch.flatten(1)) + model.prior.log_prob(z) - q.log_prob(z)
            loss = -log_w.mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()

    return round_


def pythae_vae(pseudo_inputs: int = 0) -> Any:
    """pythae's default MLP VAE, or its VAMP."""
    logging.disable(logging.INFO)
    from pythae import models

    sizes: dict[str, Any] = {"input_dim": (1, 28, 28), "latent_dim": 16}
    sizes["reconstruction_loss"] = "bce"
    if pseudo_inputs:
        return models.VAMP(models.VAMPConfig(number_components=pseudo_inputs, **sizes))
    return models.VAE(models.VAEConfig(**sizes))


def nll_rounds(model: Any, x: Tensor, batch: int) -> Callable[[], None]:
    """pythae's estimate of log p(x) of each image."""

    model, x = model.to(DEVICE), x.to(DEVICE)

    def round_() -> None:
        with torch.no_grad(), redirect_stdout(io.StringIO()):
            model.get_nll(x, K, batch)

    return round_


def pythae_rounds(model: Any, images: Tensor) -> Callable[[], None]:
    """STEPS steps of pythae's trainer: one of its epochs over as many images as that takes."""
    from pythae.data.datasets import BaseDataset
    from pythae.trainers import BaseTrainer, BaseTrainerConfig

    x = (images[: STEPS * BATCH] > 127).float()
    training = BaseTrainerConfig(
        output_dir=tempfile.mkdtemp(), per_device_train_batch_size=BATCH, no_cuda=not ON_GPU
    )
    data = BaseDataset(x, torch.zeros(len(x)))
    trainer = BaseTrainer(model, data, training_config=training)
    trainer.prepare_training()
    return lambda: trainer.train_step(1)


class SampleOf(nn.Module):
    """A network of diffusers as a function of (x_t, t)."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        return self.net(x, t).sample


def diffusers_unet() -> nn.Module:
    """A U-Net of 2.8 million parameters at 28x28 and 14x14; the recipe's has 3.0 million."""
    from diffusers import UNet2DModel

    net = UNet2DModel(
        sample_size=28,
        in_channels=1,
        out_channels=1,
        layers_per_block=1,
        block_out_channels=(64, 128),
        down_block_types=("DownBlock2D", "AttnDownBlock2D"),
        up_block_types=("AttnUpBlock2D", "UpBlock2D"),
        norm_num_groups=8,
    )
    return SampleOf(net)


def lucidrains_unet(dim: int) -> nn.Module:
    """A U-Net of denoising-diffusion-pytorch at 28x28, 14x14 and 7x7. With dim = 34 it has 2.9
    million parameters, with dim = 22 as many operations as the recipe's (0.34 GFLOP an image).

    Its package imports what its trainer and its FID need. Here nobody calls them, and torchvision
    does not load beside every torch: empty modules stand in for them while it is imported.
    """
    unused = ["accelerate", "ema_pytorch", "torchvision"]
    unused += ["pytorch_fid", "pytorch_fid.fid_score", "pytorch_fid.inception"]
    absent = {name: MagicMock() for name in unused if name not in sys.modules}
    sys.modules.update(absent)
    try:
        from denoising_diffusion_pytorch import Unet
    finally:
        for name in absent:
            del sys.modules[name]
    return Unet(dim, dim_mults=(1, 2, 4), channels=1)


def normflows_glow(scales: int, steps: int, width: int) -> Any:
    """A multi-scale Glow for 28x28."""
    import normflows as nf

    bases, flows, merges = [], [], []
    for i in range(scales):
        c, side = 2 ** (scales + 1 - i), 28 // 2 ** (scales - i)
        blocks = [nf.flows.GlowBlock(c, width) for _ in range(steps)]
        flows.append([*blocks, nf.flows.Squeeze()])
        shape = (c if i == 0 else c // 2, side, side)
        bases.append(nf.distributions.DiagGaussian(shape))
        if i > 0:
            merges.append(nf.flows.Merge())
    return nf.MultiscaleFlow(bases, flows, merges, class_cond=False)
