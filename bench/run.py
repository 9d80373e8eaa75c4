"""Training and evaluation throughput beside peers, in one run on one core: `make bench`.

Every contender sees the same images, batch size and network sizes. Rounds alternate between the
contenders, after a warm-up, and the median of the rounds counts.
"""

import io
import json
import logging
import platform
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributions import Categorical, Independent, MixtureSameFamily, Normal

from triptych.data import load, view
from triptych.evaluate.likelihood import importance_bounds
from triptych.likelihoods import Bernoulli
from triptych.nets.mlp import MLP
from triptych.posteriors import DiagonalGaussian
from triptych.priors.gaussian import StandardGaussian
from triptych.priors.mixture import MixtureOfGaussians
from triptych.priors.vamp import VampPrior
from triptych.protocols import Density
from triptych.train.order import TrainConfig
from triptych.train.precision import bf16_helps, networks_in_bf16
from triptych.train.trainer import Run, Trainer, TrainingData
from triptych.vae import VAE

BATCH, STEPS, ROUNDS = 128, 60, 7
IMAGES, K = 4, 5000  # of which IWAE-K is taken in a round
CPU = torch.device("cpu")


def main() -> None:
    """Measure, print the table, write bench/results.json."""
    torch.set_num_threads(1)
    images = load("mnist").train_images
    races = (against_pythae, against_plain_loop, against_pythae_vamp, against_broadcast)
    evaluations = (against_get_nll, against_broadcast_iwae)
    rows = {
        name: rate for race_of in (*races, *evaluations) for name, rate in race_of(images).items()
    }
    rows["matrix product ceiling, GFLOP/s"] = ceiling()
    Path(__file__).with_name("results.json").write_text(
        json.dumps({"machine": machine(), "per_second": rows}, indent=1) + "\n"
    )
    for name, value in rows.items():
        print(f"{name:62s} {value}")


def against_pythae(images: Tensor) -> dict[str, float]:
    """pythae's default MLP VAE (784-512-2M, M = 16) in its own trainer, and the same sizes here."""
    ours = vae(StandardGaussian(16), 16, (512,))
    rates = race(
        {
            "pythae VAE, its BaseTrainer": pythae_rounds(pythae_vae(), images),
            "triptych VAE, fp32": our_rounds(ours, images, bf16=False),
            "triptych VAE, as it trains": our_rounds(vae(StandardGaussian(16), 16, (512,)), images),
        }
    )
    peer, _, mine = rates.values()
    return rates | {"ratio to pythae (target 1.5)": round(mine / peer, 2)}


def against_plain_loop(images: Tensor) -> dict[str, float]:
    """The course's network and prior in the loop of public answers, and in this one."""
    peer, ours = (vae(StandardGaussian(32), 32, (512, 512)) for _ in "ab")
    rates = race(
        {
            "course VAE, plain Adam loop": plain_rounds(peer, images),
            "course VAE as triptych trains it": our_rounds(ours, images),
        }
    )
    peer_rate, mine = rates.values()
    return rates | {"ratio to the plain loop (target 2.2)": round(mine / peer_rate, 2)}


def against_pythae_vamp(images: Tensor) -> dict[str, float]:
    """pythae's VAMP with 500 pseudo-inputs, and the same here."""
    ours = vae(StandardGaussian(16), 16, (512,))
    ours.prior = VampPrior(ours.posterior, (1, 28, 28), 500)  # pyright: ignore[reportArgumentType]
    rates = race(
        {
            "pythae VAMP K = 500, its BaseTrainer": pythae_rounds(pythae_vae(500), images),
            "VampPrior K = 500 as triptych trains it": our_rounds(ours, images),
        }
    )
    peer, mine = rates.values()
    return rates | {"ratio to pythae VAMP (target 4)": round(mine / peer, 2)}


def against_get_nll(images: Tensor) -> dict[str, float]:
    """Importance weights/s of IWAE-5000: pythae's get_nll, without gradients and at the best of
    four batch sizes, and the same sizes here."""
    x = (images[:IMAGES] > 127).float()
    peer, ours = pythae_vae(), vae(StandardGaussian(16), 16, (512,))
    g = torch.Generator().manual_seed(0)
    nll = {
        f"pythae get_nll, batches of {b}": nll_rounds(peer, x, b) for b in (100, 500, 1000, 5000)
    }
    rates = race(
        nll | {"triptych IWAE-5000": lambda: importance_bounds(ours, x, K, g, bf16_helps(CPU))},
        IMAGES * K,
    )
    *peers, mine = rates.values()
    return rates | {"ratio to get_nll (target 2.5)": round(mine / max(peers), 2)}


def against_broadcast_iwae(images: Tensor) -> dict[str, float]:
    """The same with a mixture prior of 500 components, in pythae's way and in two products."""
    x = (images[:IMAGES] > 127).float()
    peer = pythae_vae(500)
    ours = vae(MixtureOfGaussians(16, 500), 16, (512,))
    g = torch.Generator().manual_seed(0)
    nll = {f"pythae VAMP get_nll, batches of {b}": nll_rounds(peer, x, b) for b in (100, 500)}
    ours_only = {
        "triptych IWAE-5000, mixture": lambda: importance_bounds(ours, x, K, g, bf16_helps(CPU))
    }
    rates = race(nll | ours_only, IMAGES * K)
    *peers, mine = rates.values()
    return rates | {"ratio to VAMP get_nll (target 15)": round(mine / max(peers), 2)}


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
            loss = model.loss(batch, {"eps": torch.randn(BATCH, 32)}).mean()
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
        output_dir=tempfile.mkdtemp(), per_device_train_batch_size=BATCH, no_cuda=True
    )
    data = BaseDataset(x, torch.zeros(len(x)))
    trainer = BaseTrainer(model, data, training_config=training)
    trainer.prepare_training()
    return lambda: trainer.train_step(1)


def race(contenders: dict[str, Callable[[], Any]], work: int = STEPS * BATCH) -> dict[str, float]:
    """`work` a second of each: alternate rounds, first one not counted, median of the others."""
    seconds: dict[str, list[float]] = {name: [] for name in contenders}
    for _ in range(ROUNDS + 1):
        for name, run in contenders.items():
            began = time.perf_counter()
            run()
            seconds[name].append(time.perf_counter() - began)
    medians = {name: statistics.median(s[1:]) for name, s in seconds.items()}
    return {name: round(work / s) for name, s in medians.items()}


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
