"""Training throughput beside peers, in one run on one core: `make bench`.

Every contender sees the same images, batch size and network sizes. Rounds alternate between the
contenders, after a warm-up, and the median of the rounds counts.
"""

import json
import logging
import platform
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.distributions import Categorical, Independent, MixtureSameFamily, Normal

from triptych.data import load, view
from triptych.likelihoods import Bernoulli
from triptych.nets.mlp import MLP
from triptych.posteriors import DiagonalGaussian
from triptych.priors.gaussian import StandardGaussian
from triptych.priors.mixture import MixtureOfGaussians
from triptych.protocols import Density
from triptych.train.order import TrainConfig
from triptych.train.precision import bf16_helps, networks_in_bf16
from triptych.train.trainer import Run, Trainer, TrainingData
from triptych.vae import VAE

BATCH, STEPS, ROUNDS = 128, 60, 7
CPU = torch.device("cpu")


def main() -> None:
    """Measure, print the table, write bench/results.json."""
    torch.set_num_threads(1)
    images = load("mnist").train_images
    rows = against_pythae(images) | against_broadcast(images)
    rows["matrix product ceiling, GFLOP/s"] = ceiling()
    Path(__file__).with_name("results.json").write_text(
        json.dumps({"machine": machine(), "images_per_second": rows}, indent=1) + "\n"
    )
    for name, value in rows.items():
        print(f"{name:62s} {value}")


def against_pythae(images: Tensor) -> dict[str, float]:
    """pythae's default MLP VAE (784-512-2M, M = 16) in its own trainer, and the same sizes here."""
    ours = vae(StandardGaussian(16), 16, (512,))
    rates = race(
        {
            "pythae VAE, its BaseTrainer": pythae_rounds(images),
            "triptych VAE, fp32": our_rounds(ours, images, bf16=False),
            "triptych VAE, as it trains": our_rounds(vae(StandardGaussian(16), 16, (512,)), images),
        }
    )
    peer, _, mine = rates.values()
    return rates | {"ratio to pythae (target 1.5)": round(mine / peer, 2)}


def against_broadcast(images: Tensor) -> dict[str, float]:
    """The course's network with 500 components: two matrix products against a broadcast."""
    peer = vae(BroadcastMixture(32, 500), 32, (512, 512))
    same_loop = vae(BroadcastMixture(32, 500), 32, (512, 512))
    ours = vae(MixtureOfGaussians(32, 500), 32, (512, 512))
    rates = race(
        {
            "mixture K = 500 by MixtureSameFamily, plain Adam loop": plain_rounds(peer, images),
            "mixture K = 500 by MixtureSameFamily, triptych's loop": our_rounds(same_loop, images),
            "mixture K = 500 as triptych trains it": our_rounds(ours, images),
        }
    )
    peer_rate, _, mine = rates.values()
    return rates | {"ratio to the broadcast (target 3)": round(mine / peer_rate, 2)}


def vae(prior: Density, M: int, hidden: tuple[int, ...]) -> VAE:
    """An MLP VAE on 28x28 images."""
    torch.manual_seed(0)
    encoder = nn.Sequential(nn.Flatten(-3), MLP([784, *hidden, 2 * M]))
    decoder = MLP([M, *hidden[::-1], 784])
    return VAE(prior, DiagonalGaussian(encoder, M), Bernoulli(decoder, (1, 28, 28)))


class BroadcastMixture(MixtureOfGaussians):
    """The density as public answers write it: a [B, K, D] tensor inside torch.distributions."""

    def log_prob(self, z: Tensor) -> Tensor:
        parts = Independent(Normal(self.mu, self.log_sigma.exp()), 1)
        return MixtureSameFamily(Categorical(logits=self.logits), parts).log_prob(z)


def our_rounds(model: VAE, images: Tensor, bf16: bool = True) -> Callable[[], None]:
    """STEPS steps of the real trainer: order, view, clipping, schedule and average included."""
    data = TrainingData(images, images[:1], view("threshold"), 256)
    trainer = Trainer([model], [Run(0, Path("."))], data, TrainConfig(batch_size=BATCH))

    def round_() -> None:
        with networks_in_bf16(model, bf16 and bf16_helps(CPU)):
            for _ in range(STEPS):
                trainer.train_step()

    return round_


def plain_rounds(model: VAE, images: Tensor) -> Callable[[], None]:
    """The loop of public answers: fp32, torch's default Adam, a loader-free shuffled batch."""
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    x = (images > 127).float()

    def round_() -> None:
        for _ in range(STEPS):
            batch = x[torch.randint(len(x), (BATCH,))]
            loss = model.loss(batch, torch.randn(BATCH, 32)).mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()

    return round_


def pythae_rounds(images: Tensor) -> Callable[[], None]:
    """STEPS steps of pythae's trainer: one of its epochs over as many images as that takes."""
    logging.disable(logging.INFO)
    from pythae import models
    from pythae.data.datasets import BaseDataset
    from pythae.trainers import BaseTrainer, BaseTrainerConfig

    config = models.VAEConfig(input_dim=(1, 28, 28), latent_dim=16, reconstruction_loss="bce")
    x = (images[: STEPS * BATCH] > 127).float()
    training = BaseTrainerConfig(
        output_dir=tempfile.mkdtemp(), per_device_train_batch_size=BATCH, no_cuda=True
    )
    data = BaseDataset(x, torch.zeros(len(x)))
    trainer = BaseTrainer(models.VAE(config), data, training_config=training)
    trainer.prepare_training()
    return lambda: trainer.train_step(1)


def race(contenders: dict[str, Callable[[], None]]) -> dict[str, float]:
    """Images/s of each: alternate rounds, first one not counted, median of the others."""
    seconds: dict[str, list[float]] = {name: [] for name in contenders}
    for _ in range(ROUNDS + 1):
        for name, run in contenders.items():
            began = time.perf_counter()
            run()
            seconds[name].append(time.perf_counter() - began)
    medians = {name: statistics.median(s[1:]) for name, s in seconds.items()}
    return {name: round(STEPS * BATCH / s) for name, s in medians.items()}


def ceiling() -> dict[str, float]:
    """What this core's matrix products reach on the network's own shapes."""
    found = {}
    for dtype in (torch.float32, torch.bfloat16):
        a, b = torch.randn(BATCH, 784).to(dtype), torch.randn(784, 512).to(dtype)
        laps = []
        for _ in range(200):
            began = time.perf_counter()
            a @ b
            laps.append(time.perf_counter() - began)
        found[str(dtype)] = round(2 * a.numel() * 512 / statistics.median(laps) / 1e9)
    return found


def machine() -> str:
    """Processor features and library version, for the record."""
    kind = torch.cpu.get_capabilities()
    bf16 = [k for k in ("avx512_bf16", "amx_bf16") if kind.get(k)]
    return f"{platform.machine()}, bf16: {bf16 or 'none'}, torch {torch.__version__}"


if __name__ == "__main__":
    sys.exit(main())
