"""Training and evaluation throughput beside peers, in one run on one core: `make bench`.

Every contender sees the same images, batch size and network sizes. Rounds alternate between the
contenders, after a warm-up, and the median of the rounds counts; a chain's 1,000 steps have one.
"""

import json
import platform
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from anatomy import ceilings
from peers import (
    BroadcastMixture,
    K,
    nll_rounds,
    plain_rounds,
    pythae_rounds,
    pythae_vae,
)
from pixels import against_ancestral, against_glow, against_unets
from race import our_rounds, race
from torch import Tensor, nn

from triptych.data import load
from triptych.evaluate.likelihood import importance_bounds
from triptych.likelihoods import Bernoulli
from triptych.nets.mlp import MLP
from triptych.posteriors import DiagonalGaussian
from triptych.priors.gaussian import StandardGaussian
from triptych.priors.mixture import MixtureOfGaussians
from triptych.priors.vamp import VampPrior
from triptych.protocols import Density
from triptych.train.precision import bf16_helps
from triptych.vae import VAE

IMAGES = 4  # of which IWAE-K is taken in a round
CPU = torch.device("cpu")


def main() -> None:
    """Measure, print the table, write bench/results.json."""
    torch.set_num_threads(1)
    images = load("mnist").train_images
    training = (against_pythae, against_plain_loop, against_pythae_vamp, against_broadcast)
    evaluation = (against_get_nll, against_broadcast_iwae)
    pixels = (against_unets, against_glow, against_ancestral)
    rows: dict[str, Any] = {}
    for measure in (*training, *evaluation, *pixels):
        rows |= measure(images)
    record = {"machine": machine(), "ceiling in GFLOP/s": ceilings(), "per_second": rows}
    Path(__file__).with_name("results.json").write_text(json.dumps(record, indent=1) + "\n")
    print(json.dumps(record, indent=1))


def against_pythae(images: Tensor) -> dict[str, Any]:
    """pythae's default MLP VAE (784-512-2M, M = 16) in its own trainer, and the same sizes here."""
    ours, in_fp32 = (vae(StandardGaussian(16), 16, (512,)) for _ in "ab")
    return race(
        {
            "pythae VAE, its BaseTrainer": pythae_rounds(pythae_vae(), images),
            "triptych VAE, fp32": our_rounds(in_fp32, images, bf16=False),
            "triptych VAE, as it trains": our_rounds(ours, images),
        },
        {"ratio to pythae (target 1.5)": ["pythae VAE, its BaseTrainer"]},
    )


def against_plain_loop(images: Tensor) -> dict[str, Any]:
    """The course's network and prior in the loop of public answers, and in this one."""
    peer, ours = (vae(StandardGaussian(32), 32, (512, 512)) for _ in "ab")
    return race(
        {
            "course VAE, plain Adam loop": plain_rounds(peer, images),
            "course VAE as triptych trains it": our_rounds(ours, images),
        },
        {"ratio to the plain loop (target 2.2)": ["course VAE, plain Adam loop"]},
    )


def against_pythae_vamp(images: Tensor) -> dict[str, Any]:
    """pythae's VAMP with 500 pseudo-inputs, and the same here."""
    ours = vae(StandardGaussian(16), 16, (512,))
    ours.prior = VampPrior(ours.posterior, (1, 28, 28), 500)  # pyright: ignore[reportArgumentType]
    return race(
        {
            "pythae VAMP K = 500, its BaseTrainer": pythae_rounds(pythae_vae(500), images),
            "VampPrior K = 500 as triptych trains it": our_rounds(ours, images),
        },
        {"ratio to pythae VAMP (target 4)": ["pythae VAMP K = 500, its BaseTrainer"]},
    )


def against_broadcast(images: Tensor) -> dict[str, Any]:
    """The course's network with 500 components: one matrix product against a broadcast."""
    peer, same_loop = (vae(BroadcastMixture(32, 500), 32, (512, 512)) for _ in "ab")
    ours = vae(MixtureOfGaussians(32, 500), 32, (512, 512))
    plain = "mixture K = 500 by MixtureSameFamily, plain Adam loop"
    return race(
        {
            plain: plain_rounds(peer, images),
            "mixture K = 500 by MixtureSameFamily, triptych's loop": our_rounds(same_loop, images),
            "mixture K = 500 as triptych trains it": our_rounds(ours, images),
        },
        {"ratio to the broadcast (target 3)": [plain]},
    )


def against_get_nll(images: Tensor) -> dict[str, Any]:
    """Importance weights/s of IWAE-5000: pythae's get_nll, without gradients and at the best of
    four batch sizes, and the same sizes here."""
    x = (images[:IMAGES] > 127).float()
    peer = pythae_vae()
    batches = (100, 500, 1000, 5000)
    nll = {f"pythae get_nll, batches of {b}": nll_rounds(peer, x, b) for b in batches}
    ours = {"triptych IWAE-5000": iwae_rounds(vae(StandardGaussian(16), 16, (512,)), x)}
    return race(nll | ours, {"ratio to get_nll at its best (target 2.5)": [*nll]}, IMAGES * K)


def against_broadcast_iwae(images: Tensor) -> dict[str, Any]:
    """The same with a mixture prior of 500 components: pythae's VAMP, the broadcast in this
    evaluation, and one product."""
    x = (images[:IMAGES] > 127).float()
    peer = pythae_vae(500)
    nll = {f"pythae VAMP get_nll, batches of {b}": nll_rounds(peer, x, b) for b in (100, 500, 1000)}
    ours = {
        "IWAE-5000 with the broadcast": iwae_rounds(vae(BroadcastMixture(16, 500), 16, (512,)), x),
        "IWAE-5000 with the mixture": iwae_rounds(vae(MixtureOfGaussians(16, 500), 16, (512,)), x),
    }
    ratios = {
        "ratio to VAMP get_nll as called by default (target 15)": [next(iter(nll))],
        "ratio to VAMP get_nll at its best": [*nll],
        "ratio to the broadcast in the same evaluation": ["IWAE-5000 with the broadcast"],
    }
    return race(nll | ours, ratios, IMAGES * K)


def vae(prior: Density, M: int, hidden: tuple[int, ...]) -> VAE:
    """An MLP VAE on 28x28 images."""
    torch.manual_seed(0)
    encoder = nn.Sequential(nn.Flatten(-3), MLP([784, *hidden, 2 * M]))
    decoder = MLP([M, *hidden[::-1], 784])
    return VAE(prior, DiagonalGaussian(encoder, M), Bernoulli(decoder, (1, 28, 28)))


def iwae_rounds(model: VAE, x: Tensor) -> Callable[[], None]:
    """IWAE-5000 of a few images as `evaluate` takes it."""
    generator = torch.Generator().manual_seed(0)

    def round_() -> None:
        importance_bounds(model, x, K, generator, bf16_helps(CPU))

    return round_


def machine() -> str:
    """Processor features and library version, for the record."""
    kind = torch.cpu.get_capabilities()
    bf16 = [k for k in ("avx512_bf16", "amx_bf16") if kind.get(k)]
    return f"{platform.machine()}, bf16: {bf16 or 'none'}, torch {torch.__version__}"


if __name__ == "__main__":
    sys.exit(main())
