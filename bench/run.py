"""Training and evaluation throughput beside peers, in one run on one core (`make bench`) or on a
GPU (`make bench DEVICE=cuda`).

Every contender sees the same images, batch size and network sizes, on the CPU in a process of its
own. Rounds alternate between the contenders, after a warm-up, and the median of the rounds counts;
a chain's 1,000 steps have one.
`make bench ONLY=against_unets` runs that race again and leaves the others' rows as they are.
"""

import json
import platform
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from anatomy import ceilings
from peers import (
    BATCH,
    STEPS,
    BroadcastMixture,
    K,
    nll_rounds,
    plain_vae_rounds,
    pythae_rounds,
    pythae_vae,
)
from pixels import against_ancestral, against_glow, against_unets
from race import our_rounds, race
from torch import Tensor, nn
from where import DEVICE, ON_GPU

from triptych.data import load
from triptych.evaluate.likelihood import importance_bounds
from triptych.flows.coupling import Affine
from triptych.flows.flow import coupling_flow
from triptych.flows.spline import RationalQuadratic
from triptych.likelihoods import Bernoulli
from triptych.nets.mlp import MLP
from triptych.posteriors import DiagonalGaussian
from triptych.priors.gaussian import StandardGaussian
from triptych.priors.mixture import MixtureOfGaussians
from triptych.priors.vamp import VampPrior
from triptych.protocols import Density
from triptych.train.allocation import keep_freed_memory
from triptych.train.precision import bf16_helps
from triptych.vae import VAE

IMAGES = 20 if ON_GPU else 4  # of which IWAE-K is taken in a round
SIDE_BY_SIDE = 10  # seeds


def main() -> None:
    """Measure, print the table, write it to this directory."""
    torch.set_num_threads(1)
    images = load("mnist").train_images
    training = (against_pythae, against_plain_loop, against_pythae_vamp, against_broadcast)
    evaluation = (against_get_nll, against_broadcast_iwae)
    pixels = (against_unets, against_glow, against_ancestral)
    seeds = (against_one_by_one,) if ON_GPU else ()
    races = {each.__name__: each for each in (*seeds, *training, *evaluation, *pixels)}
    asked = sys.argv[2:] or list(races)
    if unknown := [name for name in asked if name not in races]:
        sys.exit(f"there is no race {unknown[0]}; choose of {', '.join(races)}")
    path = Path(__file__).with_name(f"results{kind()}.json")
    rows: dict[str, Any] = {}
    if len(asked) < len(races) and path.exists():
        rows = json.loads(path.read_text())["per_second"]
    ceiling = ceilings()  # before the contenders' processes, which then know it
    for name in asked:
        rows[name] = races[name](images)
    record = {"machine": machine(), "ceiling in GFLOP/s": ceiling, "per_second": rows}
    path.write_text(json.dumps(record, indent=1) + "\n")
    print(json.dumps(record, indent=1))


def against_one_by_one(images: Tensor) -> dict[str, Any]:
    """The course's network with three priors: as many steps of ten seeds, ten runs in a row or one
    of all."""
    rows: dict[str, Any] = {}
    flow, spline = (
        partial(coupling_flow, dim=32, layers=8, hidden=(64, 64), f=f)
        for f in (Affine(), RationalQuadratic())
    )
    for name, prior in {"Gaussian": None, "flow": flow, "spline": spline}.items():

        def built(prior: Any = prior) -> VAE:
            base = StandardGaussian(32)
            return vae(prior(base) if prior else base, 32, (512, 512))

        alone = our_rounds(built(), images)
        all_ = our_rounds([built() for _ in range(SIDE_BY_SIDE)], images)

        def in_a_row(alone: Callable[[], None] = alone) -> None:
            for _ in range(SIDE_BY_SIDE):
                alone()

        row, side = f"{name} prior, ten runs in a row", f"{name} prior, ten seeds side by side"
        work = SIDE_BY_SIDE * STEPS * BATCH
        rows |= race({row: in_a_row, side: all_}, {f"{name}: ratio (target 6)": [row]}, work)
    return rows


def against_pythae(images: Tensor) -> dict[str, Any]:
    """pythae's default MLP VAE (784-512-2M, M = 16) in its own trainer, and the same sizes here."""
    ours, in_fp32 = (vae(StandardGaussian(16), 16, (512,)) for _ in range(2))
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
    peer, ours = (vae(StandardGaussian(32), 32, (512, 512)) for _ in range(2))
    return race(
        {
            "course VAE, plain Adam loop": plain_vae_rounds(peer, images),
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
    peer, same_loop = (vae(BroadcastMixture(32, 500), 32, (512, 512)) for _ in range(2))
    ours = vae(MixtureOfGaussians(32, 500), 32, (512, 512))
    plain = "mixture K = 500 by MixtureSameFamily, plain Adam loop"
    contenders = {plain: plain_vae_rounds(peer, images)}
    if not ON_GPU:  # where the step is captured, and MixtureSameFamily reads numbers back
        here = "mixture K = 500 by MixtureSameFamily, triptych's loop"
        contenders[here] = our_rounds(same_loop, images)
    contenders["mixture K = 500 as triptych trains it"] = our_rounds(ours, images)
    return race(contenders, {"ratio to the broadcast (target 3)": [plain]})


def against_get_nll(images: Tensor) -> dict[str, Any]:
    """Importance weights/s of IWAE-5000: pythae's get_nll, without gradients and at the best of
    four batch sizes, and the same sizes here."""
    x = (images[:IMAGES] > 127).float().to(DEVICE)
    peer = pythae_vae()
    batches = (1000, 5000) if ON_GPU else (100, 500, 1000, 5000)
    nll = {f"pythae get_nll, batches of {b}": nll_rounds(peer, x, b) for b in batches}
    ours = {"triptych IWAE-5000": iwae_rounds(vae(StandardGaussian(16), 16, (512,)), x)}
    return race(nll | ours, {"ratio to get_nll at its best (target 2.5)": [*nll]}, IMAGES * K)


def against_broadcast_iwae(images: Tensor) -> dict[str, Any]:
    """The same with a mixture prior of 500 components: pythae's VAMP, the broadcast in this
    evaluation, and one product."""
    x = (images[:IMAGES] > 127).float().to(DEVICE)
    peer = pythae_vae(500)
    batches = (100, 1000) if ON_GPU else (100, 500, 1000)
    nll = {f"pythae VAMP get_nll, batches of {b}": nll_rounds(peer, x, b) for b in batches}
    ours = {
        "IWAE-5000 with the broadcast": iwae_rounds(vae(BroadcastMixture(16, 500), 16, (512,)), x),
        "IWAE-5000 with the mixture": iwae_rounds(vae(MixtureOfGaussians(16, 500), 16, (512,)), x),
    }
    ratios = {
        "ratio to VAMP get_nll at its best (target 15)": [*nll],
        "ratio to VAMP get_nll as called by default": [next(iter(nll))],
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
    generator, model = torch.Generator(DEVICE).manual_seed(0), model.to(DEVICE)

    def round_() -> None:
        keep_freed_memory()  # as triptych's commands do
        importance_bounds(model, x, K, generator, bf16_helps(DEVICE))

    return round_


def kind() -> str:
    """What ends the results file's name: machines of another kind have other ratios."""
    has_tiles = torch.cpu.get_capabilities().get("amx_bf16")
    return "-gpu" if ON_GPU else "-amx" if has_tiles else ""


def machine() -> str:
    """Processor features and library version, for the record."""
    if ON_GPU:
        return f"{torch.cuda.get_device_name()}, torch {torch.__version__}"
    features = torch.cpu.get_capabilities()
    bf16 = [k for k in ("avx512_bf16", "amx_bf16") if features.get(k)]
    return f"{platform.machine()}, bf16: {bf16 or 'none'}, torch {torch.__version__}"


if __name__ == "__main__":
    sys.exit(main())
